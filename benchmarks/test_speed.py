"""The cases of run.py under pytest-benchmark: every op and the encoder, with fastbert and with its reference path.

    pytest benchmarks --benchmark-compare

Uses the same table of ops and texts as run.py, at a size that takes seconds on a CPU, in this process, with warm caches.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import op_cases
from benchmarks.speed.candidates import CANDIDATES
from benchmarks.speed.cases import REAL, Texts
from benchmarks.speed.checkpoints import Checkpoints
from benchmarks.speed.jobs import Inputs, Job
from benchmarks.speed.worker import load

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"
COMPARED = ("fastbert", "PyTorch eager", "fastbert, reference path")


def candidates(task: str) -> list[Any]:
    return [pytest.param(c, id=c.name) for c in CANDIDATES if c.can(task) and c.name in COMPARED]


@pytest.fixture(scope="module", autouse=True)
def few_tokens() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(op_cases.TOKENS, "cpu", 512)
        yield


@pytest.fixture(scope="module")
def checkpoints() -> Any:
    made = Checkpoints(None)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        pytest.param(name, candidate.values[0], id=f"{name}, {candidate.id}")
        for name in op_cases.OP_CASES
        for candidate in candidates(name)
    ],
)
def test_op(name: str, candidate: Any, benchmark: Any) -> None:
    work = load(candidate.make, Job(name, DEVICE, DTYPE), candidate.options)
    run_synchronised(benchmark, work, Inputs([[0]]), None)


@pytest.mark.parametrize("case", ["natural", "full 128"])
@pytest.mark.parametrize("candidate", candidates("encoder"))
def test_encoder(case: str, candidate: Any, benchmark: Any, checkpoints: Checkpoints) -> None:
    work = load(candidate.make, Job("encoder", DEVICE, DTYPE, str(checkpoints.folder(REAL, "encoder"))), candidate.options)
    inputs = Texts(checkpoints.tokenizer, None, None, None, 512).case(case, 2000).inputs
    run_synchronised(benchmark, work, inputs, work.settings[-1])


def run_synchronised(benchmark: Any, work: Any, inputs: Inputs, setting: int | None) -> None:
    """Benchmarks whole passes, each synchronised with the device."""
    from benchmarks.speed.timing import synchronise

    def run() -> None:
        work.run(setting)
        synchronise(torch.device(DEVICE))

    work.take(inputs)
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
