"""Reranker: the scores and the order of sentence-transformers' CrossEncoder, and `fastbert rank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import worst
from sentence_transformers import CrossEncoder
from task_cases import save_head

from fastbert import cli
from fastbert.errors import CheckpointError, InputError
from fastbert.tasks import Classifier, Reranker

QUERY = "where is the cat"
DOCUMENTS = [
    "the cat is in paris .",
    "a dog runs",
    "the red fox sits and the owl sits and the dog runs and the cat runs !" * 4,
    "oslo",
    "",
]
PAIRS = [(QUERY, document) for document in DOCUMENTS] + [(DOCUMENTS[2], QUERY), (DOCUMENTS[2], DOCUMENTS[2])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one label, as transformers saves it: it names no activation."""
    place = tmp_path_factory.mktemp("reranker")
    save_head(place, "BertForSequenceClassification", num_labels=1)
    return place


def close(ours: Any, theirs: Any) -> bool:
    return worst(torch.as_tensor(ours), torch.as_tensor(theirs)) < 1e-5


@pytest.mark.filterwarnings("ignore:.*inputs have more than:UserWarning")
@pytest.mark.parametrize("activation", [None, torch.nn.Identity(), torch.nn.Tanh()])
def test_scores_are_those_of_a_cross_encoder(folder: Path, tmp_path: Path, activation: Any) -> None:
    theirs = CrossEncoder(str(folder), device="cpu", activation_fn=activation)
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = Reranker.from_pretrained(tmp_path / "saved", device="cpu")
    assert ours.predict(PAIRS).dtype == np.float32
    assert close(ours.predict(PAIRS), theirs.predict(PAIRS))
    assert ours.predict(PAIRS[0]) == pytest.approx(theirs.predict(PAIRS[0]), abs=1e-5)
    for options in ({}, {"top_k": 2}, {"return_documents": True}):
        found, wanted = ours.rank(QUERY, DOCUMENTS, **options), theirs.rank(QUERY, DOCUMENTS, **options)
        assert [{k: v for k, v in row.items() if k != "score"} for row in found] == [
            {k: v for k, v in row.items() if k != "score"} for row in wanted
        ]
        assert close([row["score"] for row in found], [row["score"] for row in wanted])


def test_one_label_is_a_sigmoid_and_several_are_as_they_are(folder: Path, tmp_path: Path) -> None:
    reranker = Reranker.from_pretrained(folder)
    numbers = torch.tensor([row["score"] for row in Classifier.from_pretrained(folder).predict(PAIRS[:4])])
    assert close(reranker.predict(PAIRS[:4]), numbers.sigmoid())
    assert close(reranker.predict(PAIRS[:4], activation="identity"), numbers)
    save_head(tmp_path, "BertForSequenceClassification", num_labels=3)
    several = Reranker.from_pretrained(tmp_path)
    assert several.predict(PAIRS[:4]).shape == (4, 3)
    assert close(several.predict(PAIRS[:4]), CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS[:4]))
    assert close(several.predict(PAIRS[:4], activation="softmax").sum(-1), np.ones(4))
    with pytest.raises(InputError, match="num_labels = 3: rank needs one score"):
        several.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity"),
        ("config.json", "sentence_transformers", {"activation_fn": "torch.nn.modules.linear.Identity"}),
        ("config_sentence_transformers.json", "activation_fn", "torch.nn.modules.linear.Identity"),
    ],
)
def test_the_activation_of_every_version_is_found(folder: Path, tmp_path: Path, file: str, field: str, value: Any) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
    (tmp_path / file).write_text(json.dumps({**before, field: value}))
    assert Reranker.from_pretrained(tmp_path).activation == "identity"
    text = json.dumps(value).replace("torch.nn.modules.linear.Identity", "mine.activations.Swish")
    (tmp_path / file).write_text(json.dumps({**before, field: json.loads(text)}))
    with pytest.raises(CheckpointError, match=r"names the activation .*mine.activations.Swish.*torch.nn's identity, sigmoid"):
        Reranker.from_pretrained(tmp_path)


def test_a_default_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    theirs = CrossEncoder(str(folder), device="cpu", prompts={"q": "the red fox "}, default_prompt_name="q")
    theirs.save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(CheckpointError, match="has a default prompt"):
        Reranker.from_pretrained(tmp_path / "saved")


def test_pairs_of_any_kind(folder: Path) -> None:
    reranker = Reranker.from_pretrained(folder)
    wanted = reranker.predict(PAIRS[:2])
    assert np.array_equal(reranker.predict(pair for pair in PAIRS[:2]), wanted)
    assert np.array_equal(reranker.predict(np.array(PAIRS[:2])), wanted)
    assert len(reranker.rank(QUERY, (text for text in DOCUMENTS[:3]))) == 3


def test_mistakes_are_named(folder: Path) -> None:
    reranker = Reranker.from_pretrained(folder)
    assert reranker.rank(QUERY, []) == []
    for call, message in (
        (lambda: reranker.rank(QUERY, "one text"), "documents is one string"),
        (lambda: reranker.rank(QUERY, DOCUMENTS, 0), "top_k = 0"),
        (lambda: reranker.predict([("a", "b"), ("c", 5)]), r"pairs\[1\]"),
        (lambda: reranker.predict(PAIRS, activation="gelu"), "activation = 'gelu' is not one of identity"),
        (lambda: Reranker(reranker.model, reranker.tokenizer, activation="x"), "activation = 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.filterwarnings("ignore:.*inputs have more than:UserWarning")
def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [document for document in DOCUMENTS if document]
    wanted = Reranker.from_pretrained(folder).rank(QUERY, texts, return_documents=True)
    source = tmp_path / "documents.txt"
    source.write_text("\n".join(texts) + "\n")
    common = ["rank", QUERY, str(source), "--model", str(folder)]
    assert cli.main([*common, "--top-k", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("rank: ")  # what the progress is of
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert [(int(row), text) for _, row, text in lines] == [(one["corpus_id"] + 1, one["text"]) for one in wanted[:2]]
    assert cli.main([*common, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["row"] for row in rows] == [one["corpus_id"] + 1 for one in wanted]
    assert close([row["score"] for row in rows], [one["score"] for one in wanted])
    assert cli.main([*common, "-o", str(tmp_path / "ranked.csv")]) == 0
    assert (tmp_path / "ranked.csv").read_text().splitlines()[0] == "row,score,text"
    assert cli.main([*common, "-o", str(tmp_path / "ranked.txt")]) == 2
    source.write_text("")
    assert cli.main(common) == 2
    assert "holds no text" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_benchmark_compares_scores_and_counts_pairs(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import reranking

    monkeypatch.setattr(reranking, "BATCHES", (2,))
    out = tmp_path / "rows.jsonl"
    assert reranking.main(["--pairs", "3", "--rounds", "1", "--output", str(out)]) == 0
    rows = [json.loads(line) for line in out.open()]
    assert [row["batch"] for row in rows] == [None, 2, 32, 2, 32]
    assert all(len(row["seconds"]) == 1 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 6
    monkeypatch.setattr(reranking, "CLOSE", -1.0)
    assert reranking.main(["--pairs", "3", "--rounds", "1", "--output", str(out)]) == 2
    assert "gives scores that differ by" in capsys.readouterr().err


def test_patching_gains_what_the_committed_rows_say() -> None:
    """On pairs with a short and a long side, on a CPU."""
    rows = [json.loads(line) for line in (Path(__file__).parents[1] / "benchmarks/results/reranking.jsonl").open()]
    seconds = {row["way"]: row["median_s"] for row in rows}
    assert seconds["CrossEncoder"] / seconds["CrossEncoder, patched"] > 1.5
    assert seconds["CrossEncoder, as it comes"] / seconds["CrossEncoder, patched, as it comes"] > 2.2
    assert seconds["CrossEncoder"] / seconds["fastbert Reranker"] > 1.5
