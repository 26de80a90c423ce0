"""Copies of the weights of layers that run in fp8 on a GPU, which `custom_ops.fp8` makes and uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from fastbert.ops.kept import Kept

_kept: Kept[Any] = Kept()  # weights and biases of a layer -> custom_ops.fp8.Copies
_firsts: Any = WeakIdKeyDictionary()  # each of these -> the first one of every layer that has it, weakly
_changes = 0


def any_kept() -> bool:
    """Whether there are copies of any layer."""
    return len(_kept) > 0


def keep(sources: tuple[Tensor, ...], copies: Any) -> None:
    """Keeps the copies of a layer, made from these weights and biases."""
    _kept.put(sources, copies)
    for source in sources:
        known = _firsts.setdefault(source, [])
        if not any(first() is sources[0] for first in known):
            known.append(TensorWeakRef(sources[0]))
    _count_a_change()


def find(sources: tuple[Tensor, ...]) -> Any:
    """The copies of a layer; None where there are none, or the weights have changed since."""
    return _kept.find(sources)


def all_of(parameters: Iterable[Tensor] | None = None) -> list[Any]:
    """The copies that are kept of the layers of some parameters; all copies without `parameters`."""
    return _kept.values(parameters) if any_kept() else []


def forget(*weights: Tensor) -> None:
    """Drops the copies of the layers that these weights are of, where there are any."""
    if any_kept():
        firsts = [first() for weight in weights for first in _firsts.get(weight, ())]
        _kept.forget(*(first for first in firsts if first is not None))
        _count_a_change()


def forget_moved() -> None:
    """Drops the copies of layers whose weights were moved or converted."""
    if any_kept():
        _kept.forget_moved()
        _count_a_change()


def _count_a_change() -> None:
    global _changes
    _changes += 1


class Seen:
    """The copies of some parameters' layers as they are now, kept alive for a graph that reads them."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters, self._copies, self._changes = parameters, all_of(parameters), _changes
        self._versions = self._current_versions() if self._copies else []

    def are_current(self) -> bool:
        """Whether the layers have these copies still, and what they were made of was not changed in place."""
        if self._changes != _changes:
            if [*map(id, all_of(self._parameters))] != [*map(id, self._copies)]:
                return False
            self._changes = _changes
        return not self._copies or self._current_versions() == self._versions

    def _current_versions(self) -> list[int]:
        return [-1 if parameter.is_inference() else parameter._version for parameter in self._parameters]
