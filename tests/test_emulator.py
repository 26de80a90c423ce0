"""The emulator's opcodes on small hand-made PTX, against numpy, torch and the layouts of the PTX manual."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from emulator.global_memory import TensorMap
from emulator.kernel import Kernel
from emulator.machine import Options
from emulator.reports import KernelFault, UnknownOpcode

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n.visible .entry k(\n{parameters}\n)\n.reqntid {threads}\n"
REGISTERS = (
    ".reg .pred %p<32>; .reg .b16 %h<32>; .reg .b32 %r<192>; .reg .b64 %d<32>; .reg .f32 %f<96>;\nmov.u32 %r0, %tid.x;\n"
)
RNG = np.random.default_rng(0)
EDGES32 = np.array(
    [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF, 5, 7, 255, 256, 65535, 65536], np.uint32
)
INTEGERS = np.concatenate([EDGES32, RNG.integers(0, 2**32, 16, dtype=np.uint32)])
OTHERS = np.roll(INTEGERS, 7)
FLOATS = np.array(
    [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 3e38, 1e-38, 1e-45, 65504.0, 65520.0, 2.5, 3.5, -2.5, 1 / 3], np.float32
)
FLOATS = np.concatenate([FLOATS, RNG.standard_normal(16).astype(np.float32)])


def launch(body: str, arguments: list[Any], threads: int = 32, shared: int = 0, **options: Any) -> Any:
    """Runs statements; %d1, %d2, ... are the addresses of tensors, %r0 is the thread."""
    parameters = ",\n".join(f".param .u64 .ptr .global .align 1 k_{i}" for i in range(len(arguments)))
    loads = "".join(f"ld.param.b64 %d{i + 1}, [k_{i}];\n" for i in range(len(arguments)))
    text = HEAD.format(parameters=parameters, threads=threads) + "{\n" + REGISTERS + loads + body + "\nret;\n}\n"
    return Kernel(text).launch((1,), arguments, shared, Options(**options))


def elementwise(statement: str, result: np.dtype[Any], *inputs: np.ndarray) -> np.ndarray:
    """A statement on one element a thread: {a}, {b}, {c} are inputs and {o} the result, in registers of their size."""
    names = {1: ("h", "u8"), 2: ("h", "b16"), 4: ("r", "b32"), 8: ("d", "b64")}
    tensors = [torch.from_numpy(np.ascontiguousarray(x).view(f"i{x.dtype.itemsize}").copy()) for x in inputs]
    out = torch.zeros(32, dtype={1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[result.itemsize])
    lines, used = [], {}
    for i, (letter, tensor) in enumerate(zip("abc", tensors, strict=False)):
        register, kind = names[tensor.element_size()]
        used[letter] = f"%{register}{20 + i}"
        lines.append(f"mad.wide.u32 %d{10 + i}, %r0, {tensor.element_size()}, %d{i + 1};")
        lines.append(f"ld.global.{kind} {used[letter]}, [%d{10 + i}];")
    register, kind = names[result.itemsize]
    used["o"] = f"%{register}30"
    lines += [statement.format(**used), f"mad.wide.u32 %d20, %r0, {result.itemsize}, %d{len(tensors) + 1};"]
    lines.append(f"st.global.{kind} [%d20], {used['o']};")
    launch("\n".join(lines), [*tensors, out])
    return out.numpy().view(result)


def signed(x: np.ndarray) -> np.ndarray:
    return x.view(np.int32).astype(np.int64)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64)


def towards_zero(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([int(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(a, b, strict=True)])


def permuted(a: int, b: int, selector: int) -> int:
    data, out = (b << 32 | a).to_bytes(8, "little"), []
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = data[nibble & 7]
        out.append((255 if byte & 128 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(out), "little")


INTEGER_CASES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "add.s32 {o}, {a}, {b};": lambda a, b: a + b,
    "sub.s32 {o}, {a}, {b};": lambda a, b: a - b,
    "mul.lo.s32 {o}, {a}, {b};": lambda a, b: wide(a) * wide(b),
    "mul.hi.u32 {o}, {a}, {b};": lambda a, b: (a.astype(np.uint64) * b.astype(np.uint64)) >> np.uint64(32),
    "mul.hi.s32 {o}, {a}, {b};": lambda a, b: (signed(a) * signed(b)) >> 32,
    "mad.lo.s32 {o}, {a}, {b}, 17;": lambda a, b: wide(a) * wide(b) + 17,
    "and.b32 {o}, {a}, {b};": lambda a, b: a & b,
    "or.b32 {o}, {a}, {b};": lambda a, b: a | b,
    "xor.b32 {o}, {a}, {b};": lambda a, b: a ^ b,
    "not.b32 {o}, {a};": lambda a, b: ~a,
    "neg.s32 {o}, {a};": lambda a, b: -wide(a),
    "abs.s32 {o}, {a};": lambda a, b: np.abs(signed(a)),
    "min.s32 {o}, {a}, {b};": lambda a, b: np.minimum(signed(a), signed(b)),
    "max.u32 {o}, {a}, {b};": np.maximum,
    "div.u32 {o}, {a}, 7;": lambda a, b: a // np.uint32(7),
    "rem.u32 {o}, {a}, 7;": lambda a, b: a % np.uint32(7),
    "div.s32 {o}, {a}, -7;": lambda a, b: towards_zero(signed(a), np.full(32, -7)),
    "rem.s32 {o}, {a}, 7;": lambda a, b: signed(a) - 7 * towards_zero(signed(a), np.full(32, 7)),
    "shl.b32 {o}, {a}, {b};": lambda a, b: [x << y if y < 32 else 0 for x, y in zip(a.tolist(), b.tolist(), strict=True)],
    "shr.u32 {o}, {a}, {b};": lambda a, b: [x >> min(y, 99) for x, y in zip(a.tolist(), b.tolist(), strict=True)],
    "shr.s32 {o}, {a}, {b};": lambda a, b: [x >> min(y, 31) for x, y in zip(signed(a).tolist(), b.tolist(), strict=True)],
    "bfe.u32 {o}, {a}, 5, 9;": lambda a, b: a >> np.uint32(5) & np.uint32(511),
    "bfe.s32 {o}, {a}, 28, 4;": lambda a, b: signed(a) >> 28,
    "bfe.u32 {o}, {a}, 3, 0;": lambda a, b: a * np.uint32(0),
    "prmt.b32 {o}, {a}, {b}, 0x5410;": lambda a, b: [
        permuted(x, y, 0x5410) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ],
    "prmt.b32 {o}, {a}, {b}, 0xF7B2;": lambda a, b: [
        permuted(x, y, 0xF7B2) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ],
    "lop3.b32 {o}, {a}, {b}, 12345, 0x96;": lambda a, b: a ^ b ^ np.uint32(12345),
    "lop3.b32 {o}, {a}, {b}, 12345, 0xEA;": lambda a, b: (a & b) | np.uint32(12345),
    "mov.b32 {o}, {a};": lambda a, b: a,
    "{{ .reg .b16 lo, hi; mov.b32 {{lo, hi}}, {a}; mov.b32 {o}, {{hi, lo}}; }}": lambda a, b: (
        a >> np.uint32(16) | a << np.uint32(16)
    ),
    "{{ .reg .pred q; setp.lt.s32 q, {a}, {b}; selp.b32 {o}, {a}, {b}, q; }}": lambda a, b: np.minimum(signed(a), signed(b)),
    "{{ .reg .pred q; setp.hs.u32 q, {a}, {b}; mov.b32 {o}, 3; @q mov.b32 {o}, {a}; @!q add.u32 {o}, {b}, 1; }}": (
        lambda a, b: np.where(a >= b, a, b + np.uint32(1))
    ),
}


@pytest.mark.parametrize("statement", INTEGER_CASES)
def test_integers(statement: str) -> None:
    found = elementwise(statement, np.dtype(np.uint32), INTEGERS, OTHERS)
    with np.errstate(all="ignore"):
        expected = [int(x) & 0xFFFFFFFF for x in np.asarray(INTEGER_CASES[statement](INTEGERS, OTHERS)).tolist()]
    assert found.tolist() == expected


def test_wide_integers() -> None:
    a, b = INTEGERS, OTHERS
    found = elementwise("mul.wide.s32 {o}, {a}, {b};", np.dtype(np.int64), a, b)
    assert found.tolist() == (signed(a) * signed(b)).tolist()
    found = elementwise("mad.wide.u32 {o}, {a}, {b}, {c};", np.dtype(np.uint64), a, b, np.arange(32, dtype=np.uint64))
    assert found.tolist() == [int(x) * int(y) + i for i, (x, y) in enumerate(zip(a, b, strict=True))]
    found = elementwise("cvt.s64.s32 {o}, {a};", np.dtype(np.int64), a)
    assert found.tolist() == signed(a).tolist()
    found = elementwise("cvt.u64.u32 {o}, {a};", np.dtype(np.uint64), a)
    assert found.tolist() == a.tolist()


FLOAT_CASES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "add.f32 {o}, {a}, {b};": lambda a, b: a + b,
    "sub.f32 {o}, {a}, {b};": lambda a, b: a - b,
    "mul.f32 {o}, {a}, {b};": lambda a, b: a * b,
    "div.full.f32 {o}, {a}, {b};": lambda a, b: a / b,
    "fma.rn.f32 {o}, {a}, {b}, {a};": lambda a, b: (a.astype(np.longdouble) * b + a).astype(np.float32),
    "max.f32 {o}, {a}, {b};": np.fmax,
    "min.NaN.f32 {o}, {a}, {b};": np.minimum,
    "abs.f32 {o}, {a};": lambda a, b: np.abs(a),
    "neg.f32 {o}, {a};": lambda a, b: -a,
    "sqrt.approx.f32 {o}, {a};": lambda a, b: np.sqrt(a),
    "rcp.approx.f32 {o}, {a};": lambda a, b: np.float32(1) / a,
    "ex2.approx.ftz.f32 {o}, {a};": lambda a, b: np.where(np.exp2(a) < np.finfo(np.float32).tiny, 0, np.exp2(a)),
    "{{ .reg .pred q; setp.neu.f32 q, {a}, {b}; selp.f32 {o}, {a}, {b}, q; }}": lambda a, b: np.where(~(a == b), a, b),
    "{{ .reg .pred q; setp.ne.f32 q, {a}, {b}; selp.f32 {o}, {a}, 0f3F800000, q; }}": (
        lambda a, b: np.where((a != b) & ~np.isnan(a) & ~np.isnan(b), a, 1)
    ),
    "{{ .reg .pred q; setp.nan.f32 q, {a}, {b}; selp.f32 {o}, 0f3F800000, {b}, q; }}": (
        lambda a, b: np.where(np.isnan(a) | np.isnan(b), 1, b)
    ),
    "{{ .reg .pred q; setp.geu.f32 q, {a}, {b}; selp.f32 {o}, 0f3F800000, 0f00000000, q; }}": lambda a, b: ~(a < b),
}


@pytest.mark.parametrize("statement", FLOAT_CASES)
def test_floats(statement: str) -> None:
    a, b = FLOATS, np.roll(FLOATS, 5)
    found = elementwise(statement, np.dtype(np.float32), a, b)
    with np.errstate(all="ignore"):
        expected = np.asarray(FLOAT_CASES[statement](a, b)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_conversions() -> None:
    x = torch.from_numpy(FLOATS)
    for kind, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        found = elementwise(f"cvt.rn.{kind}.f32 {{o}}, {{a}};", np.dtype(np.int16), FLOATS)
        right = x.to(dtype)
        same = torch.from_numpy(found.copy()).view(dtype)
        assert torch.equal(same.isnan(), right.isnan())
        assert torch.equal(same.nan_to_num(7), right.nan_to_num(7))
        pair = elementwise(
            f"cvt.rn.{kind}x2.f32 {{o}}, {{a}}, {{b}};", np.dtype(np.uint32), np.abs(FLOATS[::-1]), np.full(32, 0.1, np.float32)
        )
        low, high = (pair & np.uint32(0xFFFF)).astype(np.uint16), (pair >> np.uint32(16)).astype(np.uint16)
        assert (low == torch.full((32,), 0.1).to(dtype).view(torch.int16).numpy().view(np.uint16)).all()
        finite = ~np.isnan(FLOATS[::-1])
        upper = torch.from_numpy(np.abs(FLOATS[::-1]).copy()).to(dtype).view(torch.int16).numpy().view(np.uint16)
        assert (high == upper)[finite].all()
        back = elementwise(f"cvt.f32.{kind} {{o}}, {{a}};", np.dtype(np.float32), right.view(torch.int16).numpy())
        np.testing.assert_array_equal(back, right.float().numpy())
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2e9, 3e9, -3e9, np.nan, np.inf] + [0.0] * 22, np.float32)
    for mode, expected in {
        "rzi": [0, 1, 2, 0, -1],
        "rni": [0, 2, 2, 0, -2],
        "rmi": [0, 1, 2, -1, -2],
        "rpi": [1, 2, 3, 0, -1],
    }.items():
        found = elementwise(f"cvt.{mode}.s32.f32 {{o}}, {{a}};", np.dtype(np.int32), values)
        assert found[:10].tolist() == [*expected, 2_000_000_000, 2**31 - 1, -(2**31), 0, 2**31 - 1]
    found = elementwise("cvt.rzi.u32.f32 {o}, {a};", np.dtype(np.uint32), values)
    assert found[:10].tolist() == [0, 1, 2, 0, 0, 2_000_000_000, 3_000_000_000, 0, 0, 2**32 - 1]
    bytes_ = np.arange(-16, 16).astype(np.int8)
    assert elementwise("cvt.s32.s8 {o}, {a};", np.dtype(np.int32), bytes_).tolist() == list(range(-16, 16))


def test_moves_between_lanes() -> None:
    value, lane = INTEGERS, np.arange(32)
    assert (elementwise("shfl.sync.bfly.b32 {o}, {a}, 5, 31, -1;", np.dtype(np.uint32), value) == value[lane ^ 5]).all()
    assert (elementwise("shfl.sync.idx.b32 {o}, {a}, 9, 31, -1;", np.dtype(np.uint32), value) == value[9]).all()
    source = RNG.integers(0, 32, 32, dtype=np.uint32)
    assert (elementwise("shfl.sync.idx.b32 {o}, {a}, {b}, 31, -1;", np.dtype(np.uint32), value, source) == value[source]).all()
    up = np.where(lane < 3, lane, lane - 3)
    assert (elementwise("shfl.sync.up.b32 {o}, {a}, 3, 0, -1;", np.dtype(np.uint32), value) == value[up]).all()
    down = np.where(lane > 28, lane, lane + 3)
    assert (elementwise("shfl.sync.down.b32 {o}, {a}, 3, 31, -1;", np.dtype(np.uint32), value) == value[down]).all()
    total = int(value.astype(np.int64).sum()) & 0xFFFFFFFF
    assert (elementwise("redux.sync.add.s32 {o}, {a}, -1;", np.dtype(np.uint32), value) == total).all()
    assert (elementwise("redux.sync.max.s32 {o}, {a}, -1;", np.dtype(np.int32), value) == value.view(np.int32).max()).all()


def test_threads_that_branch_apart_join_again() -> None:
    """A loop with a count of its own for each thread, an if with an else, and an early return."""
    out = torch.full((64,), -1, dtype=torch.int32)
    launch(
        """
        mad.wide.u32 %d5, %r0, 4, %d1;
        mov.b32 %r1, 0; mov.b32 %r2, 0; rem.u32 %r3, %r0, 5;
        $loop: setp.ge.u32 %p1, %r1, %r3; @%p1 bra $done;
        add.s32 %r1, %r1, 1; add.s32 %r2, %r2, %r1; bra.uni $loop;
        $done: setp.gt.u32 %p2, %r0, 49; @%p2 ret;
        and.b32 %r4, %r0, 1; setp.eq.b32 %p3, %r4, 0; @%p3 bra $even;
        add.s32 %r2, %r2, 1000; bra.uni $end;
        $even: add.s32 %r2, %r2, 2000;
        $end: st.global.b32 [%d5], %r2;
        """,
        [out],
        threads=64,
    )
    expected = [sum(range(1, t % 5 + 1)) + (2000 if t % 2 == 0 else 1000) if t < 50 else -1 for t in range(64)]
    assert out.tolist() == expected


# -- tensor cores --------------------------------------------------------------------------------------------------------------


def matrix(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 1000 + columns))
    if dtype == torch.float32:  # as TF32 has it
        return (values.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return values.to(dtype)


def test_conversions_to_e4m3() -> None:
    pairs = elementwise("cvt.rn.satfinite.e4m3x2.f32 {o}, {a}, {b};", np.dtype(np.uint16), FLOATS, FLOATS[::-1].copy())
    rounded = torch.from_numpy(FLOATS).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(pairs >> 8 & 0x7F, rounded & 0x7F)  # the sign of a NaN may be either
    assert np.array_equal(pairs & 0x7F, rounded[::-1] & 0x7F)


@pytest.mark.parametrize(
    ("kind", "dtype", "depth"), [("bf16", torch.bfloat16, 16), ("f16", torch.float16, 16), ("tf32", torch.float32, 8)]
)
def test_mma_has_the_layout_of_the_manual(kind: str, dtype: torch.dtype, depth: int) -> None:
    """Each thread gets its fragments element by element, by the formulas of the PTX manual for row and column."""
    a, b, c = matrix(16, depth, dtype), matrix(depth, 8, dtype), matrix(16, 8, torch.float32)
    per = 2 if depth == 16 else 1  # numbers in a register
    registers = torch.zeros(32, 8, dtype=torch.int32)
    for thread in range(32):
        group, place = divmod(thread, 4)
        for i in range(4):  # registers of a
            row = group + 8 * (i % 2)
            first = place * per + (8 if depth == 16 else 4) * (i // 2)
            registers[thread, i] = bits(a[row, first : first + per])
        for i in range(2):  # of b
            first = place * per + (8 if depth == 16 else 4) * i
            registers[thread, 4 + i] = bits(b[first : first + per, group])
    sums = torch.zeros(32, 4)
    for thread in range(32):
        group, place = divmod(thread, 4)
        for i in range(4):
            sums[thread, i] = c[group + 8 * (i // 2), place * 2 + i % 2]
    out = torch.zeros(32, 4)
    loads = "".join(f"ld.global.b32 %r{10 + i}, [%d5 + {4 * i}];\n" for i in range(6))
    loads += "".join(f"ld.global.b32 %f{i}, [%d6 + {4 * i}];\n" for i in range(4))
    stores = "".join(f"st.global.b32 [%d7 + {4 * i}], %f{10 + i};\n" for i in range(4))
    name = f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32"
    launch(
        "mad.wide.u32 %d5, %r0, 32, %d1; mad.wide.u32 %d6, %r0, 16, %d2; mad.wide.u32 %d7, %r0, 16, %d3;\n" + loads
        + f"{name} {{%f10, %f11, %f12, %f13}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%f0, %f1, %f2, %f3}};\n" + stores,
        [registers, sums, out],
    )  # fmt: skip
    expected = a.double() @ b.double() + c.double()
    for thread in range(32):
        group, place = divmod(thread, 4)
        for i in range(4):
            assert float(out[thread, i]) == pytest.approx(
                float(expected[group + 8 * (i // 2), place * 2 + i % 2]), rel=1e-5, abs=1e-5
            )


def bits(values: torch.Tensor) -> int:
    """One or two numbers as a register."""
    if values.dtype == torch.float32:
        return int(values.contiguous().view(torch.int32)[0])
    low, high = values.contiguous().view(torch.int16).tolist()
    return int(np.int32(np.uint32(low & 0xFFFF | (high & 0xFFFF) << 16)))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_and_stmatrix(count: int, transposed: bool) -> None:
    """Rows of 8 x 8 matrices are stored by stmatrix as they were loaded, and registers hold what the manual says."""
    given = torch.arange(64 * 4, dtype=torch.int16)
    registers, copy = torch.zeros(32, 4, dtype=torch.int32), torch.zeros(256, dtype=torch.int16)
    name = f"m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    names = ", ".join(f"%r{10 + i}" for i in range(count))
    stores = "".join(f"st.global.b32 [%d6 + {4 * i}], %r{10 + i};\n" for i in range(count))
    launch(
        f"""
        mul.lo.s32 %r1, %r0, 16; mad.wide.u32 %d5, %r0, 16, %d1; mad.wide.u32 %d6, %r0, 16, %d2;
        ld.global.v4.b32 {{%r2, %r3, %r4, %r5}}, [%d5]; st.shared.v4.b32 [%r1], {{%r2, %r3, %r4, %r5}};
        bar.sync 0;
        ldmatrix.sync.aligned.{name} {{{names}}}, [%r1];
        {stores}
        add.s32 %r6, %r1, 512;
        st.shared.v4.b32 [%r6], {{%r2, %r3, %r4, %r5}};
        bar.sync 0;
        stmatrix.sync.aligned.{name} [%r6], {{{names}}};
        bar.sync 0;
        ld.shared.v4.b32 {{%r2, %r3, %r4, %r5}}, [%r6];
        mad.wide.u32 %d7, %r0, 16, %d3; st.global.v4.b32 [%d7], {{%r2, %r3, %r4, %r5}};
        """,
        [given, registers, copy],
        shared=1024,
    )
    assert torch.equal(copy, given)
    matrices = given.view(4, 8, 8)
    for thread in range(32):
        group, place = divmod(thread, 4)
        for i in range(count):
            found = matrices[i].T if transposed else matrices[i]
            low, high = found[group, 2 * place : 2 * place + 2].tolist()
            assert int(registers[thread, i]) == low | high << 16


SWIZZLES = {0: 0, 32: 3, 64: 2, 128: 1}  # bytes -> as a matrix descriptor counts them


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (-3, 0), (60, 16), (70, 0), (0, -8)])
def test_tensor_copies_swizzle_and_end_at_edges(width: int, row: int, column: int) -> None:
    """A box comes to shared memory with zeros beyond the edges, units moved by the manual's xor, and goes back whole."""
    tensor = torch.arange(64 * 40, dtype=torch.int16).view(64, 40)
    out, seen = torch.full((64, 40), -1, dtype=torch.int16), torch.zeros(8 * width // 2, dtype=torch.int16)
    columns = width // 2
    launch(
        tensor_copy(width, row, column)
        + f"mul.lo.s32 %r9, %r0, {8 * width // 32}; cvt.u64.u32 %d9, %r9; add.s64 %d9, %d9, %d3;\n"
        + "".join(f"ld.shared.b32 %r10, [%r9 + {i}]; st.global.b32 [%d9 + {i}], %r10;\n" for i in range(0, 8 * width // 32, 4)),
        [TensorMap(tensor, (8, columns), width), TensorMap(out, (8, columns), width), seen],
        shared=8 * width + 64,
    )
    box = torch.zeros(8, columns, dtype=torch.int16)
    expected = torch.full_like(out, -1)
    for r in range(8):
        for c in range(columns):
            if 0 <= row + r < 64 and 0 <= column + c < 40:
                box[r, c] = expected[row + r, column + c] = tensor[row + r, column + c]
    flat = box.view(-1, 8)
    for unit in range(len(flat)):
        address = unit * 16
        moved = address ^ (address >> 7 & {32: 1, 64: 3, 128: 7}[width]) << 4
        assert torch.equal(seen.view(-1, 8)[moved // 16], flat[unit])
    assert torch.equal(out, expected)


def tensor_copy(width: int, row: int, column: int) -> str:
    """One thread loads a box of 8 rows and stores it again; all wait for it."""
    barrier = 8 * width
    return f"""
        setp.eq.b32 %p1, %r0, 0; mov.b32 %r1, 0; mov.b32 %r2, {barrier};
        @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;
        bar.sync 0;
        @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {8 * width};
        mov.b32 %r3, {column}; mov.b32 %r4, {row};
        @%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%d1, {{%r3, %r4}}], [%r2];
        $wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra.uni $wait;
        @%p1 cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d2, {{%r3, %r4}}], [%r1];
        @%p1 cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        bar.sync 0;
    """


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_wgmma_reads_operands_under_every_swizzle(width: int, by_rows: bool, late: bool) -> None:
    """C = A B^T for A (64, 16) in registers, B (16, 16) in shared memory, laid out here by the manual's description."""
    a, b, c = matrix(64, 16, torch.bfloat16), matrix(16, 16, torch.bfloat16), matrix(64, 16, torch.float32)
    memory = torch.zeros(2048, dtype=torch.int16)
    for n in range(16):
        for k in range(16):
            if by_rows:  # lines along n; line k, its 16 bytes of eight n
                address = k % 8 * width + k // 8 * 1024 + n * 2 % width + n * 2 // width * 2048
            else:  # lines along k: row n, eight rows of it in a pattern
                address = n // 8 * 1024 + n % 8 * width + k * 2
            address ^= (address >> 7 & {32: 1, 64: 3, 128: 7}[width]) << 4
            memory[address // 2] = b[n, k].view(torch.int16)
    registers, sums = torch.zeros(128, 4, dtype=torch.int32), torch.zeros(128, 8)
    for thread in range(128):
        warp, (group, place) = thread // 32, divmod(thread % 32, 4)
        for i in range(4):
            first = 2 * place + 8 * (i // 2)
            registers[thread, i] = bits(a[16 * warp + group + 8 * (i % 2), first : first + 2])
        for i in range(8):
            sums[thread, i] = c[16 * warp + group + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * place + i % 2]
    out = torch.zeros(128, 8)
    descriptor = SWIZZLES[width] << 62 | (1024 >> 4) << 32 | (2048 >> 4) << 16
    sums_in = "".join(f"ld.global.b32 %f{i}, [%d6 + {4 * i}];\n" for i in range(8))
    sums_out = "".join(f"st.global.b32 [%d7 + {4 * i}], %f{i};\n" for i in range(8))
    accumulator = "{" + ", ".join(f"%f{i}" for i in range(8)) + "}"
    launch(
        f"""
        mul.lo.s32 %r1, %r0, 32; mad.wide.u32 %d5, %r0, 32, %d1;
        ld.global.v4.b32 {{%r2, %r3, %r4, %r5}}, [%d5]; st.shared.v4.b32 [%r1], {{%r2, %r3, %r4, %r5}};
        ld.global.v4.b32 {{%r2, %r3, %r4, %r5}}, [%d5 + 16]; st.shared.v4.b32 [%r1 + 16], {{%r2, %r3, %r4, %r5}};
        fence.proxy.async.shared::cta; bar.sync 0;
        mad.wide.u32 %d8, %r0, 16, %d2; ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%d8];
        mad.wide.u32 %d6, %r0, 32, %d3; mad.wide.u32 %d7, %r0, 32, %d4;
        {sums_in}
        mov.b64 %d9, {descriptor};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16
          {accumulator}, {{%r10, %r11, %r12, %r13}}, %d9, 1, 1, 1, {int(by_rows)};
        wgmma.commit_group.sync.aligned;
        wgmma.wait_group.sync.aligned 0;
        {sums_out}
        """,
        [memory, registers, sums, out],
        threads=128,
        shared=4096,
        late_products=late,
    )
    expected = a.double() @ b.double().T + c.double()
    for thread in range(128):
        warp, (group, place) = thread // 32, divmod(thread % 32, 4)
        for i in range(8):
            row, column = 16 * warp + group + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * place + i % 2
            assert float(out[thread, i]) == pytest.approx(float(expected[row, column]), rel=1e-5, abs=1e-5)


# -- faults --------------------------------------------------------------------------------------------------------------------

TO_SHARED = "mul.lo.s32 %r1, %r0, 4; st.shared.b32 [%r1], %r0;\n"
FROM_NEXT = "add.s32 %r2, %r0, 32; and.b32 %r2, %r2, 63; mul.lo.s32 %r2, %r2, 4; ld.shared.b32 %r3, [%r2];\n"
ASYNC = """mul.lo.s32 %r1, %r0, 16; mad.wide.u32 %d5, %r0, 16, %d1;
cp.async.cg.shared.global [%r1], [%d5], 16; cp.async.commit_group;
"""
FAULTS = {
    "race: reads what another warp wrote": TO_SHARED + FROM_NEXT,
    "race: writes what another warp read": TO_SHARED
    + "bar.sync 0;\n"
    + FROM_NEXT
    + "add.s32 %r4, %r0, 1; st.shared.b32 [%r1], %r4;",
    "uninitialised: reads shared memory": "mov.b32 %r1, 16; ld.shared.b32 %r3, [%r1];",
    "shared out of bounds: ": "mul.lo.s32 %r1, %r0, 64; st.shared.b32 [%r1], %r0;",
    "misaligned: shared store": "mul.lo.s32 %r1, %r0, 4; add.s32 %r1, %r1, 2; st.shared.b32 [%r1], %r0;",
    "out of bounds: .*byte 1024 of k_0": "mad.wide.u32 %d5, %r0, 4, %d1; ld.global.b32 %r1, [%d5 + 772];",
    "out of bounds: .*where no tensor is": "mov.b64 %d5, 64; ld.global.b32 %r1, [%d5];",
    "misaligned: ": "ld.global.b32 %r1, [%d1 + 2];",
    "async race: reads shared memory that a copy is still filling": ASYNC + "ld.shared.b32 %r3, [%r1];\ncp.async.wait_group 0;",
    "async race: a cp.async was never waited for": ASYNC,
    "divergent barrier": "setp.lt.u32 %p1, %r0, 40; @%p1 bra $some; bra.uni $end; $some: bar.sync 0; $end: mov.b32 %r1, 0;",
    "divergent warp": "setp.lt.u32 %p1, %r0, 40; @!%p1 bra $end; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; $end: mov.b32 %r1, 0;",
    "deadlock": "mov.b32 %r2, 0; setp.eq.b32 %p1, %r0, 0; @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;\nbar.sync 0;\n"
    "$wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra.uni $wait;",
    "trap": "setp.eq.b32 %p1, %r0, 3; @!%p1 bra $end; trap; $end: mov.b32 %r1, 0;",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported_where_they_are(fault: str) -> None:
    kind, _, detail = fault.partition(": ")
    with pytest.raises(KernelFault) as caught:
        launch(FAULTS[fault], [torch.zeros(256, dtype=torch.int32)], threads=64, shared=1024)
    reports = [report for report in caught.value.reports if report.kind == kind]
    assert reports, caught.value
    assert any(re.search(detail, str(report), re.S) for report in reports), caught.value
    assert all(report.text.rstrip(";") in FAULTS[fault] for report in reports)


def test_blocks_that_write_what_others_touch() -> None:
    out = torch.zeros(32, dtype=torch.int32)
    text = HEAD.format(parameters=".param .u64 .ptr .global .align 1 k_0", threads=32) + "{\n" + REGISTERS
    text += "ld.param.b64 %d1, [k_0]; mad.wide.u32 %d2, %r0, 4, %d1; st.global.b32 [%d2], %r0; ret;\n}\n"
    Kernel(text).launch((1,), [out], 0)
    with pytest.raises(KernelFault, match="two blocks write the same bytes"):
        Kernel(text).launch((2,), [out], 0)


def test_an_unknown_opcode_fails_with_its_line() -> None:
    with pytest.raises(UnknownOpcode, match=r"sin.approx.f32 at PTX line 12: sin.approx.f32 %f1, %f0"):
        launch("sin.approx.f32 %f1, %f0;", [torch.zeros(1, dtype=torch.int32)])
    with pytest.raises(UnknownOpcode, match="cvt.rn.satfinite.e5m2x2.f32"):
        launch("cvt.rn.satfinite.e5m2x2.f32 %h1, %f0, %f0;", [torch.zeros(1, dtype=torch.int32)])


@pytest.mark.parametrize(("reverse", "last"), [(False, 63), (True, 31)])
def test_warps_run_in_one_order_or_the_other(reverse: bool, last: int) -> None:
    """Who writes last to a place that all threads write to."""
    out = torch.zeros(4, dtype=torch.int32)
    launch("st.global.b32 [%d1], %r0;", [out], threads=64, reverse_order=reverse, raises=False)
    assert int(out[0]) == last
