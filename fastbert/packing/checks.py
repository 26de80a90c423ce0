"""Checks of batches that the caller packed."""

from __future__ import annotations

from itertools import pairwise

import torch

from fastbert.errors import InputError
from fastbert.packing import deferred
from fastbert.packing.batch import PackedBatch
from fastbert.packing.inputs import Limits, as_index, check_integers, check_limits, check_tensor

_WIDEST = 64  # times the position table: no padded form is wider


def check_packed(batch: PackedBatch, limits: Limits, wait: bool = True) -> PackedBatch:
    """Checks a caller's packed batch against the tables, once per batch: `checked` records it.

    Without `wait` the check is asynchronous: errors are raised at a later call, or by `fastbert.check()`.
    """
    if torch.compiler.is_compiling() or deferred.capturing() or batch.is_checked(limits):
        return batch
    _check_form(batch, limits)
    for name in ("input_ids", "token_type_ids", "position_ids", "indices"):
        value = getattr(batch, name)
        if value is not None and value.dtype not in (torch.int32, torch.int64):
            setattr(batch, name, as_index(value))
    tokens = batch.num_tokens
    if wait:
        _check_bounds(batch)
    else:
        starts = batch.cu_seqlens
        wrong = (starts[0] != 0) | (starts[-1] != tokens - batch.tail) | (starts.diff() < 0).any()
        wrong = wrong | (starts.diff() > batch.max_seqlen).any()
        deferred.defer(wrong[None], lambda _: _check_bounds(batch))
    check_limits(batch.input_ids, batch.token_type_ids, batch.position_ids, batch.place, limits, wait)
    batch.mark_checked(limits)
    return batch


def _check_form(batch: PackedBatch, limits: Limits) -> None:
    """Checks the type and shape of every field of a batch, without synchronising with the device."""
    for name in ("position_ids", "token_type_ids", "input_ids", "cu_seqlens", "indices"):
        value = getattr(batch, name)
        if value is None and name in ("input_ids", "indices"):
            continue
        check_tensor(value, name)
        check_integers(value, name)
        if value.dim() != 1 or value.device != batch.position_ids.device:
            raise InputError(
                f"{name} has shape {tuple(value.shape)} on {value.device}; a packed batch has one dimension, one device"
            )
    tokens = batch.num_tokens
    if (batch.input_ids is None) == (batch.inputs_embeds is None):
        got = "neither" if batch.input_ids is None else "both"
        raise InputError(f"a packed batch has exactly one of input_ids and inputs_embeds; it has {got}")
    if batch.inputs_embeds is not None:
        check_tensor(batch.inputs_embeds, "inputs_embeds")
        if batch.inputs_embeds.dim() != 2 or not batch.inputs_embeds.is_floating_point():
            raise InputError(f"inputs_embeds has shape {tuple(batch.inputs_embeds.shape)}; a packed batch has (tokens, hidden)")
    for name in ("input_ids", "token_type_ids", "inputs_embeds", "indices"):
        value = getattr(batch, name)
        if value is not None and value.shape[0] != tokens:
            raise InputError(f"{name} has {value.shape[0]} rows, position_ids has {tokens}: a packed batch needs one a token")
    if batch.cu_seqlens.dtype != torch.int32 or batch.batch_size < 1:
        shape, dtype = tuple(batch.cu_seqlens.shape), batch.cu_seqlens.dtype
        raise InputError(f"cu_seqlens has shape {shape} and type {dtype}; expected (B + 1,) int32")
    widest = _WIDEST * max(limits.max_position_embeddings, 1)
    for name, low, high in (("max_seqlen", 0, widest), ("padded_length", 0, widest), ("tail", 0, tokens)):
        value = getattr(batch, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} = {str(value)[:40]} must be a whole number from {low} to {high}")
    if not isinstance(batch.padded, bool):
        raise InputError(f"padded = {str(batch.padded)[:40]} must be True or False")
    if batch.prefix is not None or batch.shown_mask is not None:
        raise InputError("prefix and shown_mask are set by a model, from past_key_values and for hooks")
    if batch.valid is not None:
        raise InputError("valid is set while a graph is traced, and is None otherwise")
    if batch.attention_bias is not None:
        check_tensor(batch.attention_bias, "attention_bias")
        size, width, shape = batch.batch_size, batch.padded_length, tuple(batch.attention_bias.shape)
        if len(shape) != 4 or shape[0] not in (1, size) or shape[2] not in (1, width) or shape[3] != width:
            raise InputError(f"attention_bias has shape {shape}; expected ({size}, heads, {width}, {width})")
        if not batch.attention_bias.is_floating_point():
            raise InputError(f"attention_bias has type {batch.attention_bias.dtype}; expected floats")


def _check_bounds(batch: PackedBatch) -> None:
    """Checks that the sequences are contiguous from row 0 to the tail, none longer than `max_seqlen`."""
    starts, tokens = batch.host_starts(), batch.num_tokens - batch.tail
    lengths = [b - a for a, b in pairwise(starts)]
    if starts[0] != 0 or starts[-1] != tokens or min(lengths) < 0:
        raise InputError(f"cu_seqlens must rise from 0 to the {tokens} tokens; it goes from {starts[0]} to {starts[-1]}")
    if batch.indices is not None and tokens:
        places = batch.batch_size * batch.padded_length
        low, high = int(batch.indices.min()), int(batch.indices.max())
        if low < 0 or high >= places + (batch.tail > 0):
            raise InputError(f"indices go from {low} to {high}; the padded form has the places 0..{places - 1}")
    if max(lengths) > batch.max_seqlen:
        raise InputError(f"max_seqlen = {batch.max_seqlen} is below the longest sequence, {max(lengths)} tokens")
