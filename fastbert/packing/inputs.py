"""Validation of inputs: shapes, types and ranges, with one clear sentence that names the place of an error.

Sizes: B sequences, S padded length, N hidden size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing import deferred

Place = Callable[[int], tuple[int, ...]] | None  # where a packed row stands in what the caller passed; None: as it is


class Limits(NamedTuple):
    """Sizes of the three embedding tables; ids must stay below them."""

    vocab_size: int
    type_vocab_size: int
    max_position_embeddings: int


def check_source(source: Tensor, name: str) -> None:
    """Checks that ids are (B, S) integers, or embeddings (B, S, N), and not empty."""
    check_tensor(source, name)
    wanted = 3 if name == "inputs_embeds" else 2
    form = "(batch, sequence, hidden)" if wanted == 3 else "(batch, sequence)"
    if source.dim() != wanted:
        raise InputError(f"{name} has shape {tuple(source.shape)}; expected {form}")
    if 0 in source.shape:
        raise InputError(f"{name} has shape {tuple(source.shape)}: the batch is empty; expected at least one token")
    if name == "input_ids":
        check_integers(source, name)
    elif not source.is_floating_point() or source.dtype.itemsize < 2:
        raise InputError(f"inputs_embeds has type {source.dtype}; expected floats of 16 bits or more")


def check_tensor(values: Any, name: str) -> None:
    """Checks that a value is a plain tensor."""
    if not isinstance(values, Tensor):
        raise InputError(f"{name} is a {type(values).__name__}; expected a tensor")
    if values.layout != torch.strided or values.is_quantized or values.is_nested:
        kind = "quantised" if values.is_quantized else "nested"
        what = f"of layout {values.layout}" if values.layout != torch.strided else kind
        raise InputError(f"{name} is {what}; expected a plain tensor")


def check_integers(values: Tensor, name: str) -> None:
    """Checks that ids have an integer type."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{name} has type {values.dtype}; expected integers")


def as_index(values: Tensor) -> Tensor:
    """Integers in a type that embeddings accept."""
    return values if values.dtype in (torch.int32, torch.int64) else values.long()


def per_token(values: Any, name: str, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    """(B, S) integers from (B, S) or (1, S); None stays None."""
    if values is None:
        return None
    values = _as_tensor(values, name, device)
    if not _has_shape(values, shape, (1, shape[1])):
        raise InputError(f"{name} has shape {tuple(values.shape)}; expected {shape}")
    check_integers(values, name)
    return values.expand(shape)


def _has_shape(values: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether a tensor has one of these shapes. Size by size: a graph may know some of them as numbers, others as symbols."""
    return any(values.dim() == len(shape) and all(map(operator.eq, values.shape, shape)) for shape in shapes)


def _as_tensor(values: Any, name: str, device: torch.device) -> Tensor:
    check_tensor(values, name)
    if values.device != device:
        raise InputError(f"{name} is on {values.device}, the other inputs are on {device}")
    return values


def as_bool_mask(mask: Any, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    """(B, S) bool from a mask of any type; None stays None."""
    if mask is None:
        return None
    mask = _as_tensor(mask, "attention_mask", device)
    if mask.is_complex():
        raise InputError(f"attention_mask has type {mask.dtype}; expected 1 at tokens and 0 at padding")
    if not _has_shape(mask, shape, (1, shape[1])):
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}; expected {shape}")
    return (mask != 0).expand(shape)


def positions_of(positions: Any, mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """(B, S) positions: as given, the columns, or the tokens counted."""
    columns = torch.arange(shape[1], device=device).expand(shape)
    if positions is None:
        return columns
    if isinstance(positions, str):
        if positions != "from_mask":
            raise InputError(f"position_ids = {positions!r}: the only word it takes is 'from_mask'")
        return columns if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
    positions = _as_tensor(positions, "position_ids", device)
    if not _has_shape(positions, shape, (1, shape[1]), (shape[1],)):
        raise InputError(f"position_ids has shape {tuple(positions.shape)}; expected {shape} or (1, {shape[1]})")
    check_integers(positions, "position_ids")
    return positions.expand(shape)


def _tables(ids: Tensor | None, types: Tensor, positions: Tensor, limits: Limits) -> list[tuple[str, Tensor, int, str]]:
    tables: list[tuple[str, Tensor | None, int, str]] = [
        ("input_ids", ids, limits.vocab_size, "vocabulary"),
        ("token_type_ids", types, limits.type_vocab_size, "token types"),
        ("position_ids", positions, limits.max_position_embeddings, "position table"),
    ]
    # In a type that holds the size: uint8 ids would be compared with 30522 modulo 256.
    return [(name, as_index(values), size, table) for name, values, size, table in tables if values is not None]


def _outside(values: Tensor, size: int) -> Tensor:
    return (values < 0) | (values >= size)


def lengths_and_checks(
    raw_mask: Tensor | None, mask: Tensor, ids: Tensor | None, types: Tensor, positions: Tensor, limits: Limits | None
) -> list[int]:
    """The lengths on the host, and every check of the inputs, in one transfer."""
    assert raw_mask is not None
    flags = [((raw_mask != 0) & (raw_mask != 1)).any()]
    tables = [] if limits is None else _tables(ids, types, positions, limits)
    flags += [(_outside(values, size) & mask).any() for _, values, size, _ in tables]
    numbers = torch.cat([torch.stack(flags).long(), mask.sum(1)]).tolist()
    if numbers[0]:
        row, column = ((raw_mask != 0) & (raw_mask != 1)).nonzero()[0].tolist()
        raise InputError(
            f"attention_mask[{row}, {column}] = {raw_mask[row, column].item()}; a 2-D mask holds 1 at tokens and 0 at padding "
            "(an additive mask needs the 4-D form)"
        )
    for bad_flag, table in zip(numbers[1 : len(flags)], tables, strict=True):
        if bad_flag:
            _raise_outside(*table, within=mask, place_of=None)
    return numbers[len(flags) :]


def check_limits(ids: Tensor | None, types: Tensor, positions: Tensor, place: Place, limits: Limits, wait: bool = True) -> None:
    """Checks that all ids lie in their tables; without `wait` the check is asynchronous, see deferred.py."""
    tables = _tables(ids, types, positions, limits)
    flags = torch.stack([_outside(values, size).any() for _, values, size, _ in tables])

    def report(found: list[bool]) -> None:
        for bad, table in zip(found, tables, strict=True):
            if bad:
                _raise_outside(*table, within=None, place_of=place)

    if wait:
        report(flags.tolist())
    else:
        deferred.defer(flags, report)


def _raise_outside(name: str, values: Tensor, size: int, table: str, *, within: Tensor | None, place_of: Place) -> None:
    bad = _outside(values, size) if within is None else _outside(values, size) & within
    place = tuple(bad.nonzero()[0].tolist())
    value = int(values[place])
    reached = place[-1] > 0 and int(values[(*place[:-1], place[-1] - 1)]) == size - 1  # the last row of the table, before it
    if place_of is not None:
        place = place_of(place[0])
    where = ", ".join(map(str, place))
    if name == "position_ids" and value == size and reached:
        raise InputError(
            f"the input is longer than the position table: position_ids[{where}] = {value}, and "
            f"max_position_embeddings = {size}; truncate it or split it into windows"
        )
    raise InputError(f"{name}[{where}] = {value} is outside the {table} (0..{size - 1})")
