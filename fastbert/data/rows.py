"""Rows in memory that are read like the rows of a file: a `datasets.Dataset`, or any mappings of columns to values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.errors import InputError


@dataclass(frozen=True)
class Rows:
    """Columns of rows, in the place of a file; its text is what messages call it.

    Attributes:
        name: what messages call the rows.
        values: each column by its name, one value a row. Where the data set names its classes, the name instead of the number.
    """

    name: str
    values: dict[str, list[Any]]

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), []))

    @classmethod
    def of(cls, rows: Iterable[Any], name: str) -> Rows:
        """Rows from a data set, or from mappings with the same columns.

        Raises:
            InputError: several data sets by name, no row, or rows with different columns.
        """
        if isinstance(rows, Mapping):
            if any(isinstance(value, list | tuple) for value in rows.values()):
                raise InputError(f"{name} is a mapping of columns: pass rows, such as datasets.Dataset.from_dict({name})")
            raise InputError(f"{name} holds several data sets: pass one of {', '.join(map(str, rows))}")
        if _is_frame(rows):
            rows = rows.to_dict("records")  # type: ignore[attr-defined]
        features = getattr(rows, "features", None) or {}
        if hasattr(rows, "with_format"):
            rows = rows.with_format(None)  # plain values, not arrays
        found = list(rows)
        if not found:
            raise InputError(f"{name} holds no example")
        columns = list(found[0])
        for number, row in enumerate(found, 1):
            if not isinstance(row, Mapping) or set(row) != set(columns):
                keys = ", ".join(map(str, row)) if isinstance(row, Mapping) else f"a {type(row).__name__}"
                raise InputError(f"{name}, row {number}: expected the columns {', '.join(columns)}; it has {keys}")
        classes = {column: _classes(features.get(column)) for column in columns}
        return cls(name, {column: [_named(row[column], classes[column]) for row in found] for column in columns})


def place_in(source: Path | Rows, number: int) -> str:
    """What messages call a line of a file, or a row of Parquet or in memory."""
    has_lines = not isinstance(source, Rows) and source.suffix.lower() != ".parquet"
    return f"{source}, {'line' if has_lines else 'row'} {number}"


def is_rows(values: Any) -> bool:
    """Whether values are rows with named columns: a data set, a DataFrame, or a list that begins with a mapping."""
    if hasattr(values, "column_names") or isinstance(values, Mapping) or _is_frame(values):
        return True
    return isinstance(values, list | tuple) and bool(values) and isinstance(values[0], Mapping)


def _is_frame(values: Any) -> bool:
    """Whether values are a DataFrame of pandas."""
    return hasattr(values, "itertuples") and hasattr(values, "to_dict")


def _classes(feature: Any) -> list[str] | None:
    """Names of the classes of a column of numbers, or of lists of numbers; None where it has none."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return None if names is None else list(names)


def _named(value: Any, names: list[str] | None) -> Any:
    """A class's number as its name; -1, which marks a missing one, as None."""
    if names is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [_named(one, names) for one in value]
    return (names[value] if value >= 0 else None) if isinstance(value, int) else value
