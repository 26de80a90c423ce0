"""Shared memory of the blocks that run together, and a record for each of its parts of who touched it since the last barrier.

A stamp is the warp in its lowest five bits and the number of barriers that its block has passed behind them. Two accesses of
one place, one of them a write, by different warps with the same number of barriers, are a race, in whatever order warps ran.
A warp itself runs in step. Records are kept for parts of `granule` bytes, the smallest access of the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.arithmetic import U8, U16, U32
from emulator.costs import Costs
from emulator.threads import NOBODY, WARP, Threads, selection, spread

_WARPS = U32(WARP - 1)  # the bits of a stamp that name the warp; all ones stand for several warps
_FRESH = 0xA5  # what memory holds before anyone writes


class SharedMemory:
    """`size` bytes for each of `blocks` blocks.

    Attributes:
        memory: all bytes.
        writer, reader: the stamp of the last access; 0 for none.
        readers: a stamp with all bits of the warp set where several warps have read.
        arriving: whether an asynchronous copy is on its way there.
        leaving: the number of the asynchronous read that is under way, 0 for none.
        unfenced: whether threads wrote it with no proxy fence behind, so that asynchronous reads may miss it.
    """

    def __init__(self, size: int, blocks: int, granule: int, report: Any, checks: bool, costs: Costs | None) -> None:
        self.size, self.granule, self.checks, self._report, self._costs = size, granule, checks, report, costs
        self.stride = -(-size // 128) * 128  # between blocks
        self.memory = np.full(max(self.stride, 128) * blocks, _FRESH, U8)
        parts = len(self.memory) // granule
        self.writer, self.reader, self.readers = (np.zeros(parts, U32) for _ in range(3))
        self.arriving, self.unfenced = np.zeros(parts, U8), np.zeros(parts, U8)
        self.leaving = np.zeros(parts, np.int32)

    def rows(self, record: Any, size: int) -> Any:
        """A record as (units of `size` bytes, parts of a unit)."""
        return record.reshape(-1, size // self.granule)

    # -- accesses of threads

    def load(self, threads: Threads, address: Any, width: int, count: int, mask: Any, here: int) -> Any:
        """`count` arrays of numbers of `width` bytes; zero in threads that do not take part."""
        found = self.places(threads, address, width * count, mask, here, "load")
        if found is None:
            return np.zeros((count, 1), f"u{width}")
        place, chosen = found
        self.note_read(threads, place, chosen, width * count, here)
        values = self.memory.view(f"u{width}").reshape(-1, count)[place].T
        if chosen is None:
            return np.ascontiguousarray(values)
        result = np.zeros((count, threads.count), f"u{width}")
        result[:, chosen] = values
        return result

    def store(self, threads: Threads, address: Any, width: int, values: tuple[Any, ...], mask: Any, here: int) -> None:
        """Stores `values`, one array for each number of `width` bytes."""
        size = width * len(values)
        found = self.places(threads, address, size, mask, here, "store")
        if found is None:
            return
        place, chosen = found
        data = np.stack([threads.taken(value, chosen) for value in values], axis=1).view(U8)
        self.note_write(threads, place, chosen, size, here, data)
        self.memory.reshape(-1, size)[place] = data

    def load_matrix(self, threads: Threads, address: Any, count: int, transposed: bool, here: int) -> Any:
        """ldmatrix: `count` 8 x 8 matrices of 16 bits, whose rows lie where lanes 0-7, 8-15 and so on point to."""
        rows, part = self._matrix_rows(threads, address, count)
        found = self.places(part, rows, 16, None, here, "ldmatrix")
        if found is None or found[1] is not None:
            return np.zeros((count, threads.count), U32)
        self.note_read(part, found[0], None, 16, here)
        matrices = self.memory.view(U16).reshape(-1, 8)[found[0]].reshape(-1, count, 8, 8)  # warp, matrix, row, column
        matrices = matrices.transpose(1, 0, 3, 2) if transposed else matrices.transpose(1, 0, 2, 3)
        return np.ascontiguousarray(matrices).view(U32).reshape(count, threads.count)

    def store_matrix(self, threads: Threads, address: Any, values: tuple[Any, ...], transposed: bool, here: int) -> None:
        """stmatrix, the reverse."""
        count = len(values)
        matrices = np.stack([threads.wide(value) for value in values]).reshape(count, -1, 8, 4).view(U16)
        matrices = matrices.transpose(1, 0, 3, 2) if transposed else matrices.transpose(1, 0, 2, 3)
        data = np.ascontiguousarray(matrices).view(U8).reshape(-1, 16)
        rows, part = self._matrix_rows(threads, address, count)
        found = self.places(part, rows, 16, None, here, "stmatrix")
        if found is None or found[1] is not None:
            return
        self.note_write(part, found[0], None, 16, here, data)
        self.memory.reshape(-1, 16)[found[0]] = data

    def _matrix_rows(self, threads: Threads, address: Any, count: int) -> tuple[Any, Threads]:
        """The addresses of matrices' rows, and the threads that give them."""
        given = threads.wide(address).reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        if count == 4:
            return given, threads
        return given, threads.some(np.arange(threads.count).reshape(-1, WARP)[:, : 8 * count].reshape(-1))

    # -- where, and who

    def places(self, threads: Threads, address: Any, size: int, mask: Any, here: int, what: str) -> tuple[Any, Any] | None:
        """Places in units of `size`, and which threads take part, None for all. What is wrong is reported and left out."""
        chosen = selection(threads, mask)
        if chosen is NOBODY:
            return None
        address = threads.taken(address, chosen)
        inside = address.astype(np.int64) + size <= self.size
        if not inside.all():
            where = f"{what} of {size} bytes at {int(address[~inside][0]):#x} of {self.size:#x}"
            self._report("shared out of bounds", here, threads, spread(threads, chosen, ~inside), where)
            chosen = np.flatnonzero(inside) if chosen is None else chosen[inside]
            address = address[inside]
            if not len(chosen):
                return None
        if self._costs is not None:
            self._costs.note("shared", threads, address, size, chosen, here)
        crooked = address & U32(size - 1)
        if crooked.any():
            bad = spread(threads, chosen, crooked != 0)
            self._report("misaligned", here, threads, bad, f"shared {what} of {size} bytes")
        base = threads.base if threads.base.shape[0] == 1 or chosen is None else threads.base[chosen]
        return (address.astype(np.intp) + base) // size, chosen

    def note_read(self, threads: Threads, place: Any, chosen: Any, size: int, here: int) -> None:
        """Records a read by threads."""
        if not self.checks:
            return
        stamp = _column(threads.stamp, chosen)
        written = self.rows(self.writer, size)[place]
        self._tell(threads, chosen, here, "uninitialised", written == 0, "reads shared memory that no thread has written")
        self._tell(
            threads, chosen, here, "race", by_others(written, stamp), "reads what another warp wrote, no barrier between"
        )
        arriving = self.rows(self.arriving, size)[place] != 0
        self._tell(threads, chosen, here, "async race", arriving, "reads shared memory that a copy is still filling")
        records = self.rows(self.reader, size)
        before = records[place]
        records[place] = stamp
        again = by_others(before, stamp) | (records[place] != stamp)
        if again.any():
            several = self.rows(self.readers, size)
            several[place] = np.where(again, stamp | _WARPS, several[place])

    def note_write(
        self, threads: Threads, place: Any, chosen: Any, size: int, here: int, data: Any, by_threads: bool = True
    ) -> None:
        """Records a write of `data`, (units, size) bytes; by a copy instead of threads if not `by_threads`.

        Warps may write the same value to the same place, as layouts with copies do.
        """
        if not self.checks:
            return
        stamp = _column(threads.stamp, chosen)
        records = self.rows(self.writer, size)
        older = by_others(records[place], stamp).any(1)
        records[place] = stamp
        twins = (records[place] != stamp).any(1)
        if (older | twins).any():
            self._compare_copies(threads, chosen, place, size, here, data, older, twins)
        read = by_others(self.rows(self.reader, size)[place], stamp) | (
            self.rows(self.readers, size)[place] == (stamp | _WARPS)
        )
        self._tell(threads, chosen, here, "race", read, "writes what another warp read, no barrier between")
        arriving = self.rows(self.arriving, size)[place] != 0
        self._tell(threads, chosen, here, "async race", arriving, "writes shared memory that a copy is still filling")
        leaving = self.rows(self.leaving, size)[place] != 0
        self._tell(threads, chosen, here, "async race", leaving, "writes shared memory that a product or copy is still reading")
        self.rows(self.unfenced, size)[place] = by_threads

    def _compare_copies(
        self, threads: Threads, chosen: Any, place: Any, size: int, here: int, data: Any, older: Any, twins: Any
    ) -> None:
        """Tells apart several warps that write one value, one instruction that writes several, and a race."""
        memory = self.memory.reshape(-1, size)
        before = memory[place]
        memory[place] = data
        unequal = twins & (memory[place] != data).any(1)
        memory[place] = before
        raced = older & (before != data).any(1) & ~unequal
        self._tell(threads, chosen, here, "race", raced, "writes what another warp wrote, no barrier between")
        self._tell(threads, chosen, here, "unequal copies", unequal, "warps write different values to one place at once")

    def _tell(self, threads: Threads, chosen: Any, here: int, kind: str, wrong: Any, detail: str) -> None:
        if wrong.any():
            bad = wrong.any(1) if wrong.ndim > 1 else wrong
            self._report(kind, here, threads, spread(threads, chosen, bad), detail)


def by_others(recorded: Any, stamp: Any) -> Any:
    """Whether the recorded access is of another warp with as many barriers passed. Stamps differ then in the warp alone."""
    return ((recorded ^ stamp) - U32(1)) < _WARPS


def _column(stamp: Any, chosen: Any) -> Any:
    return (stamp if chosen is None else stamp[chosen])[:, None]
