"""Empty texts, missing labels, rare labels, weights of labels: counted and said before training, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from task_cases import save_encoder, texts

from fastbert import cli
from fastbert.data.labelled import TextExample
from fastbert.errors import InputError
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.finetuning.models import build_model, look_at
from fastbert.finetuning.problems import Split
from fastbert.finetuning.reading import ReadOptions, hold_out, read_split
from fastbert.finetuning.registry import make_problem

UGLY = 'text,label\na cat,pos\n,pos\na dog,neg\nthe fox,nan\nthe owl,NULL\nin rome,\n"  ",neg\nin bern,"bad, very"\nby,N/A\n'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def ugly(folder: Path) -> Path:
    path = folder / "ugly.csv"
    path.write_text(UGLY)
    return path


def test_missing_labels_are_left_out_and_empty_texts_kept_both_counted(tmp_path: Path) -> None:
    split = read_split("classify", ugly(tmp_path), "train", ReadOptions())
    assert [e.label for e in split.examples] == ["pos", "pos", "neg", "neg", "bad, very"]
    assert [mark["row"] for mark in split.marks] == [1, 2, 3, 7, 8]
    empty, missing = split.notes
    assert empty == "2 examples have an empty text (line 3, line 8); they are kept"
    assert missing == "4 examples have no label (empty, nan, NULL) and were left out (line 5, line 6, line 7, line 10)"


@pytest.mark.parametrize("name", ["nan", "NULL"])
def test_a_label_that_is_named_is_none_that_is_missing(name: str, tmp_path: Path) -> None:
    split = read_split("classify", ugly(tmp_path), "train", ReadOptions(names=("pos", "neg", "bad, very", name)))
    assert name in [e.label for e in split.examples]
    assert "3 examples have no label" in split.notes[1]


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n{"text": "c", "label": NaN}\n',
        "text\tlabel\na\tx\nb\t\nc\t \n",
    ],
)
def test_null_and_blank_cells_are_missing(text: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jsonl" if text.startswith("{") else "a.tsv")
    path.write_text(text)
    split = read_split("classify", path, "train", ReadOptions())
    assert [e.label for e in split.examples] == ["x"]
    with pytest.raises(InputError, match="line [23]: the label is missing"):
        read_split("classify", path, "train", ReadOptions(strict=True))


def test_numbers_and_choices_may_be_missing_and_other_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tscore\na\t1.5\nb\tnan\nc\t\n")
    split = read_split("regress", path, "train", ReadOptions())
    assert [e.label for e in split.examples] == [1.5]
    path.write_text("text\tscore\na\t1.5\nb\tinf\n")
    with pytest.raises(InputError, match="line 3: the label 'inf' is not a number"):
        read_split("regress", path, "train", ReadOptions())
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "choices": ["b", "c"], "label": 1}\n{"text": "a", "choices": ["b", ""], "label": null}\n')
    split = read_split("choice", path, "train", ReadOptions())
    assert [e.label for e in split.examples] == [1]
    assert len(split.notes) == 2


def test_several_labels_may_be_none_but_not_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "labels": []}\n{"text": "b", "labels": null}\n{"text": "c", "labels": ["x", "y"]}\n')
    split = read_split("classify", path, "train", ReadOptions(multi_label=True))
    assert [e.label for e in split.examples] == [(), ("x", "y")]


def test_a_file_without_any_label_is_refused_and_unlabelled_rows_are_predicted(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\na\t\nb\tnan\n")
    with pytest.raises(InputError, match="all 2 examples have no label"):
        read_split("classify", path, "train", ReadOptions())
    assert len(read_split("classify", path, "input", ReadOptions(), labelled=False).examples) == 2


def test_the_command_says_the_counts_before_training_and_strict_refuses(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [
        "finetune",
        "classify",
        "--train",
        str(ugly(tmp_path)),
        "--model",
        str(encoder),
        "--device",
        "cpu",
        "--epochs",
        "1",
    ]
    assert cli.main([*train, "-o", str(tmp_path / "a"), "--strict"]) == 2
    assert "line 3: the text is empty" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    named = [item for name in ("pos", "neg", "bad, very") for item in ("--label", name)]
    assert cli.main([*train, "-o", str(tmp_path / "a"), *named]) == 0
    shown = capsys.readouterr()
    assert "2 examples have an empty text" in shown.err
    assert "4 examples have no label" in shown.err
    labels = json.loads((tmp_path / "a" / "model" / "config.json").read_text())["id2label"]
    assert list(labels.values()) == ["pos", "neg", "bad, very"]
    assert cli.main([*train, "-o", str(tmp_path / "b"), "--label", "pos", "--labels", "pos,neg"]) == 2
    assert "--label and --labels exclude one another" in capsys.readouterr().err


# -- held out ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("counts", [(90, 8, 2), (50, 50), (40, 3, 1), (4, 2, 2), (7,)])
def test_labels_have_their_share_in_both_parts(counts: tuple[int, ...], share: float) -> None:
    examples = [TextExample(f"{label} {i}", None, f"l{label}") for label, count in enumerate(counts) for i in range(count)]
    size = round(len(examples) * share)
    train, dev = hold_out(Split("train", examples), share, 3)
    assert len(dev.examples) == size
    assert sorted(e.text for e in train.examples + dev.examples) == sorted(e.text for e in examples)
    room = size >= sum(count > 1 for count in counts)
    for label, count in enumerate(counts):
        held = sum(e.label == f"l{label}" for e in dev.examples)
        if count == 1:
            assert held == 0
        elif room:
            assert 1 <= held <= count - 1
            assert abs(held - count * share) <= 1 or held == 1
    assert [e.text for e in dev.examples] == [e.text for e in hold_out(Split("train", examples), share, 3)[1].examples]


def test_a_label_that_dev_has_no_room_for_is_said(encoder: Path, tmp_path: Path) -> None:
    rows = [*texts(30, 0), TextExample("a fox", None, "rare")]
    train, dev = hold_out(Split("train", rows), 0.2, 0)
    said: list[str] = []
    options = FineTuneOptions(epochs=1)
    finetune("classify", encoder, train, dev, output=tmp_path / "run", options=options, device="cpu", progress=said.append)
    assert "note: dev has no example of rare" in "\n".join(said)


# -- weights -----------------------------------------------------------------------------------------------------------------


def problem(encoder: Path, weights: object, rows: list[TextExample]) -> object:
    from fastbert import BertTokenizer

    options = FineTuneOptions(class_weights=weights).resolved("classify")  # type: ignore[arg-type]
    tokenizer = BertTokenizer.from_pretrained(encoder)
    return make_problem("classify", options, tokenizer, Split("train", rows), (), look_at(encoder, "classify", tokenizer))


def test_balanced_weights_are_scikit_learns(encoder: Path) -> None:
    rows = [e for e in texts(60, 0) if e.label == "animal"] + [e for e in texts(20, 1) if e.label == "place"]
    found = problem(encoder, "balanced", rows).weights  # type: ignore[attr-defined]
    expected = compute_class_weight("balanced", classes=np.array(["animal", "place"]), y=[e.label for e in rows])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_weights_enter_the_loss_as_in_torch(encoder: Path) -> None:
    rows = texts(8, 0)
    weights = {"animal": 0.5, "place": 3.0}
    one = problem(encoder, weights, rows)
    part = one.frame(Split("train", rows))  # type: ignore[attr-defined]
    batch, keywords = one.step(part.framed, one.targets(part), range(8), torch.device("cpu"))  # type: ignore[attr-defined]
    model = build_model(one, encoder, one.options, 0).eval()  # type: ignore[attr-defined, arg-type]
    logits = model(batch, return_dict=True).logits
    expected = torch.nn.functional.cross_entropy(logits, keywords["labels"], torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(one.loss(model, batch, keywords), expected)  # type: ignore[attr-defined]
    plain = model(batch, return_dict=True, **keywords).loss
    assert not torch.isclose(plain, expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"animal": 1.0}, "has no weight for 'place'"),
        ({"animal": 1.0, "place": 1.0, "dog": 2.0}, "names 'dog'"),
        ({"animal": 0, "place": 1.0}, "the weight of 'animal' is 0; expected a number above 0"),
        ("equal", "neither 'balanced' nor weights"),
    ],
)
def test_wrong_weights_are_refused(weights: object, message: str, encoder: Path) -> None:
    with pytest.raises(InputError, match=message):
        problem(encoder, weights, texts(8, 0))


def test_weights_from_a_file_change_the_run(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{e.text}\t{e.label}\n" for e in texts(32, 0))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + rows)
    (tmp_path / "w.json").write_text('{"animal": 0.001, "place": 1}')
    train = ["finetune", "classify", "--train", str(tmp_path / "a.tsv"), "--model", str(encoder), "--device", "cpu"]
    train += ["--dev", str(tmp_path / "a.tsv"), "--epochs", "1", "--batch-size", "4", "--lr", "1e-3"]
    assert cli.main([*train, "-o", str(tmp_path / "run"), "--class-weights", str(tmp_path / "w.json")]) == 0
    found = [json.loads(line)["label"] for line in (tmp_path / "run" / "predictions.jsonl").open()]
    assert set(found) == {"place"}  # what hardly counts is hardly learned
    capsys.readouterr()
    assert cli.main([*train, "-o", str(tmp_path / "b"), "--class-weights", "some"]) == 2
    assert "--class-weights some: neither 'balanced' nor a file" in capsys.readouterr().err
