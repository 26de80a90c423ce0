"""Types of the columns that a job takes over from its inputs: one type a column, whatever the part of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastbert.data.parquet import is_parquet, parquet_types

TEXT, WHOLE, NUMBER, TRUTH = "string", "int64", "double", "bool"  # Arrow's names
_LARGE = "large"  # whole numbers that no double holds exactly
_MOST, _EXACT = 1 << 63, 1 << 53


class Kinds:
    """What the values of some columns are, seen row by row."""

    def __init__(self, names: Sequence[str]) -> None:
        self._seen: dict[str, set[str | None]] = {name: set() for name in names}

    def note(self, values: Iterable[Any]) -> None:
        """Notes the values of a row, in the order of the names."""
        for seen, value in zip(self._seen.values(), values, strict=True):
            seen.add(_kind(value))

    def types(self, read: Sequence[Path]) -> dict[str, str]:
        """The type of each column: that of the files that were read, if all are Parquet and agree, else one for all values."""
        typed = [parquet_types(path) for path in read] if all(map(is_parquet, read)) else [{}]
        found = {}
        for name, seen in self._seen.items():
            kinds = {str(types.get(name)) for types in typed}
            found[name] = kinds.pop() if len(kinds) == 1 and name in typed[0] else _common(seen)
        return found


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, int):
        return (WHOLE if abs(value) <= _EXACT else _LARGE) if -_MOST <= value < _MOST else TEXT
    return NUMBER if isinstance(value, float) else TEXT


def _common(seen: set[str | None]) -> str:
    """One type for values of several: text where no other one holds them all."""
    kinds = seen - {None}
    if kinds and kinds <= {WHOLE, _LARGE}:
        return WHOLE
    if kinds == {WHOLE, NUMBER}:
        return NUMBER
    return kinds.pop() or TEXT if len(kinds) == 1 else TEXT


def as_text(value: Any) -> str | None:
    """A value as a column of texts holds it: what JSON has as JSON, anything else as Python writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    is_json = isinstance(value, bool | int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def to_arrow(values: Sequence[Any], kind: str, name: str, inputs: Sequence[str]) -> Any:
    """Values as an Arrow array of a type by its name; one that only Parquet files have is taken from the first of them."""
    import pyarrow as pa

    simple = {TEXT: pa.string(), WHOLE: pa.int64(), NUMBER: pa.float64(), TRUTH: pa.bool_()}
    if kind == TEXT:
        return pa.array([as_text(value) for value in values], pa.string())
    return pa.array(values, simple[kind] if kind in simple else parquet_types(Path(inputs[0]))[name])
