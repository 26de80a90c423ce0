"""Tables of examples: TSV, CSV, JSON lines and Parquet with named columns; every row is checked, every error names its line.

TSV is read as is usual in NLP: tabs separate, quotes are ordinary text. CSV follows RFC 4180: a quoted cell may hold lines.
Blank lines are no rows. Each JSON line is an object; its keys are the columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.lines import PLAIN, Form, ending, lines
from fastbert.data.parquet import is_parquet, parquet_rows, parquet_types
from fastbert.data.rows import Rows, place_in
from fastbert.errors import InputError

TABLES = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")
_MAX_FIELD = 1 << 30  # characters; csv's own limit of 131,072 is shorter than real documents
_DELIMITERS = ";,\t|"  # that a table may have been written with
_NAMES = {"\t": "a tab"}


@dataclass(frozen=True)
class Table:
    """The requested columns of a file.

    Attributes:
        path: the file, or the rows in its place.
        values: each column by its name, one value per row: text, or any JSON value.
        lines: for each row, the line of the file at which it starts; of Parquet the row.
        rows: for each row, its number in the file from 1; the header and blank lines are no rows.
        skipped: number of rows left out because their number of columns was wrong.
    """

    path: Path | Rows
    values: dict[str, list[Any]]
    lines: list[int]
    rows: list[int]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """File and line of a row, for messages."""
        return place_in(self.path, self.lines[row])


def read_table(path: str | Path | Rows, columns: Sequence[str], *, skip_ragged: bool = False, form: Form = PLAIN) -> Table:
    """Reads columns of a .tsv, .txt, .csv, .jsonl, .ndjson or .parquet file (.txt as TSV), or of rows in memory.

    Args:
        columns: names from the header row (or JSON keys); or, for a table without a header, all numbers, counted from 1.
        skip_ragged: skip and count rows whose number of columns is wrong, instead of rejecting the file.
        form: encoding and delimiter.

    Raises:
        InputError: a missing column (the message lists those present), a row whose number of columns differs from the header's,
            with its line, or a file without any row.
    """
    path = path if isinstance(path, Rows) else Path(path)
    twice = next((name for name in columns if list(columns).count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: the column {twice!r} is asked for twice; text, pair, label and choices must be different columns"
        )
    if isinstance(path, Rows):
        absent = [name for name in columns if name not in path.values]
        if absent:
            raise InputError(f"{path} has no column {absent[0]!r}; it has {', '.join(path.values)}")
        numbers = list(range(1, len(path) + 1))
        return _checked(Table(path, {name: path.values[name] for name in columns}, numbers, numbers))
    if is_json(path):
        return _read_json(path, columns, form)
    if is_parquet(path):
        values_of = zip(*parquet_rows(path, columns), strict=True)
        found_values = {name: list(column) for name, column in zip(columns, values_of, strict=False)}
        counted = list(range(1, len(next(iter(found_values.values()), [])) + 1))
        return _checked(Table(path, found_values, counted, counted))
    found = rows(lines(path, encoding=form.encoding, keep_ends=True), path, form)
    places, width = places_of(found, columns, path, form)
    values: list[list[Any]] = [[] for _ in columns]
    numbers = []
    kept: list[int] = []
    skipped = 0
    for count, (number, row) in enumerate(found, 1):
        if wrong := wrong_width(row, places, width):
            if skip_ragged:
                skipped += 1
                continue
            raise InputError(f"{path}, line {number}: {wrong}")
        numbers.append(number)
        kept.append(count)
        for column, place in zip(values, places, strict=True):
            column.append(row[place])
    return _checked(Table(path, dict(zip(columns, values, strict=True)), numbers, kept, skipped))


def columns_of(path: str | Path | Rows, form: Form = PLAIN) -> list[str]:
    """The names in a table's header row, or the keys of its first JSON line."""
    if isinstance(path, Rows):
        return list(path.values)
    path = Path(path)
    if is_parquet(path):
        return list(parquet_types(path))
    stream = lines(path, encoding=form.encoding, keep_ends=True)
    if is_json(path):
        for number, row in json_rows(stream, path):
            if not isinstance(row, dict):
                raise missing_key(path, number, row, "object")
            return list(row)
        raise InputError(f"{path} is empty")
    return header_of(rows(stream, path, form), path)


def is_table(path: str | Path) -> bool:
    """Whether a file is a table, judged by its ending."""
    return ending(path) in TABLES


def is_json(path: str | Path) -> bool:
    """Whether a file holds JSON lines, judged by its ending."""
    return ending(path) in (".jsonl", ".ndjson")


def rows(stream: Iterable[str], path: Path, form: Form = PLAIN, first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """The rows of a TSV or CSV file, given its lines with their ends, each with the line at which it starts.

    Blank lines are no rows. The number of the first line given is `first`.
    """
    delimiter = form.between(path)
    if ending(path) != ".csv":
        for number, line in enumerate(stream, first):
            if text := line.rstrip("\r\n"):
                yield number, text.split(delimiter)
        return
    csv.field_size_limit(_MAX_FIELD)
    record: list[str] = []  # lines of the row that is being read
    reader = csv.reader(_noted(stream, record), delimiter=delimiter)
    start = first
    try:
        for row in reader:
            if _never_closed(record, delimiter):
                raise InputError(f"{path}, line {start}: a quote is opened and never closed")
            if row:
                yield start, row
            start = first + reader.line_num
            record.clear()
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {error}") from None


def _never_closed(record: Sequence[str], delimiter: str) -> bool:
    """Whether a row ends inside quotes, as only the last one of a file can."""
    if sum(line.count('"') for line in record) % 2 == 0:
        return False
    return len(record) > 1 or record[0].startswith('"') or f'{delimiter}"' in record[0]


def _noted(stream: Iterable[str], record: list[str]) -> Iterator[str]:
    for line in stream:
        record.append(line)
        yield line


def header_of(found: Iterator[tuple[int, list[str]]], path: Path) -> list[str]:
    """The first row."""
    first = next(found, None)
    if first is None:
        raise InputError(f"{path} is empty; expected a header row")
    return first[1]


def place_of(header: list[str], name: str, path: Path, form: Form = PLAIN) -> int:
    """The place of a column; the error for a missing one has what the file may be instead."""
    if name not in header:
        raise InputError(f"{path} has no column {name!r}; it has {', '.join(header)}{other_delimiter(header, path, form)}")
    if header.count(name) > 1:
        raise InputError(f"{path} has {header.count(name)} columns {name!r}; it has {', '.join(header)}")
    return header.index(name)


def places_of(
    found: Iterator[tuple[int, list[str]]], names: Sequence[str], path: Path, form: Form = PLAIN
) -> tuple[list[int], int | None]:
    """Where columns stand in the rows of a table, and how many cells a row has.

    Args:
        found: the rows, of which the header is read here.
        names: columns; or numbers from 1 of a table without a header, whose rows may have any number of cells (None).
        path, form: for messages.

    Raises:
        InputError: names and numbers, a number below 1, or a column that the header lacks.
    """
    numbered = [name.isdecimal() for name in names]
    if any(numbered) and not all(numbered):
        raise InputError(f"columns {', '.join(names)}: either all are names, or all are numbers of a table without a header")
    if not all(numbered):
        header = header_of(found, path)
        return [place_of(header, name, path, form) for name in names], len(header)
    places = [int(name) - 1 for name in names]
    if min(places) < 0:
        raise InputError(f"columns {', '.join(names)}: columns count from 1")
    return places, None


def wrong_width(cells: Sequence[str], places: Sequence[int], width: int | None) -> str:
    """What is wrong with the number of a row's cells, given what `places_of` found; "" if nothing is."""
    if len(cells) == width or (width is None and len(cells) > max(places)):
        return ""
    wanted = f"the header has {width}" if width is not None else f"column {max(places) + 1} is wanted"
    return f"{len(cells)} columns, {wanted}"


def json_rows(stream: Iterable[str], path: Path, first: int = 1) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines with their line numbers, which start at `first`; blank lines are skipped."""
    for number, line in enumerate(stream, first):
        if not line.strip():
            continue
        yield number, json_value(line, path, number)


def json_value(line: str, path: Path, number: int) -> Any:
    """The value of a JSON line.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(line.rstrip("\r\n"))
    except (ValueError, RecursionError) as error:
        advice = ""
        if number == 1 and line.lstrip().startswith(("[", "{")):
            advice = "; an array, or an object over several lines, is JSON and not JSON lines"
        raise InputError(f"{path}, line {number}: not JSON ({error}){advice}") from None


def missing_key(path: Path | Rows, number: int, row: Any, what: str) -> InputError:
    """The error for a JSON line that lacks `what`; its message lists the keys that the line has."""
    keys = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
    return InputError(f"{place_in(path, number)}: no {what}; it has {keys or 'nothing'}")


def other_delimiter(header: Sequence[str], path: Path, form: Form) -> str:
    """Advice where a header of one column looks like several."""
    if len(header) > 1:
        return ""
    used = form.between(path)
    other = next((sign for sign in _DELIMITERS if sign != used and sign in header[0]), None)
    if other is None:
        return f"; is it a table with {_NAMES.get(used, repr(used))} between its columns?"
    return f"; if {_NAMES.get(other, repr(other))} is between its columns, name it: delimiter = {other!r}"


def _read_json(path: Path, columns: Sequence[str], form: Form) -> Table:
    values: dict[str, list[Any]] = {name: [] for name in columns}
    numbers = []
    for number, row in json_rows(lines(path, encoding=form.encoding), path):
        if not isinstance(row, dict):
            raise missing_key(path, number, row, "object")
        for name in columns:
            if name not in row:
                raise missing_key(path, number, row, f"key {name!r}")
            values[name].append(row[name])
        numbers.append(number)
    return _checked(Table(path, values, numbers, list(range(1, len(numbers) + 1))))


def _checked(table: Table) -> Table:
    if not len(table):
        raise InputError(f"{table.path} holds no example")
    return table
