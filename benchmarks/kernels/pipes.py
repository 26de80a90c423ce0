"""Predicts the speed of a kernel's main loop from its machine code: cycles of each pipe of a Hopper multiprocessor.

The model ranks variants; it ignores stalls and occupancy, and it is not a measurement.
"""

from __future__ import annotations

import re

from benchmarks.kernels.sass import Instruction

# Warp instructions per cycle, and the prefixes of the instructions that use the pipe.
_PIPES = {
    "float": (4.0, ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FCHK", "HADD2", "HFMA2", "HMUL2", "F2FP")),
    "integer": (2.0, ("IADD", "IMAD", "LOP3", "SHF", "LEA", "ISETP", "SEL", "PRMT", "IMNMX", "VIADD", "MOV", "PLOP3")),
    "special": (0.5, ("MUFU",)),
    "memory": (1.0, ("LD", "ST", "SHFL", "BAR", "ATOM")),
}


def main_loop(code: list[Instruction], warps: int, steps: int) -> dict[str, float] | None:
    """Cycles by pipe of the innermost loop with tensor-core work, and TFLOP/s of a GPU of 132 multiprocessors at 1.755 GHz.

    `serial` adds the tensor-core cycles to the larger of issue and special-function cycles; `overlapped` takes the largest of
    all pipes. A persistent matrix product has its epilogue inside the loop, behind a branch that is taken once in `steps`
    iterations, so the epilogue is weighted by 1 / `steps`. None if there is no such loop.
    """
    best: list[Instruction] | None = None
    for line in code:
        if line.target is None or line.target >= line.address:
            continue
        body = [inner for inner in code if line.target <= inner.address <= line.address]
        if _tensor_flops([inner.name for inner in body]) and (best is None or len(body) < len(best)):
            best = body
    if best is None:
        return None
    main, epilogue = _without_epilogue(best)
    share = 1 / steps if steps and epilogue else 1.0
    flops = _tensor_flops(main) * warps
    cycles = {"tensor": flops / 4096, "issue": (len(main) + share * len(epilogue)) * warps / 4.0}
    for pipe, (rate, names) in _PIPES.items():
        count = sum(n.startswith(names) for n in main) + share * sum(n.startswith(names) for n in epilogue)
        cycles[pipe] = count * warps / rate
    speed = flops * 132 * 1.755e9 / 1e12
    serial = cycles["tensor"] + max(cycles["issue"], cycles["special"])
    return {
        "instructions": len(best),
        **cycles,
        "serial TFLOP/s": speed / serial,
        "overlapped TFLOP/s": speed / max(cycles.values()),
    }


def _without_epilogue(body: list[Instruction]) -> tuple[list[str], list[str]]:
    """Instruction names of a loop and of its epilogue: the longest part without tensor-core work that a branch can skip."""
    best: tuple[int, int] = (0, 0)
    for line in body:
        if line.target is None or not line.address + best[1] - best[0] < line.target <= body[-1].address:
            continue
        if not _tensor_flops([inner.name for inner in body if line.address < inner.address < line.target]):
            best = (line.address, line.target)
    inside = [line.name for line in body if best[0] < line.address < best[1]]
    return [line.name for line in body if not best[0] < line.address < best[1]], inside


def _tensor_flops(names: list[str]) -> float:
    """FLOPs of one warp's tensor-core instructions; a warp-group product is shared by four warps."""
    total = 0.0
    for name in names:
        if wide := re.match(r"[HQ]GMMA\.(\d+)x(\d+)x(\d+)", name):
            total += 2 * int(wide[1]) * int(wide[2]) * int(wide[3]) / 4
        elif narrow := re.match(r"HMMA\.(\d{2})(\d)(\d+)", name):
            total += 2 * int(narrow[1]) * int(narrow[2]) * int(narrow[3])
    return total
