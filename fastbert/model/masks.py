"""Attention masks of three and four dimensions, which packing cannot express, as a bias on the scores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastbert import ops, packing
from fastbert.errors import InputError
from fastbert.packing import PackedBatch
from fastbert.packing.inputs import check_tensor


def pack_hidden(hidden_states: Tensor, attention_mask: Tensor | None, heads: int) -> PackedBatch:
    """The form of a batch of hidden states (B, S, N) under a mask of any kind, as a part of a model is called with them."""
    dense = attention_mask if attention_mask is not None and attention_mask.dim() > 2 else None
    batch = packing.pack(attention_mask=None if dense is not None else attention_mask, inputs_embeds=hidden_states)
    batch.padded = True
    if dense is not None:
        batch.attention_bias = bias_of_mask(dense, batch, heads)
    return batch


def shown(batch: PackedBatch, causal: bool, dtype: torch.dtype) -> Tensor | None:
    """The mask that a part is given which is called on (B, S, N): what is added to its scores."""
    if batch.shown_mask is None:
        bias = dense_bias(batch, causal)
        assert bias is not None
        batch.shown_mask = bias.to(dtype).expand(batch.batch_size, -1, batch.padded_length, -1)
    return batch.shown_mask


def form_of(hidden_states: Tensor, attention_mask: Tensor | None, batch: PackedBatch | None, heads: int) -> PackedBatch:
    """The batch of a part's inputs: that of the model, under another mask where a hook changed it, or one made of them."""
    if batch is None:
        return pack_hidden(hidden_states, attention_mask, heads)
    if attention_mask is None or attention_mask is batch.shown_mask:
        return batch
    bias = bias_of_mask(attention_mask, batch, heads)
    return replace(batch, attention_bias=bias, shown_mask=attention_mask)


def dense_bias(batch: PackedBatch, causal: bool) -> Tensor | None:
    """What is added to the padded scores: the caller's mask, else padding and causality."""
    if batch.attention_bias is not None and batch.valid is None:
        return batch.attention_bias
    bias = batch.attention_bias
    if bias is None:
        ones = torch.ones(batch.num_tokens, dtype=torch.bool, device=batch.device)
        bias = packing.mask_to_bias(batch.unpack(ones)[:, None, None, :])
    if causal:
        bias = bias + ops.reference.causal_bias(batch.padded_length, batch.device)
    return bias


def bias_of_mask(mask: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """A 3-D or 4-D mask as an additive bias that broadcasts to (B, H, S, S)."""
    check_tensor(mask, "attention_mask")
    size, length = batch.batch_size, batch.padded_length
    shape = tuple(mask.shape)
    fits = shape == (size, length, length)
    if mask.dim() == 4:
        fits = shape[0] in (1, size) and shape[1] in (1, heads) and shape[2] in (1, length) and shape[3] == length
    if not fits:
        raise InputError(
            f"attention_mask has shape {shape}; expected ({size}, {length}), ({size}, {length}, {length}) "
            f"or one that broadcasts to ({size}, {heads}, {length}, {length})"
        )
    if mask.device != batch.device:
        raise InputError(f"attention_mask is on {mask.device}, the other inputs are on {batch.device}")
    additive = mask.is_floating_point() and mask.dim() == 4
    unfit = mask.is_complex() or (mask.is_floating_point() and mask.dtype.itemsize < 2)
    if not (unfit or additive or mask.dtype == torch.bool or torch.compiler.is_compiling()):
        unfit = bool(((mask != 0) & (mask != 1)).any())
    if unfit:
        raise InputError(
            f"attention_mask of shape {shape} and {mask.dtype} holds values other than 1, where a token may attend, and 0: "
            "what is added to the scores is a 4-D mask of floats"
        )
    if not additive:
        return packing.mask_to_bias(mask != 0 if mask.dim() == 4 else (mask != 0)[:, None])
    return mask.masked_fill(mask <= torch.finfo(mask.dtype).min, float("-inf"))
