"""Empty texts and missing labels in examples: counted and said before training, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastbert.data.labelled import ChoiceExample, TextExample
from fastbert.data.squad import Question
from fastbert.errors import InputError
from fastbert.finetuning.problems import Split

LISTED = 5  # places that a note names


def note_empty(split: Split, strict: bool) -> None:
    """Notes examples with an empty text; with `strict`, the first one is an error."""
    empty = [number for number, example in enumerate(split.examples) if not all(text.strip() for text in _texts(example))]
    if empty and strict:
        raise InputError(f"{split.where(empty[0])}: the text is empty ({len(empty)} such examples)")
    if empty:
        split.notes.append(f"{len(empty)} examples have an empty text ({_listed(split, empty)}); they are kept")


def _texts(example: Any) -> Iterator[str]:
    if isinstance(example, Question):
        yield from (example.question, example.context)
    elif isinstance(example, ChoiceExample):
        yield from (example.text, *example.choices)
    elif isinstance(example, TextExample):
        yield from (example.text,) if example.pair is None else (example.text, example.pair)


def leave_out_missing(split: Split, strict: bool) -> None:
    """Leaves out and notes examples without a label; with `strict`, the first one is an error."""
    missing = [number for number, example in enumerate(split.examples) if example.label is None]
    if missing and strict:
        raise InputError(f"{split.where(missing[0])}: the label is missing ({len(missing)} such examples)")
    leave_out(split, lambda example: example.label is None, "examples have no label (empty, nan, NULL)")


def leave_out(split: Split, which: Callable[[Any], bool], what: str) -> None:
    """Leaves out some examples of a split, and notes how many and where.

    Raises:
        InputError: no example would be left.
    """
    out = [number for number, example in enumerate(split.examples) if which(example)]
    if not out:
        return
    if len(out) == len(split.examples):
        raise InputError(f"{split.name}: all {len(out)} {what}; the first is {split.where(out[0])}")
    split.notes.append(f"{len(out)} {what} and were left out ({_listed(split, out)})")
    left = set(out)
    split.keep([number for number in range(len(split.examples)) if number not in left])


def _listed(split: Split, numbers: Sequence[int]) -> str:
    """The places of the first few examples."""
    places = [split.where(number).rpartition(", ")[2] for number in numbers[:LISTED]]
    return ", ".join(places) + (", ..." if len(numbers) > LISTED else "")
