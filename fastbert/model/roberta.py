"""RoBERTa and XLM-R: BERT's encoder with other positions, and with heads of their own. Liu et al. 2019, Conneau et al. 2020.

    positions        the tokens that are not padding, counted from the padding token's id + 1
    segments         one, unless the configuration has more
    MLM head         `lm_head`: the same as BERT's, without the modules around it, and GELU whatever the layers have
    sentence head    `classifier`: dropout, linear, tanh, dropout, linear on the first token's state, in place of the pooler

Both have the same code; an XLM-R differs in its configuration, its vocabulary and its name. Sizes as in heads.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastbert import ops, schema
from fastbert.errors import ConfigError
from fastbert.model.calling import dense, dense_and_activation, is_plain, is_watched
from fastbert.model.config import BertConfig
from fastbert.model.encoder import BertModel, first_token_first
from fastbert.model.heads import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    TaskHead,
)
from fastbert.model.lm_heads import BertForMaskedLM, BertLMHeadModel, BertLMPredictionHead
from fastbert.model.outputs import BertModelOutput
from fastbert.packing import PackedBatch


@dataclass(init=False)
class RobertaConfig(BertConfig):
    """The shape and behaviour of a RoBERTa model, field by field as in `transformers.RobertaConfig`."""

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2

    model_type: ClassVar[str] = "roberta"

    @property
    def padding_position(self) -> int | None:
        """The position of padding, which is the padding token's id."""
        return self.pad_token_id

    def validate(self) -> None:
        """Raises ConfigError where no model can be built from the fields as they stand."""
        super().validate()
        if self.pad_token_id is None:
            raise ConfigError("pad_token_id = None: RoBERTa counts its positions from the padding token's id")
        if self.longest_sequence < 1:
            raise ConfigError(
                f"max_position_embeddings = {schema.shown(self.max_position_embeddings)} leaves no position: they are counted "
                f"from pad_token_id + 1 = {self.pad_token_id + 1}"
            )


@dataclass(init=False)
class XLMRobertaConfig(RobertaConfig):
    """The shape and behaviour of an XLM-R model, field by field as in `transformers.XLMRobertaConfig`."""

    vocab_size: int = 30522  # as there; every released model has 250,002

    model_type: ClassVar[str] = "xlm-roberta"


class RobertaModel(BertModel):
    """RoBERTa without a task head: hidden states of every token, and the pooled first token. See `BertModel`."""

    config_class = RobertaConfig
    base_model_prefix = "roberta"


class RobertaClassificationHead(nn.Module):
    """Scores of the labels from the first token's state."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, N), or the first tokens' states (B, N), -> (B, C)."""
        first = features[:, 0] if features.dim() == 3 else features
        return self.out_proj(self.dropout(torch.tanh(dense(self.dense, self.dropout(first)))))


class RobertaLMHead(BertLMPredictionHead):
    """Scores of the whole vocabulary; the decoder is the word embedding table, with a bias of its own."""

    def __init__(self, config: BertConfig) -> None:
        nn.Module.__init__(self)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def transform(self, hidden_states: Tensor) -> Tensor:  # type: ignore[override]
        """(M, N) or (B, S, N) -> the same: LayerNorm(gelu(h W + b))."""
        x, norm = dense_and_activation(self.dense, hidden_states, "gelu"), self.layer_norm
        if not is_plain(norm):
            return norm(x)
        return ops.layer_norm(x.flatten(0, -2), None, norm.weight, norm.bias, norm.eps).view(x.shape)


class _RobertaHead(TaskHead):
    """The encoder that RoBERTa's heads stand on."""

    config_class = RobertaConfig
    base_model_prefix = "roberta"
    base_model_class = RobertaModel


class _RobertaLM(_RobertaHead):
    """The head of RoBERTa's language models."""

    mlm_head_name = "lm_head"
    lm_head: RobertaLMHead

    def add_mlm_head(self) -> None:
        """Makes the head."""
        self.lm_head = RobertaLMHead(self.config)

    @property
    def mlm_head(self) -> Any:
        """What scores the vocabulary."""
        return self.lm_head

    def _is_usual(self) -> bool:
        return type(self.lm_head) is RobertaLMHead and not is_watched(*self.lm_head.modules())


class RobertaForMaskedLM(_RobertaLM, BertForMaskedLM):
    """Masked language model."""


class RobertaForCausalLM(_RobertaLM, BertLMHeadModel):
    """Left-to-right language model: each token predicts the next. Set `config.is_decoder` for causal attention."""


class RobertaForSequenceClassification(_RobertaHead, BertForSequenceClassification):
    """One label, several labels or a number for a text or a pair: logits (B, C)."""

    def add_base_model(self, add_pooling_layer: bool = True) -> None:
        """Makes the encoder, without a pooler."""
        super().add_base_model(add_pooling_layer=False)

    def add_classifier(self) -> None:
        """Makes the head."""
        self.classifier = RobertaClassificationHead(self.config)

    def _scores(
        self, batch: PackedBatch, hidden_states: bool | None, attentions: bool | None
    ) -> tuple[Tensor, BertModelOutput]:
        seen = batch.padded and is_watched(*self.classifier.modules())
        rows = batch.first_rows() if batch.num_tokens and not seen else None
        states, encoded = self._encode(batch, rows, hidden_states, attentions)
        if not batch.num_tokens:
            return self.classifier(states.new_zeros(batch.batch_size, states.shape[-1])), encoded
        return self.classifier(batch.blank_empty(first_token_first(states, batch) if seen else states)), encoded


class RobertaForTokenClassification(_RobertaHead, BertForTokenClassification):
    """A label for every token: logits (B, S, C), or (T, C) for a packed batch."""


class RobertaForQuestionAnswering(_RobertaHead, BertForQuestionAnswering):
    """Start and end of the answer: logits (B, S) each, or (T,) for a packed batch."""


class RobertaForMultipleChoice(_RobertaHead, BertForMultipleChoice):
    """Picks one of C continuations: inputs (B, C, S), or a packed batch of B times C sequences; logits (B, C)."""


class XLMRobertaModel(RobertaModel):
    """XLM-R without a task head. See `BertModel`."""

    config_class = XLMRobertaConfig


class _XLMRobertaHead(TaskHead):
    """The encoder that XLM-R's heads stand on."""

    config_class = XLMRobertaConfig
    base_model_class = XLMRobertaModel


class XLMRobertaForMaskedLM(_XLMRobertaHead, RobertaForMaskedLM):
    """See `RobertaForMaskedLM`."""


class XLMRobertaForCausalLM(_XLMRobertaHead, RobertaForCausalLM):
    """See `RobertaForCausalLM`."""


class XLMRobertaForSequenceClassification(_XLMRobertaHead, RobertaForSequenceClassification):
    """See `RobertaForSequenceClassification`."""


class XLMRobertaForTokenClassification(_XLMRobertaHead, RobertaForTokenClassification):
    """See `RobertaForTokenClassification`."""


class XLMRobertaForQuestionAnswering(_XLMRobertaHead, RobertaForQuestionAnswering):
    """See `RobertaForQuestionAnswering`."""


class XLMRobertaForMultipleChoice(_XLMRobertaHead, RobertaForMultipleChoice):
    """See `RobertaForMultipleChoice`."""
