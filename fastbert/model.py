"""The encoder of Devlin et al. 2018, with transformers' module tree, run on packed tokens.

    embeddings -> L x [ attention -> join -> feed-forward -> join ] -> pooler

Read top to bottom. Sizes: B sequences, S padded length, T packed tokens, H heads, D head size, N hidden, F intermediate,
M rows that a head reads. Inside a model every part sees packed rows, (T, N); `packing` stands at the door, so no layer ever
meets padding. Called alone, or while a hook looks on, a part takes and gives (B, S, N), as transformers' part of that name
does: see `calling`.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint as recompute

from fastbert import forking, interop, masks, ops, packing, prefixes
from fastbert.calling import (
    GELU_FORMS,
    call,
    call_part,
    call_rows,
    dense,
    dense_and_activation,
    dropout_p,
    fresh_seeds,
    is_plain,
    is_unchanged,
    is_watched,
    maps_rows,
    plain,
    repeatable,
    seed_at,
    takes_packed,
)
from fastbert.config import BertConfig
from fastbert.errors import BackendError, InputError
from fastbert.keywords import named, refuse
from fastbert.outputs import BertModelOutput, ModelOutput
from fastbert.packing import PackedBatch, deferred
from fastbert.packing.inputs import Limits, as_index, check_tensor
from fastbert.pretrained import BertPreTrainedModel


class BertEmbeddings(nn.Module):
    """LayerNorm(word + segment + position), then dropout. Paper, figure 2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
        *,
        batch: PackedBatch | None = None,
        seed: Tensor | None = None,
    ) -> Tensor:
        """(B, S) integers, or word embeddings (B, S, N), -> (B, S, N). A packed batch alone -> (T, N)."""
        if batch is not None and input_ids is None and inputs_embeds is None:
            return self._embed(batch, seed)
        if batch is None:
            source = inputs_embeds if input_ids is None else input_ids
            if position_ids is None and past_key_values_length and source is not None:
                start = past_key_values_length
                position_ids = torch.arange(start, start + source.shape[1], device=source.device)
            batch = packing.pack(input_ids, None, token_type_ids, position_ids, inputs_embeds=inputs_embeds)
            batch.padded, seed = True, seed_at(fresh_seeds(self, 1, batch.device), 0)
        else:  # the caller's batch, with what the hooks of this part made of it
            given: dict[str, Any] = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
            changed: dict[str, Any] = {name: batch.pack(as_index(value)) for name, value in given.items() if value is not None}
            changed["inputs_embeds"] = None if inputs_embeds is None else batch.pack(inputs_embeds)
            batch = replace(batch, **{"input_ids": None, **changed})
        return batch.unpack(self._embed(batch, seed))

    def _embed(self, batch: PackedBatch, seed: Tensor | None) -> Tensor:
        """(T, N)."""
        word, position, segment = self.word_embeddings, self.position_embeddings, self.token_type_embeddings
        ids, types, positions = batch.input_ids, batch.token_type_ids, batch.position_ids
        norm, p = self.LayerNorm, dropout_p(self.dropout)
        if ids is not None and is_plain(word, position, segment, norm, self.dropout):
            tables = (word.weight, position.weight, segment.weight)
            return ops.embedding(ids, types, positions, *tables, norm.weight, norm.bias, norm.eps, p, seed, word.padding_idx)
        if ids is not None:
            words = word(ids) if is_plain(word) else _looked_up(word, batch, ids)
        else:
            assert batch.inputs_embeds is not None
            words = batch.inputs_embeds
        summed = words + call(segment, batch, types) + call(position, batch, positions)
        return call(self.dropout, batch, call(norm, batch, summed))


def _looked_up(word: nn.Module, batch: PackedBatch, ids: Tensor) -> Tensor:
    """(T, N) from word embeddings that must be called: a hook or another class sees (B, S) ids, and gives (B, S, N)."""
    padded = batch.unpack(ids)
    words = word(padded)
    if words.dim() != 3 or words.shape[:2] != padded.shape:
        raise InputError(
            f"the word embeddings ({type(word).__name__}) gave {tuple(words.shape)} for ids of shape {tuple(padded.shape)}: "
            "what changes the number of tokens, such as prompts, goes in as inputs_embeds with an attention_mask"
        )
    return batch.pack(words)


@plain
class BertSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v for H heads. Paper, section 3; Vaswani et al. 2017."""

    def __init__(self, config: BertConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.head_dim
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.is_causal = config.is_decoder

    @named
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        seed: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
        **refused: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, S, N), or (T, N) with `batch`, -> the same shape; and the probabilities (B, H, S, S) where asked for.

        With `rows` (M,) only these queries are computed: (T, N) -> (M, N).
        """
        refuse(self, refused)
        padded = hidden_states.dim() == 3
        if batch is None:
            seed = seed_at(fresh_seeds(self, 1, hidden_states.device), 0)
        batch = masks.form_of(hidden_states, attention_mask, batch, self.num_attention_heads)
        x = batch.pack(hidden_states) if padded else hidden_states
        qkv = self._project(x, batch, rows).view(-1, 3, self.num_attention_heads, self.attention_head_size)
        p = dropout_p(self.dropout)
        probs = None
        if batch.attention_bias is None and not output_attentions:
            plan = functools.partial(batch.once, ops.plan_attention)
            context = ops.attention(qkv, batch.cu_seqlens, batch.max_seqlen, p, seed, self.is_causal, plan=plan)
        else:
            bias = masks.dense_bias(batch, self.is_causal)
            prefix = None if batch.prefix is None else batch.prefix[self.layer_idx]
            together, probs = ops.masked_attention(batch.unpack(qkv), bias, p, seed, prefix=prefix)
            context = batch.pack(together)
        context = context.flatten(1)
        if padded:
            return batch.unpack(context), probs
        return (context if rows is None else context.index_select(0, rows)), probs

    def _project(self, x: Tensor, batch: PackedBatch, rows: Tensor | None) -> Tensor:
        """(T, N) -> (T, 3N)."""
        linears = (self.query, self.key, self.value)
        if rows is not None:
            return torch.cat([self._queries_at(x, rows), dense(self.key, x), dense(self.value, x)], dim=1)
        if is_plain(*linears):
            return ops.joined_linear(x, [m.weight for m in linears], [m.bias for m in linears])
        return torch.cat([dense(m, x, batch) for m in linears], dim=1)

    def _queries_at(self, x: Tensor, rows: Tensor) -> Tensor:
        """(T, N) with the queries of `rows`, and zeros elsewhere: nobody reads what those rows attend to."""
        query = dense(self.query, x.index_select(0, rows))
        ordinal = torch.arange(rows.shape[0], device=rows.device)
        owner = ordinal.new_full((x.shape[0],), rows.shape[0]).scatter_reduce(0, rows, ordinal, "amin")
        # A row may be named twice ([CLS] with a label, an empty sequence); its gradient must reach one of the copies only.
        query = torch.where((owner.index_select(0, rows) == ordinal)[:, None], query, query.detach())
        return query.new_zeros(x.shape[0], query.shape[1]).index_copy(0, rows, query)


class _Join(nn.Module):
    """LayerNorm(dropout(x W + b) + residual): the end of both halves of a layer."""

    dense: nn.Linear
    LayerNorm: nn.LayerNorm
    dropout: nn.Dropout

    def __init__(self, width: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, input_tensor: Tensor, *, batch: PackedBatch | None = None, seed: Tensor | None = None
    ) -> Tensor:
        """(B, S, F or N) and the residual (B, S, N), or both packed with `batch`, -> the residual's shape."""
        padded = hidden_states.dim() == 3
        if batch is None:
            batch, seed = _alone(self, hidden_states)
        if padded:
            hidden_states, input_tensor = batch.pack(hidden_states), batch.pack(input_tensor)
        if is_plain(self.dense) and ops.fuses_bias(hidden_states):
            x = ops.linear(hidden_states, self.dense.weight, None)
            joined = self.join(x, self.dense.bias, input_tensor, batch, seed)
        else:
            joined = self.join(dense(self.dense, hidden_states, batch), None, input_tensor, batch, seed)
        return batch.unpack(joined) if padded else joined

    def join(
        self, x: Tensor, x_bias: Tensor | None, residual: Tensor, batch: PackedBatch | None, seed: Tensor | None
    ) -> Tensor:
        """LayerNorm(dropout(x + bias) + residual), (T, N): the post-norm join."""
        norm = self.LayerNorm
        if is_plain(norm, self.dropout):
            return ops.layer_norm(x, residual, norm.weight, norm.bias, norm.eps, x_bias, dropout_p(self.dropout), seed)
        x = x if x_bias is None else x + x_bias
        return call(norm, batch, call(self.dropout, batch, x) + residual)


@plain
class BertSelfOutput(_Join):
    """The join after attention."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.hidden_size, config)


@plain
class BertAttention(nn.Module):
    """Self-attention and its join."""

    def __init__(self, config: BertConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, layer_idx)
        self.output = BertSelfOutput(config)

    @named
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
        **refused: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, S, N), or (T, N) with `batch`, -> the same shape, or (M, N) for `rows`; and the probabilities where asked for."""
        refuse(self, refused)
        padded = hidden_states.dim() == 3
        if batch is None:
            seeds = fresh_seeds(self, 2, hidden_states.device)
        batch = masks.form_of(hidden_states, attention_mask, batch, self.self.num_attention_heads)
        x = batch.pack(hidden_states) if padded else hidden_states
        asked = {"seed": seed_at(seeds, 0), "rows": rows, "output_attentions": output_attentions}
        context, probs = call_part(self.self, BertSelfAttention, batch, self.self.is_causal, x, **asked)
        residual = x if rows is None else x.index_select(0, rows)
        joined = call_rows(self.output, BertSelfOutput, batch, context, residual, seed=seed_at(seeds, 1))
        return (batch.unpack(joined) if padded else joined), probs


@plain
class BertIntermediate(nn.Module):
    """The first half of the feed-forward block: activation(x W + b)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.hidden_act = config.hidden_act

    def forward(self, hidden_states: Tensor, *, batch: PackedBatch | None = None) -> Tensor:
        """(B, S, N), or (T, N) with `batch`, -> (B, S, F) or (T, F)."""
        padded = hidden_states.dim() == 3
        if batch is None:
            batch, _ = _alone(self, hidden_states)
        x = batch.pack(hidden_states) if padded else hidden_states
        x = dense_and_activation(self.dense, x, self.hidden_act, batch)
        return batch.unpack(x) if padded else x


@plain
class BertOutput(_Join):
    """The second half of the feed-forward block and its join."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.intermediate_size, config)


@plain
class BertLayer(nn.Module):
    """One layer: attention, then feed-forward, each with its join."""

    def __init__(self, config: BertConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.attention = BertAttention(config, layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    @named
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        attentions: list[Tensor] | None = None,
        **refused: Any,
    ) -> Tensor:
        """(B, S, N), or (T, N) with `batch`, -> the same shape, or (M, N) for `rows`.

        Args:
            hidden_states, attention_mask: states, and a mask as `BertModel.forward` takes it.
            batch: the form of packed states, in place of a mask.
            seeds: (3,) of the dropout sites; None alone in training draws them.
            rows: (M,) packed rows that are wanted.
            attentions: a list that the probabilities (B, H, S, S) are added to.
        """
        refuse(self, refused)
        padded = hidden_states.dim() == 3
        if batch is None:
            seeds = fresh_seeds(self, 3, hidden_states.device)
        batch = masks.form_of(hidden_states, attention_mask, batch, self.attention.self.num_attention_heads)
        x = batch.pack(hidden_states) if padded else hidden_states
        asked = {"seeds": seeds, "rows": rows, "output_attentions": attentions is not None}
        x, probs = call_part(self.attention, BertAttention, batch, self.attention.self.is_causal, x, **asked)
        if attentions is not None and probs is not None:
            attentions.append(probs)
        x = self._feed_forward(x, batch, seed_at(seeds, 2))
        return batch.unpack(x) if padded else x

    def _feed_forward(self, x: Tensor, batch: PackedBatch, seed: Tensor | None) -> Tensor:
        """(T, N) -> (T, N)."""
        up, down = self.intermediate, self.output
        form = GELU_FORMS.get(up.hidden_act) if isinstance(up, BertIntermediate) else None
        if form is not None and is_plain(up, down, up.dense, down.dense):
            down_bias, join_bias = (None, down.dense.bias) if ops.fuses_bias(x) else (down.dense.bias, None)
            y = ops.ffn(x, up.dense.weight, up.dense.bias, down.dense.weight, down_bias, form)
            return down.join(y, join_bias, x, batch, seed)
        return call_rows(down, BertOutput, batch, call_rows(up, BertIntermediate, batch, x), x, seed=seed)


@dataclass
class Recomputation:
    """Which layers are computed again in backward: one of `every`, their inputs in the host's memory with `offload`."""

    every: int = 1
    offload: bool = False


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
        x = _kept(x, batch, states)
        for i, layer in enumerate(self.layer):
            asked = {
                "seeds": None if seeds is None else seeds[3 * i : 3 * i + 3],
                "rows": rows if pruned and i == len(self.layer) - 1 else None,
                "attentions": attentions,
            }
            if recomputation is not None and i % recomputation.every == 0:
                x = self._recomputed(layer, x, batch, recomputation.offload, asked)
            else:
                x = call_part(layer, BertLayer, batch, self.is_causal, x, **asked)
            x = _kept(x, batch, states)
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


def _prunes(layer: nn.Module) -> bool:
    """Whether a layer may be asked for some rows only: nobody looks on, and its parts are ours or known to map row by row."""
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


def _kept(x: Tensor, batch: PackedBatch, states: list[Tensor] | None) -> Tensor:
    """Adds a hidden state in the caller's form, and gives what to go on with: that very state, where gradients may be asked."""
    if states is None:
        return x
    states.append(batch.unpack(x) if batch.padded else x)
    return batch.pack(states[-1]) if batch.padded and torch.is_grad_enabled() else x


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
                position_ids = torch.arange(length, length + source.shape[1], device=source.device)
        batch = self.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if prefix:
            prefixes.attach(batch, prefix, before, config.is_decoder)
        if last_layer_rows is not None:
            self._check_rows(last_layer_rows, batch)
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
        if torch.jit.is_tracing():
            raise BackendError(
                "torch.jit.trace would keep the lengths and masks of its example: use torch.export, and torch.onnx.export with "
                "dynamo=True"
            )
        config = self.config
        limits = self._limits()
        source = inputs_embeds if input_ids is None else input_ids
        if isinstance(source, PackedBatch):
            check_tensor(source.position_ids, "position_ids")
        device = self.device
        if isinstance(source, Tensor | PackedBatch) and source.device != device and device.type != "meta":
            raise InputError(f"the inputs are on {source.device}, the model is on {device}")
        if not torch.compiler.is_compiling():
            interop.join(BertPreTrainedModel, ModelOutput)
            if device.type == "cpu":
                forking.before_forward()
            deferred.poll()
        if isinstance(input_ids, PackedBatch):
            beside = (attention_mask, token_type_ids, position_ids, inputs_embeds)
            if any(value is not None for value in beside):
                raise InputError("a PackedBatch carries its own mask, token_type_ids and position_ids: pass it alone")
            batch = input_ids
            if not batch.is_checked(limits):
                batch = packing.check_packed(batch, limits, self._waits_for_checks(device))
        else:
            dense = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() > 2 else None
            batch = packing.pack(
                input_ids,
                None if dense is not None else attention_mask,
                token_type_ids,
                position_ids,
                inputs_embeds=inputs_embeds,
                limits=limits,
                wait=self._waits_for_checks(device),
            )
            batch.padded = True
            if not torch.compiler.is_compiling():
                batch.mark_checked(limits)
            if dense is not None:
                batch.attention_bias = masks.bias_of_mask(dense, batch, config.num_attention_heads)
        bias, heads = batch.attention_bias, config.num_attention_heads
        if bias is not None and bias.shape[1] not in (1, heads):
            raise InputError(f"attention_bias has shape {tuple(bias.shape)}; the model has {heads} heads")
        if batch.inputs_embeds is not None and batch.inputs_embeds.shape[-1] != config.hidden_size:
            width = batch.inputs_embeds.shape[-1]
            raise InputError(f"inputs_embeds has width {width}; the model's hidden_size is {config.hidden_size}")
        if batch.inputs_embeds is not None and batch.inputs_embeds.dtype != self.dtype:
            batch = replace(batch, inputs_embeds=batch.inputs_embeds.to(self.dtype))
        return batch

    def _check_rows(self, rows: Tensor, batch: PackedBatch) -> None:
        """That `last_layer_rows` are rows of the batch; on a GPU, which would have to be waited for, heads see to it."""
        check_tensor(rows, "last_layer_rows")
        if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise InputError(f"last_layer_rows has shape {tuple(rows.shape)} and type {rows.dtype}; expected (M,) integers")
        on_host = rows.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_host and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < batch.num_tokens:
            raise InputError(
                f"last_layer_rows go from {int(rows.min())} to {int(rows.max())}; there are {batch.num_tokens} rows"
            )

    def _waits_for_checks(self, device: torch.device) -> bool:
        """Whether ids are checked before they are used: not where the embedding's kernel runs, which clamps bad ones."""
        if torch.compiler.is_compiling() or device.type == "cpu":
            return True
        parts = self.embeddings
        tables = (parts.word_embeddings, parts.position_embeddings, parts.token_type_embeddings)
        return not (is_plain(*tables, parts.LayerNorm, parts.dropout) and ops.clamps_ids(parts.word_embeddings.weight))

    def _limits(self) -> Limits:
        """Rows of the three tables as they stand, which may be others than the configuration's after a replacement."""
        tables = (self.embeddings.word_embeddings, self.embeddings.token_type_embeddings, self.embeddings.position_embeddings)
        config = self.config
        sizes = (config.vocab_size, config.type_vocab_size, config.max_position_embeddings)
        return Limits(*(getattr(table, "num_embeddings", size) for table, size in zip(tables, sizes, strict=True)))

    def pool(self, hidden_states: Tensor, batch: PackedBatch) -> Tensor:
        """(T, N) -> pooled (B, N); an empty sequence gives zeros."""
        if not batch.num_tokens:
            return hidden_states.new_zeros(batch.batch_size, hidden_states.shape[-1])
        first = hidden_states.index_select(0, batch.first_rows())
        if self.pools_rows(batch):
            return self.pool_rows(first, batch)
        assert self.pooler is not None
        # What transformers' pooler is given; a row that is padded on the left has its first token in a place that is free.
        padded = torch.cat([first[:, None], batch.unpack(hidden_states)[:, 1:]], dim=1)
        return batch.blank_empty(self.pooler(padded))

    def pools_rows(self, batch: PackedBatch) -> bool:
        """Whether the pooler may be given first tokens alone: not where it is of another class, or watched."""
        pooler: Any = self.pooler
        return is_unchanged(pooler, BertPooler) and not (batch.padded and is_watched(*pooler.modules()))

    def pool_rows(self, first_token_states: Tensor, batch: PackedBatch) -> Tensor:
        """(B, N) first tokens' states -> pooled (B, N); an empty sequence gives zeros."""
        assert self.pooler is not None
        return batch.blank_empty(self.pooler(first_token_states))


def as_asked(output: Any, return_dict: bool | None, config: BertConfig) -> Any:
    """The output, or its tuple where `return_dict` is False."""
    return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def _alone(part: nn.Module, hidden_states: Tensor) -> tuple[PackedBatch, Tensor | None]:
    """The batch and the seed of a part that is called without either: every row is a token."""
    batch = masks.pack_hidden(hidden_states if hidden_states.dim() == 3 else hidden_states[None], None, 1)
    return batch, seed_at(fresh_seeds(part, 1, batch.device), 0)
