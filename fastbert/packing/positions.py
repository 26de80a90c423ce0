"""Positions as RoBERTa counts them: from the padding token's id + 1, with the padding token itself at its own id.

Sizes: B sequences, S padded length, T packed tokens, N hidden.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastbert.packing.batch import PackedBatch


def padded_positions(input_ids: Tensor | None, inputs_embeds: Tensor | None, padding: int, before: int = 0) -> Tensor:
    """(B, S) positions of ids (B, S), or (S,) of embeddings (B, S, N), which cannot tell what is padding.

    Args:
        input_ids, inputs_embeds: one of both.
        padding: the id of the padding token.
        before: how many tokens stand before these.
    """
    if input_ids is None:
        assert inputs_embeds is not None
        first = padding + 1 + before
        return torch.arange(first, first + inputs_embeds.shape[1], device=inputs_embeds.device)
    real = input_ids.ne(padding).long()
    return (real.cumsum(1) + before) * real + padding


def counted_from(batch: PackedBatch, padding: int) -> PackedBatch:
    """A batch whose positions were counted from 0, with those that start at `padding` + 1; others stay as they were given."""
    if not batch.counted:
        return batch
    if batch.input_ids is None or not batch.num_tokens:
        return replace(batch, position_ids=batch.position_ids + (padding + 1), counted=False)
    real = batch.input_ids.ne(padding).long()
    upto = real.cumsum(0)
    starts = batch.cu_seqlens.long()
    rows = torch.arange(batch.num_tokens, device=batch.device)
    owner = torch.bucketize(rows, starts[1:-1], right=True)
    before = (upto - real)[starts[:-1].clamp(max=batch.num_tokens - 1)]  # real tokens in front of each sequence
    real = real * (rows < starts[-1])  # the tail belongs to none
    return replace(batch, position_ids=(upto - before[owner]) * real + padding, counted=False)
