"""One layer of transformers on packed tokens: by ops on its parameters, or, with an adapter in it, by its modules.

    context = attention(x W_qkv + b_qkv)
    x = LayerNorm(dropout(context W_o + b_o) + x)
    x = LayerNorm(dropout(activation(x W_1 + b_1) W_2 + b_2) + x)

Sizes: T packed tokens, N hidden, H heads, D head size.
"""

from __future__ import annotations

import functools
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastbert import ops
from fastbert.integrations.families import Names
from fastbert.model.calling import call, dense, dropout_p, is_plain, is_watched, join, joined_dense, seed_at
from fastbert.model.plain_layer import Join, PlainLayer
from fastbert.packing import PackedBatch

# The activations of transformers that are GELU, with PyTorch's name of the form.
_GELU = {"GELUActivation": "none", "NewGELUActivation": "tanh", "GELUTanh": "tanh", "PytorchGELUTanh": "tanh"}


class JoinModules(NamedTuple):
    """The modules of LayerNorm(dropout(x W + b) + residual)."""

    dense: Any
    norm: Any
    dropout: Any


class LayerModules(NamedTuple):
    """The modules of a layer, and how its attention is cut into heads."""

    projections: tuple[Any, Any, Any]
    attention_dropout: Any
    heads: int
    head_size: int
    causal: bool
    attention_join: JoinModules
    up: Any
    activation: Any
    gelu: str | None
    output_join: JoinModules


def read(layer: nn.Module, names: Names, causal: bool) -> LayerModules:
    """The modules of a layer of transformers."""
    attention: Any = attrgetter(names.attention)(layer)
    heads = attention.num_attention_heads if hasattr(attention, "num_attention_heads") else attention.n_heads
    projections = tuple(attrgetter(name)(layer) for name in (names.query, names.key, names.value))
    size = getattr(attention, "attention_head_size", None) or projections[0].out_features // heads
    activation = attrgetter(names.activation)(layer)
    return LayerModules(
        projections,
        attention.dropout,
        heads,
        size,
        causal,
        _join(layer, names.attention_join),
        attrgetter(names.up)(layer),
        activation,
        _gelu_form(activation),
        _join(layer, names.output_join),
    )


def parameters_of(modules: LayerModules) -> PlainLayer | None:
    """The parameters of a layer without adapters, hooks and missing biases; None for another."""
    linears = (*modules.projections, modules.up, modules.attention_join.dense, modules.output_join.dense)
    norms = (modules.attention_join.norm, modules.output_join.norm)
    dropouts = [d for d in (modules.attention_dropout, modules.attention_join.dropout, modules.output_join.dropout) if d]
    if modules.gelu is None or not is_plain(*linears, *norms, *dropouts):
        return None
    if any(part.bias is None for part in (*linears, *norms)) or not all(type(one) is nn.Linear for one in linears):
        return None
    q, k, v = modules.projections
    return PlainLayer(
        (q.weight, k.weight, v.weight),
        (q.bias, k.bias, v.bias),
        modules.heads,
        modules.head_size,
        dropout_p(modules.attention_dropout),
        modules.causal,
        _parameters(modules.attention_join),
        modules.up.weight,
        modules.up.bias,
        modules.gelu,
        _parameters(modules.output_join),
    )


def run(modules: LayerModules, x: Tensor, batch: PackedBatch, seeds: Tensor | None) -> Tensor:
    """(T, N) -> (T, N) through the modules, which see (B, S, ...) where they have hooks."""
    qkv = joined_dense(modules.projections, x, batch).view(-1, 3, modules.heads, modules.head_size)
    p, plan = dropout_p(modules.attention_dropout), functools.partial(batch.once, ops.plan_attention)
    context = ops.attention(qkv, batch.cu_seqlens, batch.max_seqlen, p, seed_at(seeds, 0), modules.causal, plan=plan)
    x = _joined(modules.attention_join, context.flatten(1), x, batch, seed_at(seeds, 1))
    y = dense(modules.up, x, batch)
    y = call(modules.activation, batch, y) if _is_hooked(modules.activation) else modules.activation(y)
    return _joined(modules.output_join, y, x, batch, seed_at(seeds, 2))


def _joined(part: JoinModules, x: Tensor, residual: Tensor, batch: PackedBatch, seed: Tensor | None) -> Tensor:
    return join(part.norm, part.dropout, dense(part.dense, x, batch), residual, batch, seed)


def _join(layer: nn.Module, names: tuple[str, str, str | None]) -> JoinModules:
    return JoinModules(*(None if name is None else attrgetter(name)(layer) for name in names))


def _parameters(join: JoinModules) -> Join:
    linear, norm = join.dense, join.norm
    p = 0.0 if join.dropout is None else dropout_p(join.dropout)
    return Join(linear.weight, linear.bias, norm.weight, norm.bias, norm.eps, p)


def _gelu_form(activation: Any) -> str | None:
    """PyTorch's name of a GELU of transformers; None for other activations, and where something looks at it."""
    kind = type(activation)
    known = kind.__module__ == "transformers.activations" and not _is_hooked(activation)
    return _GELU.get(kind.__name__) if known else None


def _is_hooked(activation: Any) -> bool:
    return isinstance(activation, nn.Module) and is_watched(activation)
