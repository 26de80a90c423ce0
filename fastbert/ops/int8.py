"""int8 products on a CPU, by PyTorch's dynamically quantised linear.

    x (T, N) float32 -> uint8, one scale a call;  weight (F, N) -> int8, one scale a row;  x W + b in float32

A call's scale is that of its largest input: what else is in a batch changes a result a little.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.ops.kept import Kept

AVAILABLE = (
    hasattr(torch.ops.quantized, "linear_dynamic")
    and hasattr(torch, "quantize_per_channel")
    and torch.backends.quantized.engine not in ("none", "NoQEngine")
)

_quantized: Kept[Any] = Kept()  # weights and biases -> the product's own form of them


def keep(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Keeps int8 copies of weights, joined along F, with their biases."""
    with torch.no_grad():
        weight = torch.cat([w.detach() for w in weights])
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says that this form of tensors is an old one
            rows = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rows, torch.cat([b.detach() for b in biases]))
    _quantized.put((*weights, *biases), packed)


def product(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor | None:
    """x W + b, (T, N) -> (T, F of all), by copies that were kept; None where there are none."""
    if not any_kept() or any(b is None for b in biases):
        return None
    packed = _quantized.find((*weights, *biases))  # type: ignore[arg-type]
    # All eight bits of the input: on AVX2 a sum of two products may overflow then, which real weights hardly ever do.
    return None if packed is None else torch.ops.quantized.linear_dynamic(x, packed, False)


def any_kept() -> bool:
    """Whether there are copies of any weights."""
    return len(_quantized) > 0


def forget(*weights: Tensor) -> None:
    """Drops the copies of weights, where there are any."""
    _quantized.forget(*weights)
