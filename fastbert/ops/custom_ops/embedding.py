"""The embedding sum as an operator. See kernels/embedding.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import embedding as kernels
from fastbert.ops.custom_ops.shared import Seed, autocast_type, differentiable, direct, drawn_seed, eager, on_device


def embedding(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    padding_idx: int | None = None,
) -> Tensor:
    """See `reference.embedding`. Ids outside a table are clamped into it."""
    seed = drawn_seed(seed, dropout_p, word_weight.device)
    ids = (input_ids, token_type_ids, position_ids)
    tables = (word_weight, position_weight, token_type_weight)
    if direct(*tables, ln_weight, ln_bias, input_ids):
        y = on_device(kernels.embedding_fwd, *ids, *tables, ln_weight, ln_bias, eps, dropout_p, seed, False)[0]
    else:
        run = _eager if eager(*tables, ln_weight, ln_bias, input_ids) else torch.ops.fastbert.embedding
        y = run(*ids, *tables, ln_weight, ln_bias, eps, dropout_p, seed, padding_idx)[0]
    return y.float() if autocast_type(y.device) else y


def _forward(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = on_device(
        kernels.embedding_fwd,
        input_ids,
        token_type_ids,
        position_ids,
        word_weight,
        position_weight,
        token_type_weight,
        ln_weight,
        ln_bias,
        eps,
        dropout_p,
        seed,
        True,
    )
    assert mean is not None
    assert rstd is not None
    return y, mean, rstd


_operator = torch.library.custom_op("fastbert::embedding", _forward, mutates_args=())


@_operator.register_fake
def _(ids, types, positions, word, position, token_type, ln_weight, ln_bias, eps, dropout_p, seed, padding_idx):
    per_row = word.new_empty(ids.shape[0], dtype=torch.float32)
    return word.new_empty(ids.shape[0], word.shape[1]), per_row, torch.empty_like(per_row)


def _backward(
    dy: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    return on_device(
        kernels.embedding_bwd,
        dy,
        input_ids,
        token_type_ids,
        position_ids,
        word_weight,
        position_weight,
        token_type_weight,
        ln_weight,
        dropout_p,
        seed,
        mean,
        rstd,
    )


_backward_operator = torch.library.custom_op("fastbert::embedding_backward", _backward, mutates_args=())


@_backward_operator.register_fake
def _(dy, ids, types, positions, word, position, token_type, ln_weight, dropout_p, seed, mean, rstd):
    return word.new_empty(dy.shape, dtype=torch.float32), word.new_empty((2, dy.shape[1]), dtype=torch.float32)


def _table_backward(dz: Tensor, index: Tensor, table: Tensor, padding_idx: int | None) -> Tensor:
    return on_device(kernels.table_bwd, dz, index, table.shape[0], table.dtype, padding_idx)


_table_operator = torch.library.custom_op("fastbert::table_backward", _table_backward, mutates_args=())


@_table_operator.register_fake
def _(dz, index, table, padding_idx):
    return torch.empty_like(table, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ids, types, positions, word, position, token_type, ln_weight, ln_bias, _, ctx.dropout_p, seed, ctx.padding_idx = inputs
    ctx.save_for_backward(ids, types, positions, word, position, token_type, ln_weight, seed, *output[1:])
    ctx.bias_dtype = ln_bias.dtype


def _gradients(
    backward: Callable[..., Any], table_backward: Callable[..., Any], ctx: Any, dy: Tensor, *_: Any
) -> tuple[Any, ...]:
    *ids, word, position, token_type, ln_weight, seed, mean, rstd = ctx.saved_tensors
    dz, sums = backward(dy, *ids, word, position, token_type, ln_weight, ctx.dropout_p, seed, mean, rstd)
    tables = ((3, ids[0], word, ctx.padding_idx), (4, ids[2], position, None), (5, ids[1], token_type, None))
    gradients = [
        table_backward(dz, index, table, padding) if ctx.needs_input_grad[place] else None
        for place, index, table, padding in tables
    ]
    return None, None, None, *gradients, sums[0].to(ln_weight.dtype), sums[1].to(ctx.bias_dtype), None, None, None, None


_by_operators = functools.partial(_gradients, torch.ops.fastbert.embedding_backward, torch.ops.fastbert.table_backward)
_operator.register_autograd(_by_operators, setup_context=_setup)
_eager = differentiable("Embedding", _forward, _setup, functools.partial(_gradients, _backward, _table_backward), _by_operators)
