"""Copies of weights in another form, which are dropped as soon as the weights change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

V = TypeVar("V")


class _Entry(NamedTuple):
    """A value, and the state of the weights that it was made from, to notice changes."""

    state: tuple[tuple[int, int, int], ...]
    value: Any
    storages: tuple[StorageWeakRef, ...]  # while they are here, no other storage gets the number of one of these


class Kept(Generic[V]):
    """Values by the weights that they were made from; they go when a weight goes, or gets another storage or version."""

    def __init__(self) -> None:
        self._entries: Any = WeakIdKeyDictionary()  # first weight -> _Entry

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, weight: Tensor) -> bool:
        return weight in self._entries

    def put(self, sources: Sequence[Tensor], value: V) -> None:
        """Keeps a value that was made from tensors; the first one may have no other."""
        storages = tuple(StorageWeakRef(t.untyped_storage()) for t in sources)
        self._entries[sources[0]] = _Entry(_state(sources), value, storages)

    def find(self, sources: Sequence[Tensor]) -> V | None:
        """The value made from these very tensors, if they are as they were then."""
        entry: _Entry | None = self._entries.get(sources[0]) if self._entries else None
        if entry is None or len(entry.state) != len(sources):  # one of several weights, alone
            return None
        if entry.state != _state(sources):
            self.forget(sources[0])
            return None
        value: V = entry.value
        return value

    def values(self, weights: Iterable[Tensor] | None = None) -> list[V]:
        """The values kept under weights, whatever became of these since; all values without `weights`."""
        entries = list(self._entries.values()) if weights is None else [self._entries.get(weight) for weight in weights]
        return [entry.value for entry in entries if entry is not None]

    def forget_moved(self) -> None:
        """Drops the values of weights whose memory is gone, as after `.to`."""
        for weight, entry in list(self._entries.items()):
            if any(storage.expired() for storage in entry.storages):
                self.forget(weight)

    def forget(self, *weights: Tensor) -> None:
        """Drops the values of weights, where there are any."""
        if self._entries:
            for weight in weights:
                self._entries.pop(weight, None)


def _state(tensors: Sequence[Tensor]) -> tuple[tuple[int, int, int], ...]:
    """Storage, place in it, and version of each tensor. An address alone may be used again, as by `half().float()`."""
    return tuple((t.untyped_storage()._cdata, t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors)
