"""The MLM loss as an operator, and the keep-masks of dropout. See kernels/cross_entropy.py and kernels/common.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import common
from fastbert.kernels import cross_entropy as kernels
from fastbert.ops.custom_ops.shared import Seed, autocast_type, differentiable, direct, drawn_seed, eager, on_device, operands


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """See `reference.cross_entropy`. The loss has the type of `hidden`, float32 under autocast."""
    dtype = torch.float32 if autocast_type(hidden.device) else hidden.dtype
    hidden, weight, bias = operands(hidden, weight, bias)
    if direct(hidden, weight, bias, labels):
        losses = on_device(kernels.cross_entropy_fwd, hidden, weight, bias, labels, ignore_index, False)[0]
    else:
        run = _eager if eager(hidden, weight, bias, labels) else torch.ops.fastbert.cross_entropy
        losses = run(hidden, weight, bias, labels, ignore_index)[0]
    if reduction == "mean":
        losses = losses.sum() / (labels != ignore_index).sum().clamp(min=1)
    elif reduction == "sum":
        losses = losses.sum()
    return losses.to(dtype)


def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    return on_device(kernels.cross_entropy_fwd, hidden, weight, bias, labels, ignore_index, True)


_operator = torch.library.custom_op("fastbert::cross_entropy", _forward, mutates_args=())


@_operator.register_fake
def _(hidden, weight, bias, labels, ignore_index):
    losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    kept, width = kernels.kept_rows(hidden, weight), kernels.padded_width(weight.shape[0])
    return losses, torch.empty_like(losses), hidden.new_empty(kept, width)


def _backward(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    lse: Tensor,
    kept: Tensor,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return on_device(kernels.cross_entropy_bwd, upstream, hidden, weight, bias, labels, lse, kept, ignore_index)


_backward_operator = torch.library.custom_op("fastbert::cross_entropy_backward", _backward, mutates_args=())


@_backward_operator.register_fake
def _(upstream, hidden, weight, bias, labels, lse, kept, ignore_index):
    return (
        hidden.new_empty(hidden.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0], dtype=torch.float32),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    hidden, weight, bias, labels, ctx.ignore_index = inputs
    ctx.save_for_backward(hidden, weight, bias, labels, *output[1:])


def _gradients(backward: Callable[..., Any], ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias, labels, lse, kept = ctx.saved_tensors
    dhidden, dweight, dbias = backward(upstream, hidden, weight, bias, labels, lse, kept, ctx.ignore_index)
    return dhidden, dweight, None if bias is None else dbias.to(bias.dtype), None, None


_by_operators = functools.partial(_gradients, torch.ops.fastbert.cross_entropy_backward)
_operator.register_autograd(_by_operators, setup_context=_setup)
_eager = differentiable("CrossEntropy", _forward, _setup, functools.partial(_gradients, _backward), _by_operators)


def dropout_mask(seed: Seed, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """The keep-mask that kernels draw from a seed. See `ops.dropout_mask`."""
    drawn = drawn_seed(seed, p, device)
    if drawn is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return on_device(common.dropout_mask, drawn.to(device), shape, p)
