"""Processes that fork after loading compute; those that fork after computing do so on one thread, and say it. Nothing hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, signal, sys, warnings
import torch
torch.set_num_threads(2)
from fastbert.tasks import Embedder

kind = torch.bfloat16 if sys.argv[2] == "cast" else None
embedder = Embedder.from_pretrained(sys.argv[1], "cpu", kind)
texts = ["a text of some words " * 20] * 10
if sys.argv[2] in ("compute", "threads"): expected = embedder.encode(texts)
child = os.fork()
if not child:
    signal.alarm(60)
    if sys.argv[2] == "threads": torch.set_num_threads(2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = embedder.encode(texts)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
            os._exit(3)
    print(len(said), *[one.message for one in said], flush=True)
    if sys.argv[2] == "compute": assert abs(found - expected).max() < 1e-5
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("before", "code", "message"),
    [
        ("load", 0, "0"),
        ("cast", 0, "0"),
        ("compute", 0, "runs on a single thread: load the model, and compute nothing, before forking"),
        ("threads", 3, "BackendError this process was forked from one that had computed: on 2 threads it would wait"),
    ],
)
def test_a_forked_process_computes_or_says_why_not(before: str, code: int, message: str, minilm: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(minilm), before], capture_output=True, text=True, check=False, timeout=200
    )
    *said, status = run.stdout.strip().splitlines()
    assert int(status) == code, run.stdout + run.stderr
    assert message in "\n".join(said)
