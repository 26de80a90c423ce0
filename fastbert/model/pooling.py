"""From the hidden states of a text's tokens to one vector, with sentence-transformers' names.

Sizes: T packed tokens, B texts, N hidden. Statistics are float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.choices import POOLINGS as MODES
from fastbert.errors import InputError


def pool(hidden_states: Tensor, cu_seqlens: Tensor, modes: str | Sequence[str]) -> Tensor:
    """Pools each text: (T, N) and (B + 1,) -> (B, N times the number of modes), float32. An empty text gives zeros.

    Args:
        hidden_states: of packed tokens.
        cu_seqlens: the row at which each text starts, and the end of the last one; rows behind it belong to no text.
        modes: one or several of "cls" (first token), "max", "mean", "mean_sqrt_len_tokens" (sum / sqrt(length)),
            "weightedmean" (the i-th token weighs i), "lasttoken"; several are concatenated.
    """
    listed, x = check_modes(modes), hidden_states.float()
    if not x.shape[0]:
        return x.new_zeros(cu_seqlens.shape[0] - 1, x.shape[1] * len(listed))
    last_row = x.shape[0] - 1
    # The tail as one more text, so that each row belongs to one.
    whole = torch.cat([cu_seqlens, cu_seqlens.new_full((1,), last_row + 1)]).diff()
    lengths = whole[:-1, None]
    parts = []
    for mode in listed:
        if mode == "cls":
            part = x.index_select(0, cu_seqlens[:-1].clamp(max=last_row)).masked_fill(lengths == 0, 0.0)
        elif mode == "lasttoken":
            part = x.index_select(0, (cu_seqlens[1:] - 1).clamp(0, last_row)).masked_fill(lengths == 0, 0.0)
        elif mode == "max":
            part = torch.segment_reduce(x, "max", lengths=whole, unsafe=True)[:-1].masked_fill(lengths == 0, 0.0)
        elif mode == "weightedmean":
            weights = torch.arange(1, last_row + 2, device=x.device) - cu_seqlens.repeat_interleave(whole)
            count = lengths.long()  # whose square may need more than 32 bits
            part = _sum(x * weights[:, None], whole) / (count * (count + 1) / 2).clamp(min=1)
        else:
            part = _sum(x, whole) / (lengths if mode == "mean" else lengths.sqrt()).clamp(min=1)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def without_first(hidden_states: Tensor, cu_seqlens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The rows and starts of texts whose first `count` tokens are left out: (T, N), (B + 1,) -> (T', N), (B + 1,)."""
    if not count:
        return hidden_states, cu_seqlens
    lengths = cu_seqlens.diff()
    first = cu_seqlens[:-1].repeat_interleave(lengths)
    rows = torch.arange(first.shape[0], device=first.device)
    left = (lengths - count).clamp(min=0)
    starts = torch.cat([left.new_zeros(1), left.cumsum(0)]).to(cu_seqlens.dtype)
    return hidden_states[: first.shape[0]][rows - first >= count], starts


def check_modes(modes: str | Sequence[str]) -> list[str]:
    """The modes as a list; InputError for an unknown one."""
    listed = [modes] if isinstance(modes, str) else list(modes)
    unknown = [mode for mode in listed if mode not in MODES]
    if unknown or not listed:
        raise InputError(f"pooling = {modes!r}: the modes are {', '.join(MODES)}")
    return listed


def modes_of_config(config: Mapping[str, Any]) -> list[str]:
    """The modes that a sentence-transformers 1_Pooling/config.json asks for, in its older or newer form."""
    if "pooling_mode" in config:
        return check_modes(config["pooling_mode"])
    return [mode for mode, key in MODES.items() if config.get(key)] or ["mean"]


def _sum(x: Tensor, whole: Tensor) -> Tensor:
    """(B, N) sums of each text; the last of `whole` is the tail's."""
    return torch.segment_reduce(x, "sum", lengths=whole, unsafe=True)[:-1]
