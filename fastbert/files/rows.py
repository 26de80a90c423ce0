"""Rows of results as files: JSON lines, CSV, TSV, Parquet or CoNLL, as the file's ending says."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastbert.errors import InputError, check_package

ROWS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def check_ending(path: str | Path, known: Collection[str], what: str) -> str:
    """The ending of a file to be written, in lower case.

    Args:
        path: the file.
        known: endings that can be written.
        what: what is written, for the message.

    Raises:
        InputError: another ending, or one whose library is not installed.
    """
    ending = Path(path).suffix.lower()
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    if ending not in known:
        raise InputError(f"cannot write {path}: {what} can be written to files that end in {', '.join(known)}")
    if ending == ".parquet":
        need_pyarrow(f"write {path}")
    return ending


def need_pyarrow(what: str) -> None:
    """Raises InputError where the library for Parquet is not installed; `what` cannot be done then."""
    check_package(f"cannot {what}: .parquet", "pyarrow", "bulk")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], ending: str) -> None:
    """Writes rows to a file in the form of an ending.

    .jsonl, .ndjson: an object a line. .parquet: a column a key, objects as structs. .csv, .tsv: a column a key, inner keys
    after a dot ("scores.positive"), lists as JSON; cells are quoted where need be. .conll: a line a word with its tag and, if
    it is known, the right one, columns by tabs, blank lines between the sentences.

    Raises:
        InputError: rows that do not fit .conll.
    """
    if ending in (".jsonl", ".ndjson"):
        path.write_text("".join(line_of(row) for row in rows), encoding="utf-8")
    elif ending == ".conll":
        path.write_text("".join(_sentence(row) for row in rows), encoding="utf-8")
    elif ending == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, delimiter="," if ending == ".csv" else "\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat)


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON, with its end; dates, decimals and the like of Parquet as texts."""
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else value
    return found


def _sentence(row: Mapping[str, Any]) -> str:
    if "words" not in row:
        raise InputError(".conll holds tags of words; these predictions are of raw texts: write .jsonl")
    columns: Iterable[Sequence[str]] = [row[key] for key in ("words", "tags", "gold") if key in row]
    return "".join("\t".join(cells) + "\n" for cells in zip(*columns, strict=True)) + "\n"
