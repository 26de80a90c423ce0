"""Runs rows of the launch table on an emulated GPU, in processes of their own: see tests/emulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kernels import aot
from fastbert.kernels import tuning

EMULATOR = Path(__file__).resolve().parents[2] / "tests" / "emulator"
ARCHITECTURES = ("sm80", "sm90")
WITHOUT_CHECK = ("lamb",)  # which tests/test_optimizers.py compares with the library's


def fault_of(op: str, arch: str, limits: Sequence[int], row: tuning.Row) -> str:
    """What is wrong with a row: a race, a bad access, wrong numbers; "" if nothing is, or if it is not emulated."""
    if arch not in ARCHITECTURES or op in WITHOUT_CHECK:
        return ""
    command = [sys.executable, str(EMULATOR / "rows.py"), arch, op, json.dumps(list(limits)), json.dumps(row)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return (result.stderr.strip().splitlines() or ["ended without a word"])[-1]
    fault: str = json.loads(result.stdout.splitlines()[-1])["fault"]
    return fault


def costs_of(arch: str, only: str = "") -> list[dict[str, Any]]:
    """What memory accesses of the shipped launches cost, as tests/emulator/cost_report.py explains."""
    command = [sys.executable, str(EMULATOR / "cost_report.py"), arch, only]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def shipped_rows(arch: str) -> Iterator[tuple[str, tuple[int, ...], tuning.Row]]:
    """(op, limits, row) of an architecture, without those that it never launches or that have no check."""
    for op, table in tuning.TABLE.items():
        for limits, row in table.get(arch) or table["default"]:
            fits = arch in (aot.WITH_E4M3 if "e4m3" in op else tuning.TMA_ARCHITECTURES if "tma" in op else ARCHITECTURES)
            if row is not None and op not in WITHOUT_CHECK and fits:
                yield op, limits, row
