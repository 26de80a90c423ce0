"""The heads of sentence-level and token-level tasks, with transformers' names, losses and outputs.

A head packs its inputs, asks the encoder for the rows that it reads, and unpacks what it returns. Sizes: B sequences,
S padded length, T packed tokens, N hidden, C labels or choices. The language-model heads stand in lm_heads.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastbert.errors import ConfigError, InputError
from fastbert.model.calling import call, is_unchanged, is_watched, repeatable
from fastbert.model.config import BertConfig
from fastbert.model.encoder import BertModel, as_asked
from fastbert.model.flattening import takes_flattened
from fastbert.model.keywords import named, refuse
from fastbert.model.losses import answer_labels, sequence_labels, sequence_loss, token_labels
from fastbert.model.outputs import BertModelOutput, ClassifierOutput, QuestionAnsweringOutput
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.ops.reference import cross_entropy_of_logits
from fastbert.packing import PackedBatch


class TaskHead(BertPreTrainedModel):
    """What the heads share: one encoding, pruned to the rows a head reads, in the caller's form."""

    base_model_class: ClassVar[type[BertModel]] = BertModel

    def add_base_model(self, add_pooling_layer: bool = True) -> None:
        """Makes the encoder, under the name that its family gives it: `bert`."""
        setattr(self, self.base_model_prefix, self.base_model_class(self.config, add_pooling_layer))

    def _encode(
        self, batch: PackedBatch, rows: Tensor | None, hidden_states: bool | None, attentions: bool | None
    ) -> tuple[Tensor, BertModelOutput]:
        """Hidden states of `rows` (M, N), or of all tokens (T, N) if None; and the output they came from."""
        config = self.config
        hidden_states = config.output_hidden_states if hidden_states is None else hidden_states
        attentions = config.output_attentions if attentions is None else attentions
        asked = {"output_hidden_states": hidden_states, "output_attentions": attentions, "return_dict": True}
        encoder: nn.Module = self.base_model
        if batch.padded and not self._reads_rows():
            inputs = batch.padded_inputs()
            output = encoder(inputs.pop("input_ids"), **inputs, **asked)
            states = batch.pack(output.last_hidden_state)
            return (states if rows is None else states.index_select(0, rows)), output
        prune = rows is not None and not hidden_states and not attentions and self._reads_rows()
        output = encoder(batch, **asked, last_layer_rows=rows if prune else None)
        states = output.last_hidden_state
        return (states if prune or rows is None else states.index_select(0, rows)), output

    def _reads_rows(self) -> bool:
        """Whether the encoder may compute only the rows that the head reads: not if it has hooks or another class."""
        encoder: Any = self.base_model
        return is_unchanged(encoder, BertModel) and not is_watched(encoder)

    def _pool(self, batch: PackedBatch, hidden_states: bool | None, attentions: bool | None) -> tuple[Tensor, BertModelOutput]:
        """The pooled output (B, N); of the last layer only the [CLS] rows are computed."""
        encoder: BertModel = self.base_model
        if not self._reads_rows():
            _, output = self._encode(batch, None, hidden_states, attentions)
            assert output.pooler_output is not None
            return output.pooler_output, output
        if not batch.num_tokens or not encoder.pools_rows(batch):
            _, output = self._encode(batch, None, hidden_states, attentions)
            assert output.pooler_output is not None
            return output.pooler_output, output
        first, output = self._encode(batch, batch.first_rows(), hidden_states, attentions)
        return encoder.pool_rows(first, batch), output

    def _finish(self, output: Any, encoded: BertModelOutput, return_dict: bool | None) -> Any:
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return as_asked(output, return_dict, self.config)


class BertOnlyNSPHead(nn.Module):
    """The next-sentence head alone."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, pooled_output: Tensor) -> Tensor:
        """(B, N) -> (B, 2)."""
        return self.seq_relationship(pooled_output)


class BertForNextSentencePrediction(TaskHead):
    """Next-sentence prediction: logits (B, 2), 0 = B follows A, 1 = B is random. Paper, section 3.1, task 2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.add_base_model()
        self.cls = BertOnlyNSPHead(self.config)
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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of both classes, and the loss where `labels` (B,) are given; the rest as in `BertModel.forward`."""
        refuse(self, refused)
        batch = self.base_model.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        pooled, encoded = self._pool(batch, output_hidden_states, output_attentions)
        logits = self.cls(pooled)
        output = ClassifierOutput(logits=logits)
        if labels is not None:
            follows = sequence_labels(labels, "labels", batch.batch_size, 2)
            output.loss = cross_entropy_of_logits(logits, follows)
        return self._finish(output, encoded, return_dict)


class BertForSequenceClassification(TaskHead):
    """One label, several labels or a number for a text or a pair: logits (B, C). Paper, section 4.1."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.add_base_model()
        self.add_classifier()
        self.post_init()

    def add_classifier(self) -> None:
        """Makes the head."""
        self.dropout = nn.Dropout(self.config.head_dropout)
        self.classifier: nn.Module = nn.Linear(self.config.hidden_size, self.config.num_labels)

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
        batch = self.base_model.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits, encoded = self._scores(batch, output_hidden_states, output_attentions)
        output = ClassifierOutput(logits=logits)
        if labels is not None:
            output.loss = sequence_loss(logits, labels, self.config.problem_type)
        return self._finish(output, encoded, return_dict)

    def _scores(
        self, batch: PackedBatch, hidden_states: bool | None, attentions: bool | None
    ) -> tuple[Tensor, BertModelOutput]:
        """(B, C), and the output that they came from."""
        pooled, encoded = self._pool(batch, hidden_states, attentions)
        return self.classifier(self.dropout(pooled)), encoded


class BertForMultipleChoice(TaskHead):
    """Picks one of C continuations: inputs (B, C, S), or a packed batch of B times C sequences; logits (B, C)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.add_base_model()
        self.dropout = nn.Dropout(self.config.head_dropout)
        self.classifier = nn.Linear(self.config.hidden_size, 1)
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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_choices: int | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of the choices, and the loss where `labels` (B,) are given; every input carries the axis C after B.

        Args:
            num_choices: C, for a packed batch, which holds the C sequences of an example one after the other.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, labels, output_attentions,
                output_hidden_states, return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        choices = _number_of_choices(input_ids, inputs_embeds, num_choices)
        batch = self.base_model.pack_inputs(
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
            right = sequence_labels(labels, "labels", logits.shape[0], choices)
            output.loss = cross_entropy_of_logits(logits, right)
        return self._finish(output, encoded, return_dict)


class BertForTokenClassification(TaskHead):
    """A label for every token: logits (B, S, C), or (T, C) for a packed batch. Paper, section 5.3."""

    scores_tokens = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.add_base_model(add_pooling_layer=False)
        self.dropout = nn.Dropout(self.config.head_dropout)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **refused: Any,
    ) -> ClassifierOutput | tuple[Any, ...]:
        """Scores of the labels, and the loss where `labels` (B, S), or (T,), are given; the rest as in `BertModel.forward`."""
        refuse(self, refused)
        batch = self.base_model.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
        logits = call(self.classifier, batch, call(self.dropout, batch, states))
        output = ClassifierOutput(logits=batch.unpack(logits) if padded else logits)
        if labels is not None:
            wanted = token_labels(labels, batch, padded, self.config.num_labels)
            output.loss = cross_entropy_of_logits(logits, wanted)
        return self._finish(output, encoded, return_dict)


class BertForQuestionAnswering(TaskHead):
    """Start and end of the answer: logits (B, S) each, or (T,) for a packed batch. Paper, section 4.2."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if self.config.num_labels != 2:
            raise ConfigError(f"num_labels = {self.config.num_labels}: question answering has two, the start and the end")
        self.add_base_model(add_pooling_layer=False)
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
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
        batch = self.base_model.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
        packed = call(self.qa_outputs, batch, states)
        logits = batch.unpack(packed, fill=torch.finfo(packed.dtype).min)
        start, end = logits.unbind(-1)
        output = QuestionAnsweringOutput()
        if start_positions is not None and end_positions is not None:
            losses = [
                cross_entropy_of_logits(scores, answer_labels(positions, name, batch))
                for scores, positions, name in (
                    (start, start_positions, "start_positions"),
                    (end, end_positions, "end_positions"),
                )
            ]
            output.loss = (losses[0] + losses[1]) / 2
        given = (start, end) if padded else packed.unbind(-1)
        output.start_logits, output.end_logits = (scores.contiguous() for scores in given)
        return self._finish(output, encoded, return_dict)


def _number_of_choices(input_ids: Any, inputs_embeds: Tensor | None, num_choices: int | None) -> int:
    if isinstance(input_ids, PackedBatch):
        if num_choices is None or num_choices < 1 or input_ids.batch_size % num_choices:
            raise InputError(
                f"num_choices = {num_choices} must divide the {input_ids.batch_size} sequences of the packed batch"
            )
        return num_choices
    source, extra = (inputs_embeds, 1) if input_ids is None else (input_ids, 0)
    if source is not None and source.dim() != 3 + extra:
        form = "(batch, choices, sequence" + (", hidden)" if extra else ")")
        raise InputError(f"the input has shape {tuple(source.shape)}; expected {form}")
    return 1 if source is None else int(source.shape[1])


def _merge_choices(value: Any) -> Any:
    return value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() >= 3 else value
