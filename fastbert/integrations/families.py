"""Where each family of transformers' encoders keeps its parts: the tables behind `fastbert.patch`.

The names are the same in transformers 4.57 and 5. Nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from fastbert.model.calling import is_watched

# Attention implementations that compute the same: `fastbert.register` adds its own.
IMPLEMENTATIONS = {None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"}


@dataclass(frozen=True)
class Names:
    """Dotted names of the parts of an encoder's layer, and of what holds them.

    Attributes:
        layers: the list of layers, from the encoder model.
        containers: modules whose own forward is replaced, from a layer; "" is the layer.
        attention: the module that knows heads and dropout.
        query, key, value: linears.
        attention_join: linear, LayerNorm and dropout behind attention; the dropout may be missing.
        up, activation: the first linear of the feed-forward block, and its activation.
        output_join: linear, LayerNorm and dropout behind it.
    """

    layers: str
    containers: tuple[str, ...]
    attention: str
    query: str
    key: str
    value: str
    attention_join: tuple[str, str, str | None]
    up: str
    activation: str
    output_join: tuple[str, str, str]


@dataclass(frozen=True)
class Family:
    """What differs between encoders.

    Attributes:
        names: of its parts.
        output: the class of its output, in `transformers.modeling_outputs`.
        counts_from_padding: whether positions count the tokens that are not padding, from the padding id + 1.
    """

    names: Names
    output: str = "BaseModelOutputWithPoolingAndCrossAttentions"
    counts_from_padding: bool = False


_BERT = Names(
    layers="encoder.layer",
    containers=("", "attention", "attention.self", "attention.output", "intermediate", "output"),
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_join=("attention.output.dense", "attention.output.LayerNorm", "attention.output.dropout"),
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    output_join=("output.dense", "output.LayerNorm", "output.dropout"),
)
_DISTILBERT = Names(
    layers="transformer.layer",
    containers=("", "attention", "ffn"),
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_join=("attention.out_lin", "sa_layer_norm", None),
    up="ffn.lin1",
    activation="ffn.activation",
    output_join=("ffn.lin2", "output_layer_norm", "ffn.dropout"),
)
FAMILIES = {
    "BertModel": Family(_BERT),
    "RobertaModel": Family(_BERT, counts_from_padding=True),
    "XLMRobertaModel": Family(_BERT, counts_from_padding=True),
    "CamembertModel": Family(_BERT, counts_from_padding=True),
    "ElectraModel": Family(_BERT, output="BaseModelOutputWithPastAndCrossAttentions"),
    "DistilBertModel": Family(_DISTILBERT, output="BaseModelOutput"),
}


def family_of(module: nn.Module) -> Family | None:
    """The family of an encoder of transformers, or None; a subclass counts as long as it keeps the forward."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("transformers.models.") and kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__] if type(module).forward is getattr(kind, "forward", None) else None
    return None


def encoders_in(model: nn.Module) -> Iterator[tuple[str, nn.Module, Family]]:
    """Every encoder of a known family in a module: its dotted name, itself, its family."""
    for name, module in model.named_modules():
        family = family_of(module)
        if family is not None:
            yield name, module, family


def obstacle(encoder: Any, names: Names) -> str:
    """Why the structure of an encoder has to be run by transformers now: a hook, another class; "" where nothing is."""
    if encoder.config._attn_implementation not in IMPLEMENTATIONS:
        return f"attention implementation {encoder.config._attn_implementation!r}"
    home = _home(encoder)
    stack, _, attribute = names.layers.rpartition(".")
    holder = attrgetter(stack)(encoder)
    found = _changed(holder, home, stack) or _changed(encoder.embeddings, home, "embeddings")
    if found:
        return found
    for i, layer in enumerate(getattr(holder, attribute)):
        for name in names.containers:
            found = _changed(attrgetter(name)(layer) if name else layer, home, f"{names.layers}.{i}.{name}".rstrip("."))
            if found:
                return found
        if getattr(attrgetter(names.attention)(layer), "position_embedding_type", None) not in (None, "absolute"):
            return "relative positions"
    return ""


def _home(encoder: nn.Module) -> str:
    """The module of transformers that an encoder comes from."""
    return next(kind.__module__ for kind in type(encoder).__mro__ if kind.__name__ in FAMILIES)


def _changed(part: nn.Module, home: str, name: str) -> str:
    """Why a part cannot be passed over: its class is not transformers' own, or something looks at it."""
    if type(part).__module__ != home:
        return f"{name} is a {type(part).__module__}.{type(part).__name__}"
    return f"a hook on {name}" if is_watched(part) else ""
