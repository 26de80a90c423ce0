"""Asynchronous copies: cp.async, which a thread waits for, and tensor copies, whose arrival an mbarrier counts.

Bytes of cp.async land when they are waited for, or at once with `early`; those of tensor copies at once, or with `late` when
their mbarrier is waited for. Every order between is legal for the hardware too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from emulator.arithmetic import U8, U32
from emulator.asynchronous import AsyncReads
from emulator.fragments import swizzled
from emulator.global_memory import Allocation, GlobalMemory, TensorMap
from emulator.reports import UnknownOpcode
from emulator.shared_memory import SharedMemory, by_others
from emulator.threads import NOBODY, Threads, selection

_UNIT = 16  # bytes


@dataclass
class _Copy:
    """Copies of one instruction: the threads that issued them, places in units of `size`, bytes, and the groups they are in."""

    threads: Any
    place: Any
    data: Any
    group: Any
    size: int
    here: int


class Copies:
    """cp.async of `total` threads."""

    def __init__(self, memory: GlobalMemory, shared: SharedMemory, total: int, early: bool, report: Any) -> None:
        self._memory, self._shared, self._early, self._report = memory, shared, early, report
        self._group = np.zeros(total, np.int64)
        self._under_way: list[_Copy] = []

    def start(self, threads: Threads, to: Any, what: Any, size: int, count: Any, mask: Any, here: int) -> None:
        """Copies `size` bytes of global to shared memory; zeros where `count` is 0."""
        shared = self._shared
        found = shared.places(threads, to, size, mask, here, "cp.async")
        if found is None:
            return
        place, chosen = found
        own = np.arange(threads.count) if chosen is None else chosen
        wanted = np.zeros(threads.count, bool)
        wanted[own] = True
        if count is not None:
            count = threads.wide(count)
            if ((count != 0) & (count != size)).any():
                raise UnknownOpcode("cp.async of a part of its size")
            wanted &= count > 0
        data = np.zeros((threads.count, size), U8)
        for allocation, source, at in self._memory.accesses(threads, what, size, wanted, here, "cp.async"):
            self._memory.note_read(threads, allocation, source, at, size, here)
            data[slice(None) if at is None else at] = allocation.view(1, size)[source]
        shared.note_write(threads, place, chosen, size, here, data[own])
        if shared.checks:
            shared.rows(shared.arriving, size)[place] = 1
        numbers = threads.numbers(own)
        self._under_way.append(_Copy(numbers, place, data[own], self._group[numbers].copy(), size, here))
        if self._early:
            shared.memory.reshape(-1, size)[place] = data[own]

    def commit(self, threads: Threads) -> None:
        """Closes the group of what was started."""
        self._group[slice(None) if threads.index is None else threads.index] += 1

    def wait(self, threads: Threads, left: int, here: int) -> None:
        """Ends all copies of the threads but those of the last `left` groups."""
        active = np.zeros(len(self._group), bool)
        stamps = np.zeros(len(self._group), U32)
        everyone = slice(None) if threads.index is None else threads.index
        active[everyone], stamps[everyone] = True, threads.stamp
        kept = []
        for copy in self._under_way:
            done = active[copy.threads] & (copy.group < self._group[copy.threads] - left)
            if done.any():
                self._land(threads, copy, done, stamps[copy.threads[done]][:, None])
            if not done.all():
                k = ~done
                kept.append(_Copy(copy.threads[k], copy.place[k], copy.data[k], copy.group[k], copy.size, copy.here))
        self._under_way = kept

    def unfinished(self) -> int | None:
        """The place of an instruction whose copies nobody waited for."""
        return self._under_way[0].here if self._under_way else None

    def _land(self, threads: Threads, copy: _Copy, done: Any, stamp: Any) -> None:
        shared, place, size = self._shared, copy.place[done], copy.size
        shared.memory.reshape(-1, size)[place] = copy.data[done]
        if shared.checks:
            shared.rows(shared.arriving, size)[place] = 0
            shared.rows(shared.writer, size)[place] = stamp
            if by_others(shared.rows(shared.reader, size)[place], stamp).any():
                detail = "a cp.async overwrites what another warp read, no barrier between"
                self._report("async race", copy.here, threads, None, detail)


@dataclass
class Mbarrier:
    """A barrier in shared memory: arrivals and bytes that are missing in this phase, and copies that it counts."""

    count: int
    missing: int
    bytes: int = 0
    phase: int = 0
    arriving: list[tuple[Any, Any]] = field(default_factory=list)  # places and bytes, of this phase
    arrived: list[tuple[Any, Any]] = field(default_factory=list)  # of phases over that nobody has waited for yet

    def turn(self) -> None:
        """Ends the phase if nothing is missing."""
        if not self.missing and not self.bytes:
            self.arrived += self.arriving
            self.missing, self.phase, self.arriving = self.count, self.phase + 1, []


class TensorCopies:
    """Tensor copies and mbarriers. `maps` are the tensor maps by the address of their descriptor."""

    def __init__(
        self, memory: GlobalMemory, shared: SharedMemory, reads: AsyncReads, maps: dict[int, TensorMap], late: bool, report: Any
    ) -> None:
        self._memory, self._shared, self._reads, self._maps = memory, shared, reads, maps
        self._late, self._report = late, report
        self._mbarriers: dict[tuple[int, int], Mbarrier] = {}  # (begin of the block's memory, address)

    # -- mbarriers

    def init(self, threads: Threads, address: Any, count: Any, mask: Any, here: int) -> None:
        """mbarrier.init."""
        for one in _each(threads, mask):
            number = _of(count, one)
            self._mbarriers[_of(threads.base, one), _of(address, one)] = Mbarrier(number, number)

    def end(self, threads: Threads, address: Any, mask: Any, here: int) -> None:
        """mbarrier.inval."""
        for one in _each(threads, mask):
            found = self._mbarrier(threads, one, address, here)
            if found.bytes or found.arriving:
                self._report("mbarrier", here, threads, None, "invalidated while copies are on their way")
            del self._mbarriers[_of(threads.base, one), _of(address, one)]

    def arrive(self, threads: Threads, address: Any, size: Any, mask: Any, here: int) -> None:
        """mbarrier.arrive.expect_tx: one arrival, and bytes that will come."""
        for one in _each(threads, mask):
            found = self._mbarrier(threads, one, address, here)
            found.bytes += _of(size, one)
            found.missing -= 1
            if found.missing < 0:
                self._report("mbarrier", here, threads, None, "more arrivals than its count")
            found.turn()

    def try_wait(self, threads: Threads, address: Any, parity: Any, here: int) -> Any:
        """Whether the phase of this parity is over, for each thread. In lockstep it is now or never will be."""
        over = np.ones(threads.count, bool)
        base = threads.wide(threads.base)
        for block in np.unique(base):
            own = np.flatnonzero(base == block)
            addresses, parities = threads.wide(address)[own], threads.wide(parity)[own]
            if (addresses != addresses[0]).any() or (parities != parities[0]).any():
                raise UnknownOpcode("threads of a block wait for several mbarriers at once")
            found = self._mbarrier(threads, own[0], address, here)
            over[own] = found.phase % 2 != int(parities[0])
            if over[own[0]]:
                for place, data in found.arrived:
                    self._land(place, data)
                    if self._shared.checks:
                        self._shared.rows(self._shared.arriving, _UNIT)[place] = 0
                found.arrived = []
        return over

    def _mbarrier(self, threads: Threads, one: int, address: Any, here: int) -> Mbarrier:
        key = _of(threads.base, one), _of(address, one)
        if key not in self._mbarriers:
            self._report("mbarrier", here, threads, None, f"no mbarrier is at {key[1]:#x}")
            self._mbarriers[key] = Mbarrier(1, 1)
        return self._mbarriers[key]

    # -- tensors

    def load(self, threads: Threads, to: Any, handle: Any, column: Any, row: Any, barrier: Any, mask: Any, here: int) -> None:
        """A box of a tensor to shared memory; zeros beyond the tensor's edges."""
        shared = self._shared
        for one in _each(threads, mask):
            tensor_map = self._maps[_of(handle, one)]
            place = self._places(threads, one, to, tensor_map, here, "load")
            if place is None:
                continue
            view, rows, columns, inner = _inside(tensor_map, _of(row, one), _of(column, one))
            box = np.zeros(tensor_map.box, view.dtype)
            box[inner] = view[rows, columns]
            data, issuer = box.view(U8).reshape(-1, _UNIT), np.full(len(place), one)
            shared.note_write(threads, place, issuer, _UNIT, here, data, by_threads=False)
            if shared.checks:
                shared.rows(shared.writer, _UNIT)[place] = 1  # of no thread
                shared.rows(shared.arriving, _UNIT)[place] = 1
            self._note(threads, one, tensor_map, rows, columns, here, self._memory.note_read)
            if not self._late:
                self._land(place, data)
            found = self._mbarrier(threads, one, barrier, here)
            found.arriving.append((place, data))
            found.bytes -= data.size
            found.turn()

    def store(self, threads: Threads, source: Any, handle: Any, column: Any, row: Any, mask: Any, here: int) -> None:
        """A box of shared memory to a tensor; what is beyond its edges is left out."""
        for one in _each(threads, mask):
            tensor_map = self._maps[_of(handle, one)]
            place = self._places(threads, one, source, tensor_map, here, "store")
            if place is None:
                continue
            self._reads.start(threads, "bulk", np.array([one]), place[None], here)
            view, rows, columns, inner = _inside(tensor_map, _of(row, one), _of(column, one))
            box = self._shared.memory.reshape(-1, _UNIT)[place].reshape(-1).view(view.dtype).reshape(tensor_map.box)
            view[rows, columns] = box[inner]
            self._note(threads, one, tensor_map, rows, columns, here, self._memory.note_write)

    def _land(self, place: Any, data: Any) -> None:
        self._shared.memory.reshape(-1, _UNIT)[place] = data

    def _places(self, threads: Threads, one: int, at: Any, tensor_map: TensorMap, here: int, what: str) -> Any:
        """The units of 16 bytes that a box takes in shared memory, in the order of its elements."""
        rows, columns = tensor_map.box
        width = columns * tensor_map.tensor.element_size()
        offset = np.arange(rows)[:, None] * width + np.arange(width // _UNIT)[None, :] * _UNIT
        address = swizzled(_of(at, one) + offset, tensor_map.swizzle)
        if int(address.max()) + _UNIT > self._shared.size:
            self._report("shared out of bounds", here, threads, None, f"a tensor {what} reaches beyond shared memory")
            return None
        return ((address + _of(threads.base, one)) // _UNIT).reshape(-1)

    def _note(
        self, threads: Threads, one: int, tensor_map: TensorMap, rows: slice, columns: slice, here: int, note: Any
    ) -> None:
        tensor, allocation = tensor_map.tensor, tensor_map.allocation
        assert isinstance(allocation, Allocation)
        size = tensor.element_size()
        row, column = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]
        places = (allocation.low - allocation.first) // size + row * tensor.stride(0) + column * tensor.stride(1)
        if places.size:
            note(threads, allocation, places.reshape(-1), np.full(places.size, one), size, here)
            if self._memory.costs is not None:
                self._memory.costs.note_copy(places.size * size, here)


def _each(threads: Threads, mask: Any) -> Any:
    """The places of the threads that take part, one by one: these instructions are for a few threads."""
    chosen = selection(threads, mask)
    if chosen is NOBODY:
        return ()
    return range(threads.count) if chosen is None else chosen


def _of(value: Any, one: int) -> int:
    return int(value[0] if value.shape[0] == 1 else value[one])


def _inside(tensor_map: TensorMap, row: int, column: int) -> tuple[Any, slice, slice, tuple[slice, slice]]:
    """The tensor as integers, its rows and columns that a box at this place has, and where they are in the box."""
    height, width = tensor_map.box
    tensor = tensor_map.tensor
    rows = slice(min(max(row, 0), tensor.shape[0]), max(min(row + height, tensor.shape[0]), 0))
    columns = slice(min(max(column, 0), tensor.shape[1]), max(min(column + width, tensor.shape[1]), 0))
    rows, columns = (slice(one.start, max(one.stop, one.start)) for one in (rows, columns))
    inner = slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column)
    whole = tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()
    if rows.start == rows.stop or columns.start == columns.stop:
        inner = slice(0, 0), slice(0, 0)
        rows = columns = slice(0, 0)
    return whole, rows, columns, inner
