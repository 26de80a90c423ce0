"""The LayerNorm join as an operator. See kernels/layer_norm.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import layer_norm as kernels
from fastbert.ops.custom_ops.shared import Seed, absent, autocast_type, direct, drawn_seed, on_device


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
    seed = drawn_seed(seed, dropout_p, x.device)
    if direct(x, residual, weight, bias, x_bias):
        return on_device(kernels.layer_norm_fwd, x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, False)[0]
    return torch.ops.fastbert.layer_norm(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype)[0]


@torch.library.custom_op("fastbert::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = on_device(kernels.layer_norm_fwd, x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, True)
    assert mean is not None
    assert rstd is not None
    return y, mean, rstd


@_layer_norm.register_fake
def _(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype):
    per_row = x.new_empty(x.shape[0], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=dtype), per_row, torch.empty_like(per_row)


@torch.library.custom_op("fastbert::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    dy: Tensor,
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
    dx, dresidual, sums = on_device(
        kernels.layer_norm_bwd, dy, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual
    )
    return dx, absent(dx) if dresidual is None else dresidual, sums


@_layer_norm_backward.register_fake
def _(dy, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual):
    written = separate_residual and residual is not None
    dresidual = residual.new_empty(x.shape) if written else absent(x)
    return x.new_empty(x.shape), dresidual, x.new_empty((3, x.shape[1]), dtype=torch.float32)


def _layer_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, residual, weight, bias, _, x_bias, ctx.dropout_p, seed, _ = inputs
    ctx.save_for_backward(x, residual, weight, x_bias, seed, *output[1:])
    ctx.bias_dtype = bias.dtype


def _layer_norm_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, residual, weight, x_bias, seed, mean, rstd = ctx.saved_tensors
    separate = residual is not None and (seed is not None or residual.dtype != x.dtype)
    dx, dresidual, sums = torch.ops.fastbert.layer_norm_backward(
        dy, x, residual, weight, x_bias, ctx.dropout_p, seed, mean, rstd, separate
    )
    if residual is None:
        dresidual = None
    elif not separate:
        dresidual = dx  # without dropout both are the gradient of the sum
    dx_bias = None if x_bias is None else sums[2].to(x_bias.dtype)
    return dx, dresidual, sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype), None, dx_bias, None, None, None


_layer_norm.register_autograd(_layer_norm_gradients, setup_context=_layer_norm_setup)
