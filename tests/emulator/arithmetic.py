"""What an opcode computes where numpy has no function of the same meaning. Values are arrays of the type that PTX names.

A fused multiply-add goes through float64: its product is exact, its sum is rounded twice, which differs from one rounding in at
most one of some 2^29 cases. Special functions are numpy's, more exact than a GPU's approximations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

U8, U16, U32, U64, F32 = np.uint8, np.uint16, np.uint32, np.uint64, np.float32
SIXTEEN, EIGHT = np.array([16], U32), np.array([8], np.uint16)
HIGH_HALF = np.uint32(0xFFFF0000)
_SMALLEST_NORMAL = F32(np.finfo(F32).tiny)
_NAN_BF16 = U16(0x7FFF)
_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c, float32."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(F32)


def mul_hi(a: Any, b: Any) -> Any:
    """The upper half of the product of 32-bit integers."""
    wide = np.int64 if a.dtype.kind == "i" else U64
    return (np.multiply(a, b, dtype=wide) >> wide(32)).astype(a.dtype)


def divide(a: Any, b: Any) -> Any:
    """Integer division, rounded towards zero; by zero all bits are one."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    quotient = a // safe
    if a.dtype.kind == "i":
        quotient = quotient + ((quotient < 0) & (quotient * safe != a))
    return np.where(b == 0, ~a.dtype.type(0), quotient).astype(a.dtype)


def shift_left(a: Any, by: Any) -> Any:
    """a << by, zero from the width on."""
    width = U32(8 * a.dtype.itemsize)
    return np.where(by < width, a << np.minimum(by, width - U32(1)).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Any, by: Any) -> Any:
    """a >> by, with the sign where a is signed; the amount ends at the width."""
    width = U32(8 * a.dtype.itemsize)
    shifted = a >> np.minimum(by, width - U32(1)).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(by < width, shifted, a.dtype.type(0))


def bit_field(a: Any, start: Any, length: Any) -> Any:
    """`bfe`: bits from `start` on, with the sign of the field's last bit where a is signed."""
    width = 8 * a.dtype.itemsize
    bits = a.view(f"u{a.dtype.itemsize}")
    start, length = start & U32(255), np.minimum(length & U32(255), U32(width))
    one = bits.dtype.type(1)
    mask = shift_left(np.broadcast_to(one, length.shape), length) - one
    field = shift_right(bits, start) & mask
    if a.dtype.kind == "u":
        return field
    sign = np.where(length == 0, one - one, shift_left(np.broadcast_to(one, length.shape), length - U32(1)))
    return ((field ^ sign) - sign).view(a.dtype)


def permute(a: Any, b: Any, selector: Any) -> Any:
    """`prmt`: each nibble of the selector picks a byte of b:a, or its sign eight times."""
    both = a.astype(U64) | (b.astype(U64) << U64(32))
    result: Any = U32(0)
    for i in range(4):
        nibble = (selector >> U32(4 * i)) & U32(15)
        byte = ((both >> ((nibble & U32(7)).astype(U64) * U64(8))) & U64(255)).astype(U32)
        signs = np.where(byte & U32(128), U32(255), U32(0))
        result = result | (np.where(nibble & U32(8), signs, byte) << U32(8 * i))
    return result


def lop3(a: Any, b: Any, c: Any, table: int) -> Any:
    """Any function of three bits: bit 4a + 2b + c of the table is its value."""
    result = np.zeros(1, U32)
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result


def ex2(x: Any, flush: bool) -> Any:
    """2^x; results below the smallest normal number are zero with `flush`."""
    y = np.exp2(x)
    return np.where(y < _SMALLEST_NORMAL, F32(0), y) if flush else y


def to_bf16(x: Any) -> Any:
    """float32 to the bits of the nearest bfloat16, ties to even."""
    bits = x.view(U32)
    rounded = ((bits + (((bits >> SIXTEEN) & U32(1)) + U32(0x7FFF))) >> SIXTEEN).astype(U16)
    bad = np.isnan(x)
    return np.where(bad, _NAN_BF16, rounded) if bad.any() else rounded


def from_bf16(bits: Any) -> Any:
    """The bits of bfloat16 to float32."""
    return (bits.astype(U32) << SIXTEEN).view(F32)


def to_f16(x: Any) -> Any:
    """float32 to the bits of the nearest float16, ties to even."""
    return x.astype(np.float16).view(U16)


def to_e4m3(x: Any) -> Any:
    """float32 to the bits of the nearest e4m3, ties to even; what is beyond 448 becomes that."""
    x = np.where(np.isnan(x), x, np.clip(x, -448, 448)).astype(F32)
    return torch.from_numpy(np.atleast_1d(x)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def from_e4m3(bits: Any) -> Any:
    """The bits of e4m3 to float32."""
    return _E4M3[bits]


def half(pair: Any, which: int, kind: str) -> Any:
    """The lower (0) or upper (1) number of a pair "bf16x2" or "f16x2", as float32."""
    if kind == "bf16x2":
        return (pair & HIGH_HALF if which else pair << SIXTEEN).view(F32)
    return (pair >> U32(16 * which)).astype(U16).view(np.float16).astype(F32)


def to_integer(x: Any, dtype: Any, mode: str) -> Any:
    """A float to the nearest integer in the direction of `mode`; NaN is 0, and what is too large the type's limit."""
    whole = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[mode](x.astype(np.float64))
    limits = np.iinfo(dtype)
    return np.clip(np.where(np.isnan(whole), 0, whole), limits.min, limits.max).astype(dtype)


def unordered(a: Any, b: Any) -> Any:
    """Whether one of two floats is NaN."""
    return np.isnan(a) | np.isnan(b)
