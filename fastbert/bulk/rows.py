"""The rows of one file from any place on: lines of text, rows of CSV and TSV, JSON lines, Parquet.

A row that cannot be used does not end the reading: the error that names it stands in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastbert.data.lines import Form, not_text, opened, read_line
from fastbert.data.parquet import is_parquet, parquet_rows
from fastbert.data.rows import place_in
from fastbert.data.tables import is_json, is_table, json_value, missing_key, places_of, rows, wrong_width
from fastbert.errors import InputError

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Columns:
    """What is read of each row.

    Attributes:
        texts: columns of the text, or of the two texts of a pair. A file that is no table has one, "text", its lines.
        id: the column that names a row; None where its file and number do.
        keep: columns that go into the output as they are.
    """

    texts: tuple[str, ...] = ("text",)
    id: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, each once: the texts first, then the others as in the output."""
        return tuple(dict.fromkeys((*self.texts, *self.others)))

    @property
    def others(self) -> tuple[str, ...]:
        """The column of the id and those that are kept, each once."""
        return tuple(dict.fromkeys(((self.id,) if self.id is not None else ()) + self.keep))


@dataclass(frozen=True)
class Place:
    """Where a row is: `row` counts from 0; the line, from 1, and the byte are where reading it begins (not of Parquet)."""

    row: int = 0
    line: int = 1
    offset: int = 0


START = Place()


def read_rows(
    path: Path, columns: Columns, form: Form, start: Place = START
) -> Iterator[tuple[Place, int, Values | InputError]]:
    """The rows of a file from a place on: its place, what messages call its line (of Parquet its row), and the values of
    `columns.names`, or what is wrong with the row.

    Raises:
        InputError: a file that cannot be read or is damaged, a column that its header lacks, or a quote that is never closed.
    """
    if is_parquet(path):
        for number, values in enumerate(parquet_rows(path, columns.names, start.row), start.row):
            yield Place(number, 0, 0), number + 1, _checked(values, path, number + 1, columns)
        return
    with opened(path) as stream:
        lines = _Lines(stream, path, form)
        found = _reader(lines, path, columns, form, start)
        place = Place(start.row, lines.line, lines.offset)
        for number, row in found:
            yield place, number, row if lines.bad is None else lines.bad
            place, lines.bad = Place(place.row + 1, lines.line, lines.offset), None


class _Lines:
    """The lines of a stream with their ends, and how far it has been read.

    Attributes:
        line, offset: number and first byte of the line that comes next.
        bad: what is wrong with a line that was read; whoever reads it sets it back.
    """

    def __init__(self, stream: BinaryIO, path: Path, form: Form) -> None:
        self._stream, self._path, self._encoding = stream, path, form.encoding
        self.line, self.offset = START.line, START.offset
        self.bad: InputError | None = None
        if "\n".encode(form.encoding) != b"\n":
            raise InputError(
                f"encoding = {form.encoding!r}: a bulk job reads encodings whose line ends are the byte 10: convert {path}"
            )

    def go_to(self, place: Place) -> None:
        """Goes on from a place that is not before the line that comes next."""
        self._stream.seek(place.offset)
        self.line, self.offset = place.line, place.offset

    def __iter__(self) -> Iterator[str]:
        while raw := read_line(self._stream, -1, self._path):
            name = "utf-8-sig" if self._encoding == "utf-8" and self.offset == 0 else self._encoding
            try:
                text = raw.decode(name)
            except UnicodeDecodeError as error:
                self.bad = not_text(self._path, self.line, raw, self._encoding, error.start)
                text = raw.decode(name, "replace")
            self.line, self.offset = self.line + 1, self.offset + len(raw)
            yield text


def _reader(lines: _Lines, path: Path, columns: Columns, form: Form, start: Place) -> Iterator[tuple[int, Values | InputError]]:
    """Values of the rows from a place on; the lines have been brought to it."""
    if is_json(path):
        lines.go_to(start)
        return _json(lines, path, columns)
    if is_table(path):
        return _table(lines, path, columns, form, start)
    if columns.names != ("text",):
        raise InputError(f"{path} is read line by line: the columns {', '.join(columns.names)} need a table")
    if form.delimiter is not None:
        raise InputError(f"delimiter = {form.delimiter!r} needs a .tsv or .csv file; {path} is read line by line")
    lines.go_to(start)
    return ((lines.line - 1, (line.rstrip("\r\n"),)) for line in lines)


def _table(lines: _Lines, path: Path, columns: Columns, form: Form, start: Place) -> Iterator[tuple[int, Values | InputError]]:
    places, width = places_of(rows(iter(lines), path, form), columns.names, path, form)
    if lines.bad is not None:
        raise lines.bad
    if start.row:
        lines.go_to(start)
    return _cells(lines, path, form, places, width)


def _cells(
    lines: _Lines, path: Path, form: Form, places: Sequence[int], width: int | None
) -> Iterator[tuple[int, Values | InputError]]:
    for number, cells in rows(iter(lines), path, form, first=lines.line):
        if wrong := wrong_width(cells, places, width):
            yield number, InputError(f"{path}, line {number}: {wrong}")
        else:
            yield number, tuple(cells[place] for place in places)


def _json(lines: _Lines, path: Path, columns: Columns) -> Iterator[tuple[int, Values | InputError]]:
    names = columns.names
    for line in lines:
        if not line.strip():
            continue
        number = lines.line - 1
        try:
            row = json_value(line, path, number)
        except InputError as error:
            yield number, error
            continue
        absent = names if not isinstance(row, dict) else [name for name in names if name not in row]
        if absent:
            yield number, missing_key(path, number, row, f"key {absent[0]!r}")
            continue
        values = tuple(row[name] for name in names)
        if "\\u" in line and not _is_text(values):
            yield number, InputError(f"{path}, line {number}: holds half of a surrogate pair, which is no character")
        else:
            yield number, _checked(values, path, number, columns)


def _is_text(values: Values) -> bool:
    """Whether all texts in values can be written as UTF-8; JSON's escapes may name halves of characters."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(values: Values, path: Path, number: int, columns: Columns) -> Values | InputError:
    """The values, or the error where a text is none."""
    for name, value in zip(columns.texts, values, strict=False):
        if not isinstance(value, str):
            shown = "null" if value is None else f"a {type(value).__name__}"
            return InputError(f"{place_in(path, number)}: {name!r} is {shown}; expected a text")
    return values
