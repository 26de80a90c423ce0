"""Several processes (gloo, on a CPU): the same training as one, and what happens when one dies.

By torchrun, or forked from a process that has imported everything, with torchrun's variables.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretraining_cases import forks, free_port, make_corpus, make_recipe, one_of_several

import fastbert
from fastbert.cli import main
from fastbert.data.corpus import Corpus
from fastbert.training import pretrain
from fastbert.training.records import read_metrics

STILL = ("model.config.hidden_dropout_prob=0.0", "model.config.attention_probs_dropout_prob=0.0")
STEPS = ("phases.0.steps=12", "phases.0.batches_per_step=4", "run.log_every=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("distributed") / "c", 80)


@pytest.fixture(scope="module")
def alone(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    pretrain(make_recipe(corpus.folder, *STILL, *STEPS), folder, "cpu")
    return folder


def arguments(count: int, corpus: Corpus, folder: Path, changes: tuple[str, ...]) -> tuple[list[str], int]:
    """Those of the command, and a free port."""
    recipe = folder.parent / f"{folder.name}-{count}.json"
    recipe.write_text(json.dumps(make_recipe(corpus.folder, *STILL, *STEPS, *changes).to_dict()))
    return ["pretrain", str(recipe), "-o", str(folder), "--device", "cpu"], free_port()


def torchrun(count: int, corpus: Corpus, folder: Path, *changes: str) -> subprocess.Popen[str]:
    given, port = arguments(count, corpus, folder, changes)
    launcher = ["torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    command = [sys.executable, "-m", *launcher, "-m", "fastbert.cli", *given]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Forked:
    """The processes of a run, without torchrun."""

    def __init__(self, count: int, corpus: Corpus, folder: Path, *changes: str) -> None:
        given, port = arguments(count, corpus, folder, changes)
        self._output = folder.parent / f"{folder.name}-{count}.txt"
        self._processes = [
            forks().Process(target=one_of_several, args=(given, rank, count, port, str(self._output))) for rank in range(count)
        ]
        for process in self._processes:
            process.start()

    def terminate(self) -> None:
        for process in self._processes:
            process.terminate()

    def finish(self) -> tuple[str, set[int]]:
        """What they said, and their exit codes."""
        for process in self._processes:
            process.join(120)
        return self._output.read_text(), {process.exitcode for process in self._processes}


def assert_same_to_rounding(folder: Path, other: Path) -> None:
    ours, theirs = (fastbert.BertForPreTraining.from_pretrained(one / "model").state_dict() for one in (folder, other))
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], atol=2e-5), name
    found, expected = (read_metrics(one / "metrics.jsonl") for one in (folder, other))
    assert len(found) == len(expected) == 13
    for ours_record, record in zip(found, expected, strict=True):
        for name in ("masked_lm_loss", "next_sentence_loss", "next_sentence_accuracy", "grad_norm", "lr", "tail_share"):
            if name in record:
                assert ours_record[name] == pytest.approx(record[name], abs=2e-5), (record["step"], name)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_equal_one_with_the_same_global_batch(corpus: Corpus, alone: Path, tmp_path: Path, sharded: bool) -> None:
    if sharded:
        output, codes = Forked(2, corpus, tmp_path / "run", "run.sharded=true").finish()
        assert codes == {0}, output
    else:
        process = torchrun(2, corpus, tmp_path / "run")
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert_same_to_rounding(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_sharded_run_with_berts_adam_stops_and_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    """Weights and optimiser are gathered for the checkpoint and dealt out again."""
    changes = ("optimizer.name=bert-adam", "run.checkpoint_every=5")
    pretrain(make_recipe(corpus.folder, *STILL, *STEPS, *changes), tmp_path / "alone", "cpu")
    first = Forked(2, corpus, tmp_path / "run", *changes, "run.sharded=true")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.terminate()
    output, codes = first.finish()
    assert "stopped by SIGTERM after step" in output or codes == {0}, output
    output, codes = Forked(2, corpus, tmp_path / "run", *changes, "run.sharded=true").finish()
    assert codes == {0}, output
    assert_same_to_rounding(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_message_and_it_resumes_alone(corpus: Corpus, alone: Path, tmp_path: Path) -> None:
    process = torchrun(2, corpus, tmp_path / "run", "run.log_every=1")
    records = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir():
        assert time.monotonic() < deadline, "the run never came to its first checkpoint"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    # What the other process says first: that its fellow is gone, or that torchrun, which saw it before, stops it.
    gone = r"another process of the run is gone .*, after step \d+\. The last good checkpoint is "
    assert re.search(rf"{gone}|fastbert: stopped by SIGTERM; no file is half written", output), output

    assert len(read_metrics(records)) < 13
    pretrain(make_recipe(corpus.folder, *STILL, *STEPS), tmp_path / "run", "cpu")  # one process now
    assert_same_to_rounding(tmp_path / "run", alone)


def test_a_stop_while_the_processes_part_does_not_replace_the_message(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torchrun stops the other processes as soon as one is gone."""
    from fastbert.training.stepper import Stepper
    from fastbert.training.world import LostProcessError, World

    seen: list[None] = []

    def lose(*_: object) -> None:
        raise LostProcessError(RuntimeError("Connection closed by peer"))

    def leave(_: World) -> None:
        seen.append(None)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Stepper, "step", lose)
    monkeypatch.setattr(World, "leave", leave)
    given, _ = arguments(1, corpus, tmp_path / "run", ())
    assert main(given) == 2
    assert "another process of the run is gone (Connection closed by peer), after step 0. There is no" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two_and_a_number_that_does_not_fit_is_refused(
    corpus: Corpus, alone: Path, tmp_path: Path
) -> None:
    output, codes = Forked(3, corpus, tmp_path / "three").finish()
    assert 0 not in codes
    assert "phases.0.batches_per_step = 4 is not a multiple of the 3 processes" in output
    from fastbert.training.stepper import Stepper

    step, seen = Stepper.step, []

    def step_or_stop(self: Stepper, *args: object) -> object:
        seen.append(None)
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "step", step_or_stop)
        result = pretrain(make_recipe(corpus.folder, *STILL, *STEPS), tmp_path / "run", "cpu")
    assert result.stopped_by == "SIGTERM"
    output, codes = Forked(2, corpus, tmp_path / "run").finish()
    assert codes == {0}, output
    assert_same_to_rounding(tmp_path / "run", alone)
