"""The LayerNorm join as an operator. See kernels/layer_norm.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import layer_norm as kernels
from fastbert.ops.custom_ops.shared import Seed, absent, autocast_type, differentiable, direct, drawn_seed, eager, on_device


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Seed = None,
) -> Tensor:
    """See `reference.layer_norm`. x and residual may have different types."""
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    dtype = torch.float32 if autocast_type(x.device) else dtype
    return _normalised(dtype, None, x, residual, weight, bias, eps, x_bias, dropout_p, seed)[0]


def layer_norm_states(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`layer_norm` under autocast: the result in float32, and rounded to the type of products."""
    return _normalised(torch.float32, autocast_type(x.device), x, *rest)


def _normalised(
    dtype: torch.dtype,
    narrow_dtype: torch.dtype | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Seed,
) -> tuple[Tensor, Any]:
    """The result in `dtype` and, if `narrow_dtype` is given, rounded to that type as well."""
    seed = drawn_seed(seed, dropout_p, x.device)
    arguments = (x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype)
    if direct(x, residual, weight, bias, x_bias):
        return on_device(kernels.layer_norm_fwd, *arguments, False, narrow_dtype)[:2]
    run = _eager if eager(x, residual, weight, bias, x_bias) else torch.ops.fastbert.layer_norm
    y, narrow, *_ = run(*arguments, narrow_dtype)
    return y, narrow


def _forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    dtype: torch.dtype,
    narrow_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, narrow, mean, rstd = on_device(
        kernels.layer_norm_fwd, x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, True, narrow_dtype
    )
    assert mean is not None
    assert rstd is not None
    return y, absent(y) if narrow is None else narrow, mean, rstd


_operator = torch.library.custom_op("fastbert::layer_norm", _forward, mutates_args=())


@_operator.register_fake
def _(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, narrow_dtype):
    per_row, y = x.new_empty(x.shape[0], dtype=torch.float32), x.new_empty(x.shape, dtype=dtype)
    narrow = absent(y) if narrow_dtype is None else x.new_empty(x.shape, dtype=narrow_dtype)
    return y, narrow, per_row, torch.empty_like(per_row)


def _backward(
    dy: Tensor | None,
    dnarrow: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    separate_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (dnarrow, None) if dy is None else (dy, dnarrow)
    assert first is not None
    dx, dresidual, sums = on_device(
        kernels.layer_norm_bwd, first, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual, second
    )
    return dx, absent(dx) if dresidual is None else dresidual, sums


_backward_operator = torch.library.custom_op("fastbert::layer_norm_backward", _backward, mutates_args=())


@_backward_operator.register_fake
def _(dy, dnarrow, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual):
    written = separate_residual and residual is not None
    dresidual = residual.new_empty(x.shape) if written else absent(x)
    return x.new_empty(x.shape), dresidual, x.new_empty((3, x.shape[1]), dtype=torch.float32)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, residual, weight, bias, _, x_bias, ctx.dropout_p, seed, _, ctx.narrow_dtype = inputs
    ctx.save_for_backward(x, residual, weight, x_bias, seed, *output[2:])
    ctx.bias_dtype = bias.dtype


def _gradients(backward: Callable[..., Any], ctx: Any, dy: Tensor | None, dnarrow: Tensor | None, *_: Any) -> tuple[Any, ...]:
    x, residual, weight, x_bias, seed, mean, rstd = ctx.saved_tensors
    dnarrow = None if ctx.narrow_dtype is None else dnarrow  # a traced backward gets zeros for what is absent
    separate = residual is not None and (seed is not None or residual.dtype != x.dtype)
    dx, dresidual, sums = backward(dy, dnarrow, x, residual, weight, x_bias, ctx.dropout_p, seed, mean, rstd, separate)
    if residual is None:
        dresidual = None
    elif not separate:
        dresidual = dx  # without dropout both are the gradient of the sum
    dx_bias = None if x_bias is None else sums[2].to(x_bias.dtype)
    return dx, dresidual, sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype), None, dx_bias, None, None, None, None


_by_operators = functools.partial(_gradients, torch.ops.fastbert.layer_norm_backward)
_operator.register_autograd(_by_operators, setup_context=_setup)
_eager = differentiable("LayerNorm", _forward, _setup, functools.partial(_gradients, _backward), _by_operators)
