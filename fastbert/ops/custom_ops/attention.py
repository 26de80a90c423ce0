"""Attention as an operator. See kernels/attention.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import attention as kernels
from fastbert.ops.custom_ops.shared import Seed, differentiable, direct, drawn_seed, eager, on_device, operands


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    seed: Seed = None,
    causal: bool = False,
    scale: float | None = None,
    schedule: Tensor | None = None,
) -> Tensor:
    """See `reference.attention`; `schedule` is what `attention_schedule` gave for the batch."""
    (qkv,) = operands(qkv)
    seed = drawn_seed(seed, dropout_p, qkv.device)
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    if direct(qkv, cu_seqlens):
        return on_device(kernels.attention_fwd, qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, False, schedule)[0]
    run = _eager if eager(qkv, cu_seqlens) else torch.ops.fastbert.attention
    return run(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, schedule)[0]


def attention_schedule(cu_seqlens: Tensor, max_seqlen: int, tokens: int, heads: int) -> Tensor | None:
    """The schedule of a batch for `attention`, see kernels/attention_schedule.py; None where it does not pay or is traced."""
    if not eager(cu_seqlens):
        return None
    return on_device(kernels.schedule_if_it_pays, cu_seqlens, max_seqlen, tokens, heads)


def _forward(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    schedule: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    out, lse = on_device(kernels.attention_fwd, qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, True, schedule)
    assert lse is not None
    return out, lse


_operator = torch.library.custom_op("fastbert::attention", _forward, mutates_args=())


@_operator.register_fake
def _(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, schedule=None):
    tokens, _, heads, width = qkv.shape
    return qkv.new_empty(tokens, heads, width), qkv.new_empty((heads, tokens), dtype=torch.float32)


def _backward(
    dout: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    out: Tensor,
    lse: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    schedule: Tensor | None = None,
) -> Tensor:
    rest = max_seqlen, out, lse, dropout_p, seed, causal, scale, schedule
    return on_device(kernels.attention_bwd, dout, qkv, cu_seqlens, *rest)


_backward_operator = torch.library.custom_op("fastbert::attention_backward", _backward, mutates_args=())


@_backward_operator.register_fake
def _(dout, qkv, cu_seqlens, max_seqlen, out, lse, dropout_p, seed, causal, scale, schedule=None):
    return qkv.new_empty(qkv.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    qkv, cu_seqlens, ctx.max_seqlen, ctx.dropout_p, seed, ctx.causal, ctx.scale, schedule = inputs
    ctx.save_for_backward(qkv, cu_seqlens, seed, schedule, *output)


def _gradients(backward: Callable[..., Any], ctx: Any, dout: Tensor, *_: Any) -> tuple[Any, ...]:
    qkv, cu_seqlens, seed, schedule, out, lse = ctx.saved_tensors
    dqkv = backward(dout, qkv, cu_seqlens, ctx.max_seqlen, out, lse, ctx.dropout_p, seed, ctx.causal, ctx.scale, schedule)
    return dqkv, None, None, None, None, None, None, None


_by_operators = functools.partial(_gradients, torch.ops.fastbert.attention_backward)
_operator.register_autograd(_by_operators, setup_context=_setup)
_eager = differentiable("Attention", _forward, _setup, functools.partial(_gradients, _backward), _by_operators)
