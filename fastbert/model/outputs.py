"""What a forward returns: ordered dicts of the fields that are present, which are attributes as well, as in transformers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastbert import interop

# A field that transformers' output of the same name lacks: an attribute only, so that tuples and names stay its own.
_BESIDE = {"beside": True}


@interop.joins("transformers.utils", "ModelOutput")
class ModelOutput(OrderedDict[str, Any]):
    """Base of the outputs: a dict in the order of the fields. A field that is None is no entry of it.

    The first argument may be a mapping or pairs of names and values, as whoever rebuilds a dict of some type passes them. An
    index or slice counts through the tuple form. Entries are replaced and added, never taken out.
    """

    _names: ClassVar[tuple[str, ...]] = ()  # of the fields that are entries
    _beside: ClassVar[tuple[str, ...]] = ()  # and of those that are attributes only

    def __post_init__(self) -> None:
        first = self._names[0]
        given = _pairs(getattr(self, first)) if self.keys() <= {first} else None
        if given is not None:
            setattr(self, first, None)
            self.update(given)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in self._names:
            if value is not None:
                self._put(name, value)
            elif dict.__contains__(self, name):
                OrderedDict.__delitem__(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        if name not in self._names and name not in self._beside:
            OrderedDict.__setitem__(self, name, value)

    def _put(self, name: str, value: Any) -> None:
        """Sets an entry at its field's place."""
        new = not dict.__contains__(self, name)
        OrderedDict.__setitem__(self, name, value)
        if new:
            for later in self._names[self._names.index(name) + 1 :]:
                if dict.__contains__(self, later):
                    self.move_to_end(later)

    def __getitem__(self, key: Any) -> Any:
        return OrderedDict.__getitem__(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The entries in order: what `return_dict=False` returns."""
        return tuple(self.values())

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"nothing is taken out of a {type(self).__name__}: set its fields, or copy it to a dict")

    pop = popitem = clear = setdefault = __delitem__ = _refuse

    def update(self, *others: Any, **values: Any) -> None:
        """Sets several entries."""
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), {**self, **{f.name: getattr(self, f.name) for f in fields(self)}})  # type: ignore[arg-type]

    def __copy__(self) -> ModelOutput:
        return _rebuilt(*self.__reduce__()[1])

    def copy(self) -> ModelOutput:
        """The same fields in an output of their own."""
        return self.__copy__()


def _pairs(first: Any) -> dict[str, Any] | None:
    """Entries from a mapping, or from an iterator or list of pairs; None for anything else, which is a value."""
    if isinstance(first, Mapping):
        return dict(first)
    if not isinstance(first, Iterator | list):
        return None
    entries = list(first)
    pairs = all(isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str) for entry in entries)
    return dict(entries) if pairs else None


def _rebuilt(kind: type[ModelOutput], values: dict[str, Any]) -> ModelOutput:
    made = kind()
    made.update(values)
    return made


def _output(cls: type) -> Any:
    """Makes a class of fields an output: a dataclass, and a node that torch's pytrees see into by name."""
    made: Any = dataclass(cls, eq=False, repr=False)
    made._names = tuple(f.name for f in fields(made) if not f.metadata.get("beside"))
    made._beside = tuple(f.name for f in fields(made) if f.metadata.get("beside"))
    flatten, unflatten, keys = _tree_functions(made)
    torch.utils._pytree.register_pytree_node(
        made, flatten, unflatten, serialized_type_name=f"fastbert.{cls.__name__}", flatten_with_keys_fn=keys
    )
    return made


def _tree_functions(kind: type[ModelOutput]) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]

    def flatten(output: ModelOutput) -> tuple[list[Any], list[str]]:
        present = [name for name in names if getattr(output, name) is not None]
        return [getattr(output, name) for name in present], present

    def unflatten(values: Iterable[Any], present: list[str]) -> ModelOutput:
        return kind(**dict(zip(present, values, strict=True)))

    def keys(output: ModelOutput) -> tuple[list[tuple[Any, Any]], list[str]]:
        values, present = flatten(output)
        return [(torch.utils._pytree.GetAttrKey(name), value) for name, value in zip(present, values, strict=True)], present

    return flatten, unflatten, keys


@_output
class BertModelOutput(ModelOutput):
    """Output of `BertModel`: hidden states (B, S, N), or (T, N) for a packed batch; pooler output (B, N)."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@_output
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


@_output
class MaskedLMOutput(ModelOutput):
    """Output of `BertForMaskedLM` and `BertLMHeadModel`; `mlm_loss` is the mean over `num_mlm_labels`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = field(default=None, metadata=_BESIDE)
    num_mlm_labels: Tensor | None = field(default=None, metadata=_BESIDE)


@_output
class ClassifierOutput(ModelOutput):
    """Output of the NSP, sequence, choice and token classifiers."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@_output
class QuestionAnsweringOutput(ModelOutput):
    """Output of `BertForQuestionAnswering`: start and end logits (B, S), or (T,) for a packed batch."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
