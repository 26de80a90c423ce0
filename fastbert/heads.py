"""The eight task heads, with transformers' names, losses and outputs.

A head packs its inputs, asks the encoder for the rows that it reads, and unpacks what it returns. Sizes: B sequences,
S padded length, T packed tokens, N hidden, V vocabulary, C labels or choices, M labelled positions. Labels that are -100, and
labels of tokens under mask 0, do not count; a loss without any label is 0 and still attached to the graph.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastbert import ops
from fastbert.config import BertConfig
from fastbert.errors import ConfigError, InputError
from fastbert.model import BertModel, as_asked, dense, dense_and_activation, is_plain, refuse
from fastbert.outputs import (
    BertModelOutput,
    ClassifierOutput,
    MaskedLMOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
)
from fastbert.packing import PackedBatch
from fastbert.pretrained import BertPreTrainedModel
from fastbert.reference import cross_entropy_of_logits

IGNORE = -100


class BertPredictionHeadTransform(nn.Module):
    """LayerNorm(activation(h W + b)): what stands before the MLM decoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.hidden_act = config.hidden_act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(M, N) -> (M, N)."""
        x, norm = dense_and_activation(self.dense, hidden_states, self.hidden_act), self.LayerNorm
        return ops.layer_norm(x, None, norm.weight, norm.bias, norm.eps) if is_plain(norm) else norm(x)


class BertLMPredictionHead(nn.Module):
    """Scores of the whole vocabulary; the decoder is the word embedding table, with a bias of its own."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(M, N) -> (M, V)."""
        return dense(self.decoder, self.transform(hidden_states))

    def loss(self, hidden_states: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy at labelled positions, (M, N) and (M,), without keeping the scores."""
        if not is_plain(self.decoder):
            return cross_entropy_of_logits(self(hidden_states), labels)
        return ops.cross_entropy(self.transform(hidden_states), self.decoder.weight, self.decoder.bias, labels)


class BertOnlyMLMHead(nn.Module):
    """The MLM head alone."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)


class BertOnlyNSPHead(nn.Module):
    """The next-sentence head alone."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class BertPreTrainingHeads(nn.Module):
    """Both pre-training heads."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class _Head(BertPreTrainedModel):
    """What the heads share: one encoding, pruned to the rows a head reads, in the caller's form."""

    def _encode(
        self, batch: PackedBatch, rows: Tensor | None, hidden_states: bool | None, attentions: bool | None
    ) -> tuple[Tensor, BertModelOutput]:
        """Hidden states of `rows` (M, N), or of all tokens (T, N) if None; and the output they came from."""
        config = self.config
        hidden_states = config.output_hidden_states if hidden_states is None else hidden_states
        attentions = config.output_attentions if attentions is None else attentions
        prune = rows is not None and not hidden_states and not attentions
        output = self.bert(  # type: ignore[operator]
            batch,
            output_hidden_states=hidden_states,
            output_attentions=attentions,
            return_dict=True,
            last_layer_rows=rows if prune else None,
        )
        states = output.last_hidden_state
        return (states if prune or rows is None else states.index_select(0, rows)), output

    def _pool(self, batch: PackedBatch, hidden_states: bool | None, attentions: bool | None) -> tuple[Tensor, BertModelOutput]:
        """The pooled output (B, N); of the last layer only the [CLS] rows are computed."""
        bert: BertModel = self.bert  # type: ignore[assignment]
        if not batch.num_tokens:
            _, output = self._encode(batch, None, hidden_states, attentions)
            assert output.pooler_output is not None
            return output.pooler_output, output
        first, output = self._encode(batch, batch.first_rows(), hidden_states, attentions)
        return bert.pool_rows(first, batch), output

    def _finish(self, output: Any, encoded: BertModelOutput, batch: PackedBatch, padded: bool, return_dict: bool | None) -> Any:
        if encoded.hidden_states is not None:
            states = encoded.hidden_states
            output.hidden_states = tuple(batch.unpack(state) for state in states) if padded else states
        output.attentions = encoded.attentions
        return as_asked(output, return_dict, self.config)


class _MaskedLMHead(_Head):
    """The shared forward of the two language-model heads."""

    has_mlm_head = True
    shifted = False  # whether a token's label is scored by the token before it

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(self.config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool | None = None,
        **refused: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Scores of the vocabulary at every token, and the loss where labels are given.

        Args:
            labels: (B, S), or (T,) for a packed batch; -100 where nothing is to be predicted.
            return_logits: (B, S, V) scores, or (T, V) for a packed batch. None: in evaluation, or without labels; in training
                scores exist at labelled positions only, while the loss is computed.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        bert, head = self.bert, self.cls.predictions
        batch = bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        scored = None if labels is None else _token_labels(labels, batch, padded, self.config.vocab_size)
        if scored is not None and self.shifted:
            scored = _shift(scored, batch)
        if return_logits is None:
            return_logits = labels is None or not self.training
        rows = None if scored is None else (scored != IGNORE).nonzero().view(-1)
        states, encoded = self._encode(batch, None if return_logits else rows, output_hidden_states, output_attentions)
        output = MaskedLMOutput()
        if return_logits:
            logits = head(states)
            output.logits = batch.unpack(logits) if padded else logits
        if scored is not None and rows is not None:
            wanted = scored.index_select(0, rows)
            if return_logits:
                output.mlm_loss = cross_entropy_of_logits(logits.index_select(0, rows), wanted)
            else:
                output.mlm_loss = head.loss(states, wanted)
            if self.shifted:  # transformers computes this loss, and no other, in float32
                output.mlm_loss = output.mlm_loss.to(torch.promote_types(output.mlm_loss.dtype, torch.float32))
            output.loss, output.num_mlm_labels = output.mlm_loss, _count(rows)
        return self._finish(output, encoded, batch, padded, return_dict)


class BertForMaskedLM(_MaskedLMHead):
    """Masked language model. Paper, section 3.1, task 1."""


class BertLMHeadModel(_MaskedLMHead):
    """Left-to-right language model: each token predicts the next. Set `config.is_decoder` for causal attention."""

    shifted = True


class BertForPreTraining(_Head):
    """MLM and next-sentence prediction together. Paper, section 3.1."""

    has_mlm_head = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(self.config)
        self.cls = BertPreTrainingHeads(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool | None = None,
        **refused: Any,
    ) -> PreTrainingOutput | tuple[Any, ...]:
        """Both scores, and the sum of both losses; with labels of one kind only, that part.

        Args:
            labels: (B, S), or (T,) for a packed batch: MLM labels, -100 where nothing is to be predicted.
            next_sentence_label: (B,), 0 = B follows A, 1 = B is random, -100 = not counted.
            return_logits: MLM scores (B, S, V), or (T, V). None: in evaluation, or without `labels`.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        bert, heads = self.bert, self.cls
        batch = bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        scored = None if labels is None else _token_labels(labels, batch, padded, self.config.vocab_size)
        follows = None
        if next_sentence_label is not None:
            follows = _sequence_labels(next_sentence_label, "next_sentence_label", batch.batch_size, 2)
        if return_logits is None:
            return_logits = labels is None or not self.training
        rows = None if scored is None else (scored != IGNORE).nonzero().view(-1)
        output = PreTrainingOutput()
        if return_logits or rows is None or not batch.num_tokens:
            states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
            pooled = bert.pool(states, batch)
            at_labels = None if rows is None else states.index_select(0, rows)
        else:
            both = torch.cat([batch.first_rows(), rows])
            states, encoded = self._encode(batch, both, output_hidden_states, output_attentions)
            first, at_labels = states.split([batch.batch_size, rows.shape[0]])
            pooled = bert.pool_rows(first, batch)
        output.seq_relationship_logits = heads.seq_relationship(pooled)
        if return_logits:
            logits = heads.predictions(states)
            output.prediction_logits = batch.unpack(logits) if padded else logits
        if scored is not None and rows is not None and at_labels is not None:
            wanted = scored.index_select(0, rows)
            if return_logits:
                output.mlm_loss = cross_entropy_of_logits(logits.index_select(0, rows), wanted)
            else:
                output.mlm_loss = heads.predictions.loss(at_labels, wanted)
            output.num_mlm_labels = _count(rows)
        if follows is not None:
            output.nsp_loss = cross_entropy_of_logits(output.seq_relationship_logits, follows)
            output.num_nsp_labels = (follows != IGNORE).sum()
        losses = [loss for loss in (output.mlm_loss, output.nsp_loss) if loss is not None]
        output.loss = sum(losses[1:], losses[0]) if losses else None
        return self._finish(output, encoded, batch, padded, return_dict)


class BertForNextSentencePrediction(_Head):
    """Next-sentence prediction: logits (B, 2), 0 = B follows A, 1 = B is random. Paper, section 3.1, task 2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(self.config)
        self.cls = BertOnlyNSPHead(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of both classes, and the loss where `labels` (B,) are given; the rest as in `BertModel.forward`."""
        refuse(self, refused)
        batch = self.bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        pooled, encoded = self._pool(batch, output_hidden_states, output_attentions)
        logits = self.cls.seq_relationship(pooled)
        output = ClassifierOutput(logits=logits)
        if labels is not None:
            follows = _sequence_labels(labels, "labels", batch.batch_size, 2)
            output.loss = cross_entropy_of_logits(logits, follows)
        return self._finish(output, encoded, batch, not isinstance(input_ids, PackedBatch), return_dict)


class BertForSequenceClassification(_Head):
    """One label, several labels or a number for a text or a pair: logits (B, C). Paper, section 4.1."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.bert = BertModel(self.config)
        self.dropout = nn.Dropout(_classifier_dropout(self.config))
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of the labels, and the loss where labels are given.

        Args:
            labels: (B,) integers for one label each; (B, C) floats for several; (B,) floats when C is 1 (regression).
                `config.problem_type` says which; None decides by C and the type, as transformers.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        batch = self.bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        pooled, encoded = self._pool(batch, output_hidden_states, output_attentions)
        logits = self.classifier(self.dropout(pooled))
        output = ClassifierOutput(logits=logits)
        if labels is not None:
            output.loss = _sequence_loss(logits, labels, self.config.problem_type)
        return self._finish(output, encoded, batch, not isinstance(input_ids, PackedBatch), return_dict)


class BertForMultipleChoice(_Head):
    """Picks one of C continuations: inputs (B, C, S), logits (B, C)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(self.config)
        self.dropout = nn.Dropout(_classifier_dropout(self.config))
        self.classifier = nn.Linear(self.config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of the choices, and the loss where `labels` (B,) are given; every input carries the axis C after B."""
        refuse(self, refused)
        if isinstance(input_ids, PackedBatch):
            raise InputError("BertForMultipleChoice takes (batch, choices, sequence) tensors, not a PackedBatch")
        source, extra = (inputs_embeds, 1) if input_ids is None else (input_ids, 0)
        if source is not None and source.dim() != 3 + extra:
            form = "(batch, choices, sequence" + (", hidden)" if extra else ")")
            raise InputError(f"the input has shape {tuple(source.shape)}; expected {form}")
        choices = 1 if source is None else source.shape[1]
        batch = self.bert.pack_inputs(
            _merge_choices(input_ids),
            _merge_choices(attention_mask),
            _merge_choices(token_type_ids),
            _merge_choices(position_ids),
            None if inputs_embeds is None else inputs_embeds.flatten(0, 1),
        )
        pooled, encoded = self._pool(batch, output_hidden_states, output_attentions)
        logits = self.classifier(self.dropout(pooled)).view(-1, choices)
        output = ClassifierOutput(logits=logits)
        if labels is not None:
            right = _sequence_labels(labels, "labels", logits.shape[0], choices)
            output.loss = cross_entropy_of_logits(logits, right)
        return self._finish(output, encoded, batch, True, return_dict)


class BertForTokenClassification(_Head):
    """A label for every token: logits (B, S, C), or (T, C) for a packed batch. Paper, section 5.3."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.bert = BertModel(self.config, add_pooling_layer=False)
        self.dropout = nn.Dropout(_classifier_dropout(self.config))
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of the labels, and the loss where `labels` (B, S), or (T,), are given; the rest as in `BertModel.forward`."""
        refuse(self, refused)
        batch = self.bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
        logits = self.classifier(self.dropout(states))
        output = ClassifierOutput(logits=batch.unpack(logits) if padded else logits)
        if labels is not None:
            wanted = _token_labels(labels, batch, padded, self.config.num_labels)
            output.loss = cross_entropy_of_logits(logits, wanted)
        return self._finish(output, encoded, batch, padded, return_dict)


class BertForQuestionAnswering(_Head):
    """Start and end of the answer: logits (B, S) each, or (T,) for a packed batch. Paper, section 4.2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if self.config.num_labels != 2:
            raise ConfigError(f"num_labels = {self.config.num_labels}: question answering has two, the start and the end")
        self.bert = BertModel(self.config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | str | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> QuestionAnsweringOutput | tuple[Any, ...]:
        """Scores of start and end; under mask 0 the dtype's lowest value, so that a softmax covers real tokens only.

        Args:
            start_positions, end_positions: (B,) columns, in the padded form's count. At or beyond S, or under mask 0, they do
                not count. The loss is the mean of both cross entropies.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        batch = self.bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
        packed = self.qa_outputs(states)
        logits = batch.unpack(packed, fill=torch.finfo(packed.dtype).min)
        start, end = logits.unbind(-1)
        output = QuestionAnsweringOutput()
        if start_positions is not None and end_positions is not None:
            losses = [
                cross_entropy_of_logits(scores, _answer_labels(positions, name, batch))
                for scores, positions, name in (
                    (start, start_positions, "start_positions"),
                    (end, end_positions, "end_positions"),
                )
            ]
            output.loss = (losses[0] + losses[1]) / 2
        given = (start, end) if padded else packed.unbind(-1)
        output.start_logits, output.end_logits = (scores.contiguous() for scores in given)
        return self._finish(output, encoded, batch, padded, return_dict)


# -- labels and losses -------------------------------------------------------------------------------------------------------


def _sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """MSE, cross entropy or binary cross entropy, by the problem's type."""
    size, count = logits.shape
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if problem_type is None:
        problem_type = "multi_label_classification"
        if count == 1:
            problem_type = "regression"
        elif whole:
            problem_type = "single_label_classification"
    if problem_type == "single_label_classification":
        return cross_entropy_of_logits(logits, _sequence_labels(labels, "labels", size, count))
    if labels.numel() != logits.numel() or labels.shape[:1] != (size,):
        raise InputError(f"labels has shape {tuple(labels.shape)}; {problem_type} expects ({size}, {count})")
    targets = labels.view(size, count).to(logits.dtype)
    if problem_type == "regression":
        return F.mse_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)


def _sequence_labels(labels: Tensor, name: str, size: int, count: int) -> Tensor:
    """(B,) labels, one a sequence, checked to be below `count`."""
    if labels.is_floating_point() or labels.numel() != size:
        got = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{name} has {got}; expected ({size},) integers")
    return _checked(labels.reshape(-1).long(), labels, name, count)


def _token_labels(labels: Tensor, batch: PackedBatch, padded: bool, count: int) -> Tensor:
    """(T,) labels from (B, S) or (T,), checked to be below `count`; -100 at tokens that are not real."""
    shape = (batch.batch_size, batch.padded_length) if padded else (batch.num_tokens,)
    if labels.is_floating_point() or labels.shape != shape:
        got = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"labels has {got}; expected {shape} integers")
    packed = (batch.pack(labels) if padded else labels).long()
    if batch.valid is not None:
        packed = packed.masked_fill(~batch.valid, IGNORE)
    bad = _out_of_range(packed, count)
    if bad is not None:
        place = batch.place(bad) if padded else (bad,)
        where = ", ".join(map(str, place))
        raise InputError(f"labels[{where}] = {int(packed[bad])} is neither {IGNORE} nor in 0..{count - 1}")
    return packed


def _checked(flat: Tensor, given: Tensor, name: str, count: int) -> Tensor:
    bad = _out_of_range(flat, count)
    if bad is not None:
        raise InputError(f"{name}[{bad}] = {int(flat[bad])} is neither {IGNORE} nor in 0..{count - 1}")
    return flat


def _out_of_range(labels: Tensor, count: int) -> int | None:
    """Index of the first label that is neither -100 nor below `count`."""
    if torch.compiler.is_compiling():
        return None
    wrong = ((labels < 0) | (labels >= count)) & (labels != IGNORE)
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None


def _shift(labels: Tensor, batch: PackedBatch) -> Tensor:
    """(T,) labels moved to the token before, within each sequence; its last token predicts nothing."""
    starts = torch.zeros(labels.shape[0] + 1, dtype=torch.bool, device=labels.device)
    starts = starts.index_fill(0, batch.cu_seqlens.long(), True)
    return F.pad(labels, (0, 1), value=IGNORE)[1:].masked_fill(starts[1:], IGNORE)


def _answer_labels(positions: Tensor, name: str, batch: PackedBatch) -> Tensor:
    """(B,) columns; -100 where one lies at or beyond S or on no token. Negative ones count as 0, as in transformers."""
    columns = _flat_positions(positions, name, batch.batch_size).clamp(0, batch.padded_length)
    real = batch.unpack(torch.ones(batch.num_tokens, device=batch.device)) > 0
    real = F.pad(real, (0, 1))
    return columns.masked_fill(~real.gather(1, columns[:, None]).squeeze(1), IGNORE)


def _flat_positions(positions: Tensor, name: str, size: int) -> Tensor:
    if positions.is_floating_point() or positions.numel() != size:
        got = f"shape {tuple(positions.shape)} and type {positions.dtype}"
        raise InputError(f"{name} has {got}; expected ({size},) integers")
    return positions.reshape(-1).long()


def _merge_choices(value: Any) -> Any:
    return value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() >= 3 else value


def _count(rows: Tensor) -> Tensor:
    return torch.tensor(rows.shape[0], device=rows.device)


def _classifier_dropout(config: BertConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
