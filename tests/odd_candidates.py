"""Candidates for the tests of the benchmark: each runs in a process of its own, which imports this file for it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed.candidates.models import Fastbert
from benchmarks.speed.jobs import Job, Work


class Perturbed(Fastbert):
    """One weight is wrong."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, prepacked=False)
        with torch.no_grad():
            self.model.encoder.layer[1].output.dense.weight[0, 0] += 1.0


class Misbehaved(Fastbert):
    """Breaks when its pass is timed: "raise", "die" or "memory"."""

    def __init__(self, job: Job, how: str) -> None:
        super().__init__(job)
        self.how = how

    def run(self, setting: int | None) -> None:
        if self.how == "raise":
            raise ZeroDivisionError("by design")
        if self.how == "memory":
            torch.empty(1 << 60, dtype=torch.uint8)
        os.kill(os.getpid(), signal.SIGKILL)


class Absent(Work):
    """Cannot even start."""

    def __init__(self, job: Job) -> None:
        raise RuntimeError("no such engine")


class Slow(Work):
    """Never answers."""

    def __init__(self, job: Job) -> None:
        time.sleep(600)


class ToldLimits(Work):
    """The machine's limits, told and not measured: what they are is not looked at where this is used."""

    def __init__(self, job: Job) -> None: ...

    def rates(self, at_least: float) -> tuple[float, float]:
        return 1e11, 1e10
