"""The parts of a layer, with transformers' names and module tree: embeddings, attention, the post-norm join, feed-forward.

    layer:  attention -> join -> feed-forward -> join         join:  LayerNorm(dropout(x W + b) + residual)

Inside a model every part sees packed rows, (T, N). Called alone, or while a hook looks on, a part takes and gives (B, S, N), as
transformers' part of that name does: see `calling`. Sizes as in encoder.py.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import ops, packing
from fastbert.errors import InputError
from fastbert.model import masks
from fastbert.model.calling import (
    GELU_FORMS,
    call,
    call_part,
    call_rows,
    dense,
    dense_and_activation,
    dropout_p,
    fresh_seeds,
    is_plain,
    join,
    joined_dense,
    plain,
    seed_at,
    without_gradient_at,
)
from fastbert.model.config import BertConfig
from fastbert.model.keywords import named, refuse
from fastbert.packing import PackedBatch
from fastbert.packing.inputs import as_index
from fastbert.packing.positions import padded_positions


class BertEmbeddings(nn.Module):
    """LayerNorm(word + segment + position), then dropout. Paper, figure 2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        places = config.max_position_embeddings
        self.position_embeddings = nn.Embedding(places, config.hidden_size, padding_idx=config.padding_position)
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
            padding = self.position_embeddings.padding_idx
            if position_ids is None and padding is not None:
                position_ids = padded_positions(input_ids, inputs_embeds, padding, past_key_values_length)
            elif position_ids is None and past_key_values_length and source is not None:
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
            tables = (word.weight, without_gradient_at(position.weight, position.padding_idx), segment.weight)
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
        if rows is not None:
            return torch.cat([self._queries_at(x, rows), dense(self.key, x), dense(self.value, x)], dim=1)
        return joined_dense((self.query, self.key, self.value), x, batch)

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
        product, norm = self.dense, self.LayerNorm
        if is_plain(product, norm, self.dropout):
            weights = (product.weight, product.bias, norm.weight, norm.bias)
            p = dropout_p(self.dropout)
            joined = ops.linear_join(hidden_states, input_tensor, *weights, norm.eps, p, seed, narrow=False).residual
        else:
            joined = join(norm, self.dropout, dense(product, hidden_states, batch), input_tensor, batch, seed)
        return batch.unpack(joined) if padded else joined


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
            weights = (up.dense.weight, up.dense.bias, down.dense.weight, down.dense.bias)
            norm = down.LayerNorm
            if is_plain(norm, down.dropout):
                p, states = dropout_p(down.dropout), ops.States(x, x)
                return ops.ffn_join(states, *weights, norm.weight, norm.bias, norm.eps, p, seed, form, narrow=False).residual
            return join(norm, down.dropout, ops.ffn(x, *weights, form), x, batch, seed)
        return call_rows(down, BertOutput, batch, call_rows(up, BertIntermediate, batch, x), x, seed=seed)


def _alone(part: nn.Module, hidden_states: Tensor) -> tuple[PackedBatch, Tensor | None]:
    """The batch and the seed of a part that is called without either: every row is a token."""
    batch = masks.pack_hidden(hidden_states if hidden_states.dim() == 3 else hidden_states[None], None, 1)
    return batch, seed_at(fresh_seeds(part, 1, batch.device), 0)
