"""The ops of a layer for inference: launchers called at once, by a forward that was found to need nothing else.

Most of the time that an op takes in Python goes into questions: which path, whether a gradient is recorded, which device, which
types. `dispatch.for_layers` asks them once for all layers. Results are those of dispatch.py, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.kernels import attention as attention_kernels
from fastbert.kernels import ffn as ffn_kernels
from fastbert.kernels import layer_norm as layer_norm_kernels
from fastbert.kernels import tuning
from fastbert.ops import reference
from fastbert.ops.custom_ops.shared import drawn_seed
from fastbert.ops.reference import Seed
from fastbert.ops.side_by_side import joined_view
from fastbert.ops.states import States


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """See `dispatch.joined_linear`."""
    weight, bias = joined_view(weights), joined_view(biases)
    if weight is not None and bias is not None:
        return F.linear(x, weight, bias)
    return reference.joined_linear(x, weights, biases)


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float,
    seed: Seed,
    causal: bool,
    plan: Any,
    schedule: Tensor | None,
) -> Tensor:
    """See `dispatch.attention`."""
    seed = drawn_seed(seed, dropout_p, qkv.device)
    scale = qkv.shape[-1] ** -0.5
    return attention_kernels.attention_fwd(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, False, schedule)[0]


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
    y = F.linear(x, weight)
    dtype = residual.dtype if residual.dtype == y.dtype else torch.promote_types(y.dtype, residual.dtype)
    seed = drawn_seed(seed, dropout_p, x.device)
    y = layer_norm_kernels.layer_norm_fwd(y, residual, ln_weight, ln_bias, eps, bias, dropout_p, seed, dtype, False)[0]
    return States(y, y)


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
    form = tuning.ffn_form(w1.device, "inference")
    act = ffn_kernels.linear_gelu_fwd(x.operand, w1, b1, approximate == "tanh", form, False)[0]
    return linear_join(act, x.residual, w2, b2, ln_weight, ln_bias, eps, dropout_p, seed)
