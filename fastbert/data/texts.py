"""Texts from a file or a stream: one a line, or a column of a TSV, CSV or JSON-lines file.

TSV is read as the field writes it: tabs separate, quotes are text. CSV follows RFC 4180. All is UTF-8, with or without BOM.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastbert.errors import InputError

_MAX_FIELD = 1 << 30  # characters; csv's own limit of 131,072 is shorter than real documents


def read_texts(path: str | Path, column: str | None = None) -> Iterator[str]:
    """Yields the texts of a file, in order, blank ones included.

    Args:
        path: .tsv, .csv, .jsonl or .ndjson are tables; anything else, and "-" (standard input), holds one text a line.
        column: of a table: a name from the header row (or a JSON key), or a number from 1, as `cut -f` counts, for a table
            without a header. Defaults to the name "text".

    Raises:
        InputError: a file that cannot be read, a line that is not UTF-8, a missing column; the message names the line.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".tsv", ".csv", ".jsonl", ".ndjson"):
        if column is not None:
            raise InputError(f"column = {column!r} needs a .tsv, .csv or .jsonl file; {path} is read line by line")
        return _lines(path)
    column = "text" if column is None else column
    if kind in (".jsonl", ".ndjson"):
        return _json_column(_lines(path), column, path)
    csv.field_size_limit(_MAX_FIELD)
    if kind == ".tsv":
        rows: Iterable[list[str]] = (line.split("\t") for line in _lines(path))
    else:
        rows = csv.reader(line + "\n" for line in _lines(path))
    return _table_column(rows, column, path)


def _lines(path: Path) -> Iterator[str]:
    try:
        stream = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    with stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 text (byte {error.start + 1} of the line)") from None
            yield text.rstrip("\r\n")


def _json_column(lines: Iterator[str], key: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            keys = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
            raise InputError(f"{path}, line {number}: no text under {key!r}; it has {keys or 'nothing'}")
        yield row[key]


def _table_column(rows: Iterable[list[str]], column: str, path: Path) -> Iterator[str]:
    index = int(column) - 1 if column.isdecimal() else None
    if index is not None and index < 0:
        raise InputError(f"column = {column}: columns count from 1")
    width = None
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            if index is None:
                if column not in row:
                    raise InputError(f"{path} has no column {column!r}; its header names {', '.join(row)}")
                index, width = row.index(column), len(row)
                continue
            if not row or (row == [""] and width != 1 and index > 0):
                continue
            if len(row) <= index:
                raise InputError(f"{path}, line {number}: {len(row)} columns, column {column} is wanted")
            yield row[index]
    except csv.Error as error:
        raise InputError(f"{path}, row {number + 1}: {error}") from None
    if index is None:
        raise InputError(f"{path} is empty; expected a header row")
