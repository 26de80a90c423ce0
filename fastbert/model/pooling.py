"""From the hidden states of a text's tokens to one vector, with sentence-transformers' names.

Sizes: T packed tokens, B texts, N hidden. Statistics are float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError

# In the order in which sentence-transformers concatenates them, with the keys of its older 1_Pooling/config.json.
MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def pool(hidden_states: Tensor, cu_seqlens: Tensor, modes: str | Sequence[str]) -> Tensor:
    """Pools each text: (T, N) and (B + 1,) -> (B, N times the number of modes), float32. An empty text gives zeros.

    Args:
        hidden_states: of packed tokens.
        cu_seqlens: the row at which each text starts, and the end of the last one; rows behind it belong to no text.
        modes: one or several of "cls" (first token), "max", "mean", "mean_sqrt_len_tokens" (sum / sqrt(length)),
            "weightedmean" (the i-th token weighs i), "lasttoken"; several are concatenated.
    """
    x = hidden_states.float()
    lengths = cu_seqlens.diff().long()
    starts = cu_seqlens[:-1].long()
    if not x.shape[0]:
        return x.new_zeros(lengths.shape[0], x.shape[1] * len(check_modes(modes)))
    tail = x.shape[0] - cu_seqlens[-1:].long()
    whole = torch.cat([lengths, tail])  # the tail as one more text, so that each row belongs to one
    count = lengths.clamp(min=1)[:, None]
    parts = []
    for mode in check_modes(modes):
        if mode == "cls":
            part = x.index_select(0, starts.clamp(max=x.shape[0] - 1))
        elif mode == "lasttoken":
            part = x.index_select(0, (starts + lengths - 1).clamp(0, x.shape[0] - 1))
        elif mode == "max":
            part = torch.segment_reduce(x, "max", lengths=whole, unsafe=True)[:-1]
        elif mode == "weightedmean":
            first = torch.cat([starts, cu_seqlens[-1:].long()]).repeat_interleave(whole)
            weights = torch.arange(1, x.shape[0] + 1, device=x.device) - first
            part = _sum(x * weights[:, None], whole) / (count * (count + 1) / 2)
        else:
            part = _sum(x, whole) / (count if mode == "mean" else count.sqrt())
        parts.append(part.masked_fill((lengths == 0)[:, None], 0.0))
    return torch.cat(parts, dim=1)


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
