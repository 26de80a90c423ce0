"""The feed-forward block and its first half as operators. See kernels/ffn.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.kernels import ffn as kernels
from fastbert.kernels import tuning
from fastbert.ops.custom_ops.shared import differentiable, direct, eager, on_device, operands


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """See `reference.linear_gelu`."""
    x, weight, bias = operands(x, weight, bias)
    tanh = approximate == "tanh"
    if direct(x, weight, bias):
        return on_device(kernels.linear_gelu_fwd, x, weight, bias, tanh, tuning.ffn_form(x.device, "inference"), False)[0]
    run = _eager_half if eager(x, weight, bias) else torch.ops.fastbert.linear_gelu
    return run(x, weight, bias, tanh)[0]


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """See `reference.ffn`."""
    x, w1, b1, w2, b2 = operands(x, w1, b1, w2, b2)
    tanh = approximate == "tanh"
    if direct(x, w1, b1, w2, b2):
        act, _ = on_device(kernels.linear_gelu_fwd, x, w1, b1, tanh, tuning.ffn_form(x.device, "inference"), False)
        return F.linear(act, w2, b2)
    run = _eager if eager(x, w1, b1, w2, b2) else torch.ops.fastbert.ffn
    return run(x, w1, b1, w2, b2, tanh)[0]


def _half_forward(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    act, h = on_device(kernels.linear_gelu_fwd, x, weight, bias, tanh, tuning.ffn_form(x.device, "training"), True)
    assert h is not None
    return act, h


_half_operator = torch.library.custom_op("fastbert::linear_gelu", _half_forward, mutates_args=())


@_half_operator.register_fake
def _(x, weight, bias, tanh):
    act = x.new_empty(x.shape[0], weight.shape[0])
    return act, torch.empty_like(act)


def _half_backward(dact: Tensor, h: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    dh, _, dbias = on_device(kernels.gelu_bwd, dact, h, tanh, want_act=False)
    return dh, dbias


_half_backward_operator = torch.library.custom_op("fastbert::gelu_backward", _half_backward, mutates_args=())


@_half_backward_operator.register_fake
def _(dact, h, tanh):
    return torch.empty_like(h), h.new_empty(h.shape[1], dtype=torch.float32)


def _half_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, weight, bias, ctx.tanh = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.bias_dtype = bias.dtype


def _half_gradients(backward: Callable[..., Any], ctx: Any, dact: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight, h = ctx.saved_tensors
    dh, dbias = backward(dact, h, ctx.tanh)
    wanted = ctx.needs_input_grad
    return dh @ weight if wanted[0] else None, dh.T @ x if wanted[1] else None, dbias.to(ctx.bias_dtype), None


_half_by_operators = functools.partial(_half_gradients, torch.ops.fastbert.gelu_backward)
_half_operator.register_autograd(_half_by_operators, setup_context=_half_setup)
_eager_half = differentiable(
    "LinearGelu", _half_forward, _half_setup, functools.partial(_half_gradients, _half_backward), _half_by_operators
)


def _forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    act, h = on_device(kernels.linear_gelu_fwd, x, w1, b1, tanh, tuning.ffn_form(x.device, "training"), True)
    assert h is not None
    return F.linear(act, w2, b2), h


_operator = torch.library.custom_op("fastbert::ffn", _forward, mutates_args=())


@_operator.register_fake
def _(x, w1, b1, w2, b2, tanh):
    return x.new_empty(x.shape[0], w2.shape[0]), x.new_empty(x.shape[0], w1.shape[0])


def _backward(dy: Tensor, w2: Tensor, h: Tensor, tanh: bool) -> tuple[Tensor, Tensor, Tensor]:
    return on_device(kernels.linear_gelu_bwd, dy, w2, h, tanh, tuning.ffn_form(dy.device, "backward"))


_backward_operator = torch.library.custom_op("fastbert::ffn_backward", _backward, mutates_args=())


@_backward_operator.register_fake
def _(dy, w2, h, tanh):
    return torch.empty_like(h), torch.empty_like(h), h.new_empty(h.shape[1], dtype=torch.float32)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, w1, b1, w2, b2, ctx.tanh = inputs
    ctx.save_for_backward(x, w1, b1, w2, output[1])
    ctx.b2_dtype = None if b2 is None else b2.dtype


def _gradients(backward: Callable[..., Any], ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, w1, b1, w2, h = ctx.saved_tensors
    dh, act, db1 = backward(dy, w2, h, ctx.tanh)
    wanted = ctx.needs_input_grad
    dx = dh @ w1 if wanted[0] else None
    dw1 = dh.T @ x if wanted[1] else None
    dw2 = dy.T @ act if wanted[3] else None
    db2 = None if ctx.b2_dtype is None else dy.sum(0, dtype=torch.float32).to(ctx.b2_dtype)
    return dx, dw1, db1.to(b1.dtype), dw2, db2, None


_by_operators = functools.partial(_gradients, torch.ops.fastbert.ffn_backward)
_operator.register_autograd(_by_operators, setup_context=_setup)
_eager = differentiable("FeedForward", _forward, _setup, functools.partial(_gradients, _backward), _by_operators)
