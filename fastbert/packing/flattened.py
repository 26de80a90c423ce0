"""Batches that other libraries flattened: all sequences in one row (1, T), and where each of them starts.

transformers' DataCollatorWithFlattening and sentence-transformers make them for attention without padding. The starts are named
by `cu_seq_lens_q`, else by `seq_idx`, else by positions that start again. Sizes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batch import PackedBatch
from fastbert.packing.inputs import check_integers, check_tensor

BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


def is_flattened(given: Mapping[str, Any], by_positions: bool = True) -> bool:
    """Whether the arguments of a forward, by name, describe a flattened batch; positions that start again count if asked."""
    if given.get("cu_seq_lens_q") is not None or given.get("seq_idx") is not None:
        return True
    positions, mask = given.get("position_ids"), given.get("attention_mask")
    if (
        not by_positions
        or not isinstance(positions, Tensor)
        or positions.dim() != 2
        or positions.shape[0] != 1
        or mask is not None
    ):
        return False
    source = source_of(given)
    if not isinstance(source, Tensor) or source.shape[:2] != positions.shape or torch.compiler.is_compiling():
        return False
    steps = positions[0].diff()
    starts = steps != 1
    # Every sequence counts from the same number, and at least one has two tokens: all zeros are positions, not sequences.
    again = (positions[0, 1:] == positions[0, 0]) | ~starts
    return bool(starts.any() and (~starts).any() and again.all())


def read_flattened(given: Mapping[str, Any]) -> PackedBatch:
    """The packed batch of flattened arguments, which `is_flattened` found.

    Args:
        given: `input_ids` (1, T) or `inputs_embeds` (1, T, N); `token_type_ids` and `position_ids` (1, T), where None means
            zeros and a count in each sequence; `cu_seq_lens_q` (B + 1,) integers or `seq_idx` (1, T).

    Raises:
        InputError: another shape or type, a mask beside it, or starts of queries and keys that differ.
    """
    source = source_of(given)
    name = "inputs_embeds" if given.get("input_ids") is None else "input_ids"
    check_tensor(source, name)
    if source.dim() < 2 or source.shape[0] != 1 or not source.shape[1]:
        raise InputError(f"{name} has shape {tuple(source.shape)}; a flattened batch has all its tokens in one row, (1, T)")
    mask = given.get("attention_mask")
    if mask is not None and not bool((torch.as_tensor(mask) != 0).all()):
        raise InputError("attention_mask has zeros: a flattened batch has no padding to mask")
    tokens = source.shape[1]
    bounds = _bounds(given, tokens, source.device)
    rows = torch.arange(tokens, device=source.device)
    owner = torch.bucketize(rows, bounds[1:-1].long(), right=True)
    columns = rows - bounds[owner].long()
    positions = _row(given, "position_ids", tokens)
    counted = positions is None
    positions = columns if positions is None else positions
    types = _row(given, "token_type_ids", tokens)
    longest, stated = int(bounds.diff().max()), given.get("max_length_q")
    if stated is not None and not (isinstance(stated, int | Tensor) and int(stated) >= longest):
        raise InputError(f"max_length_q = {stated!r} is no number, or below the longest sequence, {longest} tokens")
    return PackedBatch(
        input_ids=None if name == "inputs_embeds" else _row(given, name, tokens),
        token_type_ids=torch.zeros_like(positions) if types is None else types,
        position_ids=positions,
        cu_seqlens=bounds,
        max_seqlen=longest,
        padded_length=longest,
        indices=owner * longest + columns,
        inputs_embeds=source[0] if name == "inputs_embeds" else None,
        counted=counted,
    )


def source_of(given: Mapping[str, Any]) -> Any:
    """What a forward embeds, of its arguments by name: `input_ids`, else `inputs_embeds`."""
    return given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]


def _row(given: Mapping[str, Any], name: str, tokens: int) -> Tensor | None:
    """(T,) from (1, T); None stays None."""
    values = given.get(name)
    if values is None:
        return None
    check_tensor(values, name)
    if values.shape != (1, tokens):
        raise InputError(f"{name} has shape {tuple(values.shape)}; expected (1, {tokens}), as the flattened batch")
    check_integers(values, name)
    return values[0]


def _bounds(given: Mapping[str, Any], tokens: int, device: torch.device) -> Tensor:
    """(B + 1,) int32: where each sequence starts, and T."""
    queries, keys = given.get("cu_seq_lens_q"), given.get("cu_seq_lens_k")
    if queries is None:
        name, step = ("position_ids", 1) if given.get("seq_idx") is None else ("seq_idx", 0)
        row = _row(given, name, tokens)
        assert row is not None
        starts = (row.diff() != step).nonzero().view(-1) + 1
        return torch.cat([starts.new_zeros(1), starts, starts.new_full((1,), tokens)]).int()
    check_tensor(queries, "cu_seq_lens_q")
    check_integers(queries, "cu_seq_lens_q")
    values = queries.tolist()
    if queries.dim() != 1 or len(values) < 2 or values[0] or values[-1] != tokens or sorted(values) != values:
        raise InputError(f"cu_seq_lens_q must rise from 0 to the {tokens} tokens; it is {str(values)[:60]}")
    if keys is not None and not (isinstance(keys, Tensor) and torch.equal(keys.to(queries), queries)):
        raise InputError("cu_seq_lens_k differs from cu_seq_lens_q: an encoder has as many keys as queries")
    return queries.to(device, torch.int32)
