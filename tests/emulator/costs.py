"""What memory accesses cost, by instruction: sectors of global memory, wavefronts of shared memory, lanes that took part.

A warp's access of global memory moves whole sectors of 32 bytes. One of shared memory is served in wavefronts: 32 banks of four
bytes give one word each, so that lanes which want different words of one bank wait for each other. Accesses of 8 and 16 bytes
are served by halves and quarters of a warp. A tensor copy moves what it asks for; how it and warp-group products use shared
memory is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.threads import WARP, Threads

_SECTOR, _BANKS, _WORD = 32, 32, 4


@dataclass
class Cost:
    """The accesses of one instruction: warps and lanes that took part, different bytes that warps asked for, what was moved (in
    sectors or wavefronts), and the least.
    """

    warps: int = 0
    lanes: int = 0
    bytes: int = 0
    moved: int = 0
    least: int = 0


class Costs:
    """Counts of a launch, by space ("global", "shared") and place of the instruction."""

    def __init__(self) -> None:
        self.by_place: dict[tuple[str, int], Cost] = {}

    def total(self, space: str) -> Cost:
        """The sum over the instructions that use a space."""
        found = [vars(cost) for (where, _), cost in self.by_place.items() if where == space]
        return Cost(**{name: sum(one[name] for one in found) for name in vars(Cost())})

    def note(self, space: str, threads: Threads, address: Any, size: int, chosen: Any, here: int) -> None:
        """Adds the accesses of `size` bytes by the threads at the places `chosen`, None for all."""
        everyone = np.arange(threads.count) if chosen is None else chosen
        lanes = threads.numbers(everyone)
        address = np.broadcast_to(address, lanes.shape).astype(np.int64)
        cost = self.by_place.setdefault((space, here), Cost())
        warp = lanes // WARP
        cost.warps += len(np.unique(warp))
        cost.lanes += len(lanes)
        wanted = np.bincount(_pairs(warp, address // size)[0]) * size
        cost.bytes += int(wanted.sum())
        if space == "global":
            cost.moved += len(_pairs(warp, address // _SECTOR)[0])
            cost.least += int((-(-wanted // _SECTOR)).sum())
        else:
            moved, least = _wavefronts(lanes, address, size)
            cost.moved += moved
            cost.least += least

    def note_copy(self, size: int, here: int) -> None:
        """Adds a tensor copy of `size` bytes."""
        cost = self.by_place.setdefault(("global", here), Cost())
        sectors = -(-size // _SECTOR)
        cost.bytes, cost.moved, cost.least = cost.bytes + size, cost.moved + sectors, cost.least + sectors


def _wavefronts(lanes: Any, address: Any, size: int) -> tuple[int, int]:
    """Wavefronts that serve the lanes, and how many there would be if no two words shared a bank."""
    together = WARP if size <= _WORD else _BANKS * _WORD // size
    words = max(1, size // _WORD)
    group = np.repeat(lanes // together, words)
    word = (address[:, None] // _WORD + np.arange(words)).reshape(-1)
    group, word = _pairs(group, word)
    first = group.min()
    queued = np.bincount((group - first) * _BANKS + word % _BANKS, minlength=(int(group.max() - first) + 1) * _BANKS)
    by_group = queued.reshape(-1, _BANKS).max(1)
    return int(by_group.sum()), int((by_group > 0).sum())


def _pairs(a: Any, b: Any) -> tuple[Any, Any]:
    """The different pairs of two arrays of integers."""
    width = int(b.max()) + 1
    both = np.unique(a.astype(np.int64) * width + b)
    return both // width, both % width
