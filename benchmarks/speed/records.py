"""Result rows and their files: results/<device>/<date>.jsonl, one JSON object per line."""

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
    """The key of a row; rows of two runs with the same key are comparable."""
    return tuple(row[name] for name in _KEY)


def measured(rows: Iterable[Row]) -> list[Row]:
    """The rows that passed their check and were measured completely."""
    return [row for row in rows if row["status"] == "ok" and "median_s" in row and not row.get("interrupted")]


def fastest(rows: Iterable[Row]) -> Row | None:
    """The row of the lowest median; None of no rows."""
    return min(rows, key=lambda row: float(row["median_s"]), default=None)


def read(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        InputError: it cannot be read, or a line is not a result row.
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
            raise InputError(f"{path}, line {number}: not a result row") from None
        rows.append(row)
    return rows


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """The old rows, with those that were measured again replaced, followed by the other new rows."""
    fresh = {key(row): row for row in new}
    kept = [fresh.pop(key(row), row) for row in old]
    return [*kept, *fresh.values()]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes a results file atomically."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def newest(folder: Path = RESULTS) -> list[tuple[Path, list[Row]]]:
    """The newest full results of each device, as (<device>/<date>.jsonl, rows), GPUs first; `--quick` runs are ignored."""
    devices = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    dated = (list(device.glob("????-??-??.jsonl")) for device in devices)
    found = [(max(paths), read(max(paths))) for paths in dated if paths]
    return sorted(found, key=lambda pair: pair[1][0]["cuda"] is None)
