"""finetune, predict, eval, features, ablate from the command line: files in, files out, one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from task_cases import choices, pairs, questions, save_encoder, sentences, texts

from fastbert import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and files of examples."""
    folder = tmp_path_factory.mktemp("files")
    save_encoder(folder / "encoder", layers=4)
    for name, count, seed in (("train", 48, 0), ("dev", 16, 1)):
        rows = [f"{e.text}\t{e.label}" for e in texts(count, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
        rows = [f"{e.text}\t{e.pair}\t{e.label}" for e in pairs(count, seed)]
        (folder / f"nli-{name}.tsv").write_text("\n".join(["premise\thypothesis\tlabel", *rows]) + "\n")
        blocks = ["\n".join(f"{w}\t{t}" for w, t in zip(s.words, s.tags or (), strict=True)) for s in sentences(count, seed)]
        (folder / f"{name}.conll").write_text("\n\n".join(blocks) + "\n")
        entries = [
            {
                "context": q.context,
                "qas": [
                    {
                        "id": q.id,
                        "question": q.question,
                        "answers": [{"text": a.text, "answer_start": a.start} for a in q.answers],
                    }
                ],
            }
            for q in questions(count, seed)
        ]
        (folder / f"{name}.json").write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": entries}]}))
        rows = [json.dumps({"text": c.text, "choices": c.choices, "label": c.label}) for c in choices(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


FILES = {"classify": ".tsv", "nli": ".tsv", "ner": ".conll", "qa": ".json", "choice": ".jsonl"}


@pytest.mark.parametrize("kind", FILES)
def test_files_become_a_model_predictions_and_scores(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = "nli-" if kind == "nli" else ""
    train, dev = (folder / f"{prefix}{name}{FILES[kind]}" for name in ("train", "dev"))
    out = tmp_path / "run"
    options = ("--epochs", 1, "--lr", 1e-3, "--device", "cpu")
    assert call("finetune", kind, "--train", train, "--dev", dev, "-o", out, "--model", folder / "encoder", *options) == 0
    shown = capsys.readouterr()
    metrics = json.loads(shown.out)
    assert "examples" in shown.err
    assert call("eval", dev, "--model", out / "model", "--device", "cpu") == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("examples") == 16
    assert again == pytest.approx(metrics)
    assert call("predict", dev, "--model", out / "model", "--device", "cpu", "-o", tmp_path / "p.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    saved = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    key = {"classify": "label", "nli": "label", "ner": "tags", "qa": "answer", "choice": "label"}[kind]
    assert [row[key] for row in rows] == [row[key] for row in saved]


def test_questions_are_answered_in_squads_form(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    call("finetune", "qa", "--train", folder / "dev.json", "-o", out, "--model", folder / "encoder", "--epochs", 1)
    assert call("predict", folder / "dev.json", "--model", out / "model", "-o", tmp_path / "p.json") == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert sorted(found) == sorted(q.id for q in questions(16, 1))
    capsys.readouterr()


def test_raw_text_is_tagged_from_standard_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    out = tmp_path / "run"
    train = ("--train", folder / "train.conll", "--dev-share", 0.2, "--epochs", 2, "--lr", 3e-3)
    call("finetune", "ner", *train, "-o", out, "--model", folder / "encoder")
    assert "held out as dev" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("the cat\nParis, é\n".encode())))
    assert call("predict", "-", "--model", out / "model") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["the cat", "Paris, é"]
    for row in rows:
        assert all(row["text"][e["start"] : e["end"]] == e["word"] for e in row["entities"])


def test_zero_shot_wants_candidates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    call("finetune", "nli", "--train", folder / "nli-train.tsv", "-o", out, "--model", folder / "encoder", "--epochs", 1)
    (tmp_path / "t.txt").write_text("the cat runs\n")
    capsys.readouterr()
    arguments = ("predict", tmp_path / "t.txt", "--model", out / "model", "--task", "zero-shot")
    assert call(*arguments, "--candidates", "cat, paris") == 0
    assert sorted(json.loads(capsys.readouterr().out)["labels"]) == ["cat", "paris"]
    assert call(*arguments) == 2
    assert "needs --candidates" in capsys.readouterr().err


@pytest.mark.thorough
def test_features_mode_compares_and_caches(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--train", folder / "train.conll", "--dev", folder / "dev.conll", "--model", folder / "encoder", "--epochs", 1)
    assert call("finetune", "ner", *files, "-o", tmp_path / "both", "--compare") == 0
    assert "features: concat-last-4" in capsys.readouterr().out
    features = (*files, "--mode", "features", "--feature-cache", tmp_path / "cache")
    assert call("finetune", "ner", *features, "-o", tmp_path / "one") == 0
    assert "MiB ->" in capsys.readouterr().err
    assert call("finetune", "ner", *features, "-o", tmp_path / "two") == 0
    assert "found in" in capsys.readouterr().err
    assert call("eval", folder / "dev.conll", "--model", tmp_path / "two" / "model", "--strict") == 0
    assert "strict_f1" in json.loads(capsys.readouterr().out)


def test_features_of_texts_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("the cat runs\nparis\n")
    arguments = ("features", tmp_path / "t.txt", "--model", folder / "encoder")
    assert call(*arguments, "-o", tmp_path / "f.npz", "--layers=-1,-2") == 0
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["layer_-2"].shape == (8, 64)
    assert call(*arguments, "-o", tmp_path / "f.jsonl", "--layers", "x") == 2
    assert "--layers 'x': expected numbers" in capsys.readouterr().err
    assert not (tmp_path / "f.jsonl").exists()


def test_a_study_prints_its_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = ("--sentence-train", folder / "train.tsv", "--sentence-dev", folder / "dev.tsv", "--epochs", 1)
    arguments = ("ablate", "--suite", "pooling", "-o", tmp_path / "study", *sentence)
    assert call(*arguments, "--model", folder / "encoder") == 0
    assert "through the pooler" in capsys.readouterr().out
    assert call(*arguments) == 2
    assert "--suite pooling needs --model" in capsys.readouterr().err
    assert call("ablate", "--suite", "direction", "-o", tmp_path / "x", "--model", folder / "encoder") == 2
    assert "needs --sentence-train and --sentence-dev, or --token-train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label-column", "gold"), "has no column 'gold'; it has text, label"),
        (("--labels", "animal,place,thing"), "labels names 'thing', and no training example has it; they have animal, place"),
        (("--dev", "bad.tsv"), "bad.tsv, line 3: the label 'thing' is not among those of the model: animal, place"),
        (("--dev", "ragged.csv"), "ragged.csv, line 3: 3 columns, the header has 2"),
        (("--dev", "empty.tsv"), "empty.tsv is empty; expected a header row"),
        (("--layout", "cola"), "column 4 is wanted"),
        (("--metric", "bleu"), "--metric 'bleu' is not one of accuracy"),
        (("--dev-share", "0.5", "--dev", "bad.tsv"), "--dev and --dev-share exclude one another"),
    ],
)
def test_bad_files_get_one_sentence_and_nothing_is_written(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.tsv").write_text("text\tlabel\nthe cat\tanimal\nthe\tthing\n")
    Path("ragged.csv").write_text("text,label\nthe cat,animal\nthe,place,more\n")
    Path("empty.tsv").write_text("")
    train = ("--train", folder / "train.tsv", "-o", tmp_path / "run", "--model", folder / "encoder")
    assert call("finetune", "classify", *train, *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "run").exists()
