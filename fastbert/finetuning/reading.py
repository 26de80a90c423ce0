"""Reads the examples of a task from files, and records the place of each for messages."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastbert.data.conll import read_tagged
from fastbert.data.labelled import read_choice_examples, read_text_examples
from fastbert.data.layouts import LAYOUTS, Layout, find_layout
from fastbert.data.lines import PLAIN, Form, ending
from fastbert.data.rows import Rows, place_in
from fastbert.data.squad import read_questions
from fastbert.data.tables import is_table
from fastbert.errors import InputError
from fastbert.finetuning.marks import columns_to_keep, marks_of
from fastbert.finetuning.missing import leave_out, leave_out_missing, note_empty
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
        names: labels that count as such even if they look missing, such as "nan".
        strict: refuse empty texts and missing labels, instead of counting them.
        id, keep: columns of a table that go with its examples into predictions.
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
    names: tuple[str, ...] = ()
    strict: bool = False
    id: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the layout, if one is named."""
        return LAYOUTS[self.layout].metrics if self.layout in LAYOUTS else ()


def read_split(kind: str, path: str | Path | Iterable[Any], name: str, options: ReadOptions, labelled: bool = True) -> Split:
    """The examples of a file, or of rows in memory.

    Args:
        kind: the task.
        path: a table for texts and choices, CoNLL or JSON lines for tags, SQuAD's JSON for questions; or
            in place of any of them rows with the columns that a table has: a `datasets.Dataset`, or mappings.
        name: "train", "dev" or "test", for messages.
        options: how the file is read.
        labelled: whether labels are required: examples without one are left out. Otherwise labels are read only if present,
            and every example stays.

    Raises:
        InputError: see the readers; with `strict`, an empty text or a missing label, with its line.
    """
    form, skip = options.form, options.skip_ragged
    source = path if isinstance(path, str | Path) else Rows.of(path, name)
    if kind in ("qa", "ner"):
        split = _read_file(kind, source, name, options, labelled)
        note_empty(split, options.strict)
        return split
    layout = _layout(kind, source, options, labelled)
    more = columns_to_keep(options.id, options.keep, layout.text)
    if kind == "choice":
        examples: list[Any]
        examples, table = read_choice_examples(source, layout, more=more, skip_ragged=skip, form=form)
    else:
        labels = "number" if kind == "regress" else "names" if options.multi_label else "name"
        examples, table = read_text_examples(
            source, layout, labels, separator=options.separator, names=options.names, more=more, skip_ragged=skip, form=form
        )
    split = Split(name, examples, table.place, _skipped(table.skipped), marks_of(table, options.id, options.keep))
    note_empty(split, options.strict)
    if labelled:
        leave_out_missing(split, options.strict)
        if kind == "nli":
            leave_out(split, lambda example: example.label == NO_LABEL, f"pairs have no agreed label ({NO_LABEL!r})")
    return split


def _read_file(kind: str, path: str | Path | Rows, name: str, options: ReadOptions, labelled: bool) -> Split:
    """Questions, or tagged sentences, which are no tables."""
    if options.id is not None or options.keep:
        raise InputError(f"{path}: id and keep name columns of a table, which {kind} does not read")
    if kind == "qa":
        questions = read_questions(path, options.form)
        return Split(name, questions, lambda number: f"{path}, question {questions[number].id!r}")
    word, tag = options.word_column, options.tag_column
    sentences = read_tagged(path, word_column=word, tag_column=tag, tagged=labelled, form=options.form)
    source = path if isinstance(path, Rows) else Path(path)
    return Split(name, sentences, lambda number: place_in(source, sentences[number].line))


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a random share of the training examples as a dev set; both parts keep their order.

    The labels of classification have the same shares in both parts, as far as whole examples allow; a label with two examples
    or more is in both, if dev has room for each label.

    Raises:
        InputError: a share that leaves either part empty.
    """
    count = round(len(split.examples) * share) if 0 < share < 1 else 0
    if not 0 < count < len(split.examples):
        raise InputError(f"dev_share = {share} leaves no example to train on, or none to choose by, of {len(split.examples)}")
    drawn = torch.randperm(len(split.examples), generator=torch.Generator().manual_seed(seed)).tolist()
    groups: dict[Any, list[int]] = {}
    for number in drawn:
        label = getattr(split.examples[number], "label", None)
        groups.setdefault(label if isinstance(label, str) else None, []).append(number)
    sizes = _sizes(groups.values(), count)
    held = {number for group, size in zip(groups.values(), sizes, strict=True) for number in group[:size]}
    train, dev = (Split(name, split.examples, split.where, marks=split.marks) for name in ("train", "dev"))
    train.keep([n for n in range(len(drawn)) if n not in held])
    dev.keep(sorted(held))
    train.notes = [*split.notes, f"{share:.0%} of the examples were held out as dev"]
    return train, dev


def _sizes(groups: Collection[list[int]], count: int) -> list[int]:
    """How many examples of each group are held out, `count` in all: its share, the largest remainders rounded up.

    A group of two or more gets at least one and leaves at least one, where the count and the others allow.
    """
    sizes = [len(group) for group in groups]
    most = [max(size - 1, 0) for size in sizes] if len(sizes) > 1 else sizes
    wanted = [size * count / sum(sizes) for size in sizes]
    least = [min(1, limit) for limit in most] if sum(min(1, limit) for limit in most) <= count else [0] * len(sizes)
    taken = [min(max(math.floor(w), low), high) for w, low, high in zip(wanted, least, most, strict=True)]
    while sum(taken) != count:
        short = sum(taken) < count
        bounds = most if short else least
        movable = [i for i in range(len(sizes)) if (taken[i] < bounds[i] if short else taken[i] > bounds[i])]
        if not movable:  # single examples of their labels: they too are held out
            most = sizes
            continue
        chosen = max(movable, key=lambda i: wanted[i] - taken[i] if short else taken[i] - wanted[i])
        taken[chosen] += 1 if short else -1
    return taken


def _layout(kind: str, path: str | Path | Rows, options: ReadOptions, labelled: bool) -> Layout:
    if not isinstance(path, Rows) and not is_table(path) and ending(path) != ".txt":
        raise InputError(f"{path} is not a table: expected .tsv, .csv, .jsonl, .parquet or .txt (tabs)")
    o = options
    layout = find_layout(path, o.layout, o.text, o.pair, o.label, o.choices, labelled, o.form)
    if kind == "choice" and not layout.choices:
        layout = replace(layout, choices=("choices",))
    return layout


def _skipped(count: int) -> list[str]:
    return [f"{count} rows with a wrong number of columns were left out"] if count else []
