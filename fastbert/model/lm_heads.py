"""The language-model heads: MLM, left to right, and pre-training, with transformers' names, losses and outputs.

In training they score labelled positions only. Sizes: B sequences, S padded length, T packed tokens, N hidden, V vocabulary,
M labelled positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastbert import ops
from fastbert.model.calling import dense, dense_and_activation, is_plain, is_watched, repeatable
from fastbert.model.config import BertConfig
from fastbert.model.flattening import takes_flattened
from fastbert.model.heads import TaskHead
from fastbert.model.keywords import named, refuse
from fastbert.model.losses import labelled_rows, sequence_labels
from fastbert.model.outputs import MaskedLMOutput, PreTrainingOutput
from fastbert.ops.reference import cross_entropy_of_logits
from fastbert.packing import PackedBatch
from fastbert.packing.batch import IGNORE


class BertPredictionHeadTransform(nn.Module):
    """LayerNorm(activation(h W + b)): what stands before the MLM decoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.hidden_act = config.hidden_act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(M, N) or (B, S, N) -> the same."""
        x, norm = dense_and_activation(self.dense, hidden_states, self.hidden_act), self.LayerNorm
        if not is_plain(norm):
            return norm(x)
        return ops.layer_norm(x.flatten(0, -2), None, norm.weight, norm.bias, norm.eps).view(x.shape)


class BertLMPredictionHead(nn.Module):
    """Scores of the whole vocabulary; the decoder is the word embedding table, with a bias of its own."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(M, N) or (B, S, N) -> (M, V) or (B, S, V)."""
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

    def forward(self, sequence_output: Tensor) -> Tensor:
        """(M, N) or (B, S, N) -> (M, V) or (B, S, V)."""
        return self.predictions(sequence_output)


class BertPreTrainingHeads(nn.Module):
    """Both pre-training heads."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, sequence_output: Tensor, pooled_output: Tensor) -> tuple[Tensor, Tensor]:
        """(M, N) or (B, S, N), and (B, N), -> scores of the vocabulary, and (B, 2)."""
        return self.predictions(sequence_output), self.seq_relationship(pooled_output)


_USUAL = (BertOnlyMLMHead, BertPreTrainingHeads, BertLMPredictionHead, BertPredictionHeadTransform)


def is_usual(heads: nn.Module) -> bool:
    """Whether a head's loss may be computed without its forward: no part is watched, or stands in the place of ours."""
    predictions = getattr(heads, "predictions", None)
    parts = (heads, predictions, getattr(predictions, "transform", None))
    return all(type(part) in _USUAL for part in parts) and not is_watched(*heads.modules())


class _MaskedLMHead(TaskHead):
    """The shared forward of the two language-model heads."""

    has_mlm_head = True
    scores_tokens = True
    mlm_head_name = "cls"
    shifted = False  # whether a token's label is scored by the token before it

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.add_base_model(add_pooling_layer=False)
        self.add_mlm_head()
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
        scored_rows: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool | None = None,
        **refused: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Scores of the vocabulary at every token, and the loss where labels are given.

        Args:
            labels: (B, S), or (T,) for a packed batch; -100 where nothing is to be predicted.
            scored_rows: (M,) packed rows that score `labels` (M,), in place of looking for them: a fixed number, for capture.
            return_logits: (B, S, V) scores, or (T, V) for a packed batch. None: in evaluation, or without labels; in training
                scores exist at labelled positions only, while the loss is computed.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        head = self.mlm_head
        batch = self.base_model.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        rows = wanted = count = None
        if labels is not None:
            vocabulary = self.config.vocab_size
            rows, wanted, count = labelled_rows(labels, scored_rows, batch, padded, vocabulary, self.shifted)
        if return_logits is None:
            return_logits = labels is None or not self.training or not self._is_usual()
        scores_all = return_logits or not self._is_usual()
        states, encoded = self._encode(batch, None if scores_all else rows, output_hidden_states, output_attentions)
        output = MaskedLMOutput()
        if scores_all:
            logits = self._scores(states, batch)
        if return_logits:
            output.logits = batch.unpack(logits) if padded else logits
        if rows is not None and wanted is not None:
            if scores_all:
                output.mlm_loss = cross_entropy_of_logits(logits.index_select(0, rows), wanted)
            else:
                output.mlm_loss = head.loss(states, wanted)
            if self.shifted:  # transformers computes this loss, and no other, in float32
                output.mlm_loss = output.mlm_loss.to(torch.promote_types(output.mlm_loss.dtype, torch.float32))
            output.loss, output.num_mlm_labels = output.mlm_loss, count
        return self._finish(output, encoded, return_dict)

    def _scores(self, states: Tensor, batch: PackedBatch) -> Tensor:
        """(T, N) -> (T, V); where any of the head's parts is watched they see (B, S, ...), if the caller's batch was padded."""
        head = getattr(self, self.mlm_head_name)
        if batch.padded and not self._is_usual():
            return batch.pack(head(batch.unpack(states)))
        return head(states)

    def add_mlm_head(self) -> None:
        """Makes the head, under the name that its family gives it."""
        self.cls = BertOnlyMLMHead(self.config)

    def _is_usual(self) -> bool:
        """Whether the loss may be computed without the head's forward."""
        return is_usual(self.cls)


class BertForMaskedLM(_MaskedLMHead):
    """Masked language model. Paper, section 3.1, task 1."""


class BertLMHeadModel(_MaskedLMHead):
    """Left-to-right language model: each token predicts the next. Set `config.is_decoder` for causal attention."""

    shifted = True


class BertForPreTraining(TaskHead):
    """MLM and next-sentence prediction together. Paper, section 3.1."""

    has_mlm_head = True
    scores_tokens = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.add_base_model()
        self.cls = BertPreTrainingHeads(self.config)
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
        next_sentence_label: Tensor | None = None,
        scored_rows: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool | None = None,
        **refused: Any,
    ) -> PreTrainingOutput | tuple[Any, ...]:
        """Both scores, and the sum of both losses; with labels of one kind only, that part.

        Args:
            labels: (B, S), or (T,) for a packed batch: MLM labels, -100 where nothing is to be predicted.
            scored_rows: (M,) packed rows that score `labels` (M,), in place of looking for them: a fixed number, for capture.
            next_sentence_label: (B,), 0 = B follows A, 1 = B is random, -100 = not counted.
            return_logits: MLM scores (B, S, V), or (T, V). None: in evaluation, or without `labels`.
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states,
                return_dict: see `BertModel.forward`.
        """
        refuse(self, refused)
        bert, heads = self.base_model, self.cls
        batch = bert.pack_inputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        padded = not isinstance(input_ids, PackedBatch)
        rows = wanted = count = None
        if labels is not None:
            rows, wanted, count = labelled_rows(labels, scored_rows, batch, padded, self.config.vocab_size)
        follows = None
        if next_sentence_label is not None:
            follows = sequence_labels(next_sentence_label, "next_sentence_label", batch.batch_size, 2)
        usual = is_usual(heads)
        if return_logits is None:
            return_logits = labels is None or not self.training or not usual
        scores_all = return_logits or not usual
        output = PreTrainingOutput()
        if scores_all or rows is None or not batch.num_tokens or not bert.pools_rows(batch):
            states, encoded = self._encode(batch, None, output_hidden_states, output_attentions)
            pooled = encoded.pooler_output
            at_labels = None if rows is None else states.index_select(0, rows)
        else:
            both = torch.cat([batch.first_rows(), rows])
            states, encoded = self._encode(batch, both, output_hidden_states, output_attentions)
            first, at_labels = states.split([batch.batch_size, rows.shape[0]])
            pooled = bert.pool_rows(first, batch)
        if not usual:
            logits, output.seq_relationship_logits = heads(batch.unpack(states) if batch.padded else states, pooled)
            logits = batch.pack(logits) if batch.padded else logits
        else:
            output.seq_relationship_logits = heads.seq_relationship(pooled)
            logits = heads.predictions(states) if scores_all else states
        if return_logits:
            output.prediction_logits = batch.unpack(logits) if padded else logits
        if rows is not None and wanted is not None and at_labels is not None:
            if scores_all:
                output.mlm_loss = cross_entropy_of_logits(logits.index_select(0, rows), wanted)
            else:
                output.mlm_loss = heads.predictions.loss(at_labels, wanted)
            output.num_mlm_labels = count
        if follows is not None:
            output.nsp_loss = cross_entropy_of_logits(output.seq_relationship_logits, follows)
            output.num_nsp_labels = (follows != IGNORE).sum()
        losses = [loss for loss in (output.mlm_loss, output.nsp_loss) if loss is not None]
        output.loss = sum(losses[1:], losses[0]) if losses else None
        return self._finish(output, encoded, return_dict)
