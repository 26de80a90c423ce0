"""Keys and values before the tokens, as prefix tuning gives them in `past_key_values`: every token attends to them as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert import packing
from fastbert.errors import InputError
from fastbert.model import masks
from fastbert.packing import PackedBatch

Prefix = list[tuple[Tensor, Tensor]]  # keys and values (B, H, P, D) of each layer


def read(past_key_values: Any, layers: int, heads: int, head_size: int) -> Prefix:
    """The prefix in one of transformers' caches, or in a sequence of keys and values; [] where it is empty.

    Raises:
        InputError: too few layers, or shapes that do not belong to the model.
    """
    cache = getattr(past_key_values, "self_attention_cache", past_key_values)
    entries = [(one.keys, one.values) for one in cache.layers] if hasattr(cache, "layers") else cache
    if not isinstance(entries, Sequence):
        raise InputError(f"past_key_values is a {type(past_key_values).__name__}; expected keys and values for each layer")
    prefix = [(one[0], one[1]) for one in entries if one[0] is not None and one[0].numel()]
    if not prefix:
        return []
    if len(prefix) < layers:
        raise InputError(f"past_key_values has {len(prefix)} layers; the model has {layers}")
    size, _, length, _ = prefix[0][0].shape
    for i, pair in enumerate(prefix):
        for name, value in zip(("keys", "values"), pair, strict=True):
            if tuple(value.shape) != (size, heads, length, head_size):
                shape = tuple(value.shape)
                raise InputError(
                    f"past_key_values has {name} {shape} in layer {i}; expected ({size}, {heads}, {length}, {head_size})"
                )
    return prefix


def split_mask(attention_mask: Tensor | None, length: int) -> tuple[Tensor | None, Tensor | None]:
    """A mask (B, P + S) as that of the prefix and that of the tokens.

    Raises:
        InputError: a mask of another number of dimensions.
    """
    if attention_mask is None:
        return None, None
    if attention_mask.dim() != 2 or attention_mask.shape[1] <= length:
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; beside past_key_values of {length} places it is (batch, "
            f"{length} + sequence)"
        )
    return attention_mask[:, :length], attention_mask[:, length:]


def attach(batch: PackedBatch, prefix: Prefix, mask: Tensor | None, causal: bool) -> None:
    """Puts a prefix before every sequence of a batch, with `mask` (B, P) over it."""
    keys = prefix[0][0]
    if keys.shape[0] != batch.batch_size:
        raise InputError(f"past_key_values has {keys.shape[0]} rows; the batch has {batch.batch_size}")
    over = torch.ones(keys.shape[0], keys.shape[2], device=batch.device) if mask is None else mask
    before = packing.mask_to_bias(over[:, None, None, :] != 0)
    bias = masks.dense_bias(batch, causal)
    assert bias is not None
    before = before.expand(-1, -1, bias.shape[2], -1)
    batch.attention_bias = torch.cat([before, bias.expand(batch.batch_size, -1, -1, -1)], dim=-1)
    batch.prefix = prefix
