"""The encoder of Devlin et al. 2018, with transformers' module tree, run on packed tokens.

    embeddings -> L x [ attention -> join -> feed-forward -> join ] -> pooler

Read top to bottom, after layers.py. Sizes: B sequences, S padded length, T packed tokens, H heads, D head size, N hidden,
F intermediate, M rows that a head reads. What a forward is given becomes a packed batch at the door (arguments.py), so no
layer ever meets padding.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint as recompute

from fastbert import ops
from fastbert.model import arguments, masks, plain_layer, prefixes
from fastbert.model.calling import (
    call_part,
    dense,
    fresh_seeds,
    is_plain,
    is_unchanged,
    is_watched,
    kept,
    maps_rows,
    repeatable,
    seed_at,
    takes_packed,
)
from fastbert.model.config import BertConfig
from fastbert.model.flattening import takes_flattened
from fastbert.model.keywords import named, refuse
from fastbert.model.layers import (
    BertAttention,
    BertEmbeddings,
    BertIntermediate,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)
from fastbert.model.outputs import BertModelOutput
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.model.recomputing import Recomputation
from fastbert.packing import PackedBatch
from fastbert.packing.inputs import Limits


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config, i) for i in range(config.num_hidden_layers)])
        self.num_attention_heads = config.num_attention_heads
        self.is_causal = config.is_decoder

    @named
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        recomputation: Recomputation | None = None,
        **refused: Any,
    ) -> BertModelOutput:
        """(B, S, N), or (T, N) with `batch`, -> the last state of that shape, or (M, N) for `rows`; and what is asked for.

        The hidden states, of which the first is the input, have the form of the caller's batch, and are what the layers after
        them were computed from. Only the last layer is restricted to `rows`: the layers before it need all tokens as keys and
        values.
        """
        refuse(self, refused)
        padded = hidden_states.dim() == 3
        if batch is None:
            seeds = fresh_seeds(self, 3 * len(self.layer), hidden_states.device)
        batch = masks.form_of(hidden_states, attention_mask, batch, self.num_attention_heads)
        x = batch.pack(hidden_states) if padded else hidden_states
        states: list[Tensor] | None = [] if output_hidden_states else None
        attentions: list[Tensor] | None = [] if output_attentions else None
        pruned = rows is not None and len(self.layer) > 0 and _prunes(self.layer[-1])
        x = kept(x, batch, states)
        straight = states is None and attentions is None and recomputation is None and batch.attention_bias is None
        straight = straight and plain_layer.is_usable()
        heads, tokens = self.num_attention_heads, x.shape[0]
        schedule = ops.attention_schedule(x, batch.cu_seqlens, batch.max_seqlen, heads) if straight else None
        head_size = x.shape[1] // heads
        calls = (ops.for_layers(x, head_size) if straight else None) or ops
        x = x if calls is ops else ops.with_spare_rows(x)
        carried = ops.States(x, x)
        for i, layer in enumerate(self.layer):
            asked: dict[str, Any] = {
                "seeds": None if seeds is None else seeds[3 * i : 3 * i + 3],
                "rows": rows if pruned and i == len(self.layer) - 1 else None,
                "attentions": attentions,
            }
            known = plain_layer.read(layer) if straight and asked["rows"] is None else None
            if known is not None:
                chosen = calls if known.head_size == head_size else ops
                carried = plain_layer.run(known, carried, batch, schedule, asked["seeds"], i == len(self.layer) - 1, chosen)
                continue
            x = _first(carried.residual, tokens)
            if recomputation is not None and i % recomputation.every == 0:
                x = self._recomputed(layer, x, batch, recomputation.offload, asked)
            else:
                x = call_part(layer, BertLayer, batch, self.is_causal, x, **asked)
            x = kept(x, batch, states)
            carried = ops.States(x, x)
        x = carried.residual if pruned else _first(carried.residual, tokens)
        if rows is not None and not pruned:
            x = x.index_select(0, rows)
        return BertModelOutput(
            last_hidden_state=batch.unpack(x) if padded else x,
            hidden_states=None if states is None else tuple(states),
            attentions=None if attentions is None else tuple(attentions[: len(self.layer)]),
        )

    def _recomputed(self, layer: nn.Module, x: Tensor, batch: PackedBatch, offload: bool, asked: dict[str, Any]) -> Tensor:
        """A layer of which only the input is kept. A recomputation may run in another thread and block than the forward did."""
        backend = ops.current_backend()

        def run(states: Tensor) -> Tensor:
            with ops.backend(backend):
                return call_part(layer, BertLayer, batch, self.is_causal, states, **asked)

        with save_on_cpu(pin_memory=x.is_cuda) if offload else nullcontext():
            return recompute(run, x, use_reentrant=False, preserve_rng_state=not is_plain(*layer.modules()))


def _first(x: Tensor, tokens: int) -> Tensor:
    """States without the rows of `ops.with_spare_rows`."""
    return x if x.shape[0] == tokens else x[:tokens]


def _prunes(layer: nn.Module) -> bool:
    """Whether a layer may compute some rows only: no hooks, and its parts are ours or known to map row by row."""
    if not is_unchanged(layer, BertLayer) or is_watched(*layer.modules()):
        return False
    attention, up, down = (getattr(layer, name) for name in ("attention", "intermediate", "output"))
    if not is_unchanged(attention, BertAttention):
        return False
    inner, join = attention.self, attention.output
    parts = ((inner, BertSelfAttention), (join, BertSelfOutput), (up, BertIntermediate), (down, BertOutput))
    if not all(is_unchanged(part, kind) for part, kind in parts):
        return False
    joins = [leaf for part in (join, down) for leaf in (part.dense, part.LayerNorm, part.dropout)]
    return all(map(maps_rows, (inner.query, inner.key, inner.value, up.dense, *joins)))


class BertPooler(nn.Module):
    """tanh(h W + b) of each sequence's first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, S, N), or the first tokens' states (B, N), -> (B, N)."""
        first = hidden_states[:, 0] if hidden_states.dim() == 3 else hidden_states
        return self.activation(dense(self.dense, first))


class BertModel(BertPreTrainedModel):
    """BERT without a task head: hidden states of every token, and the pooled [CLS].

    Args:
        config: sizes and behaviour; `config.is_decoder` makes attention causal.
        add_pooling_layer: whether the model has the pooler.
    """

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(self.config)
        self.encoder = BertEncoder(self.config)
        self.pooler = BertPooler(self.config) if add_pooling_layer else None
        self.gradient_checkpointing = bool(self.config.gradient_checkpointing)
        self.checkpointing_interval = 1
        self.checkpointing_offload = False
        self.post_init()

    @takes_flattened
    @named
    @repeatable
    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Any = None,
        last_layer_rows: Tensor | None = None,
        **refused: Any,
    ) -> BertModelOutput | tuple[Any, ...]:
        """Encodes a padded batch, or one packed by `fastbert.pack`; what goes in padded comes out padded.

        Args:
            input_ids: (B, S) integers, or a `PackedBatch`, which replaces all the inputs that follow.
            attention_mask: (B, S), 1 at tokens; or (B, S, S) or (B, 1 or H, S, S), bool (True = attend), 0/1 integers, or
                floats that are added to the scores.
            token_type_ids: (B, S), segment 0 or 1; None means 0.
            position_ids: (S,) or (B, S); None means the column; "from_mask" counts tokens only.
            inputs_embeds: (B, S, N) in place of `input_ids`.
            output_attentions: return the attention probabilities (B, H, S, S) of each layer.
            output_hidden_states: return the L + 1 hidden states.
            return_dict: False returns a tuple of the fields that are present.
            past_key_values: keys and values before the tokens, as prefix tuning gives them: a cache of transformers or pairs
                (B, H, P, D) for each layer. `attention_mask` is (B, P + S) then, and positions start at P.
            last_layer_rows: (M,) packed rows, for heads: the last layer computes only these, `last_hidden_state` is (M, N)
                and there is no pooled output.

        Returns:
            `BertModelOutput`. Rows under mask 0 are zeros in the padded hidden states.

        Raises:
            InputError: bad shapes, types or ids, with their place. ArgumentError: an unknown keyword.
        """
        refuse(self, refused)
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        padded = not isinstance(input_ids, PackedBatch)
        heads = config.num_attention_heads
        prefix = prefixes.read(past_key_values, len(self.encoder.layer), heads, config.head_dim) if past_key_values else []
        before = None
        if prefix:
            length = prefix[0][0].shape[2]
            before, attention_mask = prefixes.split_mask(attention_mask, length)
            source = inputs_embeds if input_ids is None else input_ids
            if position_ids is None and isinstance(source, Tensor) and source.dim() > 1:
                position_ids = arguments.positions_behind(length, input_ids, inputs_embeds, config)
        batch = self.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if prefix:
            prefixes.attach(batch, prefix, before, config.is_decoder)
        if last_layer_rows is not None:
            arguments.check_rows(last_layer_rows, batch)
        seeds = fresh_seeds(self, 1 + 3 * len(self.encoder.layer), batch.device)
        whole = is_watched(self.encoder) or not takes_packed(self.encoder, BertEncoder)
        rows = None if whole else last_layer_rows
        recomputes = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        encoded = call_part(
            self.encoder,
            BertEncoder,
            batch,
            config.is_decoder,
            self._embed(batch, seed_at(seeds, 0)),
            seeds=None if seeds is None else seeds[1:],
            rows=rows,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            recomputation=Recomputation(self.checkpointing_interval, self.checkpointing_offload) if recomputes else None,
        )
        states = encoded[0] if isinstance(encoded, tuple) else getattr(encoded, "last_hidden_state", encoded)
        if last_layer_rows is not None and rows is None:
            states = states.index_select(0, last_layer_rows)
        hidden_states, attentions = getattr(encoded, "hidden_states", None), getattr(encoded, "attentions", None)
        pooled = None
        if self.pooler is not None and last_layer_rows is None:
            pooled = self.pool(states, batch)
        if padded and last_layer_rows is None:
            states = batch.unpack(states) if hidden_states is None or whole else hidden_states[-1]
        output = BertModelOutput(
            last_hidden_state=states, pooler_output=pooled, hidden_states=hidden_states, attentions=attentions
        )
        return as_asked(output, return_dict, config)

    def _embed(self, batch: PackedBatch, seed: Tensor | None) -> Tensor:
        """(T, N) from the embeddings; where they are watched or of another class they see what the caller passed, (B, S)."""
        part = self.embeddings
        ours = takes_packed(part, BertEmbeddings)
        if ours and not (batch.padded and is_watched(part)):
            return part(batch=batch, seed=seed)
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "position_ids": batch.position_ids}
        inputs["inputs_embeds"] = batch.inputs_embeds
        padded = {name: None if value is None else batch.unpack(value) for name, value in inputs.items()}
        return batch.pack(part(**padded, **({"batch": batch, "seed": seed} if ours else {})))

    def pack_inputs(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> PackedBatch:
        """The inputs of a forward as a packed batch, checked against this model's tables."""
        return arguments.pack_inputs(self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)

    @property
    def limits(self) -> Limits:
        """Sizes of the three embedding tables, which may differ from the configuration's after a replacement."""
        return arguments.limits_of(self.embeddings, self.config)

    def pool(self, hidden_states: Tensor, batch: PackedBatch) -> Tensor:
        """(T, N) -> pooled (B, N); an empty sequence gives zeros."""
        if not batch.num_tokens:
            return hidden_states.new_zeros(batch.batch_size, hidden_states.shape[-1])
        if self.pools_rows(batch):
            return self.pool_rows(hidden_states.index_select(0, batch.first_rows()), batch)
        assert self.pooler is not None
        return batch.blank_empty(self.pooler(first_token_first(hidden_states, batch)))

    def pools_rows(self, batch: PackedBatch) -> bool:
        """Whether the pooler may be given first tokens alone: not where it is of another class, or watched."""
        pooler: Any = self.pooler
        return is_unchanged(pooler, BertPooler) and not (batch.padded and is_watched(*pooler.modules()))

    def pool_rows(self, first_token_states: Tensor, batch: PackedBatch) -> Tensor:
        """(B, N) first tokens' states -> pooled (B, N); an empty sequence gives zeros."""
        assert self.pooler is not None
        return batch.blank_empty(self.pooler(first_token_states))


def first_token_first(hidden_states: Tensor, batch: PackedBatch) -> Tensor:
    """(T, N) -> (B, S, N), what transformers' poolers are given; left padding has a place free for the first token."""
    first = hidden_states.index_select(0, batch.first_rows())
    return torch.cat([first[:, None], batch.unpack(hidden_states)[:, 1:]], dim=1)


def as_asked(output: Any, return_dict: bool | None, config: BertConfig) -> Any:
    """The output, or its tuple where `return_dict` is False."""
    return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()
