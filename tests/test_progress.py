"""Progress: a bar on a terminal, lines where stderr is a file; texts are counted, and what is left follows the tokens."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from task_cases import save_encoder, texts, tokenizer

from fastbert import cli
from fastbert import progress as module
from fastbert.packing.batching import run
from fastbert.progress import LINES, progress
from fastbert.text.framing import frame


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_the_start_and_every_thirty_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1000, "step", "pre-training", LINES, initial=100) as bar:
        assert capsys.readouterr().err == ""
        for second in range(1, 100):
            clock.now = float(second)
            bar.set_postfix(loss=f"{second / 10:.1f}")
            bar.update(3)
    assert capsys.readouterr().err.splitlines() == [
        "pre-training: 900 steps after 100",
        "pre-training: 190 of 1,000 steps, loss 3.0, 3.0 steps/s, 04:30 left",
        "pre-training: 280 of 1,000 steps, loss 6.0, 3.0 steps/s, 04:00 left",
        "pre-training: 370 of 1,000 steps, loss 9.0, 3.0 steps/s, 03:29 left",
    ]


def test_work_of_unknown_length_has_a_rate_and_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(None, "example", "write", LINES)
    clock.now = 40.0
    bar.update(200)
    assert capsys.readouterr().err.splitlines() == ["write: started", "write: 200 examples, 5.0 examples/s"]


def test_what_is_left_follows_the_work(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(100, "text", "embed", LINES)
    clock.now, bar.work = 60.0, 0.75
    bar.update(10)  # the ten longest, three quarters of the tokens
    assert capsys.readouterr().err.splitlines()[-1].endswith("00:20 left")


@pytest.mark.parametrize("show", [None, LINES])
def test_a_terminal_gets_a_bar_of_texts(show: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    framed = frame(tokenizer(), ["a cat runs in paris"] * 3 + ["the dog"] * 5, max_length=16)
    for _ in run(framed, lambda batch: [torch.zeros(batch.batch_size)], torch.device("cpu"), 14, name="embed", show=show):
        pass
    shown = stream.getvalue()
    assert "embed: 100%" in shown
    assert "8/8" in shown
    assert "text/s" in shown


def test_texts_of_several_windows_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    framed = frame(tokenizer(), ["a cat runs in paris the dog sits"] * 4, max_length=8, overlong="window", overlap=2)
    assert len(framed) > 4
    counted = []

    class Bar:
        work = None

        def update(self, count: int) -> None:
            counted.append(int(count))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("fastbert.packing.batching.progress", lambda *_: Bar())
    list(run(framed, lambda batch: [torch.zeros(batch.batch_size)], torch.device("cpu"), 8, name="x", show=True))
    assert sum(counted) == 4


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (None, False):
        with progress(3, "text", "embed", show) as bar:
            bar.update(3)
    assert capsys.readouterr().err == ""


def test_commands_and_training_say_their_start_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    (tmp_path / "t.txt").write_text("a cat\nthe dog runs\n")
    common = ["--model", str(encoder), "--device", "cpu"]
    assert cli.main(["embed", str(tmp_path / "t.txt"), "-o", str(tmp_path / "v.npy"), *common]) == 0
    assert capsys.readouterr().err.startswith("embed: 2 texts\n")
    assert np.load(tmp_path / "v.npy").shape == (2, 64)
    rows = [json.dumps({"text": e.text, "label": e.label}) for e in texts(16, 0)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    train = ["--train", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "run"), "--epochs", "2", "--batch-size", "8"]
    assert cli.main(["finetune", "classify", *train, *common]) == 0
    assert "\nseed 0: 4 steps\n" in capsys.readouterr().err
