"""What a forward returns: fields by attribute, by name and by index, in transformers' order and with its tuple form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

# A field that transformers' output of the same name lacks: an attribute only, so that tuples and names stay its own.
_BESIDE = {"beside": True}


@dataclass
class ModelOutput:
    """Base of the outputs. A field that is None does not appear in the tuple form, in `keys()` or under an index."""

    def __init_subclass__(cls) -> None:
        _OUTPUT_TYPES.append(cls)

    def _present(self) -> list[tuple[str, Any]]:
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if not f.metadata.get("beside"))
        return [(name, value) for name, value in named if value is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are present, in order: what `return_dict=False` returns."""
        return tuple(value for _, value in self._present())

    def keys(self) -> list[str]:
        """Names of the fields that are present."""
        return [name for name, _ in self._present()]

    def values(self) -> list[Any]:
        """The fields that are present."""
        return [value for _, value in self._present()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the fields that are present."""
        return self._present()

    def get(self, name: str, default: Any = None) -> Any:
        """A field by name, or `default` where it is absent."""
        return dict(self._present()).get(name, default)

    def __getitem__(self, key: int | slice | str) -> Any:
        return dict(self._present())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._present())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()


_OUTPUT_TYPES: list[type[ModelOutput]] = []


@dataclass
class BertModelOutput(ModelOutput):
    """Output of `BertModel`: hidden states (B, S, N), or (T, N) for a packed batch; pooler output (B, N)."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PreTrainingOutput(ModelOutput):
    """Output of `BertForPreTraining`. `mlm_loss` and `nsp_loss` are means over `num_mlm_labels` and `num_nsp_labels`."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = field(default=None, metadata=_BESIDE)
    nsp_loss: Tensor | None = field(default=None, metadata=_BESIDE)
    num_mlm_labels: Tensor | None = field(default=None, metadata=_BESIDE)
    num_nsp_labels: Tensor | None = field(default=None, metadata=_BESIDE)


@dataclass
class MaskedLMOutput(ModelOutput):
    """Output of `BertForMaskedLM` and `BertLMHeadModel`; `mlm_loss` is the mean over `num_mlm_labels`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = field(default=None, metadata=_BESIDE)
    num_mlm_labels: Tensor | None = field(default=None, metadata=_BESIDE)


@dataclass
class ClassifierOutput(ModelOutput):
    """Output of the NSP, sequence, choice and token classifiers."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringOutput(ModelOutput):
    """Output of `BertForQuestionAnswering`: start and end logits (B, S), or (T,) for a packed batch."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def _flatten(output: ModelOutput) -> tuple[list[Any], Any]:
    return [getattr(output, f.name) for f in fields(output)], type(output)


def _unflatten(values: Any, kind: Any) -> ModelOutput:
    return kind(**dict(zip((f.name for f in fields(kind)), values, strict=True)))


for _kind in _OUTPUT_TYPES:  # torch.export and torch.func see inside the outputs
    torch.utils._pytree.register_pytree_node(_kind, _flatten, _unflatten, serialized_type_name=f"fastbert.{_kind.__name__}")
