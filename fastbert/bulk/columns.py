"""Types of the columns that a job takes over from its inputs: one type a column, whatever the part of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastbert.data.parquet import is_parquet, parquet_types
from fastbert.errors import InputError

TEXT, WHOLE, NUMBER, TRUTH = "string", "int64", "double", "bool"  # Arrow's names
_MOST = 1 << 63


class Kinds:
    """What the values of some columns are, seen row by row."""

    def __init__(self, names: Sequence[str]) -> None:
        self._seen: dict[str, set[str | None]] = {name: set() for name in names}
        self._typed: dict[str, Any] = {}

    def note(self, values: Iterable[Any]) -> None:
        """Notes the values of a row, in the order of the names."""
        for seen, value in zip(self._seen.values(), values, strict=True):
            seen.add(_kind(value))

    def note_file(self, path: Path) -> None:
        """Notes the types that a Parquet file gives the columns itself.

        Raises:
            InputError: another file gave one of them another type.
        """
        if not is_parquet(path):
            return
        types = parquet_types(path)
        for name in self._seen:
            kind = self._typed.setdefault(name, types.get(name, None))
            if name in types and types[name] != kind:
                raise InputError(f"{path}: the column {name!r} is {types[name]}, in a file before it {kind}")

    def types(self, all_parquet: bool) -> dict[str, str]:
        """The type of each column: that of the Parquet files if all are such, else one that holds all values."""
        if all_parquet:
            return {name: str(self._typed[name]) for name in self._seen}
        return {name: _common(seen) for name, seen in self._seen.items()}


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return TEXT
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, int):
        return WHOLE if -_MOST <= value < _MOST else TEXT
    return NUMBER if isinstance(value, float) else TEXT


def _common(seen: set[str | None]) -> str:
    """One type for values of several: text where nothing else holds them."""
    kinds = seen - {None}
    if kinds == {WHOLE, NUMBER}:
        return NUMBER
    return kinds.pop() or TEXT if len(kinds) == 1 else TEXT


def as_text(value: Any) -> str | None:
    """A value as a column of texts holds it: other values than texts as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def to_arrow(values: Sequence[Any], kind: str, name: str, inputs: Sequence[str]) -> Any:
    """Values as an Arrow array of a type by its name; one that only Parquet files have is taken from the first of them."""
    import pyarrow as pa

    simple = {TEXT: pa.string(), WHOLE: pa.int64(), NUMBER: pa.float64(), TRUTH: pa.bool_()}
    if kind == TEXT:
        return pa.array([as_text(value) for value in values], pa.string())
    return pa.array(values, simple[kind] if kind in simple else parquet_types(Path(inputs[0]))[name])
