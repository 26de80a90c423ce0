"""Rows of results and their files: results/<device>/<date>.jsonl, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.errors import InputError

RESULTS = Path(__file__).resolve().parents[1] / "results"
Row = dict[str, Any]
QUESTION = ("suite", "model", "task", "dtype", "case")  # rows that share these answer the same question
_KEY = (*QUESTION, "candidate")


def key(row: Row) -> tuple[Any, ...]:
    """What a row is about: rows of two runs with the same key compare."""
    return tuple(row[name] for name in _KEY)


def read(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        InputError: it cannot be read, or a line is no row of results.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key(row)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: no row of results") from None
        rows.append(row)
    return rows


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Old rows, those that were measured again replaced, then the rest of the new ones."""
    fresh = {key(row): row for row in new}
    kept = [fresh.pop(key(row), row) for row in old]
    return [*kept, *fresh.values()]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of results, whole or not at all."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def newest(folder: Path = RESULTS) -> list[tuple[Path, list[Row]]]:
    """The newest full results of each device, <device>/<date>.jsonl and its rows, GPUs first; `--quick` does not count."""
    devices = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    dated = (list(device.glob("????-??-??.jsonl")) for device in devices)
    found = [(max(paths), read(max(paths))) for paths in dated if paths]
    return sorted(found, key=lambda pair: pair[1][0]["cuda"] is None)
