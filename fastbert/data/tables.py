"""Tables of examples: TSV, CSV and JSON lines with named columns; every row is checked and every error names its line.

TSV is read as is usual in NLP: tabs separate, quotes are ordinary text. CSV follows RFC 4180. Each JSON line is an object; its
keys are the columns. All files are UTF-8, with or without BOM.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.texts import MAX_FIELD, TABLES, json_rows, lines, missing_key
from fastbert.errors import InputError


@dataclass(frozen=True)
class Table:
    """The requested columns of a file.

    Attributes:
        path: the file.
        values: each column by its name, one value per row: text, or any JSON value.
        lines: for each row, the line of the file at which it starts.
        skipped: number of rows left out because their number of columns was wrong.
    """

    path: Path
    values: dict[str, list[Any]]
    lines: list[int]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.path}, line {self.lines[row]}"


def read_table(path: str | Path, columns: Sequence[str], *, skip_ragged: bool = False) -> Table:
    """Reads columns of a .tsv, .txt, .csv, .jsonl or .ndjson file (.txt as TSV).

    Args:
        columns: names from the header row (or JSON keys); or, for a table without a header, all numbers, counted from 1.
        skip_ragged: skip and count rows whose number of columns is wrong, instead of rejecting the file.

    Raises:
        InputError: a missing column (the message lists those present), a row whose number of columns differs from the header's,
            with its line, or a file without any row.
    """
    path = Path(path)
    twice = next((name for name in columns if list(columns).count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: the column {twice!r} is asked for twice; text, pair, label and choices must be different columns"
        )
    if is_json(path):
        return _read_json(path, columns)
    numbered = [name.isdecimal() for name in columns]
    if any(numbered) and not all(numbered):
        raise InputError(f"columns {', '.join(columns)}: either all are names, or all are numbers of a table without a header")
    rows = _rows(path)
    if all(numbered):
        places, width = [int(name) - 1 for name in columns], None
        if min(places) < 0:
            raise InputError(f"columns {', '.join(columns)}: columns count from 1")
    else:
        header = _header(rows, path)
        places, width = [_find(header, name, path) for name in columns], len(header)
    values: list[list[Any]] = [[] for _ in columns]
    numbers: list[int] = []
    skipped = 0
    for number, row in rows:
        if len(row) != width if width is not None else len(row) <= max(places):
            if skip_ragged:
                skipped += 1
                continue
            wanted = f"the header has {width}" if width is not None else f"column {max(places) + 1} is wanted"
            raise InputError(f"{path}, line {number}: {len(row)} columns, {wanted}")
        numbers.append(number)
        for column, place in zip(values, places, strict=True):
            column.append(row[place])
    return _checked(Table(path, dict(zip(columns, values, strict=True)), numbers, skipped))


def columns_of(path: str | Path) -> list[str]:
    """The names in a table's header row, or the keys of its first JSON line."""
    path = Path(path)
    if is_json(path):
        for number, row in json_rows(lines(path), path):
            if not isinstance(row, dict):
                raise missing_key(path, number, row, "object")
            return list(row)
        raise InputError(f"{path} is empty")
    return _header(_rows(path), path)


def is_table(path: str | Path) -> bool:
    """Whether a file is a table, judged by its extension."""
    return Path(path).suffix.lower() in TABLES


def is_json(path: str | Path) -> bool:
    """Whether a file holds JSON lines, judged by its extension."""
    return Path(path).suffix.lower() in (".jsonl", ".ndjson")


def _read_json(path: Path, columns: Sequence[str]) -> Table:
    values: dict[str, list[Any]] = {name: [] for name in columns}
    numbers = []
    for number, row in json_rows(lines(path), path):
        if not isinstance(row, dict):
            raise missing_key(path, number, row, "object")
        for name in columns:
            if name not in row:
                raise missing_key(path, number, row, f"key {name!r}")
            values[name].append(row[name])
        numbers.append(number)
    return _checked(Table(path, values, numbers))


def _checked(table: Table) -> Table:
    if not len(table):
        raise InputError(f"{table.path} holds no example")
    return table


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a TSV or CSV file with the lines at which they start; blank lines are skipped."""
    if path.suffix.lower() != ".csv":
        for number, line in enumerate(lines(path), 1):
            if line:
                yield number, line.split("\t")
        return
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader((line + "\n" for line in lines(path)), strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {error}") from None


def _header(rows: Iterator[tuple[int, list[str]]], path: Path) -> list[str]:
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} is empty; expected a header row")
    return first[1]


def _find(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise InputError(f"{path} has no column {name!r}; it has {', '.join(header)}")
    if header.count(name) > 1:
        raise InputError(f"{path} has {header.count(name)} columns {name!r}; it has {', '.join(header)}")
    return header.index(name)
