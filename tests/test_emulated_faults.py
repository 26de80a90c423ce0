"""Faults seeded into the PTX of real launches, one at a time: what the emulator reports, and what it misses.

A fault matters if results differ from those of the kernel as it is, under the emulator's own schedule or an adverse one. It is
noticed if there is a report, or if results differ under the emulator's own schedule, as tests compare them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import EVERYTHING, KERNELS
from emulator import driver
from emulator.global_memory import TensorMap
from emulator.kernel import Kernel
from emulator.machine import Options
from emulator.reports import WARNINGS, KernelFault, UnknownOpcode
from kernel_checks import check_attention, check_cross_entropy, check_ffn, check_layer_norm, check_linear_gelu

from fastbert.kernels import tuning

bf16 = torch.bfloat16
CALLS: dict[str, Callable[[], None]] = {
    "attention_short": lambda: check_attention("cpu", bf16, [100, 33, 128], 1, 64, 0.1, False),
    "attention_long": lambda: check_attention("cpu", bf16, [200, 33, 129], 1, 64, 0.0, False),
    "layer_norm": lambda: check_layer_norm("cpu", bf16, 13, 768, 0.1),
    "linear_gelu": (
        (lambda: check_linear_gelu("cpu", bf16, 300, 320, 520, "none"))
        if KERNELS == "sm90"
        else (lambda: check_ffn("cpu", bf16, 140, 192, 136))
    ),
    "cross_entropy": lambda: check_cross_entropy("cpu", bf16, 21, 64, 1000, "mean"),
}


def removed(line: str) -> str:
    return "\t//"


def replaced(pattern: str, by: Any) -> Callable[[str], str]:
    return lambda line: re.sub(pattern, by, line, count=1)


FAULTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "a barrier removed": (r"bar\.sync", removed),
    "a wait for copies one too late": (r"cp\.async\.wait_group", replaced(r"\d+;", lambda m: f"{int(m[0][:-1]) + 1};")),
    "a wait for products one too late": (r"wgmma\.wait_group", replaced(r"\d+;", lambda m: f"{int(m[0][:-1]) + 1};")),
    "a wait for products removed": (r"wgmma\.wait_group", removed),
    "a wait for a tensor store removed": (r"bulk\.wait_group", removed),
    "a proxy fence removed": (r"fence\.proxy", removed),
    "a load beyond its place": (r"ld\.global.*\+ 0 \]", replaced(r"\+ 0 \]", "+ 16 ]")),
    "a store beyond its place": (r"st\.global.*\+ 0 \]", replaced(r"\+ 0 \]", "+ 16 ]")),
    "the mask of a load dropped": (r"@!?%p\d+ ld\.global", replaced(r"@!?%p\d+ ", "")),
    "the mask of a store dropped": (r"@!?%p\d+ st\.global", replaced(r"@!?%p\d+ ", "")),
    "operands swapped": (r"mma\.sync", replaced(r"\{ (%r\d+), (%r\d+) \}", r"{ \2, \1 }")),
    "another swizzle": (r"xor\.b32\s+%r\d+, %r\d+, \d+;", replaced(r"(\d+);", lambda m: f"{int(m[1]) ^ 16};")),
    "a matrix not transposed": (r"ldmatrix.*\.trans", replaced(r"\.trans", "")),
    "a product not transposed": (r"wgmma\.mma.*1, 1, 1;", replaced(r"1, 1, 1;", "1, 1, 0;")),
    "another lane of a shuffle": (r"shfl\.sync\.bfly", replaced(r", (\d+), 31", lambda m: f", {int(m[1]) ^ 3}, 31")),
}
SAMPLES = 2 if EVERYTHING else 1  # places for each kind of fault and kernel


def own(arguments: list[Any]) -> list[Any]:
    """Copies of the arguments, with their strides and alignment."""
    found = []
    for given in arguments:
        tensor = given.tensor if isinstance(given, TensorMap) else given
        if isinstance(tensor, torch.Tensor):
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            whole = torch.as_strided(tensor, (count,), (1,), 0).clone()
            tensor = torch.as_strided(whole, tensor.shape, tensor.stride(), tensor.storage_offset())
        found.append(TensorMap(tensor, given.box, given.swizzle) if isinstance(given, TensorMap) else tensor)
    return found


def run(kernel: Kernel, grid: Any, arguments: list[Any], shared: int, **options: bool) -> tuple[set[str], list[torch.Tensor]]:
    """Kinds of reports, and all tensors behind the launch."""
    given = own(arguments)
    try:
        reports = [*kernel.launch(grid, given, shared, Options(raises=False, **options)).reports.values()]
    except KernelFault as fault:
        reports = fault.reports
    tensors = [one.tensor if isinstance(one, TensorMap) else one for one in given]
    return {r.kind for r in reports if r.kind not in WARNINGS}, [t.nan_to_num() for t in tensors if isinstance(t, torch.Tensor)]


def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return not all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.fixture
def launches(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """The launches of a call: (kernel, grid, arguments as they were before, shared bytes)."""
    found: list[Any] = []

    def keep(kernel: Kernel, grid: Any, arguments: list[Any], shared: int) -> None:
        found.append((kernel, grid, own(arguments), shared))

    driver.RECORDER.on_launch = keep
    yield found
    driver.RECORDER.on_launch = None


@pytest.mark.alternates
@pytest.mark.parametrize("name", list(CALLS))
def test_seeded_faults_are_noticed(name: str, launches: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning.FFN_FORMS, KERNELS, dict.fromkeys(("inference", "training", "backward"), "fused"))
    CALLS[name]()
    draw, mattered, missed, seen = random.Random(0), 0, [], set()
    driver.RECORDER.on_launch = None
    for kernel, grid, arguments, shared in launches:
        if name not in kernel.program.name or kernel.program.text in seen:
            continue
        seen.add(kernel.program.text)
        kinds, right = run(kernel, grid, arguments, shared)
        assert not kinds, f"{kernel.program.name} is as it was shipped"
        lines = kernel.program.text.split("\n")
        for fault, (pattern, change) in FAULTS.items():
            places = [i for i, line in enumerate(lines) if re.search(pattern, line) and change(line) != line]
            for place in draw.sample(places, min(SAMPLES, len(places))):
                text = "\n".join([*lines[:place], change(lines[place]), *lines[place + 1 :]])
                try:
                    changed = Kernel(text)
                    kinds, found = run(changed, grid, arguments, shared)
                except UnknownOpcode:
                    continue
                noticed = bool(kinds) or differ(found, right)
                if not noticed:
                    _, found = run(changed, grid, arguments, shared, checks=False, early_copies=True, late_products=True)
                    if not differ(found, right):
                        continue  # it changes nothing and opens no race that matters
                    missed.append(f"{kernel.program.name}, {fault}: {lines[place].strip()}")
                mattered += 1
    assert mattered > 5 * SAMPLES
    assert len(missed) <= 0.05 * mattered, "\n".join(missed)
