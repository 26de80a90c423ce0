"""Predictions: what each one tells of its example, and files of every form that they can be written to."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from task_cases import save_encoder, save_head, sentences, texts

from fastbert import cli
from fastbert.data.conll import read_tagged
from fastbert.errors import InputError
from fastbert.files.rows import check_ending, write_rows

LABELS = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
ROWS = [
    {"row": 1, "id": "a", "text": 'the "cat",\nand\tdog', "label": "pos", "score": 0.75, "scores": {"pos": 0.75, "neg": 0.25}},
    {"row": 3, "id": "b", "text": "é", "label": "neg", "score": 0.5, "scores": {"pos": 0.5, "neg": 0.5}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_head(folder, "BertForSequenceClassification", **LABELS)
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    names = dict(enumerate(["O", "B-PLACE", "I-PLACE"]))
    save_head(folder, "BertForTokenClassification", id2label=names, label2id={n: i for i, n in names.items()})
    return folder


def call(*arguments: object) -> int:
    return cli.main([*map(str, arguments), "--device", "cpu"])


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_rows_are_read_back_from_every_form(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_rows(path, ROWS, check_ending(path, (".jsonl", ".csv", ".tsv", ".parquet"), "rows"))
    if ending == ".jsonl":
        assert read_jsonl(path) == ROWS
    elif ending == ".parquet":
        assert parquet.read_table(path).to_pylist() == ROWS
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            found = list(csv.DictReader(stream, delimiter="," if ending == ".csv" else "\t"))
        assert list(found[0]) == ["row", "id", "text", "label", "score", "scores.pos", "scores.neg"]
        assert [row["text"] for row in found] == [row["text"] for row in ROWS]
        assert [row["scores.neg"] for row in found] == ["0.25", "0.5"]


def test_tags_of_words_are_written_as_conll(tagger: Path, tmp_path: Path) -> None:
    blocks = ["\n".join(f"{w}\t{t}" for w, t in zip(s.words, s.tags or (), strict=True)) for s in sentences(4, 0)]
    (tmp_path / "in.conll").write_text("\n\n".join(blocks) + "\n")
    assert call("predict", tmp_path / "in.conll", "--model", tagger, "-o", tmp_path / "out.conll") == 0
    found, given = read_tagged(tmp_path / "out.conll"), read_tagged(tmp_path / "in.conll")
    assert [s.words for s in found] == [s.words for s in given]
    assert call("predict", tmp_path / "in.conll", "--model", tagger, "-o", tmp_path / "out.jsonl") == 0
    assert [list(s.tags or ()) for s in found] == [row["tags"] for row in read_jsonl(tmp_path / "out.jsonl")]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("predict", "p.txt"),
        ("predict", "p.json"),
        ("predict", "p.conll"),
        ("predict", "p.xlsx"),
        ("embed", "v.csv"),
        ("features", "f.npy"),
        ("eval", "m.csv"),
    ],
)
def test_another_ending_is_refused_before_the_work(
    command: str, name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastbert.model.pretrained import BertPreTrainedModel

    monkeypatch.setattr(BertPreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "in.tsv").write_text("text\tlabel\na cat\tpos\n")
    assert call(command, tmp_path / "in.tsv", "--model", model, "-o", tmp_path / name) == 2
    shown = capsys.readouterr().err
    assert f"cannot write {tmp_path / name}" in shown
    assert "that end in ." in shown
    assert not (tmp_path / name).exists()


def test_parquet_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package pyarrow"):
        check_ending("a.parquet", (".parquet",), "rows")


def test_predictions_carry_row_id_and_kept_columns(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.csv"
    source.write_text('key,text,shop,label\nk1,"a cat\nruns",north,pos\n\nk2,in rome,south,\nk3,,east,neg\n')
    with source.open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    options = ("--id", "key", "--keep", "shop", "--keep", "text", "--label-column", "label")
    assert call("predict", source, "--model", model, "-o", tmp_path / "p.jsonl", *options) == 0
    rows = read_jsonl(tmp_path / "p.jsonl")
    assert [row["row"] for row in rows] == [1, 2, 3]
    for row, one in zip(rows, expected, strict=True):
        assert (row["id"], row["shop"], row["text"]) == (one["key"], one["shop"], one["text"])
        assert row["gold"] == (one["label"] or None)
        assert row["score"] == row["scores"][row["label"]] == max(row["scores"].values())
    assert call("predict", source, "--model", model, "--keep", "label") == 2
    assert "each prediction has a 'label' of its own" in capsys.readouterr().err
    other = ("--text-column", "shop", "--keep", "text")  # another column than the text that is classified
    assert call("predict", source, "--model", model, *other) == 2
    assert "each prediction has a 'text' of its own" in capsys.readouterr().err
    assert call("predict", source, "--model", model, "--keep", "city") == 2
    assert "no column 'city'" in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("a cat\n")
    assert call("predict", tmp_path / "in.txt", "--model", model, "--id", "key") == 2
    assert "read line by line" in capsys.readouterr().err


def test_rows_that_are_skipped_are_counted(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("text\tlabel\na\tpos\nb\nc\tneg\n")
    options = ("--skip-ragged", "-o", tmp_path / "p.jsonl")
    assert call("predict", tmp_path / "in.tsv", "--model", model, *options) == 0
    assert [(row["row"], row["text"]) for row in read_jsonl(tmp_path / "p.jsonl")] == [(1, "a"), (3, "c")]


def test_a_wrong_row_of_dev_is_found_in_one_step(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    examples = texts(24, 0)
    lines = ["key\ttext\tlabel", *(f"k{i}\t{e.text}\t{e.label}" for i, e in enumerate(examples))]
    lines[3] = "k2\tthe dog\t"  # no label: left out
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    files = ("--train", tmp_path / "dev.tsv", "--dev", tmp_path / "dev.tsv", "--model", encoder, "-o", tmp_path / "run")
    assert call("finetune", "classify", *files, "--epochs", 1, "--id", "key") == 0
    rows = read_jsonl(tmp_path / "run" / "predictions.jsonl")
    assert len(rows) == 23
    for row in rows:
        key, text, label = lines[row["row"]].split("\t")
        assert (row["id"], row["text"], row["gold"]) == (key, text, label)
        assert set(row["scores"]) == {"animal", "place"}


def test_all_tasks_nest_their_probabilities_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = dict(enumerate(["contradiction", "entailment", "neutral"]))
    save_head(tmp_path / "nli", "BertForSequenceClassification", id2label=names, label2id={n: i for i, n in names.items()})
    save_head(tmp_path / "next", "BertForNextSentencePrediction")
    save_head(tmp_path / "choice", "BertForMultipleChoice")
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\na cat\ta dog\n")
    (tmp_path / "one.txt").write_text("a cat\n")
    (tmp_path / "c.jsonl").write_text('{"text": "a", "choices": ["cat", "dog"]}\n')
    for folder, source, options in (
        ("nli", "pairs.tsv", ()),
        ("next", "pairs.tsv", ()),
        ("nli", "one.txt", ("--task", "zero-shot", "--candidates", "cat,dog")),
        ("choice", "c.jsonl", ()),
    ):
        capsys.readouterr()
        assert call("predict", tmp_path / source, "--model", tmp_path / folder, *options) == 0
        row = json.loads(capsys.readouterr().out)
        scores = row["scores"]
        assert row["score"] == scores[row["label"]]
        assert sum(scores.values() if isinstance(scores, dict) else scores) == pytest.approx(1)
        assert call("predict", tmp_path / source, "--model", tmp_path / folder, *options, "--top-k", 1) == 0
        if folder != "choice":
            assert list(json.loads(capsys.readouterr().out)["scores"]) == [row["label"]]


# -- questions and standard input --------------------------------------------------------------------------------------------


def test_questions_are_read_from_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(tmp_path / "qa", "BertForQuestionAnswering")
    rows = [
        {"question": "where ?", "context": "in rome ."},
        {"id": "x", "question": "where ?", "context": "the cat is in oslo"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "q.jsonl").write_text(text)
    assert call("predict", tmp_path / "q.jsonl", "--model", tmp_path / "qa", "-o", tmp_path / "p.jsonl") == 0
    found = read_jsonl(tmp_path / "p.jsonl")
    assert [(row["row"], row["id"], row["question"]) for row in found] == [(1, "1", "where ?"), (2, "x", "where ?")]
    for row, one in zip(found, rows, strict=True):
        assert one["context"][row["start"] : row["end"]] == row["answer"]
    assert call("predict", tmp_path / "q.jsonl", "--model", tmp_path / "qa", "-o", tmp_path / "p.json") == 0
    assert json.loads((tmp_path / "p.json").read_text()) == {row["id"]: row["answer"] for row in found}
    (tmp_path / "q.jsonl").write_text('{"question": "where ?"}\n')
    assert call("predict", tmp_path / "q.jsonl", "--model", tmp_path / "qa") == 2
    assert "line 1: no text under 'question' and 'context'; it has question" in capsys.readouterr().err


def test_the_hubs_form_of_answers_is_read(tmp_path: Path) -> None:
    from fastbert.data.squad import Answer, read_questions

    rows = [
        {"id": "a", "question": "q", "context": "in rome", "answers": {"text": ["rome"], "answer_start": [3]}},
        {"id": "b", "question": "q", "context": "in rome", "answers": {"text": [], "answer_start": []}},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_questions(path)
    assert first.answers == (Answer("rome", 3),)
    assert second.impossible
    path.write_text(json.dumps({**rows[0], "answers": {"text": ["rome"]}}) + "\n")
    with pytest.raises(InputError, match="line 1: 'answers' has no lists"):
        read_questions(path)


def test_standard_input_is_answered_line_by_line(model: Path) -> None:
    command = [sys.executable, "-m", "fastbert", "predict", "-", "--model", str(model), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, text in enumerate(["a cat", "", "in rome"], 1):
            process.stdin.write(f"{text}\r\n".encode())
            process.stdin.flush()
            row = json.loads(process.stdout.readline())  # answered before the next line is written
            assert (row["row"], row["text"]) == (number, text)
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_lines_that_arrive_in_pieces_are_whole(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbert.data.lines import arriving_lines

    raw = "é one\r\ntwo\n\nlast, ü".encode(encoding)
    if encoding == "utf-8":
        raw = b"\xef\xbb\xbf" + raw

    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(3)

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Slow(raw)}))
    assert [line for lines in arriving_lines(encoding) for line in lines] == ["é one", "two", "", "last, ü"]


def test_pairs_on_standard_input_need_two_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_head(tmp_path / "next", "BertForNextSentencePrediction")
    for text, code in (("a cat\tit runs\n", 0), ("a cat\tit runs\nalone\n", 2)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert call("predict", "-", "--model", tmp_path / "next") == code
    assert "standard input, line 2: 1 texts; expected two" in capsys.readouterr().err
