"""fastbert's attention under a name of transformers 5: `attn_implementation="fastbert"`, in any of its models.

    mask of the model -> which tokens are real (B, S), or None    once a forward
    q, k, v (B, H, S, D) -> pack -> attention -> unpack (B, S, H, D)    in each layer

Only attention is ours then; `fastbert.patch` runs whole encoders. What the op does not compute (a cache, grouped keys, sliding
windows, masks that are no padding, whatever is traced) goes to PyTorch's own attention. Sizes: B sequences, S padded length,
H heads, D head size, T real tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastbert import ops, packing
from fastbert.errors import InputError
from fastbert.integrations.families import IMPLEMENTATIONS
from fastbert.packing import PackedBatch


def register(name: str = "fastbert") -> str:
    """Makes fastbert's attention available to transformers 5 by a name, for `attn_implementation`.

    Args:
        name: how it is called. Not with "flash" or "/" in it, for which transformers loads kernels from the hub.

    Returns:
        The name: `AutoModel.from_pretrained(model, attn_implementation=fastbert.register())`.

    Raises:
        InputError: another implementation has the name, or transformers is older than 5.
    """
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        raise InputError(
            f"transformers {transformers.__version__} has no implementations of attention for BERT: use fastbert.patch(model)"
        )
    from transformers import AttentionInterface, AttentionMaskInterface

    if "flash" in name.lower() or any(sign in name for sign in "/|@:") or not name:
        raise InputError(f"name = {name!r}: transformers reserves names that contain 'flash' or any of / | @ :")
    functions = AttentionInterface()
    if name == "eager" or (name in functions and functions[name] is not attention):
        raise InputError(f"name = {name!r} is another implementation of attention already")
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)  # without it, models hand no mask on
    IMPLEMENTATIONS.add(name)
    return name


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **rest: Any,
) -> Tensor | None:
    """The mask of a forward: (B, S) bool of padding alone, None where there is none, else PyTorch's (B, 1, S, S)."""
    from transformers import masking_utils

    plain = mask_function in (masking_utils.bidirectional_mask_function, masking_utils.causal_mask_function)
    fits = attention_mask is None or attention_mask.shape == (batch_size, q_length)
    config = rest.get("config")  # in cross-attention the mask is of other tokens than the queries
    crosses = any(getattr(config, name, False) for name in ("is_encoder_decoder", "add_cross_attention"))
    if not plain or not fits or crosses or q_length != kv_length or torch.compiler.is_compiling():
        given = {**rest, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, **given
        )
    if attention_mask is None or attention_mask.all():
        return None
    return attention_mask.clone()  # this forward's own: its layers keep the form of the batch beside it


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """(B, H, S, D) each, and the mask of `mask`, -> the context (B, S, H, D). As transformers' attention functions."""
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    padding = attention_mask is not None and attention_mask.dim() == 2
    if (attention_mask is not None and not padding) or not _is_plain(query, key, value, rest):
        return _by_torch(module, query, key, value, attention_mask, dropout, scaling, causal, rest), None
    batch = _batch_of(attention_mask, query)
    qkv = torch.stack([batch.pack(one.transpose(1, 2)) for one in (query, key, value)], dim=1)
    seed = torch.randint(2**62, (), device=query.device) if dropout else None
    context = ops.attention(
        qkv, batch.cu_seqlens, batch.max_seqlen, dropout, seed, causal, scaling, plan=lambda: batch.once(ops.plan_attention)
    )
    return batch.unpack(context), None


def _is_plain(query: Tensor, key: Tensor, value: Tensor, rest: dict[str, Any]) -> bool:
    """Whether the op computes this attention: as many keys as queries, and nothing that changes the scores."""
    special = ("sliding_window", "softcap", "s_aux", "position_bias", "cache")
    same = query.shape == key.shape == value.shape
    return same and all(rest.get(name) is None for name in special) and not torch.compiler.is_compiling()


def _batch_of(mask: Tensor | None, query: Tensor) -> PackedBatch:
    """The form of the batch, made once for all layers: they are given the same mask."""
    size, _, length, _ = query.shape
    batch: PackedBatch | None = getattr(mask, "_fastbert_batch", None)
    if batch is None:
        batch = packing.pack(torch.zeros(size, length, dtype=torch.int, device=query.device), mask)
        if mask is not None:
            mask._fastbert_batch = batch  # type: ignore[attr-defined]
    return batch


def _by_torch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    causal: bool,
    rest: dict[str, Any],
) -> Tensor:
    """transformers' call of PyTorch's attention, with padding as a mask of four dimensions."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask is not None and mask.dim() == 2:
        mask = mask[:, None, None, :].expand(-1, 1, query.shape[2], -1)
        if causal:
            mask = mask & torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=mask.device).tril()
            causal = False
    context: Tensor = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=causal, **rest
    )[0]
    return context
