"""Counts what memory accesses cost in the shipped launches, in bfloat16 at sizes of whole blocks, compiled for sm_80 or sm_90.

    python tests/emulator/cost_report.py sm90

Prints a JSON list with an object for each kernel and case:

- "asked", "touched": bytes of global memory that its warps asked for, and different bytes among them. A quotient above 1 is
  what blocks and warps read again, from the caches at best;
- "sectors": bytes that were moved, in sectors of 32, over bytes asked for;
- "lanes": the share of the lanes of warps at a load or store of global memory that took part;
- "conflicts": wavefronts of shared memory over the least for its accesses, less 1;
- "of issue": the wavefronts beyond the least over all instructions of warps;
- "worst": the instruction with most wavefronts beyond the least: its place, text, wavefronts and the least by warp.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
os.environ["TRITON_INTERPRET"] = "0"

import torch  # noqa: E402


def cases() -> dict[str, Callable[[], None]]:
    """Forward and backward of each op, at sizes that its blocks divide."""
    from kernel_checks import check_attention, check_cross_entropy, check_embedding, check_ffn, check_layer_norm

    bf16 = torch.bfloat16
    found: dict[str, Callable[[], None]] = {}
    for width, p in ((64, 0.0), (64, 0.1), (32, 0.1), (128, 0.1)):
        for longest, number in ((32, 4), (64, 2), (128, 2), (512, 1)):
            lengths = [longest] * number
            found[f"attention D={width} S={longest} p={p:g}"] = lambda lengths=lengths, width=width, p=p: check_attention(
                "cpu", bf16, lengths, 1, width, p, False
            )
    return found | {
        "layer_norm 768 p=0.1": lambda: check_layer_norm("cpu", bf16, 256, 768, 0.1),
        "embedding 768 p=0.1": lambda: check_embedding("cpu", bf16, 256, 768, 0.1),
        "ffn 256 x 768 x 768": lambda: check_ffn("cpu", bf16, 256, 768, 768),
        "cross_entropy 1024 x 512": lambda: check_cross_entropy("cpu", bf16, 1024, 64, 512, "mean"),
    }


def row_of(case: str, launch: Any) -> dict[str, Any]:
    """The figures of one launch."""
    costs, kernel = launch.costs, launch.kernel
    in_global, in_shared = costs.total("global"), costs.total("shared")
    extra = {place: cost.moved - cost.least for (space, place), cost in costs.by_place.items() if space == "shared"}
    worst = max(extra, key=lambda place: extra[place], default=None)
    text = ""
    if worst is not None and extra[worst]:
        cost, instruction = costs.by_place["shared", worst], kernel.instructions[worst]
        text = f"{instruction.source} {instruction.name}: {cost.moved / cost.warps:.1f} for {cost.least / cost.warps:.1f}"
    return {
        "kernel": kernel.program.name.strip("_").removesuffix("_kernel"),
        "case": case,
        "asked": in_global.bytes,
        "touched": launch.touched,
        "sectors": in_global.moved * 32 / max(1, in_global.bytes),
        "lanes": in_global.lanes / max(1, 32 * in_global.warps),
        "conflicts": (in_shared.moved - in_shared.least) / max(1, in_shared.least),
        "of issue": (in_shared.moved - in_shared.least) / launch.executed,
        "worst": text,
    }


def run(arch: str, only: str) -> list[dict[str, Any]]:
    """The rows of an architecture, each kernel once a case."""
    from emulator.driver import RECORDER
    from emulator.machine import Options
    from emulator.plugin import use_compiled_kernels
    from fastbert.kernels import tuning

    use_compiled_kernels(arch)
    tuning.FFN_FORMS[arch] = dict.fromkeys(("inference", "training", "backward"), "fused")
    RECORDER.options = Options(counts=True)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for case, call in cases().items():
        if only in case:
            RECORDER.launches.clear()
            call()
            for launch in RECORDER.launches:
                row = row_of(case, launch)
                rows.setdefault((row["kernel"], case), row)
    return [*rows.values()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")))
