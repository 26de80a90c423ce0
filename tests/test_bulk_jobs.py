"""Predictions, scores of a reranker, and features in folders: the same as in one file, in parts, by columns of one type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from task_cases import save_encoder, save_head, texts

from fastbert import cli
from fastbert.tasks import Reranker
from fastbert.tasks.features import extract_features
from fastbert.tasks.loading import load_encoder, load_tokenizer

COUNT = 25
THREE = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "num_labels": 3}
TAGS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "num_labels": 3}
MANY = {**THREE, "problem_type": "multi_label_classification"}
KINDS: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    # the task: class, fields of its configuration, columns of text, options
    "classify": ("BertForSequenceClassification", THREE, ["text"], ["--task", "classify"]),
    "several": ("BertForSequenceClassification", MANY, ["text"], ["--task", "classify"]),
    "top": ("BertForSequenceClassification", THREE, ["text"], ["--task", "classify", "--top-k", "2"]),
    "regress": ("BertForSequenceClassification", {"num_labels": 1}, ["text"], ["--task", "regress"]),
    "nli": ("BertForSequenceClassification", THREE, ["premise", "hypothesis"], []),
    "zero-shot": ("BertForSequenceClassification", THREE, ["text"], ["--task", "zero-shot", "--candidates", "cat,dog"]),
    "next": ("BertForNextSentencePrediction", {}, ["sentence1", "sentence2"], []),
    "ner": ("BertForTokenClassification", TAGS, ["text"], []),
    "pieces": ("BertForTokenClassification", TAGS, ["text"], ["--aggregation", "none"]),
    "qa": ("BertForQuestionAnswering", {}, ["question", "context"], []),
    "answers": ("BertForQuestionAnswering", {}, ["question", "context"], ["--top-k", "3"]),
}


def write_table(path: Path, columns: list[str]) -> list[str]:
    values = [one.text for one in texts(COUNT * len(columns), seed=4)]
    values[3] = "cat " * 80  # longer than the model reads
    rows = [values[at::COUNT] for at in range(COUNT)]
    lines = [json.dumps({"id": f"n{i}", **dict(zip(columns, row, strict=True))}) + "\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))
    return values


@pytest.mark.filterwarnings("ignore:.*were truncated")
@pytest.mark.parametrize("kind", list(KINDS))
def test_predictions_in_parts_are_those_of_one_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, fields, columns, options = KINDS[kind]
    save_head(tmp_path / "model", name, **fields)
    write_table(tmp_path / "in.jsonl", columns)
    if kind in ("nli", "next"):
        options = [*options, "--text-column", columns[0], "--pair-column", columns[1]]
    if kind == "next":  # which refuses pairs that are too long
        rows = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
        rows[3]["sentence1"] = "cat"
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["predict", str(tmp_path / "in.jsonl"), "--model", str(tmp_path / "model"), "--device", "cpu", *options]
    assert cli.main([*given, "-o", str(tmp_path / "one.jsonl")]) == 0
    wanted = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    folder = tmp_path / "parts"
    assert cli.main([*given, "-o", str(folder), "--id", "id", "--part-rows", "4"]) == 0
    table = parquet.read_table(folder)
    assert len({str(parquet.read_schema(path).remove_metadata()) for path in folder.glob("*.parquet")}) == 1
    assert table["id"].to_pylist() == [f"n{i}" for i in range(COUNT)]
    assert cli.main([*given, "-o", str(tmp_path / "lines"), "--id", "id", "--part-rows", "9", "--format", "jsonl"]) == 0
    lines = [line for path in sorted((tmp_path / "lines").glob("*.jsonl")) for line in path.read_text().splitlines()]
    for found in (table.to_pylist(), [json.loads(line) for line in lines]):
        for ours, theirs in zip(found, wanted, strict=True):
            for key in set(ours) - {"id"}:
                assert_close(ours[key], theirs[key])
    capsys.readouterr()


def assert_close(ours: Any, theirs: Any) -> None:
    """Equal but for rounding; a label that was not asked for is null in Parquet and absent elsewhere."""
    if isinstance(theirs, dict):
        ours = {key: value for key, value in ours.items() if value is not None}
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert_close(ours[key], value)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
    else:
        assert ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else theirs)


@pytest.mark.filterwarnings("ignore:.*were truncated")
def test_all_documents_are_scored_and_the_best_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    values = write_table(tmp_path / "in.jsonl", ["text"])
    given = ["rank", "where is the cat ?", str(tmp_path / "in.jsonl"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    assert cli.main([*given, "-o", f"{tmp_path / 'out'}/", "--keep", "text", "--top-k", "3", "--part-rows", "4"]) == 0
    shown = capsys.readouterr()
    assert "1 text of 25 was longer than the model reads, and was truncated" in shown.err
    reranker = Reranker.from_pretrained(tmp_path / "model", "cpu")
    wanted = reranker.predict([("where is the cat ?", text) for text in values])
    table = parquet.read_table(tmp_path / "out")
    assert table.column_names == ["file", "row", "text", "score"]
    assert np.allclose(table["score"].to_numpy(), wanted, atol=1e-6)
    best = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["row"] - 1 for row in best] == np.argsort(-wanted, kind="stable")[:3].tolist()
    assert [row["text"] for row in best] == [values[row["row"] - 1] for row in best]
    assert cli.main([*given, "--id", "id"]) == 2
    assert "--id 'id' needs a folder as output" in capsys.readouterr().err
    assert cli.main([*given[:3], str(tmp_path / "in.jsonl"), *given[3:]]) == 2
    assert "2 inputs need a folder as output" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*were truncated")
def test_features_are_lists_of_vectors_for_each_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_encoder(tmp_path / "model")
    values = write_table(tmp_path / "in.jsonl", ["text"])
    given = ["features", str(tmp_path / "in.jsonl"), "--model", str(folder), "--device", "cpu", "--layers=0,-1"]
    assert cli.main([*given, "-o", str(tmp_path / "no")]) == 2
    assert "in.jsonl, line 4 has 82 tokens, the limit is 64" in capsys.readouterr().err
    assert cli.main([*given, "-o", str(tmp_path / "out"), "--overlong", "truncate", "--part-rows", "10"]) == 0
    model = load_encoder(folder, "cpu", pooler=False)
    wanted = extract_features(model, load_tokenizer(folder, model), values, (0, -1), overlong="truncate")
    table = parquet.read_table(tmp_path / "out")
    assert table.schema.field("layer_-1").type == pa.list_(pa.field("element", pa.list_(pa.field("element", pa.float32()), 64)))
    for row, one in zip(table.to_pylist(), wanted, strict=True):
        assert row["tokens"] == one.tokens
        for at, name in enumerate(("layer_0", "layer_-1")):
            assert np.allclose(np.array(row[name]), one.layers[at], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "columns", "options", "message"),
    [
        ("BertForTokenClassification", ["words"], [], "has no column 'text'|no key 'text'"),
        ("BertForQuestionAnswering", ["question", "text"], [], "no key 'context'"),
        ("BertForMultipleChoice", ["text"], [], "--task choice cannot be written to a folder"),
        ("BertForNextSentencePrediction", ["text"], [], "next-sentence reads two columns of text, not text"),
    ],
)
def test_what_a_task_cannot_read_is_said(
    name: str, columns: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_head(tmp_path / "model", name)
    write_table(tmp_path / "in.jsonl", columns)
    given = ["predict", str(tmp_path / "in.jsonl"), "--model", str(tmp_path / "model"), "-o", f"{tmp_path / 'out'}/", *options]
    assert cli.main(given) == 2
    said = capsys.readouterr().err.replace("'", "")
    assert any(part.replace("'", "") in said for part in message.split("|")), said
    assert not (tmp_path / "out").exists()
