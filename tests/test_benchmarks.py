"""The benchmark report: its gate, its arguments, its files, and that the README's figures come from committed results."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_pair

from fastbert import BertTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import report, run  # noqa: E402
from benchmarks.candidates import CANDIDATES  # noqa: E402
from benchmarks.cases import make_cases  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = BertTokenizer.train(
        ["the cat sat on the mat and the dog ran away, in and out of the house"] * 3, vocab_size=101
    )
    made, _ = make_pair("BertModel", vocab_size=101)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(model: Path, tmp_path: Path, candidates=CANDIDATES, *options: str) -> tuple[int, list[dict[str, Any]]]:
    arguments = [
        "--model",
        str(model),
        "--texts",
        "8",
        "--repeats",
        "2",
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
        *options,
    ]
    code = run.main(arguments, candidates)
    files = list(tmp_path.glob("*.jsonl"))
    return code, [json.loads(line) for line in files[0].read_text().splitlines()] if files else []


def test_every_candidate_passes_the_gate_and_gets_a_row(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = small(model, tmp_path)
    assert code == 0
    assert {row["case"] for row in rows} == {"natural", "full 40"}
    assert [row["candidate"] for row in rows if row["case"] == "natural"] == [c.name for c in CANDIDATES]
    for row in rows:
        assert row["parity"]
        assert row["cosine"] > 0.99999
        assert 0 < row["p20_s"] <= row["median_s"] <= row["p80_s"]
        assert row["texts_per_s"] == pytest.approx(row["texts"] / row["median_s"])
        assert all(
            row[key] for key in ("device", "torch", "transformers", "dtype", "date", "cores", "batch", "share_of_ceiling")
        )
    assert "x as fast" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.md"))) == 1


def test_a_wrong_candidate_gets_no_figure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load_perturbed(*arguments: Any) -> Any:
        wrong = CANDIDATES[0].load(*arguments)
        with torch.no_grad():
            wrong.encoder.layer[1].output.dense.weight[0, 0] += 1.0
        return wrong

    wrong = dataclasses.replace(CANDIDATES[0], name="perturbed", load=load_perturbed, ours=False)
    code, rows = small(model, tmp_path, (CANDIDATES[0], wrong))
    assert code == 1
    bad = [row for row in rows if row["candidate"] == "perturbed"]
    assert bad
    assert not any(row["parity"] or "median_s" in row or "texts_per_s" in row for row in bad)
    assert all(row["texts_per_s"] > 0 for row in rows if row["candidate"] == "fastbert")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("perturbed"))
    assert "parity failed" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/no/such/model"], "there is no directory"),
        (["--device", "warp"], "device = 'warp' cannot be used here"),
        (["--text", "/no/such/text"], "cannot read"),
    ],
)
def test_bad_arguments_end_in_one_sentence(model: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
    code, rows = small(model, tmp_path, CANDIDATES, *options)
    assert code == 2
    assert rows == []
    assert message in capsys.readouterr().err


def test_natural_texts_keep_their_lengths(model: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(model)
    natural, full = make_cases(tokenizer, None, None, 50, 40)
    assert len(natural.rows) == 50
    assert len(set(natural.lengths)) > 5
    assert max(natural.lengths) <= 40
    assert set(full.lengths) == {40}
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in natural.rows + full.rows)


def committed_results(folder: Path) -> Path:
    """The results as they are committed: `make bench` leaves new ones beside or over them, which is nobody's mistake."""
    listed = subprocess.run(
        ["git", "ls-files", "benchmarks/results/*/*.jsonl"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split() if listed.returncode == 0 else []
    for name in names:
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True, check=True)
        place = folder / Path(name).parent.name / Path(name).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(shown.stdout, encoding="utf-8")
    return folder if names else report.RESULTS


def test_readme_figures_are_made_from_committed_results(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = report.BEGIN + text.split(report.BEGIN)[1].split(report.END)[0] + report.END
    results = committed_results(tmp_path)
    assert block == report.readme_block(results)
    assert report.newest(results), "no results are committed"
