"""What the asynchronous proxy reads from shared memory: operands of warp-group products, and tensors on their way out.

Each read is under way from its instruction to the wait for its group. Meanwhile nobody may write there; and threads that wrote
there before must have passed a proxy fence and, if they are of other warps, a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emulator.arithmetic import U32
from emulator.shared_memory import SharedMemory, by_others
from emulator.threads import GROUP, WARP, Threads

_UNIT = 16  # bytes
_WARPS = U32(WARP - 1)


@dataclass
class _Read:
    number: int
    kind: str
    owners: Any  # the thread of each product or copy, among all threads
    group: Any
    place: Any  # (owners, ...) units
    here: int


class AsyncReads:
    """Reads of kinds "wgmma" and "bulk", which have groups of their own, for `total` threads in blocks of `block_size`."""

    def __init__(self, shared: SharedMemory, total: int, block_size: int, report: Any) -> None:
        self._shared, self._report, self._block_size, self._total = shared, report, block_size, total
        self._groups = {kind: np.zeros(total, np.int64) for kind in ("wgmma", "bulk")}
        self._under_way: list[_Read] = []
        self._count = 0

    def start(self, threads: Threads, kind: str, owners: Any, place: Any, here: int) -> None:
        """`place` (owners, units) is read for the threads at these places, from now to their wait."""
        shared = self._shared
        if not shared.checks:
            return
        numbers = threads.numbers(owners)
        self._count += 1
        self._under_way.append(_Read(self._count, kind, numbers, self._groups[kind][numbers].copy(), place, here))
        written = shared.rows(shared.writer, _UNIT)[place]
        stamp = threads.stamp[owners].reshape(-1, *[1] * (written.ndim - 1))
        self._tell(threads, here, "uninitialised", written == 0, f"{kind} reads shared memory that no thread has written")
        # Four warps multiply together, so that a barrier has to follow writes of their own too.
        fresh = ((written ^ stamp) < U32(WARP)) & (written != 0) if kind == "wgmma" else by_others(written, stamp)
        self._tell(threads, here, "race", fresh, f"{kind} reads what a warp wrote, no barrier between")
        arriving = shared.rows(shared.arriving, _UNIT)[place] != 0
        self._tell(threads, here, "async race", arriving, f"{kind} reads shared memory that a copy is still filling")
        unfenced = shared.rows(shared.unfenced, _UNIT)[place] != 0
        self._tell(threads, here, "proxy", unfenced, f"{kind} reads what threads wrote, without fence.proxy.async between")
        shared.rows(shared.leaving, _UNIT)[place.reshape(-1)] = self._count

    def commit(self, threads: Threads, kind: str) -> None:
        """Closes the group of what was started."""
        self._groups[kind][slice(None) if threads.index is None else threads.index] += 1

    def wait(self, threads: Threads, kind: str, left: int) -> None:
        """Ends all reads but those of the last `left` groups."""
        active = np.zeros(self._total, bool)
        active[slice(None) if threads.index is None else threads.index] = True
        kept = []
        for read in self._under_way:
            if read.kind != kind:
                kept.append(read)
                continue
            done = active[read.owners] & (read.group < self._groups[kind][read.owners] - left)
            if done.any():
                self._end(threads, read, done)
            if not done.all():  # blocks that have gone apart wait apart
                rest = ~done
                kept.append(replace(read, owners=read.owners[rest], group=read.group[rest], place=read.place[rest]))
        self._under_way = kept

    def fence(self, threads: Threads) -> None:
        """A proxy fence: what the blocks' threads wrote is seen by reads that follow."""
        if self._shared.checks:
            parts = len(self._shared.unfenced) * self._block_size // self._total
            for base in np.unique(threads.base):
                first = int(base) // self._shared.granule
                self._shared.unfenced[first : first + parts] = 0

    def unfinished(self) -> int | None:
        """The place of an instruction whose read nobody waited for."""
        return self._under_way[0].here if self._under_way else None

    def _end(self, threads: Threads, read: _Read, done: Any) -> None:
        shared, flat = self._shared, read.place[done].reshape(-1)
        rows = shared.rows(shared.leaving, _UNIT)
        rows[flat] = np.where(rows[flat] == read.number, 0, rows[flat])
        if read.kind == "wgmma" and self._block_size == GROUP:
            return  # the whole block has waited for the whole read
        stamps = np.zeros(self._total, U32)
        stamps[slice(None) if threads.index is None else threads.index] = threads.stamp
        stamp = np.repeat(stamps[read.owners[done]], read.place[0].size)[:, None]
        if read.kind == "wgmma":  # four warps have read; another four need a barrier
            shared.rows(shared.readers, _UNIT)[flat] = stamp | _WARPS
        shared.rows(shared.reader, _UNIT)[flat] = stamp

    def _tell(self, threads: Threads, here: int, kind: str, wrong: Any, detail: str) -> None:
        if wrong.any():
            self._report(kind, here, threads, None, detail)
