"""The encoder of Devlin et al. 2018, with transformers' module tree, run on packed tokens.

    embeddings -> L x [ attention -> join -> feed-forward -> join ] -> pooler

Read top to bottom. Sizes: B sequences, S padded length, T packed tokens, H heads, D head size, N hidden, F intermediate,
M rows that a head reads. Layers see (T, N); `packing` stands at the door, so no layer ever meets padding.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from fastbert import forking, late, ops, packing
from fastbert.config import BertConfig
from fastbert.errors import ArgumentError, BackendError, InputError
from fastbert.inputs import Limits, check_tensor
from fastbert.outputs import BertModelOutput
from fastbert.packing import PackedBatch
from fastbert.pretrained import BertPreTrainedModel

_GELU_FORMS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_OTHER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

# What transformers' BERT takes and an encoder has no use for: fine when None or False, refused by name otherwise.
_REFUSED = {
    "encoder_hidden_states": "fastbert is an encoder and has no cross-attention",
    "encoder_attention_mask": "fastbert is an encoder and has no cross-attention",
    "past_key_values": "fastbert keeps no key-value cache",
    "use_cache": "fastbert keeps no key-value cache",
    "cache_position": "fastbert keeps no key-value cache",
    "head_mask": "head masks are not supported; attention can be masked by a 4-D attention_mask",
    "cross_attn_head_mask": "fastbert is an encoder and has no cross-attention",
}


class BertEmbeddings(nn.Module):
    """LayerNorm(word + segment + position), then dropout. Paper, figure 2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, batch: PackedBatch, seed: Tensor | None = None) -> Tensor:
        """Packed batch -> (T, N)."""
        word, position, segment = self.word_embeddings, self.position_embeddings, self.token_type_embeddings
        ids, types, positions = batch.input_ids, batch.token_type_ids, batch.position_ids
        if ids is not None and is_plain(word, position, segment, self.LayerNorm, self.dropout):
            tables = (word.weight, position.weight, segment.weight)
            norm = self.LayerNorm
            p = dropout_p(self.dropout)
            return ops.embedding(ids, types, positions, *tables, norm.weight, norm.bias, norm.eps, p, seed, word.padding_idx)
        words = batch.inputs_embeds if ids is None else word(ids) if is_plain(word) else _called(word, batch, ids)
        return self.dropout(self.LayerNorm(words + segment(types) + position(positions)))


def _called(word: nn.Module, batch: PackedBatch, ids: Tensor) -> Tensor:
    """(T, N) from word embeddings that must be called: a hook or another class sees (B, S) ids, and gives (B, S, N)."""
    padded = batch.unpack(ids)
    words = word(padded)
    if words.dim() != 3 or words.shape[:2] != padded.shape:
        raise InputError(
            f"the word embeddings ({type(word).__name__}) gave {tuple(words.shape)} for ids of shape {tuple(padded.shape)}: "
            "what changes the number of tokens, such as prompts, goes in as inputs_embeds with an attention_mask"
        )
    return batch.pack(words)


class BertSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v for H heads. Paper, section 3; Vaswani et al. 2017."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.head_dim
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.is_causal = config.is_decoder

    def forward(
        self,
        hidden_states: Tensor,
        batch: PackedBatch,
        seed: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(T, N) -> (T, N), or (M, N) for the given rows; and the probabilities (B, H, S, S) where asked for."""
        qkv = self._project(hidden_states, rows).view(-1, 3, self.num_attention_heads, self.attention_head_size)
        p = dropout_p(self.dropout)
        probs = None
        if batch.attention_bias is None and not output_attentions:
            context = ops.attention(qkv, batch.cu_seqlens, batch.max_seqlen, p, seed, self.is_causal)
        else:
            padded, probs = ops.masked_attention(batch.unpack(qkv), _dense_bias(batch, self.is_causal), p, seed)
            context = batch.pack(padded)
        context = context.flatten(1)
        return (context if rows is None else context.index_select(0, rows)), probs

    def _project(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """(T, N) -> (T, 3N)."""
        linears = (self.query, self.key, self.value)
        if rows is not None:
            return torch.cat([self._queries_at(x, rows), dense(self.key, x), dense(self.value, x)], dim=1)
        if is_plain(*linears):
            return ops.joined_linear(x, [m.weight for m in linears], [m.bias for m in linears])
        return torch.cat([dense(m, x) for m in linears], dim=1)

    def _queries_at(self, x: Tensor, rows: Tensor) -> Tensor:
        """(T, N) with the queries of `rows`, and zeros elsewhere: nobody reads what those rows attend to."""
        query = dense(self.query, x.index_select(0, rows))
        ordinal = torch.arange(rows.shape[0], device=rows.device)
        owner = ordinal.new_full((x.shape[0],), rows.shape[0]).scatter_reduce(0, rows, ordinal, "amin")
        # A row may be named twice ([CLS] with a label, an empty sequence); its gradient must reach one of the copies only.
        query = torch.where((owner.index_select(0, rows) == ordinal)[:, None], query, query.detach())
        return query.new_zeros(x.shape[0], query.shape[1]).index_copy(0, rows, query)


class BertSelfOutput(nn.Module):
    """LayerNorm(dropout(x W + b) + residual), after attention."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor, seed: Tensor | None = None) -> Tensor:
        """(T, N) and the residual (T, N) -> (T, N)."""
        return _dense_and_join(self, hidden_states, input_tensor, seed)


class BertAttention(nn.Module):
    """Self-attention and its join."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertSelfOutput(config)

    def forward(
        self,
        hidden_states: Tensor,
        batch: PackedBatch,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(T, N) -> (T, N), or (M, N) for the given rows; and the probabilities where asked for."""
        context, probs = self.self(hidden_states, batch, _seed(seeds, 0), rows, output_attentions)
        residual = hidden_states if rows is None else hidden_states.index_select(0, rows)
        return self.output(context, residual, _seed(seeds, 1)), probs


class BertIntermediate(nn.Module):
    """The first half of the feed-forward block: activation(x W + b)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.hidden_act = config.hidden_act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(T, N) -> (T, F)."""
        return dense_and_activation(self.dense, hidden_states, self.hidden_act)


class BertOutput(nn.Module):
    """The second half of the feed-forward block and its join."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor, seed: Tensor | None = None) -> Tensor:
        """(T, F) and the residual (T, N) -> (T, N)."""
        return _dense_and_join(self, hidden_states, input_tensor, seed)


class BertLayer(nn.Module):
    """One layer: attention, then feed-forward, each with its join."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self,
        hidden_states: Tensor,
        batch: PackedBatch,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(T, N) -> (T, N), or (M, N) for the given rows; and the probabilities where asked for."""
        x, probs = self.attention(hidden_states, batch, seeds, rows, output_attentions)
        up, down = self.intermediate, self.output
        form = _GELU_FORMS.get(up.hidden_act) if isinstance(up, BertIntermediate) else None
        if form is not None and is_plain(up, down, up.dense, down.dense):
            down_bias, join_bias = (None, down.dense.bias) if ops.fuses_bias(x) else (down.dense.bias, None)
            y = ops.ffn(x, up.dense.weight, up.dense.bias, down.dense.weight, down_bias, form)
            return _join(down, y, join_bias, x, _seed(seeds, 2)), probs
        return down(up(x), x, _seed(seeds, 2)), probs


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: Tensor,
        batch: PackedBatch,
        seeds: Tensor | None = None,
        rows: Tensor | None = None,
        output_attentions: bool = False,
        recompute_every: int = 0,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(T, N) -> the hidden states before and after each layer, and the probabilities where asked for.

        Only the last layer is restricted to `rows`: the layers before it need all tokens as keys and values. Of each
        `recompute_every` layers one is computed again in backward; 0 means none.
        """
        states, attentions = [hidden_states], []
        for i, layer in enumerate(self.layer):
            layer_seeds = None if seeds is None else seeds[3 * i : 3 * i + 3]
            layer_rows = rows if i == len(self.layer) - 1 else None
            arguments = (states[-1], batch, layer_seeds, layer_rows, output_attentions)
            if recompute_every and i % recompute_every == 0:
                state, probs = recompute(
                    _under(ops.current_backend(), layer),
                    *arguments,
                    use_reentrant=False,
                    preserve_rng_state=not is_plain(*layer.modules()),
                )
            else:
                state, probs = layer(*arguments)
            states.append(state)
            if probs is not None:
                attentions.append(probs)
        if rows is not None and not self.layer:
            states.append(hidden_states.index_select(0, rows))
        return states, attentions


class BertPooler(nn.Module):
    """tanh(h W + b) of each sequence's first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, first_token_states: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        return self.activation(dense(self.dense, first_token_states))


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
        self.gradient_checkpointing = False
        self.checkpointing_interval = 1
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
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
        batch = self.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)

        if last_layer_rows is not None:
            self._check_rows(last_layer_rows, batch)
        seeds = self._draw_seeds(batch.device)
        hidden_states = self.embeddings(batch, _seed(seeds, 0))
        states, attentions = self.encoder(
            hidden_states,
            batch,
            None if seeds is None else seeds[1:],
            last_layer_rows,
            output_attentions,
            self.checkpointing_interval if self.gradient_checkpointing and self.training and torch.is_grad_enabled() else 0,
        )
        pooled = None
        if self.pooler is not None and last_layer_rows is None:
            pooled = self.pool(states[-1], batch)
        if padded and last_layer_rows is None:
            kept = states if output_hidden_states else states[-1:]
            states = [batch.unpack(state) for state in kept]
        output = BertModelOutput(
            last_hidden_state=states[-1],
            pooler_output=pooled,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return as_asked(output, return_dict, config)

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
        if isinstance(source, Tensor | PackedBatch) and source.device != self.device:
            raise InputError(f"the inputs are on {source.device}, the model is on {self.device}")
        wait = True
        if not torch.compiler.is_compiling():
            if self.device.type == "cpu":
                forking.before_forward()
            late.poll()
            wait = self.device.type == "cpu" or not self._clamps_ids()
        if isinstance(input_ids, PackedBatch):
            beside = (attention_mask, token_type_ids, position_ids, inputs_embeds)
            if any(value is not None for value in beside):
                raise InputError("a PackedBatch carries its own mask, token_type_ids and position_ids: pass it alone")
            batch = packing.check_packed(input_ids, limits, wait)
        else:
            dense = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() > 2 else None
            batch = packing.pack(
                input_ids,
                None if dense is not None else attention_mask,
                token_type_ids,
                position_ids,
                inputs_embeds=inputs_embeds,
                limits=limits,
                wait=wait,
            )
            if dense is not None:
                batch.attention_bias = _bias_of_mask(dense, batch, config.num_attention_heads)
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

    def _clamps_ids(self) -> bool:
        """Whether the embedding's kernel runs, which stands ids that no table has: then their check need not be waited for."""
        parts = self.embeddings
        tables = (parts.word_embeddings, parts.position_embeddings, parts.token_type_embeddings)
        return is_plain(*tables, parts.LayerNorm, parts.dropout) and ops.clamps_ids(parts.word_embeddings.weight)

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
        return self.pool_rows(hidden_states.index_select(0, batch.first_rows()), batch)

    def pool_rows(self, first_token_states: Tensor, batch: PackedBatch) -> Tensor:
        """(B, N) first tokens' states -> pooled (B, N); an empty sequence gives zeros."""
        assert self.pooler is not None
        return batch.blank_empty(self.pooler(first_token_states))

    def _draw_seeds(self, device: torch.device) -> Tensor | None:
        """One seed for each dropout site, (1 + 3L,) int64, from torch's generator of that device; None in evaluation."""
        if not self.training:
            return None
        return torch.randint(2**62, (1 + 3 * len(self.encoder.layer),), device=device)


# -- helpers of the layers, shared with the heads ----------------------------------------------------------------------------

_LAYER_PARTS = (BertLayer, BertAttention, BertSelfAttention, BertSelfOutput, BertIntermediate, BertOutput)
_PLAIN = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout, *_LAYER_PARTS)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(*modules: nn.Module) -> bool:
    """Whether modules may be bypassed for an op on their parameters, and draw no random numbers but from the seeds.

    Only the very classes that BERT is built of, with plain Parameters, no hook and no forward of their own: a LoRA layer, a
    quantised linear or a hooked module is called instead.
    """
    return all(
        type(module) in _PLAIN
        and not any(getattr(module, hooks) for hooks in _HOOKS)
        and "forward" not in module.__dict__
        and all(type(value) is nn.Parameter for value in module._parameters.values())
        and ("weight" in module._parameters or not isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding))
        for module in modules
    )


def dropout_p(module: nn.Module) -> float:
    """The probability that a dropout module applies now."""
    return float(module.p) if isinstance(module, nn.Dropout) and module.training else 0.0


def dense(module: nn.Linear, x: Tensor) -> Tensor:
    """x W + b."""
    return ops.linear(x, module.weight, module.bias) if is_plain(module) else module(x)


def dense_and_activation(module: nn.Linear, x: Tensor, name: str) -> Tensor:
    """activation(x W + b)."""
    if name in _GELU_FORMS and is_plain(module):
        return ops.linear_gelu(x, module.weight, module.bias, _GELU_FORMS[name])
    x = dense(module, x)
    return F.gelu(x, approximate=_GELU_FORMS[name]) if name in _GELU_FORMS else _OTHER_ACTIVATIONS[name](x)


def refuse(model: nn.Module, keywords: dict[str, Any]) -> None:
    """Raises for a keyword that `model.forward` does not have, naming the nearest, or that an encoder has no use for."""
    for name, value in keywords.items():
        if name not in _REFUSED:
            known = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known)}"
            raise ArgumentError(f"{type(model).__name__} got an unknown keyword {name!r}{hint}")
        if value is not None and value is not False:
            raise ArgumentError(f"{name} is not supported: {_REFUSED[name]}")


def as_asked(output: Any, return_dict: bool | None, config: BertConfig) -> Any:
    """The output, or its tuple where `return_dict` is False."""
    return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def _under(backend: str, layer: nn.Module) -> Callable[..., Any]:
    """The layer, in whatever thread and block it is called: a recomputation may run in another than the forward did."""

    def run(*arguments: Any) -> Any:
        with ops.backend(backend):
            return layer(*arguments)

    return run


def _dense_and_join(module: BertSelfOutput | BertOutput, x: Tensor, residual: Tensor, seed: Tensor | None) -> Tensor:
    if is_plain(module.dense) and ops.fuses_bias(x):
        return _join(module, ops.linear(x, module.dense.weight, None), module.dense.bias, residual, seed)
    return _join(module, dense(module.dense, x), None, residual, seed)


def _join(
    module: BertSelfOutput | BertOutput, x: Tensor, x_bias: Tensor | None, residual: Tensor, seed: Tensor | None
) -> Tensor:
    """LayerNorm(dropout(x + bias) + residual): the post-norm join."""
    norm = module.LayerNorm
    if is_plain(norm, module.dropout):
        return ops.layer_norm(x, residual, norm.weight, norm.bias, norm.eps, x_bias, dropout_p(module.dropout), seed)
    x = x if x_bias is None else x + x_bias
    return norm(module.dropout(x) + residual)


def _seed(seeds: Tensor | None, index: int) -> Tensor | None:
    return None if seeds is None else seeds[index]


def _dense_bias(batch: PackedBatch, causal: bool) -> Tensor | None:
    """What is added to the padded scores: the caller's mask, else padding and causality."""
    if batch.attention_bias is not None and batch.valid is None:
        return batch.attention_bias
    bias = batch.attention_bias
    if bias is None:
        ones = torch.ones(batch.num_tokens, dtype=torch.bool, device=batch.device)
        bias = packing.mask_to_bias(batch.unpack(ones)[:, None, None, :])
    if causal:
        bias = bias + ops.reference.causal_bias(batch.padded_length, batch.device)
    return bias


def _bias_of_mask(mask: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """A 3-D or 4-D mask as an additive bias that broadcasts to (B, H, S, S)."""
    check_tensor(mask, "attention_mask")
    size, length = batch.batch_size, batch.padded_length
    shape = tuple(mask.shape)
    if shape not in ((size, length, length), (size, 1, length, length), (size, heads, length, length)):
        raise InputError(
            f"attention_mask has shape {shape}; expected ({size}, {length}), ({size}, {length}, {length}) "
            f"or ({size}, 1 or {heads}, {length}, {length})"
        )
    if mask.device != batch.device:
        raise InputError(f"attention_mask is on {mask.device}, the other inputs are on {batch.device}")
    additive = mask.is_floating_point() and mask.dim() == 4
    unfit = mask.is_complex() or (mask.is_floating_point() and mask.dtype.itemsize < 2)
    if not (unfit or additive or mask.dtype == torch.bool or torch.compiler.is_compiling()):
        unfit = bool(((mask != 0) & (mask != 1)).any())
    if unfit:
        raise InputError(
            f"attention_mask of shape {shape} and {mask.dtype} holds values other than 1, where a token may attend, and 0: "
            "what is added to the scores is a 4-D mask of floats"
        )
    if not additive:
        return packing.mask_to_bias(mask != 0 if mask.dim() == 4 else (mask != 0)[:, None])
    return mask.masked_fill(mask <= torch.finfo(mask.dtype).min, float("-inf"))
