"""What accesses of memory cost: patterns whose sectors and wavefronts follow from 32 bytes and 32 banks."""

from __future__ import annotations

import pytest
import torch
from test_emulator import launch


def cost_of_global(stride: int, lanes: int = 32) -> tuple[float, float, int, int]:
    """(sectors, least, bytes, lanes) of loads of 4 bytes, lanes `stride` bytes apart."""
    x, out = torch.zeros(32 * max(stride, 4) // 4 + 4, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    body = f"""setp.lt.u32 %p1, %r0, {lanes};
        mad.wide.u32 %d10, %r0, {stride}, %d1;
        @%p1 ld.global.b32 %r1, [%d10];"""
    found = launch(body, [x[(-x.data_ptr() // 4) % 8 :], out], counts=True).costs.total("global")
    return found.moved, found.least, found.bytes, found.lanes


@pytest.mark.parametrize(
    ("stride", "lanes", "expected"),
    [
        (4, 32, (4, 4, 128, 32)),
        (32, 32, (32, 4, 128, 32)),
        (8, 32, (8, 4, 128, 32)),
        (0, 32, (1, 1, 4, 32)),
        (4, 3, (1, 1, 12, 3)),
    ],
)
def test_sectors(stride: int, lanes: int, expected: tuple[int, ...]) -> None:
    assert cost_of_global(stride, lanes) == expected


@pytest.mark.parametrize(
    ("kind", "stride", "moved", "least"),
    [
        ("b32", 4, 1, 1),
        ("b32", 8, 2, 1),
        ("b32", 128, 32, 1),
        ("b32", 132, 1, 1),  # a row of 33 words: the usual padding
        ("b32", 0, 1, 1),  # all lanes want one word
        ("b16", 2, 1, 1),
        ("v4.b32", 16, 4, 4),
        ("v4.b32", 128, 32, 4),
        ("v4.b32", 144, 4, 4),  # rows of 64 numbers of 16 bits and 8 more
        ("v2.b32", 8, 2, 2),
    ],
)
def test_wavefronts(kind: str, stride: int, moved: int, least: int) -> None:
    registers = {"b16": "%h1", "b32": "%r1", "v2.b32": "{%r1, %r2}", "v4.b32": "{%r1, %r2, %r3, %r4}"}[kind]
    body = f"mul.lo.u32 %r5, %r0, {stride};\n st.shared.{kind} [%r5], {registers};"
    found = launch(body, [], shared=32 * 144, counts=True, raises=False).costs.total("shared")
    assert (found.moved, found.least) == (moved, least)


def test_matrices_of_rows_that_are_not_swizzled_wait_for_each_other() -> None:
    """ldmatrix of four matrices: eight rows of 16 bytes at a time, all in the same four banks, or in all 32."""
    for stride, moved in ((128, 32), (144, 4)):
        body = f"""and.b32 %r1, %r0, 31;
            mul.lo.u32 %r5, %r1, {stride};
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r5];"""
        found = launch(body, [], shared=32 * 144, counts=True, raises=False).costs.total("shared")
        assert (found.moved, found.least) == (moved, 4)
