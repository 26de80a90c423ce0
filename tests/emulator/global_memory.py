"""Global memory: each tensor argument has a range of addresses of its own, and a record of the blocks that touched each byte.

A pointer that leaves its tensor cannot land in another one. Blocks may not wait for each other, so bytes that one block writes
and another touches are a race, in whatever order blocks ran here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.arithmetic import U8, U64
from emulator.costs import Costs
from emulator.threads import NOBODY, Threads, selection, spread

_RANGE = (
    40  # bits of a tensor's addresses; a tensor begins a mebibyte behind the begin of its range, so that underruns are seen
)
_MARGIN = 1 << 20
_PAGE = 0xFFF


@dataclass
class TensorMap:
    """What a descriptor of a tensor copy refers to: a matrix, its box (rows, columns), and the swizzle's width in bytes."""

    tensor: Any
    box: tuple[int, int]
    swizzle: int
    allocation: Any = None


class Allocation:
    """A tensor argument: addresses `low` up to `high`, aligned as the real memory is within a page."""

    def __init__(self, number: int, pointer: int, size: int, name: str) -> None:
        self.low = (number << _RANGE) + (pointer & _PAGE) + _MARGIN
        self.high, self.size, self.name = self.low + size, size, name
        first, last = pointer & ~15, (pointer + max(size, 1) + 15) & ~15  # 16 bytes are the widest access
        self.first = self.low - (pointer - first)
        self.memory = np.frombuffer((ctypes.c_uint8 * (last - first)).from_address(first), U8)
        self._views: dict[tuple[int, int], Any] = {}
        self._shadows: dict[str, Any] = {}

    def view(self, width: int, count: int) -> Any:
        """The memory as numbers of `width` bytes, `count` in a row if there are several."""
        if (width, count) not in self._views:
            whole = self.memory[: len(self.memory) // (width * count) * (width * count)].view(f"u{width}")
            self._views[width, count] = whole.reshape(-1, count) if count > 1 else whole
        return self._views[width, count]

    def shadow(self, name: str, size: int) -> Any:
        """A record with one number for each byte, (units, size)."""
        if name not in self._shadows:
            self._shadows[name] = np.zeros(len(self.memory), np.int32)
        whole = self._shadows[name]
        return whole[: len(whole) // size * size].reshape(-1, size)

    def has(self, shadow: str) -> bool:
        """Whether anything was recorded under that name."""
        return shadow in self._shadows


class GlobalMemory:
    """Loads and stores of global memory with their checks; `checks_blocks` also looks for races between blocks."""

    def __init__(self, allocations: list[Allocation], report: Any, checks_blocks: bool, costs: Costs | None) -> None:
        self._by_range = {one.low >> _RANGE: one for one in allocations}
        self._report, self.checks_blocks, self.costs = report, checks_blocks, costs

    def touched(self) -> int:
        """Different bytes read, and different bytes written, as far as `checks_blocks` recorded them."""
        records = (one.shadow(name, 1) for one in self._by_range.values() for name in ("reader", "writer") if one.has(name))
        return sum(int(np.count_nonzero(record)) for record in records)

    def load(self, threads: Threads, address: Any, width: int, count: int, mask: Any, here: int) -> Any:
        """`count` arrays of numbers of `width` bytes; zero in threads that do not take part."""
        result = None
        size = width * count
        for allocation, place, chosen in self.accesses(threads, address, size, mask, here, "load"):
            found = allocation.view(width, count)[place]
            self.note_read(threads, allocation, place, chosen, size, here)
            if chosen is None:
                return [found] if count == 1 else np.ascontiguousarray(found.T)
            if result is None:
                result = np.zeros((count, threads.count), f"u{width}")
            result[:, chosen] = found.T
        return np.zeros((count, 1), f"u{width}") if result is None else result

    def store(self, threads: Threads, address: Any, width: int, values: tuple[Any, ...], mask: Any, here: int) -> None:
        """Stores `values`, one array for each number of `width` bytes."""
        count = len(values)
        for allocation, place, chosen in self.accesses(threads, address, width * count, mask, here, "store"):
            self.note_write(threads, allocation, place, chosen, width * count, here)
            parts = [threads.taken(value, chosen) for value in values]
            allocation.view(width, count)[place] = parts[0] if count == 1 else np.stack(parts, axis=1)

    def accesses(
        self, threads: Threads, address: Any, size: int, mask: Any, here: int, what: str
    ) -> Iterator[tuple[Allocation, Any, Any]]:
        """The good accesses: (allocation, places in units of `size`, which threads, None for all). The others are reported."""
        selected = selection(threads, mask)
        if selected is NOBODY:
            return
        address = threads.taken(address, selected)
        if self.costs is not None:
            self.costs.note("global", threads, address, size, selected, here)
        ranges = (address >> U64(_RANGE)).astype(np.int64)
        for number in np.unique(ranges):
            own = ranges == number
            allocation = self._by_range.get(int(number))
            low, high = (allocation.low, allocation.high) if allocation is not None else (1, 0)
            good = own & (address >= U64(low)) & (address + U64(size) <= U64(high))
            if (bad := own & ~good).any():
                first = int(address[bad][0])
                place = (
                    "no tensor is"
                    if allocation is None
                    else f"byte {first - low} of {allocation.name}, which has {allocation.size}"
                )
                place = f"{first:#x}, where no tensor is" if allocation is None else place
                self._report(
                    "out of bounds", here, threads, spread(threads, selected, bad), f"{what} of {size} bytes at {place}"
                )
            if allocation is None or not good.any():
                continue
            everywhere = bool(good.all())
            offset = (address if everywhere else address[good]) - U64(allocation.first)
            if (offset & U64(size - 1)).any():
                self._report("misaligned", here, threads, None, f"{what} of {size} bytes in {allocation.name}")
            chosen = selected if everywhere else (np.flatnonzero(good) if selected is None else selected[good])
            yield allocation, (offset // U64(size)).astype(np.intp), chosen

    def note_read(self, threads: Threads, allocation: Allocation, place: Any, chosen: Any, size: int, here: int) -> None:
        """Records that the threads' blocks read these units, and reports what another block wrote."""
        if not self.checks_blocks:
            return
        own = _blocks(threads, chosen)
        if allocation.has("writer") and _differ(allocation.shadow("writer", size)[place], own).any():
            self._report("blocks race", here, threads, None, f"a block reads bytes of {allocation.name} that another wrote")
        readers = allocation.shadow("reader", size)
        before = readers[place]
        readers[place] = own
        again = _differ(before, own) | (readers[place] != own)
        if again.any():
            several = allocation.shadow("several readers", size)
            several[place] = np.where(again, 1, several[place])

    def note_write(self, threads: Threads, allocation: Allocation, place: Any, chosen: Any, size: int, here: int) -> None:
        """Records that the threads' blocks write these units, and reports what another block wrote or read."""
        if not self.checks_blocks:
            return
        own = _blocks(threads, chosen)
        writers = allocation.shadow("writer", size)
        twice = _differ(writers[place], own).any()
        writers[place] = own
        if twice or (writers[place] != own).any():
            self._report("blocks race", here, threads, None, f"two blocks write the same bytes of {allocation.name}")
        if allocation.has("reader"):
            several = allocation.has("several readers") and allocation.shadow("several readers", size)[place].any()
            if several or _differ(allocation.shadow("reader", size)[place], own).any():
                self._report(
                    "blocks race", here, threads, None, f"a block writes bytes of {allocation.name} that another reads"
                )


def _blocks(threads: Threads, chosen: Any) -> Any:
    """The number of each thread's block, from 1, as a column."""
    return (threads.taken(threads.block, chosen) + 1).astype(np.int32)[:, None]


def _differ(recorded: Any, own: Any) -> Any:
    return (recorded != 0) & (recorded != own)
