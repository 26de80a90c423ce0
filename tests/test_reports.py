"""Reports of runs and evaluations: scores of each label and confusion, as scikit-learn has them, in three forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import classification_report, confusion_matrix
from task_cases import save_encoder, texts

from fastbert import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that got some examples right and some wrong."""
    folder = tmp_path_factory.mktemp("run")
    save_encoder(folder / "encoder")
    for name, count in (("train", 24), ("dev", 40)):
        rows = [f"{e.text}\t{e.label}" for e in texts(count, len(name))]
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    files = ("--train", folder / "train.tsv", "--dev", folder / "dev.tsv", "--model", folder / "encoder")
    assert call("finetune", "classify", *files, "-o", folder / "run", "--epochs", 2, "--lr", 2e-3, "--batch-size", 8) == 0
    return folder


def call(*arguments: object) -> int:
    return cli.main([*map(str, arguments), "--device", "cpu"])


def expected(predictions: list[dict[str, Any]]) -> tuple[dict[str, Any], list[list[int]]]:
    gold, given = ([row[key] for row in predictions] for key in ("gold", "label"))
    table = classification_report(gold, given, output_dict=True, zero_division=0)
    return table, confusion_matrix(gold, given, labels=["animal", "place"]).tolist()


def check(found: dict[str, Any], text: str, predictions: list[dict[str, Any]]) -> None:
    table, counts = expected(predictions)
    assert found["confusion"] == {"labels": ["animal", "place"], "counts": counts}
    for name in ("animal", "place", "macro avg", "weighted avg"):
        assert found["classes"][name] == pytest.approx(table[name])
    for name in ("animal", "place"):
        row = [f"{table[name][key]:.3f}" for key in ("precision", "recall", "f1-score")]
        assert f"| {name} | {' | '.join(row)} | {table[name]['support']:.0f} |" in text
        right = counts[["animal", "place"].index(name)]
        assert f"| {name} | {right[0]} | {right[1]} |" in text


def test_a_runs_report_has_scores_of_each_label(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "run" / "predictions.jsonl").open()]
    assert 0 < sum(row["label"] != row["gold"] for row in rows) < 40
    found = json.loads((run / "run" / "metrics.json").read_text())
    assert found["judged"] == "dev"
    check(found, (run / "run" / "report.md").read_text(), rows)
    assert (run / "run" / "confusion.png").stat().st_size > 1000


def test_eval_writes_a_report_of_its_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--predictions", tmp_path / "p.csv", "--report", tmp_path / "report", "-o", tmp_path / "m.json")
    assert call("eval", run / "dev.tsv", "--model", run / "run", *out) == 0  # the run's model is found
    rows = [json.loads(line) for line in (run / "run" / "predictions.jsonl").open()]
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    check(found, (tmp_path / "report" / "report.md").read_text(), rows)
    assert found["examples"] == 40
    assert (tmp_path / "report" / "confusion.png").stat().st_size > 1000
    assert json.loads((tmp_path / "m.json").read_text())["accuracy"] == found["accuracy"]
    head = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert head == "row,text,label,score,scores.animal,scores.place,gold" or head.startswith(
        "row,text,label,score,scores.place"
    )
    assert "report ->" in capsys.readouterr().err


def test_a_run_without_examples_to_score_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--train", run / "train.tsv", "--model", run / "encoder", "-o", tmp_path / "run")
    assert call("finetune", "classify", *files, "--epochs", 1) == 0
    shown = capsys.readouterr()
    assert "{}" not in shown.out
    assert "neither dev (--dev, --dev-share) nor test (--test) examples were given" in shown.out
    assert "neither dev" in (tmp_path / "run" / "report.md").read_text()


def test_the_model_of_a_run_is_found_by_every_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("a cat\n")
    assert call("predict", tmp_path / "t.txt", "--model", run / "run") == 0
    assert call("embed", tmp_path / "t.txt", "--model", run / "run", "-o", tmp_path / "v.npy") == 0
    assert cli.main(["params", "--model", str(run / "run")]) == 0
    assert call("predict", tmp_path / "t.txt", "--model", run / "run" / "seed-0") == 2  # its model is the run's
    capsys.readouterr()
