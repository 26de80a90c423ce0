"""The bench command: one's own texts and model, beside what is installed, with vectors that agree."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_cases import save_encoder

from fastbert import cli
from fastbert.tasks import Embedder


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    save_encoder(tmp_path / "encoder")
    (tmp_path / "t.txt").write_text("".join(f"the cat runs in paris {'and sits ' * (i % 4)}\n" for i in range(40)))
    return tmp_path / "encoder", tmp_path / "t.txt"


def test_every_system_that_is_installed_is_measured(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, texts = files
    options = ["--rounds", "2", "--most", "20", "--device", "cpu", "-o", str(tmp_path / "rows.jsonl")]
    assert cli.main(["bench", str(texts), "--model", str(encoder), *options]) == 0
    shown = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").open()]
    assert [row["system"].split()[0] for row in rows] == ["fastbert", "sentence-transformers", "transformers"]
    for row in rows:
        assert row["agrees"]
        assert row["seconds"] == pytest.approx(np.median(row["rounds"]))
        assert row["texts_per_second"] == pytest.approx(20 / row["seconds"])
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert {"device", "instructions", "threads", "torch"} <= set(row)
        assert row["system"] in shown
    ratio = rows[1]["seconds"] / rows[0]["seconds"]
    assert f"{ratio:.2f}x as fast" in shown
    assert "20 texts, " in shown


def test_vectors_that_differ_get_no_figure(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, texts = files
    before = Embedder.encode
    monkeypatch.setattr(Embedder, "encode", lambda *args, **more: before(*args, **more) + 0.01)
    options = ["--rounds", "1", "--device", "cpu", "-o", str(tmp_path / "rows.csv")]
    assert cli.main(["bench", str(texts), "--model", str(encoder), *options]) == 1
    shown = capsys.readouterr()
    assert "| - | - | - |" in shown.out
    assert "differ from fastbert's: no figure" in shown.err
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert [row["agrees"] for row in csv.DictReader(stream)] == ["True", "False", "False"]


def test_what_is_not_installed_is_named(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, texts = files
    before: Any = importlib.util.find_spec
    absent = ("sentence_transformers", "transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else before(name, *more))
    assert cli.main(["bench", str(texts), "--model", str(encoder), "--rounds", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "not installed here: sentence-transformers\nnot installed here: transformers\n" in shown.err
    assert shown.out.count("x as fast") == 0


def test_bad_input_is_one_sentence(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, texts = files
    common = ["--model", str(encoder), "--device", "cpu"]
    for arguments, message in (
        ([str(texts), "--rounds", "0"], "--rounds 0 must be at least 1"),
        ([str(texts), "-o", str(tmp_path / "rows.md")], "figures can be written to files that end in .jsonl, .csv"),
        ([str(tmp_path / "none.txt")], "cannot read"),
    ):
        assert cli.main(["bench", *arguments, *common]) == 2
        assert message in capsys.readouterr().err
