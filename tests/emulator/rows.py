"""Runs a row of the launch table on small inputs, as it is compiled for sm_80 or sm_90, and says what is wrong with it.

    python tests/emulator/rows.py sm90 attention_long_dkv '[2, 128]' '{"BLOCK_M": 32, "BLOCK_N": 64, ...}'

Prints one line of JSON: "fault", "" if there is none. A process of its own, as Triton's interpreter and driver are chosen once.
Exit code 0 with or without a fault.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
os.environ["TRITON_INTERPRET"] = "0"

import torch  # noqa: E402

FAMILIES = (
    "attention_short",
    "attention_long",
    "layer_norm_e4m3",
    "to_e4m3",
    "layer_norm",
    "table",
    "linear_gelu",
    "gelu",
    "cross_entropy",
)


def family(op: str) -> str | None:
    """The kernels that are run together for an op of the table; None for those that are not emulated."""
    return next((name for name in FAMILIES if op.startswith(name)), None)


def check_of(op: str, limits: list[int]) -> Callable[[], None]:
    """A check of tests/kernel_checks.py that launches the op by its first row."""
    from kernel_checks import (
        SMALL,
        check_attention,
        check_cross_entropy,
        check_e4m3_products,
        check_e4m3_rows,
        check_embedding,
        check_ffn,
        check_layer_norm,
    )

    dtype = torch.float32 if limits and limits[0] == 4 and "attention" in op else torch.bfloat16
    width = min(limits[0], 1024) if op.startswith(("layer_norm", "table")) else 0
    if op == "linear_gelu_tma" and limits[0] == 1:
        return lambda: check_e4m3_products("cpu", dtype, 300, 320, 528, False)
    calls: dict[str | None, Callable[[], None]] = {
        "attention_short": lambda: check_attention("cpu", dtype, SMALL[limits[2]], 2, limits[1], 0.1, False),
        "attention_long": lambda: check_attention("cpu", dtype, SMALL[200], 1, limits[1], 0.1, False),
        "layer_norm_e4m3": lambda: check_e4m3_rows("cpu", dtype, 13, width),
        "to_e4m3": lambda: check_e4m3_rows("cpu", dtype, 13, 768),
        "layer_norm": lambda: check_layer_norm("cpu", dtype, 13, width, 0.1),
        "table": lambda: check_embedding("cpu", dtype, 40, width, 0.1),
        "linear_gelu": lambda: check_ffn("cpu", dtype, 300, 320, 520),
        "gelu": lambda: check_ffn("cpu", dtype, 40, 64, 128),
        "cross_entropy": lambda: check_cross_entropy("cpu", dtype, 21, 64, 1000, "mean"),
    }
    return calls[family(op)]


def run(arch: str, op: str, limits: list[int], row: dict[str, int]) -> dict[str, str]:
    """The fault of a row."""
    from emulator.plugin import use_compiled_kernels
    from emulator.reports import KernelFault
    from fastbert.kernels import tuning

    use_compiled_kernels(arch)
    form = "fused" if op.startswith("linear_gelu") else "split"
    tuning.FFN_FORMS[arch] = dict.fromkeys(("inference", "training", "backward"), form)
    rows = tuning.TABLE[op]
    rows[arch] = [((tuning.LARGEST,) * len(limits), row), *rows.get(arch, rows["default"])]
    fault = ""
    try:
        check_of(op, limits)()
    except KernelFault as error:
        fault = str(error.reports[0])
    except AssertionError as error:
        # TF32 is as far from float32 as it is: of it only reports count.
        fault = "" if limits[:1] == [4] else f"wrong numbers: {error}"
    return {"fault": " ".join(fault.split())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    arch, op, limits, row = sys.argv[1:5]
    print(json.dumps(run(arch, op, json.loads(limits), json.loads(row))))
