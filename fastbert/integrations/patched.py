"""The forward that a patched encoder of transformers gets: packed tokens in the middle, transformers' form at both ends.

    (B, S) ids and mask -> pack -> embeddings -> L layers -> unpack -> (B, S, N), pooler, transformers' output class

What it cannot run as asked goes to the forward that was there before, and is said once. Sizes: B sequences, S padded length,
T packed tokens, N hidden, L layers.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import warnings
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import forking, ops, packing
from fastbert.errors import InputError
from fastbert.integrations import layers
from fastbert.integrations.families import Family, obstacle
from fastbert.model import plain_layer
from fastbert.model.calling import (
    dense,
    dropout_p,
    fresh_seeds,
    is_plain,
    is_watched,
    kept,
    repeatable,
    seed_at,
    without_gradient_at,
)
from fastbert.packing import PackedBatch, deferred
from fastbert.packing.flattened import is_flattened, read_flattened, source_of
from fastbert.packing.inputs import Limits
from fastbert.packing.positions import counted_from, padded_positions

# Arguments of a forward that only transformers' own code can serve.
_THEIRS = {
    "head_mask": "a head mask",
    "encoder_hidden_states": "cross-attention",
    "encoder_attention_mask": "cross-attention",
    "past_key_values": "a key-value cache",
}


@functools.lru_cache
def _signature(forward: Any) -> inspect.Signature:
    """Of a method that is bound; every forward asks for it."""
    return inspect.signature(types.MethodType(forward, object()))


class PatchedForward:
    """Stands in an encoder as its `forward`.

    Attributes:
        module: the encoder.
        family: its family.
        backend: the backend that its ops run on; "auto" leaves that to `fastbert.backend`.
        reads: what the head on it reads of a sequence: "first" token, "all" places with padding, or "tokens".
        active: False for one that could not be taken out, as something else wraps it; it then passes everything on.
    """

    def __init__(self, module: nn.Module, family: Family, backend: str, reads: str) -> None:
        self.module, self.family, self.backend, self.reads = module, family, backend, reads
        self.active = True
        self._said: set[str] = set()

    @property
    def __signature__(self) -> inspect.Signature:
        return _signature(type(self.module).forward)

    def run_original(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of transformers."""
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's forward, with its arguments and its output."""
        if not self.active or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.run_original(*args, **kwargs)
        try:
            bound = self.__signature__.bind(*args, **kwargs).arguments
        except TypeError:  # which the original raises in its own words
            return self.run_original(*args, **kwargs)
        given = {**bound.pop("kwargs", {}), **bound}
        reason = self._obstacle(given)
        if reason:
            self._say(reason)
            return self.run_original(*args, **kwargs)
        return self.run(given)

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            name = type(self.module).__name__
            warnings.warn(f"{reason}: transformers' own forward of {name} runs, not fastbert's", stacklevel=4)

    def _obstacle(self, given: dict[str, Any]) -> str:
        """Why these arguments, on this model, are for transformers' own forward; "" where they are not."""
        config = self.module.config
        for name, reason in _THEIRS.items():
            if given.get(name) is not None:
                return reason
        if _is_decoder(config) and _asked(given, config, "use_cache"):
            return _THEIRS["past_key_values"]
        if _asked(given, config, "output_attentions"):
            return "output_attentions"
        causal = given.get("is_causal", getattr(config, "is_causal", None))
        if causal is not None and bool(causal) != _is_decoder(config):
            return f"is_causal = {causal}"
        structure = obstacle(self.module, self.family.names) if plain_layer.is_usable() else "hooks on all modules"
        if structure or self._is_flattened(given):
            return structure
        ids, embeds, mask = (given.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
        source = source_of(given)
        if not isinstance(source, Tensor) or (ids is not None and embeds is not None):
            return "both or neither of input_ids and inputs_embeds"
        if source.dim() != (2 if ids is not None else 3) or not source.numel() or source.is_meta:
            return f"{'input_ids' if ids is not None else 'inputs_embeds'} of shape {tuple(source.shape)}"
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != source.shape[:2]):
            return "an attention mask that is not (batch, sequence)"
        return "" if mask is None else self._mask_obstacle(mask)

    def _is_flattened(self, given: dict[str, Any]) -> bool:
        """Whether a batch is flattened. Positions alone say so only to FlashAttention in transformers."""
        config: Any = self.module.config
        return is_flattened(given, by_positions="flash" in str(config._attn_implementation))

    def _mask_obstacle(self, mask: Tensor) -> str:
        """Why padding of this form, (B, S), is for transformers: what its heads read of it. One look at the device."""
        real = mask != 0
        reasons = {
            "a mask with values other than 0 and 1": (real & (mask != 1)).any(),
            "a mask that starts with padding": ~real[:, 0].all(),  # heads read the first column
        }
        if _is_decoder(self.module.config):  # a token is scored from the place before it
            reasons["a decoder's mask with holes"] = (real[:, 1:] & ~real[:, :-1]).any()
        if self.reads == "all":
            reasons["a head whose softmax covers padding"] = ~real.all()
        found = torch.stack(list(reasons.values())).tolist()
        return next((reason for reason, holds in zip(reasons, found, strict=True) if holds), "")

    def pack_inputs(self, given: dict[str, Any]) -> PackedBatch:
        """The arguments of a forward as a packed batch, checked against the encoder's tables."""
        embeddings: Any = self.module.embeddings
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        positions, segments = given.get("position_ids"), given.get("token_type_ids")
        padding = embeddings.padding_idx if self.family.counts_from_padding else -1
        types = embeddings.token_type_embeddings if hasattr(embeddings, "token_type_embeddings") else None
        tables = (embeddings.word_embeddings, types, embeddings.position_embeddings)
        limits = Limits(*(getattr(table, "num_embeddings", 1 if table is None else sys.maxsize) for table in tables))
        if self._is_flattened(given):
            flattened = read_flattened(given)
            return packing.check_packed(counted_from(flattened, padding) if padding >= 0 else flattened, limits)
        if positions is None and self.family.counts_from_padding:
            positions = padded_positions(ids, embeds, padding)
        batch = packing.pack(
            ids,
            given.get("attention_mask"),
            None if types is None or segments is None else segments.view(-1, segments.shape[-1]),
            positions,
            inputs_embeds=embeds,
            limits=limits,
        )
        batch.padded = True
        return batch

    def run(self, given: dict[str, Any]) -> Any:
        """The encoder's output by fastbert, from the arguments of its forward by name."""
        with nullcontext() if self.backend == "auto" else ops.backend(self.backend):
            return self._run(given)

    def _run(self, given: dict[str, Any]) -> Any:
        module: Any = self.module
        source = source_of(given)
        if source.device != module.device:
            raise InputError(
                f"the inputs are on {source.device}, the encoder is on {module.device}; torch.nn.DataParallel cannot copy a "
                "patched model: use one process for each device (torchrun)"
            )
        if module.device.type == "cpu":
            forking.before_forward()
        deferred.poll()
        batch = self.pack_inputs(given)
        hidden_states: list[Tensor] | None = [] if _asked(given, module.config, "output_hidden_states") else None
        x = _encode(module, self.family, batch, given, hidden_states)
        states = batch.unpack(x) if hidden_states is None or not batch.padded else hidden_states[-1]
        fields: dict[str, Any] = {"last_hidden_state": states}
        if getattr(module, "pooler", None) is not None:
            fields["pooler_output"] = module.pooler(states)
        if not batch.padded:  # it was flattened: (1, T, N), or (B, S, N) for a head that reads the first token of each sequence
            fields["last_hidden_state"] = states if self.reads == "first" else x[None]
            hidden_states = None if hidden_states is None else [one[None] for one in hidden_states]
        if hidden_states is not None:
            fields["hidden_states"] = _chosen(hidden_states, _asked(given, module.config, "output_hidden_states"))
        output = getattr(sys.modules["transformers.modeling_outputs"], self.family.output)(**fields)
        return_dict = given.get("return_dict")
        as_dict = getattr(module.config, "return_dict", True) if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


@repeatable
def _encode(module: Any, family: Family, batch: PackedBatch, given: dict[str, Any], hidden_states: Any) -> Tensor:
    """(T, N): the states behind the last layer. `hidden_states`, if a list, gets the L + 1 padded ones."""
    stack = attrgetter(family.names.layers)(module)
    causal = _is_decoder(module.config)
    seeds = fresh_seeds(module, 1 + 3 * len(stack), batch.device)
    x = _embed(module, batch, given, seed_at(seeds, 0))
    if hasattr(module, "embeddings_project"):
        x = dense(module.embeddings_project, x, batch)
    x = kept(x, batch, hidden_states)
    known = [layers.read(layer, family.names, causal) for layer in stack]
    heads, head_size = (known[0].heads, known[0].head_size) if known else (1, 1)
    schedule = ops.attention_schedule(x, batch.cu_seqlens, batch.max_seqlen, heads)
    calls = ops.for_layers(x, head_size) or ops
    carried = ops.States(x, x)
    for i, (layer, modules) in enumerate(zip(stack, known, strict=True)):
        own = None if seeds is None else seeds[1 + 3 * i : 4 + 3 * i]
        recomputed = getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled()
        parameters = layers.parameters_of(modules)
        if parameters is not None and not recomputed and hidden_states is None:
            like_first = (modules.heads, modules.head_size) == (heads, head_size)  # not where heads were pruned
            chosen, plan = (calls, schedule) if like_first else (ops, None)
            carried = plain_layer.run(parameters, carried, batch, plan, own, i == len(known) - 1, chosen)
            continue
        x = carried.residual
        x = _recomputed(layer, modules, x, batch, own) if recomputed else layers.run(modules, x, batch, own)
        x = kept(x, batch, hidden_states)
        carried = ops.States(x, x)
    return carried.residual


def _recomputed(layer: Any, modules: layers.LayerModules, x: Tensor, batch: PackedBatch, seeds: Tensor | None) -> Tensor:
    """A layer by the checkpointing that transformers was told to use. It may run again in another thread."""
    backend = ops.current_backend()

    def run(states: Tensor) -> Tensor:
        with ops.backend(backend):
            return layers.run(modules, states, batch, seeds)

    return layer._gradient_checkpointing_func(run, x)


def _embed(module: Any, batch: PackedBatch, given: dict[str, Any], seed: Tensor | None) -> Tensor:
    """(T, N) from the embeddings; where an adapter or a hook is in them, by transformers' own module on (B, S)."""
    part = module.embeddings
    word, position, norm, dropout = part.word_embeddings, part.position_embeddings, part.LayerNorm, part.dropout
    segment = getattr(part, "token_type_embeddings", None)
    parts = [one for one in (word, position, norm, dropout, segment) if one is not None]
    if batch.input_ids is None or is_watched(part) or not is_plain(*parts) or norm.bias is None:
        if batch.padded:
            return batch.pack(_embed_padded(part, given))
        names = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
        rows = {name: None if getattr(batch, name) is None else getattr(batch, name)[None] for name in names}
        return _embed_padded(part, {**rows, "token_type_ids": None if segment is None else rows["token_type_ids"]})[0]
    types = word.weight.new_zeros(1, word.embedding_dim) if segment is None else segment.weight
    return ops.embedding(
        batch.input_ids,
        batch.token_type_ids,
        batch.position_ids,
        word.weight,
        without_gradient_at(position.weight, position.padding_idx),
        types,
        norm.weight,
        norm.bias,
        norm.eps,
        dropout_p(dropout),
        seed,
        word.padding_idx,
    )


def _embed_padded(part: Any, given: dict[str, Any]) -> Tensor:
    """(B, S, N) by transformers' own embeddings."""
    sources = given.get("input_ids"), given.get("inputs_embeds")
    beside = {name: given[name] for name in ("token_type_ids", "position_ids") if given.get(name) is not None}
    if hasattr(part, "token_type_embeddings"):
        return part(sources[0], inputs_embeds=sources[1], **beside)
    return part(*sources, **beside)  # DistilBERT's second argument has another name in transformers 4


def _chosen(states: list[Tensor], which: Any) -> tuple[Tensor | None, ...]:
    """All hidden states, or those of an index or a list of indices with None in the others' places, as in transformers 5."""
    if isinstance(which, bool):
        return tuple(states)
    wanted = {i % len(states) for i in ([which] if isinstance(which, int) else which) if -len(states) <= i < len(states)}
    return tuple(state if i in wanted else None for i, state in enumerate(states))


def _is_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_decoder", False))


def _asked(given: dict[str, Any], config: Any, name: str) -> Any:
    """An argument, or the configuration's value where it is not given."""
    value = given.get(name)
    return getattr(config, name, None) if value is None else value
