"""Reads the examples of a task from files, and records the place of each for messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fastbert.data.conll import read_tagged
from fastbert.data.labelled import read_choice_examples, read_text_examples
from fastbert.data.layouts import LAYOUTS, Layout, find_layout
from fastbert.data.lines import PLAIN, Form, ending
from fastbert.data.squad import read_squad
from fastbert.data.tables import is_table
from fastbert.errors import InputError
from fastbert.finetuning.problems import Split

NO_LABEL = "-"  # how SNLI and MultiNLI mark pairs on which the annotators disagreed


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        layout: a key of `LAYOUTS`.
        text, pair, label, choices: columns; None looks for the usual names. "" for `pair` means single texts.
        separator: separator between the labels of a text.
        multi_label: a text may have several labels.
        skip_ragged: skip and count rows with a wrong number of columns.
        word_column, tag_column: columns of CoNLL files, from 1; None means the last one.
        form: encoding and delimiter.
    """

    layout: str | None = None
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    choices: tuple[str, ...] = ()
    separator: str = ","
    multi_label: bool = False
    skip_ragged: bool = False
    word_column: int = 1
    tag_column: int | None = None
    form: Form = PLAIN

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the layout, if one is named."""
        return LAYOUTS[self.layout].metrics if self.layout in LAYOUTS else ()


def read_split(kind: str, path: str | Path, name: str, options: ReadOptions, labelled: bool = True) -> Split:
    """The examples of a file.

    Args:
        kind: the task.
        path: a table for texts and choices, CoNLL or JSON lines for tags, SQuAD's JSON for questions.
        name: "train", "dev" or "test", for messages.
        options: how the file is read.
        labelled: whether labels are required; otherwise they are read only if present.

    Raises:
        InputError: see the readers.
    """
    form = options.form
    if kind == "qa":
        return Split(name, read_squad(path, form))
    if kind == "ner":
        word, tag = options.word_column, options.tag_column
        sentences = read_tagged(path, word_column=word, tag_column=tag, tagged=labelled, form=form)
        return Split(name, sentences, lambda number: f"{path}, line {sentences[number].line}")
    layout = _layout(kind, path, options, labelled)
    if kind == "choice":
        chosen, table = read_choice_examples(path, layout, skip_ragged=options.skip_ragged, form=form)
        return Split(name, chosen, table.place, _skipped(table.skipped))
    labels = "number" if kind == "regress" else "names" if options.multi_label else "name"
    between, skip = options.separator, options.skip_ragged
    examples, table = read_text_examples(path, layout, labels, separator=between, skip_ragged=skip, form=form)
    notes = _skipped(table.skipped)
    kept = [number for number, example in enumerate(examples) if kind != "nli" or example.label != NO_LABEL]
    if len(kept) < len(examples):
        notes.append(f"{len(examples) - len(kept)} pairs have no agreed label ({NO_LABEL!r}) and were left out")
    split = Split(name, examples, table.place, notes)
    split.keep(kept)
    return split


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a random share of the training examples as a dev set; both parts keep their order.

    Raises:
        InputError: a share that leaves either part empty.
    """
    count = round(len(split.examples) * share) if 0 < share < 1 else 0
    if not 0 < count < len(split.examples):
        raise InputError(f"dev_share = {share} leaves no example to train on, or none to choose by, of {len(split.examples)}")
    drawn = torch.randperm(len(split.examples), generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(drawn[:count])
    train, dev = (Split(name, split.examples, split.where) for name in ("train", "dev"))
    train.keep([n for n in range(len(drawn)) if n not in held])
    dev.keep(sorted(held))
    train.notes = [*split.notes, f"{share:.0%} of the examples were held out as dev"]
    return train, dev


def _layout(kind: str, path: str | Path, options: ReadOptions, labelled: bool) -> Layout:
    if not is_table(path) and ending(path) != ".txt":
        raise InputError(f"{path} is not a table: expected .tsv, .csv, .jsonl or .txt (tabs), each also with .gz")
    o = options
    layout = find_layout(path, o.layout, o.text, o.pair, o.label, o.choices, labelled, o.form)
    if kind == "choice" and not layout.choices:
        layout = replace(layout, choices=("choices",))
    return layout


def _skipped(count: int) -> list[str]:
    return [f"{count} rows with a wrong number of columns were left out"] if count else []
