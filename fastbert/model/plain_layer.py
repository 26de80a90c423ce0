"""A layer without hooks or replaced parts, run as ops on its parameters; it computes what the modules of layers.py compute.

    context = attention(x W_qkv + b_qkv)
    x = LayerNorm(dropout(context W_o + b_o) + x)
    x = LayerNorm(dropout(GELU(x W_1 + b_1) W_2 + b_2) + x)

Calling the sixteen modules of a layer takes the host longer than a GPU needs for a small batch. Layers that contain a hook, an
adapter or a part of another class are called as modules. Sizes as in encoder.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastbert import ops
from fastbert.model.calling import GELU_FORMS, dropout_p, have_own_forward, is_plain, may_be_watched
from fastbert.model.layers import BertAttention, BertIntermediate, BertLayer, BertOutput, BertSelfAttention, BertSelfOutput
from fastbert.ops import States
from fastbert.packing import PackedBatch

_SETTINGS = ("training", "p", "eps", "hidden_act", "num_attention_heads", "attention_head_size", "is_causal")


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
    head_size: int
    dropout_p: float
    causal: bool
    attention_join: Join
    up_weight: Tensor
    up_bias: Tensor
    gelu: str
    output_join: Join


def is_usable() -> bool:
    """Whether layers may be run so at all: not while PyTorch traces, nor with global module hooks, as FLOP counters use."""
    return not torch.compiler.is_compiling() and not torch.nn.modules.module._has_any_global_hook()


def read(layer: nn.Module) -> PlainLayer | None:
    """A layer's parameters, or None if it or one of its parts must be called as a module; see `calling.is_plain`."""
    known = _known.get(layer)
    if known is not None and known[0].is_unchanged(layer):
        return known[1]
    found = _read(layer)
    if found is None:
        _known.pop(layer, None)
    else:
        _known[layer] = (_Look(layer), found)
    return found


class _Look:
    """What `_read` saw of a plain layer, to notice in a fraction of its time that it would see the same again."""

    def __init__(self, layer: nn.Module) -> None:
        parts = [*layer.modules()]
        self._parts = parts[1:]  # the layer itself would never be freed
        self._states = [part.__dict__ for part in parts]
        self._kinds = [*map(type, parts)]
        self._own = {*self._kinds}
        self._settings = [(state, name) for state in self._states for name in _SETTINGS if name in state]
        self._values = [state[name] for state, name in self._settings]
        self._tables = [(state, name) for state in self._states for name in ("_parameters", "_modules") if state[name]]
        self._names = [[*state[name]] for state, name in self._tables]
        self._entries = [*self._current_entries()]  # kept, so that no other object gets their ids
        self._ids, self._types = [*map(id, self._entries)], [*map(type, self._entries)]

    def is_unchanged(self, layer: nn.Module) -> bool:
        """Whether the layer has the same parts, parameters and settings, and still no hook and no forward of its own."""
        return (
            not any(map(may_be_watched, self._states))
            and [state.get(name) for state, name in self._settings] == self._values
            and type(layer) is self._kinds[0]
            and [*map(type, self._parts)] == self._kinds[1:]
            and have_own_forward(self._own)
            and [*map(id, entries := [*self._current_entries()])] == self._ids
            and [*map(type, entries)] == self._types
            and [[*state[name]] for state, name in self._tables] == self._names
        )

    def _current_entries(self) -> Iterator[Any]:
        return chain.from_iterable([state[name].values() for state, name in self._tables])


_known: WeakKeyDictionary[nn.Module, tuple[_Look, PlainLayer]] = WeakKeyDictionary()


def _read(layer: nn.Module) -> PlainLayer | None:
    if not _is_part(layer, BertLayer):
        return None
    attention, up = _part(layer, "attention", BertAttention), _part(layer, "intermediate", BertIntermediate)
    inner = None if attention is None else _part(attention, "self", BertSelfAttention)
    if attention is None or up is None or inner is None or up.hidden_act not in GELU_FORMS:
        return None
    projections = [_parameters(inner, name, nn.Linear) for name in ("query", "key", "value")]
    first, dropout = _parameters(up, "dense", nn.Linear), _part(inner, "dropout", nn.Dropout)
    attention_join = _join(_part(attention, "output", BertSelfOutput))
    output_join = _join(_part(layer, "output", BertOutput))
    if None in projections or first is None or dropout is None or attention_join is None or output_join is None:
        return None
    weights, biases = zip(*projections, strict=True)
    return PlainLayer(
        weights,
        biases,
        inner.num_attention_heads,
        inner.attention_head_size,
        dropout_p(dropout),
        inner.is_causal,
        attention_join,
        *first,
        GELU_FORMS[up.hidden_act],
        output_join,
    )


def run(
    layer: PlainLayer,
    x: States,
    batch: PackedBatch,
    schedule: Tensor | None,
    seeds: Tensor | None,
    is_last: bool,
    calls: Any,
) -> States:
    """States (T, N) -> states (T, N). `seeds` (3,) are those of the dropout sites; no layer multiplies what the last gives.

    `schedule` is that of the batch, see `ops.attention_schedule`; `calls` has the ops, or all of them in one, see
    `ops.for_layers`.
    """
    if hasattr(calls, "layer"):
        whole: States | None = calls.layer(x, layer, batch.cu_seqlens, batch.max_seqlen, schedule, seeds, is_last)
        if whole is not None:
            return whole
    if x.operand.dtype == torch.float8_e4m3fn:  # of a layer before this one, which ran in fp8
        x = States(x.residual, x.residual)
    attention_seed, join_seed, output_seed = (None, None, None) if seeds is None else seeds.unbind()
    qkv = calls.joined_linear(x.operand, layer.qkv_weights, layer.qkv_biases)
    qkv = qkv.view(-1, 3, layer.heads, layer.head_size)
    plan = functools.partial(batch.once, ops.plan_attention)
    context = calls.attention(
        qkv, batch.cu_seqlens, batch.max_seqlen, layer.dropout_p, attention_seed, layer.causal, plan=plan, schedule=schedule
    ).flatten(1)
    x = calls.linear_join(context, x.residual, *layer.attention_join, join_seed)
    return calls.ffn_join(x, layer.up_weight, layer.up_bias, *layer.output_join, output_seed, layer.gelu, not is_last)


def _join(module: Any) -> Join | None:
    if module is None:
        return None
    product, scale = _parameters(module, "dense", nn.Linear), _parameters(module, "LayerNorm", nn.LayerNorm)
    dropout = _part(module, "dropout", nn.Dropout)
    if product is None or scale is None or dropout is None:
        return None
    return Join(*product, *scale, module.LayerNorm.eps, dropout_p(dropout))


def _parameters(owner: nn.Module, name: str, kind: type) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a linear or LayerNorm that may be read; None where it has no bias, or must be called."""
    part = _part(owner, name, kind)
    parameters = {} if part is None else part._parameters
    return (parameters["weight"], parameters["bias"]) if "weight" in parameters and "bias" in parameters else None


def _part(owner: nn.Module, name: str, kind: type) -> Any:
    """A submodule if it is exactly of this class and plain, else None. Attribute access would go through `__getattr__`."""
    part = owner._modules.get(name)
    return part if part is not None and _is_part(part, kind) else None


def _is_part(module: nn.Module, kind: type) -> bool:
    return type(module) is kind and is_plain(module)
