"""Mistakes that would otherwise end in a wrong number: each is refused in a sentence, or named in a note."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from task_cases import pairs, questions, save_encoder, sentences, texts

from fastbert import cli
from fastbert.data.conll import read_tagged
from fastbert.data.labelled import TextExample
from fastbert.errors import CheckpointError, InputError
from fastbert.finetuning import FineTuneOptions, Split, finetune
from fastbert.finetuning.evaluation import evaluate_model
from fastbert.finetuning.reading import hold_out
from fastbert.tasks import NLI, MultipleChoice, QuestionAnswerer, TokenTagger

ONE = FineTuneOptions(epochs=1, batch_size=16, lr=1e-3, max_length=32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def nli(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("nli", encoder, tmp_path_factory.mktemp("nli") / "run", pairs(64, 0))


@pytest.fixture(scope="module")
def classifier(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    how = replace(ONE, overlong="window", max_length=12)
    return train("classify", encoder, tmp_path_factory.mktemp("classify") / "run", texts(64, 0), how)


def train(kind: str, model: Path, output: Path, examples: list[Any], how: FineTuneOptions = ONE) -> Path:
    finetune(kind, model, examples, output=output, options=how, device="cpu", show_progress=False, progress=lambda text: None)
    return output / "model"


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_numbers_for_labels_want_to_be_named(nli: Path) -> None:
    """The model has its labels in alphabetical order, the file in another: only names can match them."""
    named = pairs(48, 3)
    order = ("entailment", "neutral", "contradiction")
    numbered = [TextExample(e.text, e.pair, str(order.index(str(e.label)))) for e in named]
    expected = evaluate_model(nli, Split("test", named), device="cpu").metrics
    with pytest.raises(InputError, match="the examples have the numbers 0, 1, 2 .*contradiction, entailment, neutral"):
        evaluate_model(nli, Split("test", numbered), device="cpu")
    given = evaluate_model(nli, Split("test", numbered), options=FineTuneOptions(labels=order), device="cpu")
    assert given.metrics == expected
    assert {row["gold"] for row in given.predictions} == set(order)


def test_eval_reads_long_texts_as_asked_and_says_what_it_cuts(classifier: Path) -> None:
    split = Split("test", [TextExample("the in is a " * 12 + str(e.text), None, e.label) for e in texts(16, 4)])
    scores = {}
    for how in (None, "window", "truncate"):
        warns = pytest.warns(UserWarning, match="16 of 16 inputs have more than 12 tokens and were truncated")
        with warns if how == "truncate" else nullcontext():
            found = evaluate_model(classifier, split, options=FineTuneOptions(overlong=how), device="cpu")
        scores[how] = [row["score"] for row in found.predictions]
    assert scores[None] == scores["window"] != scores["truncate"]


def test_several_labels_are_predicted_as_they_were_scored(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{e.text}\t{'animal,x' if e.label == 'animal' else ''}" for e in texts(64, 0)]
    (tmp_path / "data.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    data = tmp_path / "data.tsv"
    how = ("--multi-label", "--epochs", 12, "--batch-size", 8, "--lr", 2e-3, "--device", "cpu", "--model", encoder)
    assert call("finetune", "classify", "--train", data, "--test", data, "-o", tmp_path / "run", *how) == 0
    scored = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    capsys.readouterr()
    assert call("predict", data, "--model", tmp_path / "run" / "model", "--device", "cpu") == 0
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["labels"] for row in predicted] == [row["labels"] for row in scored]
    assert {len(row["labels"]) for row in predicted} >= {0, 2}


def test_a_head_of_another_task_is_not_taken(classifier: Path, encoder: Path, tmp_path: Path) -> None:
    for task in (TokenTagger, MultipleChoice):
        with pytest.raises(CheckpointError, match="was trained as BertForSequenceClassification"):
            task.from_pretrained(classifier, "cpu")
    fresh, reused = (
        train("ner", model, tmp_path / name, sentences(48, 0)) for name, model in (("a", encoder), ("b", classifier))
    )
    labels = [TokenTagger.from_pretrained(folder, "cpu").model.config.id2label for folder in (fresh, reused)]
    assert labels[0] == labels[1]
    with pytest.raises(InputError, match="has a head for 2 labels, this task wants 1: start a new head"):
        train("regress", classifier, tmp_path / "c", [TextExample("the cat", None, 1.0), TextExample("the", None, 2.0)])


def test_a_long_question_is_counted_and_one_without_answers_left_out(encoder: Path, tmp_path: Path) -> None:
    known = questions(24, 0)
    long, bare = (
        replace(known[0], id="long", question="the cat " * 50),
        replace(known[1], id="bare", answers=()),
    )
    said: list[str] = []
    how = replace(ONE, max_length=64)
    finetune("qa", encoder, [*known, long, bare], output=tmp_path / "run", options=how, device="cpu", progress=said.append)
    assert "1 questions have neither answers nor is_impossible: left out" in said[0]
    # Half of the window's 64 tokens is room for a question.
    assert "truncated 1 examples, 68 tokens" in " ".join(said[0].split())
    with pytest.raises(InputError, match="no question has answers, or is_impossible"):
        evaluate_model(tmp_path / "run" / "model", Split("test", [bare]), device="cpu")


def test_bad_numbers_are_refused_before_anything_is_trained(encoder: Path, nli: Path, tmp_path: Path) -> None:
    for name, value in (("weight_decay", -1.0), ("weight_decay", float("nan")), ("max_grad_norm", float("nan"))):
        with pytest.raises(InputError, match=f"{name} = {value}"):
            replace(ONE, **{name: value}).resolved("classify")
    with pytest.raises(InputError, match="dev_share = nan"):
        hold_out(Split("train", texts(8, 0)), float("nan"), 0)
    with pytest.raises(InputError, match="'f1' needs exactly two labels; there are 3 labels"):
        train("nli", encoder, tmp_path / "run", pairs(32, 0), replace(ONE, metrics=("f1",)))
    assert not (tmp_path / "run").exists()
    task = NLI.from_pretrained(nli, "cpu")
    for wrong in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"top_k = {wrong}"):
            task.predict([("the cat", "runs")], wrong)


def test_columns_are_checked(tmp_path: Path) -> None:
    words = tmp_path / "words.conll"
    words.write_text("the O\ncat B-X\n")
    for columns in ({"word_column": 0}, {"word_column": -1, "tag_column": -2}, {"tag_column": 0}):
        with pytest.raises(InputError, match="columns count from 1"):
            read_tagged(words, **columns)


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ("text,text,label", (), "has 2 columns 'text'"),
        ("text,label,label", (), "has 2 columns 'label'"),
        ("a,text,label", ("--pair-column", "text"), "the column 'text' is asked for twice"),
        ("a,text,label", ("--label-column", "text"), "the column 'text' is asked for twice"),
    ],
)
def test_a_column_has_one_name_and_one_use(
    header: str, arguments: tuple[str, ...], message: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.csv").write_text(f"{header}\nthe cat,runs,x\nthe,dog,y\n")
    where = ("--train", tmp_path / "data.csv", "--text-column", "text", "-o", tmp_path / "run", "--model", encoder)
    assert call("finetune", "classify", *where, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_long_text_is_named_by_its_line(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\nthe cat\tanimal\n" + "the " * 30 + "cat\tanimal\n")
    assert call("eval", data, "--model", classifier, "--on-long", "error", "--device", "cpu") == 2
    assert f"{data}, line 3 has 33 tokens, the limit is 12" in capsys.readouterr().err


def test_eval_looks_at_its_outputs_first(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The place is refused before the examples are even read."""
    arguments = ("eval", tmp_path / "absent.tsv", "--model", classifier, "--predictions", tmp_path)
    assert call(*arguments) == 2
    assert f"cannot write {tmp_path}: it is a directory" in capsys.readouterr().err


def test_a_comparison_keeps_layers_to_the_features(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.tsv"
    data.write_text("\n".join(["text\tlabel", *(f"{e.text}\t{e.label}" for e in texts(16, 0))]) + "\n")
    how = ("--compare", "--layers", "last", "--epochs", 1, "--device", "cpu", "--feature-cache", tmp_path / "shared")
    where = ("--train", data, "--dev", data, "-o", tmp_path / "run", "--model", encoder)
    assert call("finetune", "classify", *where, *how) == 0
    shown = capsys.readouterr().out
    assert "paper" not in shown  # whose figures are of tags
    assert any((tmp_path / "shared").iterdir())
    assert not (tmp_path / "run" / "finetune" / "model" / "head.json").exists()


def test_questions_want_a_whole_top_k(encoder: Path, tmp_path: Path) -> None:
    folder = train("qa", encoder, tmp_path / "run", questions(16, 0), replace(ONE, max_length=64))
    with pytest.raises(InputError, match="top_k = 0"):
        QuestionAnswerer.from_pretrained(folder, "cpu").predict([("who", "the cat")], 0)


def test_questions_that_are_left_out_do_not_move_the_places_of_others(encoder: Path, tmp_path: Path) -> None:
    good = questions(3, 0)
    unanswered = replace(good[0], id="u", answers=())
    bad = replace(good[1], question="where ? " * 20, context=good[1].context + " the a is in" * 3)
    split = Split("train", [unanswered, good[0], bad, good[2]], lambda number: f"file, line {number + 1}")
    how = replace(ONE, max_length=16, doc_stride=4)
    with pytest.raises(InputError, match=r"^file, line 3: its shorter text has 8 tokens"):
        train("qa", encoder, tmp_path / "run", split, how)


def test_eval_says_that_questions_were_cut(encoder: Path, tmp_path: Path) -> None:
    model = train("qa", encoder, tmp_path / "run", questions(16, 0), replace(ONE, max_length=64))
    long = [replace(q, question="where ? " * 40) for q in questions(4, 1)]
    with pytest.warns(UserWarning, match="4 of 4 questions have over 64 tokens and were truncated"):
        evaluate_model(model, Split("test", long), device="cpu")
