"""Warp-group products: their operands in shared memory, and when they are computed.

A product may run at any time between its instruction and the wait for its group. `late` computes it as late as that allows, so
that a tile which is overwritten too early changes the result; otherwise it is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.arithmetic import F32, U16, U32, U64, from_bf16, from_e4m3
from emulator.asynchronous import AsyncReads
from emulator.fragments import TF32_BITS, swizzled
from emulator.reports import UnknownOpcode
from emulator.shared_memory import SharedMemory
from emulator.threads import GROUP, Threads

_FIELD = U64(0x3FFF)  # of a descriptor, in units of 16 bytes: PTX manual, 9.7.15.5.1
_SWIZZLES = {0: 0, 1: 128, 2: 64, 3: 32}


class Product:
    """A product (groups, 64, columns) that is computed when it is asked for, once."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute: Callable[[], Any] | None = compute
        self._value: Any = None

    def value(self) -> Any:
        """The matrix."""
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value


class Products:
    """The products of one launch."""

    def __init__(self, shared: SharedMemory, reads: AsyncReads, late: bool, report: Any) -> None:
        self._shared, self._reads, self._late, self._report = shared, reads, late, report
        self._groups: list[list[Product]] = [[]]

    def start(self, compute: Callable[[], Any]) -> Product:
        """A product that runs from here on."""
        product = Product(compute)
        if self._late:
            self._groups[-1].append(product)
        else:
            product.value()
        return product

    def commit(self, threads: Threads) -> None:
        """Closes the group of the products that were started."""
        self._reads.commit(threads, "wgmma")
        self._groups.append([])

    def wait(self, threads: Threads, left: int) -> None:
        """Ends all groups but the last `left`."""
        ended = len(self._groups) - 1 - left
        for group in self._groups[: max(ended, 0)]:
            for product in group:
                product.value()
        self._groups = self._groups[max(ended, 0) :]
        self._reads.wait(threads, "wgmma", left)

    def operand(self, threads: Threads, descriptor: Any, rows: int, by_rows: int, kind: str, here: int) -> Callable[[], Any]:
        """A matrix in shared memory (groups, rows, 8, 16 or 32) as float32, read when it is called.

        Args:
            descriptor: of each thread; those of a group are alike.
            rows: of the operand.
            by_rows: whether its first axis is the contiguous one.
            kind: "bf16", "f16", "tf32" or "e4m3".
        """
        wide = threads.wide(descriptor)
        if (wide.reshape(-1, GROUP) != wide[::GROUP, None]).any():
            self._report("divergent warp", here, threads, None, "a descriptor differs inside a warp group")
        owners = np.arange(0, threads.count, GROUP)
        address = self._address(wide[owners], rows, by_rows)
        if int(address.max()) + 16 > self._shared.size:
            where = f"an operand at {int(address.max()):#x} of {self._shared.size:#x}"
            self._report("shared out of bounds", here, threads, None, where)
            address = address % max(self._shared.size // 16 * 16, 16)
        base = threads.base if threads.base.shape[0] == 1 else threads.base[owners]
        place = (address + base[:, None, None]) // 16
        self._reads.start(threads, "wgmma", owners, place, here)
        memory = self._shared.memory

        def read() -> Any:
            if kind == "tf32":
                words = memory.view(U32).reshape(-1, 4)[place].reshape(len(owners), rows, 8)
                return (words & TF32_BITS).view(F32)
            if kind == "e4m3":
                return from_e4m3(memory.view(np.uint8).reshape(-1, 16)[place].reshape(len(owners), rows, 32))
            bits = memory.view(U16).reshape(-1, 8)[place]  # group, unit, row or unit, 8
            bits = np.ascontiguousarray(bits.transpose(0, 1, 3, 2) if by_rows else bits).reshape(len(owners), rows, 16)
            return from_bf16(bits) if kind == "bf16" else bits.view(np.float16).astype(F32)

        return read

    def _address(self, descriptor: Any, rows: int, by_rows: int) -> Any:
        """(groups, units, units) addresses of 16 bytes each: units of eight rows at one k, or of one row at eight k."""
        first = int(descriptor[0])
        if (descriptor >> U64(16) != descriptor[0] >> U64(16)).any() or first >> 49 & 7:
            raise UnknownOpcode("descriptors of several kinds in one product, or with a base offset")
        start = ((descriptor & _FIELD) << U64(4)).astype(np.int64)
        leading, stride = (first >> 16 & 0x3FFF) << 4, (first >> 32 & 0x3FFF) << 4
        width = _SWIZZLES[first >> 62]
        if by_rows:
            if not width:
                raise UnknownOpcode("an operand by rows without a swizzle")
            unit, k = np.arange(rows // 8)[:, None], np.arange(16)[None, :]
            across = unit * 16 % width + unit * 16 // width * leading
            offset = across + k % 8 * width + k // 8 * stride
        else:
            row, unit = np.arange(rows)[:, None], np.arange(2)[None, :]
            offset = row // 8 * stride + row % 8 * (width or 16) + unit * (16 if width else leading)
        return swizzled(start[:, None, None] + offset, width)
