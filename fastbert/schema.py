"""Schemas for the JSON files of a model folder, with a clear error message for the first value that does not fit.

A schema maps field names to a `Field`. Files are untrusted, so numbers have a range, texts a maximum length, lists a maximum
size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastbert.errors import CheckpointError, printable, shortened

MAX_TEXT = 4096  # characters in a text
MAX_ITEMS = 1 << 20  # entries in a list or an object
MAX_SIZE = 1 << 31  # tokens, rows, columns: anything larger is a mistake

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """The condition that a value must meet.

    Attributes:
        accepts: returns whether a value meets the condition.
        expected: the condition in words, to follow "must be".
        null: whether null is accepted and means "not given".
    """

    accepts: Check
    expected: str
    null: bool = True

    def __call__(self, value: Any) -> bool:
        """Whether the value is accepted."""
        return (self.null and value is None) or self.accepts(value)


Fields = Mapping[str, Field]


def is_integer(value: Any, low: float = -math.inf, high: float = MAX_SIZE) -> bool:
    """Whether a value is a whole number in a range; true and false do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number in a range; true and false do not count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return False
    return low <= value <= high and abs(value) < math.inf


def is_text(value: Any) -> bool:
    """Whether a value is a text of at most MAX_TEXT characters without lone surrogates."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def integer(low: int, high: int = MAX_SIZE, null: bool = True) -> Field:
    """A field for a whole number in a range."""
    limit = f"a whole number from {low}" if high == MAX_SIZE else f"a whole number from {low} to {high}"
    return Field(lambda value: is_integer(value, low, high), limit, null)


def number(low: float = -math.inf, high: float = math.inf, null: bool = True) -> Field:
    """A field for a finite number in a range."""
    limit = "a number" if low == -math.inf else f"a number from {low:g}" + ("" if high == math.inf else f" to {high:g}")
    return Field(lambda value: is_number(value, low, high), limit, null)


def flag(null: bool = True) -> Field:
    """A field for true or false."""
    return Field(lambda value: isinstance(value, bool), "true or false", null)


def text(null: bool = True) -> Field:
    """A field for a text."""
    return Field(is_text, f"a text of at most {MAX_TEXT} characters", null)


def choice(*values: Any, null: bool = True) -> Field:
    """A field for one of the given values, of exactly the same type."""
    return Field(lambda value: any(type(value) is type(v) and value == v for v in values), f"one of {_listed(values)}", null)


def list_of(item: Field, null: bool = True) -> Field:
    """A field for a list whose entries all fit the same field."""
    return Field(
        lambda value: isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(item, value)),
        f"a list, each entry {item.expected}",
        null,
    )


def object_of(item: Field, null: bool = True) -> Field:
    """A field for an object whose values all fit the same field."""
    return Field(
        lambda value: isinstance(value, dict) and len(value) <= MAX_ITEMS and all(map(item, value.values())),
        f"an object, each value {item.expected}",
        null,
    )


def either(*options: Field) -> Field:
    """A field that accepts what any of several fields accept."""
    return Field(
        lambda value: any(option(value) for option in options),
        ", or ".join(option.expected for option in options),
        any(option.null for option in options),
    )


def check(values: Mapping[str, Any], fields: Fields, path: Path, only: bool = False) -> dict[str, Any]:
    """Checks the values of a file against their schema and returns them.

    Args:
        values: the content of a file.
        fields: its schema.
        path: path of the file, for messages.
        only: whether names that are not in the schema are refused; otherwise they are returned unchecked.

    Raises:
        CheckpointError: a value does not fit; the message has its name, its value and what it must be.
    """
    for name, value in values.items():
        field = fields.get(name)
        if field is None:
            if only:
                raise CheckpointError(f"{path} has an unknown entry {shown(name)}; it may hold {', '.join(fields)}")
        elif not field(value):
            raise CheckpointError(f"{path}: {name} = {shown(value)} must be {field.expected}")
    return dict(values)


def shown(value: Any) -> str:
    """Formats any value for a message: short and without control characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number of more than 18 digits"
    if isinstance(value, str):
        return shortened(printable(repr(value[:200])), 80)
    if isinstance(value, list | tuple | dict) and len(value) > 5:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,} entries"
    try:
        return shortened(printable(repr(value)), 80)
    except RecursionError:
        return "something nested too deeply"


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(repr(value) for value in values)


def as_dtype(value: Any) -> Any:
    """The torch.dtype of a name, None for "auto"; anything else is returned unchanged, for the check to refuse."""
    found = getattr(torch, value.removeprefix("torch."), value) if isinstance(value, str) else value
    return None if value == "auto" else found


def dtype_name(value: Any) -> str:
    """The name of a dtype in JSON files, such as "float32"."""
    return str(value).removeprefix("torch.")
