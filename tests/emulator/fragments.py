"""Between registers and the matrices of tensor cores: mma.sync (PTX manual, 9.7.14.5) and wgmma (9.7.15.5).

A warp holds a fragment in registers of 32 bits a thread: two numbers of 16 bits, or one of TF32 or float32. Thread t has row
t / 4 and columns 2 (t mod 4) and the next of each 8 x 8 tile. Functions take a tuple of registers and give one matrix for
each warp, (warps, rows, columns), or the reverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.arithmetic import F32, HIGH_HALF, SIXTEEN, U32
from emulator.threads import GROUP, WARP, Threads

TF32_BITS = np.uint32(0xFFFFE000)


def _numbers(kind: str, registers: Any) -> Any:
    """Registers (R, threads) -> (R, threads, 2) float32; (R, threads, 1) for TF32, cut off as tensor cores do."""
    if kind == "tf32":
        return (registers & TF32_BITS).view(F32)[..., None]
    if kind == "bf16":
        pairs = np.empty((*registers.shape, 2), U32)
        np.left_shift(registers, SIXTEEN, out=pairs[..., 0])
        np.bitwise_and(registers, HIGH_HALF, out=pairs[..., 1])
        return pairs.view(F32)
    return registers.view(np.float16).reshape(*registers.shape, 2).astype(F32)


def _stacked(threads: Threads, registers: tuple[Any, ...]) -> Any:
    return np.stack([threads.wide(register) for register in registers])


def fragment_a(threads: Threads, kind: str, registers: tuple[Any, ...]) -> Any:
    """(warps, 16, K): registers hold rows 0-7 and 8-15 of the first half of K, then of the second."""
    x = _numbers(kind, _stacked(threads, registers))
    x = x.reshape(len(registers) // 2, 2, -1, 8, 4, x.shape[-1])  # half of K, of rows, warp, row, thread of row, number
    return np.ascontiguousarray(x.transpose(2, 1, 3, 0, 4, 5)).reshape(x.shape[2], 16, -1)


def fragment_b(threads: Threads, kind: str, registers: tuple[Any, ...]) -> Any:
    """(warps, K, 8): a thread's row is a column here."""
    x = _numbers(kind, _stacked(threads, registers))
    x = x.reshape(len(registers), -1, 8, 4, x.shape[-1])  # part of K, warp, column, thread, number
    return np.ascontiguousarray(x.transpose(1, 0, 3, 4, 2)).reshape(x.shape[1], -1, 8)


def accumulator_of_warps(threads: Threads, registers: tuple[Any, ...]) -> Any:
    """(warps, 16, 8) float32 of mma.sync; a plain zero where all are zero."""
    if all(register.shape[0] == 1 and register[0] == 0 for register in registers):
        return F32(0)
    x = _stacked(threads, registers).reshape(2, 2, -1, 8, 4)  # half of rows, number, warp, row, thread of row
    return np.ascontiguousarray(x.transpose(2, 0, 3, 4, 1)).reshape(-1, 16, 8)


def registers_of_warps(matrix: Any) -> Any:
    """(warps, 16, 8) -> four registers (4, threads)."""
    x = matrix.reshape(-1, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)
    return np.ascontiguousarray(x).reshape(4, len(matrix) * WARP)


def accumulator_of_groups(threads: Threads, registers: tuple[Any, ...]) -> Any:
    """(groups of four warps, 64, columns) float32 of wgmma."""
    x = _stacked(threads, registers)
    x = x.reshape(-1, 2, 2, threads.count // GROUP, 4, 8, 4)  # eight columns, half of rows, number, group, warp, row, thread
    return np.ascontiguousarray(x.transpose(3, 4, 1, 5, 0, 6, 2)).reshape(threads.count // GROUP, 64, 2 * len(registers))


def registers_of_groups(matrix: Any) -> Any:
    """(groups, 64, columns) -> columns / 2 registers."""
    groups, _, columns = matrix.shape
    x = matrix.reshape(groups, 4, 2, 8, columns // 8, 4, 2).transpose(4, 2, 6, 0, 1, 3, 5)
    return np.ascontiguousarray(x).reshape(columns // 2, groups * GROUP)


def registers_of_product(product: Any) -> Any:
    """The registers of a `products.Product`."""
    return registers_of_groups(product.value())


def unless_zero(threads: Threads, accumulator: Any, keep: Any) -> Any:
    """The accumulator of the groups whose predicate is true, zero for the others: wgmma's scale-d."""
    if keep.shape[0] == 1 or keep.all() or not keep.any():
        return accumulator if keep[0] else F32(0)
    return np.where(threads.wide(keep)[::GROUP][:, None, None], accumulator, F32(0))


def swizzled(address: Any, width: int) -> Any:
    """An address in shared memory under a swizzle of 128, 64 or 32 bytes: bits 4-6 take those from bit 7 on; 0 for none."""
    mask = {0: 0, 32: 1, 64: 3, 128: 7}[width]
    return address ^ ((address >> 7) & mask) << 4
