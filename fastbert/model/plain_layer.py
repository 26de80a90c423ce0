"""A layer without hooks or replaced parts, run as ops on its parameters; it computes what the modules of layers.py compute.

    context = attention(x W_qkv + b_qkv)
    x = LayerNorm(dropout(context W_o + b_o) + x)
    x = LayerNorm(dropout(GELU(x W_1 + b_1) W_2 + b_2) + x)

Calling the sixteen modules of a layer takes the host longer than a GPU needs for a small batch. Layers that contain a hook, an
adapter or a part of another class are called as modules. Sizes as in encoder.py.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastbert import ops
from fastbert.model.calling import GELU_FORMS, dropout_p, is_plain
from fastbert.model.layers import BertLayer
from fastbert.ops import States
from fastbert.packing import PackedBatch


class Join(NamedTuple):
    """Parameters of LayerNorm(dropout(x W + b) + residual), and the probability of dropout in the current mode."""

    weight: Tensor
    bias: Tensor
    ln_weight: Tensor
    ln_bias: Tensor
    eps: float
    dropout_p: float


class PlainLayer(NamedTuple):
    """Parameters of a layer: Q, K and V, the joins after both halves, the first linear of the feed-forward block."""

    qkv_weights: tuple[Tensor, Tensor, Tensor]
    qkv_biases: tuple[Tensor, Tensor, Tensor]
    heads: int
    dropout_p: float
    causal: bool
    attention_join: Join
    up_weight: Tensor
    up_bias: Tensor
    gelu: str
    output_join: Join


def read(layer: nn.Module) -> PlainLayer | None:
    """A layer's parameters, or None if it must be called as a module; see `calling.is_plain`."""
    if type(layer) is not BertLayer or not is_plain(layer):
        return None
    attention, up, down = _children(layer, "attention", "intermediate", "output")
    if not is_plain(attention, up, down):
        return None
    inner, joined = _children(attention, "self", "output")
    if not is_plain(inner, joined) or up.hidden_act not in GELU_FORMS:
        return None
    query, key, value, dropout = _children(inner, "query", "key", "value", "dropout")
    (dense,) = _children(up, "dense")
    attention_join, output_join = _join(joined), _join(down)
    if attention_join is None or output_join is None or not is_plain(query, key, value, dropout, dense):
        return None
    projections = [module._parameters for module in (query, key, value)]
    weights: Any = tuple(parameters["weight"] for parameters in projections)
    biases: Any = tuple(parameters["bias"] for parameters in projections)
    first = dense._parameters
    return PlainLayer(
        weights,
        biases,
        inner.num_attention_heads,
        dropout_p(dropout),
        inner.is_causal,
        attention_join,
        first["weight"],
        first["bias"],
        GELU_FORMS[up.hidden_act],
        output_join,
    )


def run(layer: PlainLayer, x: States, batch: PackedBatch, seeds: Tensor | None) -> States:
    """States (T, N) -> states (T, N). `seeds` (3,) are those of the dropout sites."""
    attention_seed, join_seed, output_seed = (None, None, None) if seeds is None else seeds.unbind()
    qkv = ops.joined_linear(x.operand, layer.qkv_weights, layer.qkv_biases)
    tokens, width = qkv.shape
    qkv = qkv.view(tokens, 3, layer.heads, width // (3 * layer.heads))
    plan = functools.partial(batch.once, ops.plan_attention)
    context = ops.attention(
        qkv, batch.cu_seqlens, batch.max_seqlen, layer.dropout_p, attention_seed, layer.causal, plan=plan
    ).flatten(1)
    x = ops.linear_join(context, x.residual, *layer.attention_join, join_seed)
    return ops.ffn_join(x, layer.up_weight, layer.up_bias, *layer.output_join, output_seed, layer.gelu)


def _join(module: Any) -> Join | None:
    dense, norm, dropout = _children(module, "dense", "LayerNorm", "dropout")
    if not is_plain(dense, norm, dropout):
        return None
    product, scale = dense._parameters, norm._parameters
    return Join(product["weight"], product["bias"], scale["weight"], scale["bias"], norm.eps, dropout_p(dropout))


def _children(module: nn.Module, *names: str) -> list[Any]:
    """The submodules of these names; faster than attribute access, which goes through `__getattr__`."""
    modules = module._modules
    return [modules[name] for name in names]
