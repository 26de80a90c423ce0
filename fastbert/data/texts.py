"""Reads texts from a file or a stream: one per line, or a column of a TSV, CSV or JSON-lines file.

TSV is read as is usual in NLP: tabs separate, quotes are ordinary text. CSV follows RFC 4180. All input is UTF-8, with or
without BOM.
"""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fastbert.errors import InputError

MAX_FIELD = 1 << 30  # characters; csv's own limit of 131,072 is shorter than real documents


TABLES = (".tsv", ".csv", ".jsonl", ".ndjson")


def read_texts(path: str | Path, column: str | None = None) -> Iterator[str]:
    """Yields the texts of a file, in order, blank ones included.

    Args:
        path: .tsv, .csv, .jsonl or .ndjson are tables; anything else, and "-" (standard input), holds one text per line.
        column: column of a table: a name from the header row (or a JSON key), or, for a table without a header, a number from
            1, as in `cut -f`. Defaults to the name "text".

    Raises:
        InputError: a file that cannot be read, a line that is not UTF-8, a missing column; the message names the line.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLES:
        if column is not None:
            raise InputError(f"column = {column!r} needs a .tsv, .csv or .jsonl file; {path} is read line by line")
        return lines(path)
    return column_texts(lines(path), path, "text" if column is None else column)


def column_texts(rows: Iterator[str], path: Path, column: str) -> Iterator[str]:
    """The texts in one column of a table, given its lines; the file extension selects JSON lines or CSV, else TSV."""
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        return _json_column(rows, column, path)
    csv.field_size_limit(MAX_FIELD)
    if kind == ".csv":
        return _table_column(csv.reader(row + "\n" for row in rows), column, path)
    return _table_column((row.split("\t") for row in rows), column, path)


def lines(
    path: Path, errors: str = "strict", at_most: int | None = None, advance: Callable[[int], object] | None = None
) -> Iterator[str]:
    """The lines of a UTF-8 file, or of standard input ("-"), without their line endings.

    Args:
        errors: "strict" raises at bytes that are not UTF-8; "replace" reads them as U+FFFD and warns at the end.
        at_most: longer lines are yielded in pieces of about this many bytes, cut at a space if there is one.
        advance: called with the number of bytes of each piece.

    Raises:
        InputError: a file that cannot be read, or a line that is not UTF-8, with its number.
    """
    if str(path) == "-" and sys.stdin is None:
        raise InputError("cannot read standard input: it is closed")
    try:
        stream = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    number, offset, damaged = 1, 0, 0
    rest = b""
    with stream:
        while raw := rest + stream.readline(-1 if at_most is None else at_most):
            rest = b""
            ended = raw.endswith(b"\n")
            if not ended and at_most is not None and len(raw) >= at_most:
                raw, rest = _split(raw)
            if advance is not None:
                advance(len(raw))
            try:
                text = raw.decode("utf-8-sig" if number == 1 and not offset else "utf-8")
            except UnicodeDecodeError as error:
                if errors == "strict":
                    place = f"byte {offset + error.start + 1} of the line"
                    raise InputError(f"{path}, line {number}: not UTF-8 text ({place})") from None
                text, damaged = raw.decode("utf-8", "replace"), damaged + 1
            yield text.rstrip("\r\n")
            number, offset = (number + 1, 0) if ended else (number, offset + len(raw))
    if damaged:
        warnings.warn(f"{path}: {damaged} lines were not UTF-8; invalid bytes were replaced by U+FFFD", stacklevel=2)


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Splits off a piece of a long line, between words or at least between characters; returns it and the rest."""
    at = raw.rfind(b" ") + 1
    if not at:
        at = len(raw)
        while at > max(len(raw) - 4, 1) and raw[at - 1] & 0xC0 == 0x80:  # back to the start of the last character
            at -= 1
        at = at - 1 if at > 1 and raw[at - 1] & 0xC0 == 0xC0 else len(raw)
    return raw[:at], raw[at:]


def json_rows(rows: Iterable[str], path: Path) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines with their line numbers; blank lines are skipped."""
    for number, line in enumerate(rows, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from None


def missing_key(path: Path, number: int, row: Any, what: str) -> InputError:
    """The error for a JSON line that lacks `what`; its message lists the keys that the line has."""
    keys = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
    return InputError(f"{path}, line {number}: no {what}; it has {keys or 'nothing'}")


def _json_column(rows: Iterator[str], key: str, path: Path) -> Iterator[str]:
    for number, row in json_rows(rows, path):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise missing_key(path, number, row, f"text under {key!r}")
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
