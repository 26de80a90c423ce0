"""The rows of a part of the output: read from its spans of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fastbert.bulk.plan import Part, Plan, Span
from fastbert.bulk.rows import Columns, Place, Values, read_rows
from fastbert.data.lines import Form
from fastbert.data.rows import place_in
from fastbert.errors import InputError


@dataclass
class PartRows:
    """The rows of a part, n of them.

    Attributes:
        texts: n texts, or pairs as tuples.
        files: n names of files.
        places: n places in them.
        others: n tuples: the id if there is one, and what is kept.
    """

    texts: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    others: list[Values] = field(default_factory=list)

    def place(self, number: int) -> str:
        """What messages call a text."""
        path, place = Path(self.files[number]), self.places[number]
        return place_in(path, place.line or place.row + 1)


def read_part(plan: Plan, part: Part, columns: Columns, form: Form) -> PartRows:
    """Reads the rows of a part.

    Raises:
        InputError: a file that can no longer be read, or no longer holds what it held.
    """
    found = PartRows()
    for path, place, values in _rows_of(plan, part.spans, columns, form):
        _add(found, path, place, values, columns)
    if len(found.texts) != part.rows:
        raise InputError(f"{plan.sources[part.spans[-1].source].path} no longer holds the rows that it held at the start")
    return found


def sample_texts(plan: Plan, columns: Columns, form: Form, most: int) -> list[Any]:
    """Texts from all over the inputs: as many of the first ones of some parts, spread evenly."""
    parts = plan.parts[:: -(-len(plan.parts) // 16)]
    found = PartRows()
    for part in parts:
        for path, place, values in islice(_rows_of(plan, part.spans, columns, form), most // len(parts)):
            _add(found, path, place, values, columns)
    return found.texts


def _rows_of(plan: Plan, spans: Sequence[Span], columns: Columns, form: Form) -> Iterator[tuple[str, Place, Values]]:
    """The rows of spans that can be used."""
    for span in spans:
        path = plan.sources[span.source].path
        for place, values in islice(read_rows(Path(path), columns, form, span.place), span.count):
            if not isinstance(values, InputError):
                yield path, place, values


def _add(found: PartRows, path: str, place: Place, values: Values, columns: Columns) -> None:
    texts = values[: len(columns.texts)]
    found.texts.append(texts[0] if len(texts) == 1 else texts)
    found.files.append(path)
    found.places.append(place)
    found.others.append(tuple(values[columns.names.index(name)] for name in columns.others))
