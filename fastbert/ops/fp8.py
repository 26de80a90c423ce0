"""Copies of the weights of layers that run in fp8 on a GPU, which `custom_ops.fp8` makes and uses."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastbert.ops.kept import Kept

_kept: Kept[Any] = Kept()  # weights and biases of a layer -> custom_ops.fp8.Copies
_first: Any = WeakIdKeyDictionary()  # each of these -> the first of them, weakly


def any_kept() -> bool:
    """Whether there are copies of any layer."""
    return len(_kept) > 0


def keep(sources: tuple[Tensor, ...], copies: Any) -> None:
    """Keeps the copies of a layer, made from these weights and biases."""
    _kept.put(sources, copies)
    for source in sources:
        _first[source] = weakref.ref(sources[0])


def find(sources: tuple[Tensor, ...]) -> Any:
    """The copies of a layer; None where there are none, or the weights have changed since."""
    return _kept.find(sources)


def all_of(parameters: Iterable[Tensor]) -> list[Any]:
    """The copies that are kept of the layers of some parameters."""
    return _kept.values(parameters) if any_kept() else []


def versions_of(parameters: Iterable[Tensor]) -> list[int]:
    """How often each parameter was changed in place."""
    return [-1 if parameter.is_inference() else parameter._version for parameter in parameters]


def forget(*weights: Tensor) -> None:
    """Drops the copies of the layers that these weights are of, where there are any."""
    if any_kept():
        firsts = [_first[weight]() for weight in weights if weight in _first]
        _kept.forget(*(first for first in firsts if first is not None))
