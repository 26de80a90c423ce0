"""The ops of a layer for inference on a CPU, in the types of onednn.py, by a forward that was found to need nothing else.

A text of 16 tokens is through its products in less time than Python takes for the questions that every op asks: which path,
whether a gradient is recorded, which types. `dispatch.for_layers` asks them once for all layers. Results are those of
dispatch.py, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import cpu, onednn, reference
from fastbert.ops.cpu import Plan
from fastbert.ops.reference import Seed
from fastbert.ops.states import States


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """See `dispatch.joined_linear`."""
    y = onednn.joined_product(x, weights, biases)
    return cpu.joined_linear(x, weights, biases) if y is None else y


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float,
    seed: Seed,
    causal: bool,
    plan: Callable[[], Plan],
    schedule: Tensor | None,
) -> Tensor:
    """See `dispatch.attention`."""
    return cpu.attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, None, plan)


def linear_join(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    narrow: bool = True,
) -> States:
    """See `dispatch.linear_join`."""
    return _joined(_linear(x, weight, bias), residual, ln_weight, ln_bias, eps, dropout_p, seed)


def ffn_join(
    x: States,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    approximate: str = "none",
    narrow: bool = True,
) -> States:
    """See `dispatch.ffn_join`."""
    if x.operand.shape[0] > cpu.ffn_block(w1):
        y = cpu.ffn(x.operand, w1, b1, w2, b2, approximate)
    else:
        y = _linear(_linear(x.operand, w1, b1, "gelu", approximate), w2, b2)
    return _joined(y, x.residual, ln_weight, ln_bias, eps, dropout_p, seed)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str = "none", approximate: str = "") -> Tensor:
    if weight.dtype is x.dtype:
        return onednn.product(x, weight, bias, epilogue, approximate)
    return F.linear(x, weight, bias)  # which says that the types differ


def _joined(y: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout_p: float, seed: Seed) -> States:
    if dropout_p:
        z = reference.layer_norm(y, residual, weight, bias, eps, None, dropout_p, seed)
    else:
        z = torch.layer_norm(y.add_(residual), weight.shape, weight, bias, eps)
    return States(z, z)
