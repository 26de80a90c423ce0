"""Examples of sentence-level tasks: a text or a pair with a label, several labels, a number, or candidates to choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.layouts import Layout
from fastbert.data.lines import PLAIN, Form
from fastbert.data.rows import Rows
from fastbert.data.tables import Table, read_table
from fastbert.errors import InputError

LABEL_KINDS = ("name", "names", "number")
MISSING = ("", "nan", "null", "n/a", "#n/a", "<na>")  # cells that hold no label, in lower case, as other programs write them


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, with its label.

    Attributes:
        text, pair: the texts; `pair` is None for a single text.
        label: a name; a tuple of names (several labels, or none of them); a float (regression); None if it is not known.
    """

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None


@dataclass(frozen=True)
class ChoiceExample:
    """A multiple-choice example: a text and its candidates.

    Attributes:
        text: precedes each candidate.
        choices: the candidates.
        label: the index of the correct candidate, from 0; None if it is not known.
    """

    text: str
    choices: tuple[str, ...]
    label: int | None = None


def read_text_examples(
    path: str | Path | Rows,
    layout: Layout,
    kind: str = "name",
    *,
    separator: str = ",",
    names: Collection[str] = (),
    more: Sequence[str] = (),
    skip_ragged: bool = False,
    form: Form = PLAIN,
) -> tuple[list[TextExample], Table]:
    """The examples of a table, and the table itself.

    Args:
        path: the file of the table, or rows in its place.
        layout: its columns.
        kind: kind of the labels: "name", "names" (a JSON list, or text with `separator`), or "number".
        separator: between the names of several labels.
        names: labels that count as such even if they look missing ("nan").
        more: further columns that the table is to hold.
        skip_ragged, form: see `read_table`.

    Returns:
        The examples; the label is None where the cell is JSON's null, or one of `MISSING` in any case of letters.

    Raises:
        InputError: see `read_table`; a label that is no name, or with kind "number" no number, with its line.
    """
    if kind not in LABEL_KINDS:
        raise InputError(f"kind = {kind!r} is not one of {', '.join(LABEL_KINDS)}")
    table = read_table(path, _with(layout, more), skip_ragged=skip_ragged, form=form)
    texts = _texts(table, layout.text)
    pairs: Sequence[str | None] = _texts(table, layout.pair) if layout.pair else [None] * len(table)
    labels: Sequence[Any] = [None] * len(table)
    if layout.label:
        read: dict[str, Callable[[Any, str], Any]] = {"name": _name, "names": _names(separator), "number": _number}
        labels = [
            None if _is_missing(value, kind, names) else read[kind](value, table.place(row))
            for row, value in enumerate(table.values[layout.label])
        ]
    examples = [TextExample(*fields) for fields in zip(texts, pairs, labels, strict=True)]
    return examples, table


def read_choice_examples(
    path: str | Path | Rows, layout: Layout, *, more: Sequence[str] = (), skip_ragged: bool = False, form: Form = PLAIN
) -> tuple[list[ChoiceExample], Table]:
    """The examples of a multiple-choice table, and the table itself.

    The candidates are the columns `layout.choices`, or a JSON list in a single such column. The text of `layout.pair`, if set,
    is put before every candidate, like SWAG's second sentence. `more` names further columns that the table is to hold. A label
    that is missing (see `read_text_examples`) is None.

    Raises:
        InputError: see `read_table`; fewer than two candidates, or a label that is not the index of a candidate, with its line.
    """
    table = read_table(path, _with(layout, more), skip_ragged=skip_ragged, form=form)
    texts = _texts(table, layout.text)
    columns = [table.values[name] for name in layout.choices]
    examples = []
    for row, text in enumerate(texts):
        found = [column[row] for column in columns]
        if len(found) == 1 and isinstance(found[0], list):
            found = found[0]
        if len(found) < 2 or not all(isinstance(choice, str) for choice in found):
            raise InputError(f"{table.place(row)}: {found!r} is not a list of two or more candidates")
        opening = f"{table.values[layout.pair][row]} " if layout.pair else ""
        value = table.values[layout.label][row] if layout.label else None
        label = None if _is_missing(value, "number", ()) else _index(value, len(found), table.place(row))
        examples.append(ChoiceExample(text, tuple(opening + choice for choice in found), label))
    return examples, table


def _with(layout: Layout, more: Sequence[str]) -> list[str]:
    """The columns of a layout, and those of `more` that are not among them."""
    return [*layout.columns, *dict.fromkeys(name for name in more if name not in layout.columns)]


def _is_missing(value: Any, kind: str, names: Collection[str]) -> bool:
    if value is None or value != value:
        return True
    if not isinstance(value, str) or value.strip() in names:
        return False
    text = value.strip().lower()
    return text in MISSING and (text != "" or kind != "names")  # of several labels, an empty cell says: none


def _texts(table: Table, column: str) -> list[str]:
    values = ["" if value is None else value for value in table.values[column]]  # null is an empty text
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{table.place(row)}: {column!r} is a {type(value).__name__}; expected text")
    return values


def _name(value: Any, place: str) -> str:
    if isinstance(value, float | list | dict) or value is None or not str(value).strip():
        raise InputError(f"{place}: the label {value!r} is not a name")
    return str(value).strip()


def _names(separator: str) -> Callable[[Any, str], tuple[str, ...]]:
    def read(value: Any, place: str) -> tuple[str, ...]:
        parts = value if isinstance(value, list) else [part for part in str(value).split(separator) if part.strip()]
        return tuple(dict.fromkeys(_name(part, place) for part in parts))

    return read


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place}: the label {value!r} is not a number")
    return number


def _index(value: Any, count: int, place: str) -> int:
    if not str(value).strip().isdecimal() or int(value) >= count:
        raise InputError(f"{place}: the label {value!r} is not the number of a candidate (0..{count - 1})")
    return int(value)
