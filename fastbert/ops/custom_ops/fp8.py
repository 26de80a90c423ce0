"""A layer for inference with its linears in fp8. What they multiply is written in e4m3 by the kernel before.

    context = attention(x W_qkv + b_qkv)
    z = LayerNorm(context W_o + b_o + x)
    y = LayerNorm(GELU(z W_1 + b_1) W_2 + b_2 + z)

A tensor in e4m3 is stored as x * scale, with one scale for all of it, a power of two. Attention, residual sums and LayerNorm
are computed as in 16 bit. The scales of activations are constants: e4m3 has the same precision from 2^-6 to 448, so nothing has
to be measured. `model.quantizing` decides whether layers run so. A layer without copies runs in 16 bit, by the ops of
inference.py, which this module has as well.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbert.kernels import attention as attention_kernels
from fastbert.kernels import ffn as ffn_kernels
from fastbert.kernels import layer_norm as layer_norm_kernels
from fastbert.kernels.e4m3 import to_e4m3
from fastbert.ops import fp8
from fastbert.ops.custom_ops.inference import attention, ffn_join, joined_linear, linear_join
from fastbert.ops.states import States

__all__ = ["attention", "ffn_join", "joined_linear", "keep", "layer", "linear_join"]

LARGEST = 448.0
_STATES, _CONTEXT, _ACT = 4.0, 8.0, 4.0  # scales: values up to 112, 56 and 112


class Weight(NamedTuple):
    """A weight (F, N) in e4m3, and its scale."""

    values: Tensor
    scale: float

    @classmethod
    def of(cls, weight: Tensor) -> Weight:
        """By the largest scale that keeps all of the weight, if it is finite."""
        weight = weight.detach()
        largest = float(weight.abs().max())
        scale = 2.0 ** math.floor(math.log2(LARGEST / largest)) if 0 < largest < math.inf else 1.0
        return cls(to_e4m3(weight, scale), scale)


class Copies(NamedTuple):
    """The weights of a layer, those of query, key and value as one, with their bias."""

    qkv: Weight
    qkv_bias: Tensor
    out: Weight
    up: Weight
    down: Weight


def keep(layer: Any) -> None:
    """Makes and keeps the copies of a layer, a `plain_layer.PlainLayer`."""
    weights = torch.cat(layer.qkv_weights), layer.attention_join.weight, layer.up_weight, layer.output_join.weight
    qkv, *others = map(Weight.of, weights)
    fp8.keep(_sources(layer), Copies(qkv, torch.cat(layer.qkv_biases).detach(), *others))


def layer(
    x: States, layer: Any, cu_seqlens: Tensor, max_seqlen: int, schedule: Tensor | None, seeds: Tensor | None, is_last: bool
) -> States | None:
    """States (T, N) -> states (T, N), the operand in e4m3 unless the layer is the last; None where it has to run in 16 bit."""
    copies = fp8.find(_sources(layer)) if seeds is None and len(x.residual) else None
    if copies is None or x.residual.dtype != copies.qkv_bias.dtype:
        return None
    operand = x.operand if x.operand.dtype == torch.float8_e4m3fn else to_e4m3(x.operand, _STATES)
    qkv = product(operand, _STATES, copies.qkv, copies.qkv_bias, x.residual.dtype).view(-1, 3, layer.heads, layer.head_size)
    context, _ = attention_kernels.attention_fwd(
        qkv, cu_seqlens, max_seqlen, 0.0, None, layer.causal, layer.head_size**-0.5, False, schedule, _CONTEXT
    )
    z = _join(context.flatten(1), _CONTEXT, copies.out, x.residual, layer.attention_join, False)
    act = linear_gelu(z.operand, _STATES, copies.up, layer.up_bias, _ACT, layer.gelu == "tanh")
    return _join(act, _ACT, copies.down, z.residual, layer.output_join, is_last)


def product(x: Tensor, scale: float, weight: Weight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x (T, N) e4m3 with its scale, bias (F,) -> x weight^T + bias (T, F) in a 16-bit type."""
    inverses = _inverse(scale, x.device), _inverse(weight.scale, x.device)
    # Fast accumulation has 14 bits of mantissa. Its error is a fifteenth of e4m3's rounding, and it takes a tenth less time.
    return torch._scaled_mm(x, weight.values.t(), *inverses, bias, out_dtype=dtype, use_fast_accum=x.is_cuda)


def linear_gelu(x: Tensor, scale: float, weight: Weight, bias: Tensor, act_scale: float, tanh: bool) -> Tensor:
    """x (T, N) e4m3 with its scale, bias (F,) -> GELU(x weight^T + bias) * act_scale (T, F) in e4m3."""
    act = ffn_kernels.linear_gelu_e4m3(x, weight.values, bias, 1 / (scale * weight.scale), act_scale, tanh)
    if act is not None:
        return act
    h = product(x, scale, weight, bias, bias.dtype)
    return to_e4m3(ffn_kernels.gelu_fwd(h, tanh, in_place=True), act_scale)


def _join(x: Tensor, scale: float, weight: Weight, residual: Tensor, join: Any, is_last: bool) -> States:
    """LayerNorm(x W + b + residual), in the residual's type, and in e4m3 for the next product."""
    y = product(x, scale, weight, None, residual.dtype)
    rest = (join.ln_weight, join.ln_bias, join.eps, join.bias, 0.0, None, residual.dtype, False)
    narrow = (None, None) if is_last else (torch.float8_e4m3fn, _STATES)
    z, operand, _, _ = layer_norm_kernels.layer_norm_fwd(y, residual, *rest, *narrow)
    return States(z, z if operand is None else operand)


def _sources(layer: Any) -> tuple[Tensor, ...]:
    """What the copies are made of; the first one has no other layer's."""
    joins = layer.attention_join.weight, layer.up_weight, layer.output_join.weight
    return (*layer.qkv_weights, *layer.qkv_biases, *joins)


@functools.cache
def _inverse(scale: float, device: torch.device) -> Tensor:
    """1 / scale where the vendor's product reads it."""
    return torch.tensor(1 / scale, dtype=torch.float32, device=device)
