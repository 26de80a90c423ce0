"""Processes that fork after loading compute; those that fork after computing do so on one thread, and say it. Nothing hangs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, os, signal, sys, warnings
import torch
torch.set_num_threads(2)
from fastbert.tasks import Embedder

texts = ["a text of some words " * 20] * 10

def forked(before):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(60)
    os.dup2(os.open(f"{sys.argv[2]}/{before}", os.O_WRONLY | os.O_CREAT), 1)
    if before == "threads": torch.set_num_threads(2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = embedder.encode(texts)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
            os._exit(3)
    print(len(said), *[one.message for one in said], flush=True)
    if before == "compute" and abs(found - expected).max() >= 1e-5: os._exit(4)
    os._exit(0)

codes = {}
embedder = Embedder.from_pretrained(sys.argv[1], "cpu", torch.bfloat16)
codes["cast"] = forked("cast")
embedder = Embedder.from_pretrained(sys.argv[1], "cpu")
codes["load"] = forked("load")
expected = embedder.encode(texts)
codes["compute"] = forked("compute")
codes["threads"] = forked("threads")
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def forked(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What became of processes that one process forked, before it computed and after: exit code and output."""
    folder = tmp_path_factory.mktemp("forked")
    command = [sys.executable, "-c", CODE, str(minilm), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return {name: (code, (folder / name).read_text()) for name, code in json.loads(run.stdout).items()}


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
def test_a_forked_process_computes_or_says_why_not(
    before: str, code: int, message: str, forked: dict[str, tuple[int, str]]
) -> None:
    status, said = forked[before]
    assert status == code, said
    assert message in said
