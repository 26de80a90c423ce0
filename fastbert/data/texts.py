"""Reads texts from a file or a stream: one a line, or a column of a TSV, CSV or JSON-lines file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastbert.data.lines import PLAIN, Form, ending, lines
from fastbert.data.parquet import is_parquet, parquet_rows
from fastbert.data.tables import TABLES, header_of, is_json, json_rows, missing_key, place_of, rows
from fastbert.errors import InputError


def read_texts(path: str | Path, column: str | None = None, form: Form = PLAIN) -> Iterator[str]:
    """Yields the texts of a file, in order, empty ones included; blank lines of a table are no rows.

    Args:
        path: .tsv, .csv, .jsonl, .ndjson and .parquet are tables; anything else, and "-" (standard input), holds one text a
            line. Each but Parquet may be gzipped (.gz).
        column: column of a table: a name from the header row (or a JSON key), or, for a table without a header, a number from
            1, as in `cut -f`. Defaults to the name "text".
        form: encoding and delimiter.

    Raises:
        InputError: a file that cannot be read, a line that is not text, a missing column; the message names the line.
    """
    path = Path(path)
    if ending(path) == ".json":
        raise InputError(f"{path} is JSON, whose lines are no texts; JSON lines, an object a line, end in .jsonl")
    if ending(path) not in TABLES:
        if column is not None:
            raise InputError(f"column = {column!r} needs a .tsv, .csv, .jsonl or .parquet file; {path} is read line by line")
        if form.delimiter is not None:
            raise InputError(f"delimiter = {form.delimiter!r} needs a .tsv or .csv file; {path} is read line by line")
        return lines(path, encoding=form.encoding)
    if is_parquet(path):
        return _parquet_texts(path, "text" if column is None else column)
    return column_texts(lines(path, encoding=form.encoding, keep_ends=True), path, "text" if column is None else column, form)


def _parquet_texts(path: Path, column: str) -> Iterator[str]:
    for number, (text,) in enumerate(parquet_rows(path, [column]), 1):
        if not isinstance(text, str):
            raise InputError(f"{path}, row {number}: {column!r} is {text!r}; expected a text")
        yield text


def column_texts(stream: Iterator[str], path: Path, column: str, form: Form = PLAIN) -> Iterator[str]:
    """The texts in one column of a table, given its lines with their ends; its name's ending tells JSON lines, CSV and TSV."""
    if is_json(path):
        for number, row in json_rows(stream, path):
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                raise missing_key(path, number, row, f"text under {column!r}")
            yield row[column]
        return
    found = rows(stream, path, form)
    if column.isdecimal():
        index = int(column) - 1
        if index < 0:
            raise InputError(f"column = {column}: columns count from 1")
    else:
        index = place_of(header_of(found, path), column, path, form)
    for number, cells in found:
        if len(cells) <= index:
            raise InputError(f"{path}, line {number}: {len(cells)} columns, column {column} is wanted")
        yield cells[index]
