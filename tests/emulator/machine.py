"""One launch: runs the blocks of a grid some at a time in lockstep, and collects what the checks find.

Blocks whose threads branch apart are run apart: first one side, then the other, up to the block where both ways join.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.arithmetic import U32
from emulator.asynchronous import AsyncReads
from emulator.copies import Copies, TensorCopies
from emulator.costs import Costs
from emulator.global_memory import Allocation, GlobalMemory, TensorMap
from emulator.products import Products
from emulator.reports import KernelFault, Report
from emulator.shared_memory import SharedMemory
from emulator.threads import GROUP, WARP, Threads

_STALLED = 100  # waits in vain until a kernel counts as stuck: in lockstep nobody else can come
_UNSET = 0xCDCDCDCDCDCDCDCD  # registers hold this before they are written


@dataclass(frozen=True)
class Options:
    """How a launch is run.

    Attributes:
        threads: threads that run together, so many blocks.
        checks: look for races and unwritten memory. checks_blocks: for races between blocks.
        raises: raise KernelFault at the end of a launch with reports.
        early_copies: cp.async lands when it is issued, not when it is waited for.
        late_products: products are computed, and tensor copies land, when they are waited for, not when they are issued.
        reverse_order: the last block begins, and of each instruction the last warp, or warps that multiply together.
        counts: count what memory accesses cost, by instruction.
    """

    threads: int = 2048
    checks: bool = True
    checks_blocks: bool = True
    raises: bool = True
    early_copies: bool = False
    late_products: bool = False
    reverse_order: bool = False
    counts: bool = False


class Machine:
    """A launch of a kernel.

    Attributes:
        reports: by kind and place of the instruction.
        executed: instructions of warps.
        costs: of memory accesses, with `options.counts`.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        parameters: list[Any],
        allocations: list[Allocation],
        maps: dict[int, TensorMap],
        shared: int,
        options: Options,
    ) -> None:
        self._kernel, self._maps, self._shared, self._options = kernel, maps, shared, options
        self._threads = kernel.program.threads
        self.grid, self.parameters = grid, parameters
        self.grid_size = [np.array([size], U32) for size in grid]
        self.block_size = np.array([self._threads], U32)
        self.costs = Costs() if options.counts else None
        self.global_memory = GlobalMemory(allocations, self.report, options.checks_blocks, self.costs)
        self.reports: dict[tuple[str, int], Report] = {}
        self.executed = 0

    # -- what translated blocks call

    def get(self, registers: list[Any], place: int, threads: Threads) -> Any:
        """A register's value in the threads that run."""
        value = registers[place]
        return value if threads.index is None or value.shape[0] == 1 else value[threads.index]

    def put(self, registers: list[Any], place: int, value: Any, threads: Threads) -> None:
        """Sets a register in the threads that run."""
        if threads.index is None:
            registers[place] = value
            return
        whole = np.empty(threads.total, value.dtype)
        whole[:] = registers[place].view(value.dtype)
        whole[threads.index] = value
        registers[place] = whole

    def report(self, kind: str, here: int, threads: Threads, bad: Any, detail: str) -> None:
        """Notes a fault of an instruction; `bad` says which threads met it, if that is known."""
        if (kind, here) in self.reports:
            self.reports[kind, here].count += 1
            return
        if bad is not None:
            places = np.flatnonzero(threads.wide(bad))
            if not len(places):
                return
            thread, block = (int(threads.wide(value)[places[0]]) for value in (threads.tid, threads.block))
            detail = f"thread {thread} of block {block}, {len(places)} thread(s); {detail}"
        instruction = self._kernel.instructions[here]
        name, text = self._kernel.program.name, instruction.text
        self.reports[kind, here] = Report(kind, name, instruction.line, instruction.source, text, detail)

    def need_whole_warps(self, threads: Threads, here: int) -> None:
        """Ends the launch at an instruction of whole warps where some of their threads are missing."""
        if not threads.whole_warps:
            self.report("divergent warp", here, threads, None, "an instruction of whole warps where not all their threads are")
            raise KernelFault([*self.reports.values()])

    def barrier(self, threads: Threads, here: int) -> None:
        """bar.sync of all threads of a block."""
        if not threads.whole_blocks:
            self.report("divergent barrier", here, threads, None, "not all threads of a block reach it together")
        threads.stamp = threads.stamp + U32(WARP)
        if threads.index is None:
            self._stamp = threads.stamp
        else:
            self._stamp[threads.index] = threads.stamp

    def try_wait(self, threads: Threads, address: Any, parity: Any, here: int) -> Any:
        """mbarrier.try_wait; a kernel that waits for what never comes is ended."""
        over = self.tensors.try_wait(threads, address, parity, here)
        if not over.all():
            self._stalled += 1
            if self._stalled > _STALLED:
                self.report("deadlock", here, threads, ~over, "waits for an mbarrier that nobody will complete")
                raise KernelFault([*self.reports.values()])
        return over

    # -- running

    def run(self, first: int, count: int) -> None:
        """Runs blocks `first` up to `first + count - 1`."""
        everyone = self._begin(first, count)
        registers = self._kernel.new_registers()
        exits, joins, functions = self._kernel.program.exits, self._kernel.joins, self._kernel.functions
        gone = np.zeros(everyone.count, bool)  # threads that have returned
        stack: list[tuple[int, int, Any]] = [(0, -1, None)]  # basic block, where it joins the entry below, threads (None: all)
        running, present = everyone, None
        while stack:
            number, join, index = stack.pop()
            if number == join:
                continue
            if gone.any():
                index = np.flatnonzero(~gone) if index is None else index[~gone[index]]
                if not len(index):
                    continue
            if index is not present or index is None:
                everyone.stamp = self._stamp
                running = everyone if index is None else everyone.some(index, self._threads)
                present = index
            self.executed += self._kernel.sizes[number] * running.count // WARP
            taken = functions[number](self, registers, running)
            kind, target, after = exits[number]
            apart = kind in ("if", "ifret") and taken.shape[0] > 1 and taken.any() and not taken.all()
            if apart:
                here = np.arange(everyone.count) if index is None else index
                if kind == "if":
                    stack.append((joins[number], join, index))
                    stack.append((after, joins[number], here[~taken]))
                    stack.append((target, joins[number], here[taken]))
                else:
                    gone[here[taken]] = True
                    stack.append((after, join, index))
            elif kind == "goto" or (kind == "if" and taken[0]):
                stack.append((target, join, index))
            elif kind in ("fall", "if") or (kind == "ifret" and not taken[0]):
                stack.append((after, join, index))
            else:
                gone[slice(None) if index is None else index] = True
        self._end(everyone)

    def _begin(self, first: int, count: int) -> Threads:
        size, kernel, options = self._threads, self._kernel, self._options
        total = size * count
        numbers, order = np.arange(first, first + count), np.arange(size, dtype=U32)
        if options.reverse_order:
            together = GROUP if kernel.multiplies else WARP
            numbers, order = numbers[::-1], order.reshape(-1, together)[::-1].reshape(-1)
        block = np.repeat(numbers, size) if count > 1 else np.array([first])
        x, y, _ = self.grid
        self.shared_memory = shared = SharedMemory(self._shared, count, kernel.granule, self.report, options.checks, self.costs)
        base = np.repeat(np.arange(count, dtype=np.intp) * shared.stride, size) if count > 1 else np.zeros(1, np.intp)
        tid = np.tile(order, count)
        self._stamp = tid // U32(WARP) + U32(WARP)  # one barrier passed: 0 stands for nobody
        self.reads = AsyncReads(shared, total, size, self.report)
        self.products = Products(shared, self.reads, options.late_products, self.report)
        self.copies = Copies(self.global_memory, shared, total, options.early_copies, self.report)
        self.tensors = TensorCopies(self.global_memory, shared, self.reads, self._maps, options.late_products, self.report)
        self._stalled = 0
        coordinates = (block.astype(U32) % U32(x), block.astype(U32) // U32(x) % U32(y), block.astype(U32) // U32(x * y))
        return Threads(None, total, total, tid, coordinates, block, base, self._stamp)

    def _end(self, everyone: Threads) -> None:
        for what, here in (("a cp.async", self.copies.unfinished()), ("an asynchronous read", self.reads.unfinished())):
            if here is not None:
                self.report("async race", here, everyone, None, f"{what} was never waited for")


def unset(dtype: Any) -> Any:
    """What a register holds that was never written."""
    return np.full(1, _UNSET & ((1 << 8 * dtype.itemsize) - 1), f"u{dtype.itemsize}").astype(dtype)
