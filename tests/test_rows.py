"""Rows in memory: data sets of `datasets`, and mappings, read as the same rows in files are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from task_cases import save_encoder

from fastbert.data.rows import Rows
from fastbert.errors import InputError
from fastbert.finetuning import FineTuneOptions, ReadOptions, finetune, read_split
from fastbert.tasks import Classifier, Embedder

ANIMAL_OR_PLACE = {"text": ["the cat runs", "paris", "a dog", "in rome"] * 4, "label": [0, 1, 0, 1] * 4}
CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["animal", "place"])})
TAGS = ["O", "B-PER", "I-PER"]
SQUAD = {
    "id": ["a", "b"],
    "question": ["where?", "who?"],
    "context": ["the cat is in rome", "a dog"],
    "answers": [{"text": ["rome"], "answer_start": [14]}, {"text": [], "answer_start": []}],
}
DATA: dict[str, tuple[str, Dataset, ReadOptions]] = {
    "labels": ("classify", Dataset.from_dict(ANIMAL_OR_PLACE, features=CLASSES), ReadOptions()),
    "pairs": (
        "nli",
        Dataset.from_dict(
            {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 2]},
            features=Features(
                {
                    "premise": Value("string"),
                    "hypothesis": Value("string"),
                    "label": ClassLabel(names=["entailment", "neutral", "contradiction"]),
                }
            ),
        ),
        ReadOptions(),
    ),
    "numbers": ("regress", Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]}), ReadOptions()),
    "several": (
        "classify",
        Dataset.from_dict(
            {"text": ["a", "b"], "labels": [[0, 1], []]},
            features=Features({"text": Value("string"), "labels": List(ClassLabel(names=["x", "y"]))}),
        ),
        ReadOptions(multi_label=True),
    ),
    "tags": (
        "ner",
        Dataset.from_dict(
            {"tokens": [["Ada", "Lovelace", "sits"], ["so"]], "ner_tags": [[1, 2, 0], [0]]},
            features=Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=TAGS))}),
        ),
        ReadOptions(),
    ),
    "questions": ("qa", Dataset.from_dict(SQUAD), ReadOptions()),
    "choices": (
        "choice",
        Dataset.from_dict({"text": ["a"], "choices": [["b", "c"]], "label": [1]}),
        ReadOptions(),
    ),
    "other columns": (
        "classify",
        Dataset.from_dict({"body": ["a", "b"], "kind": ["x", "y"]}),
        ReadOptions(text="body", label="kind"),
    ),
}


def written(dataset: Dataset, path: Path) -> Path:
    """The same rows as JSON lines, with classes by name."""
    rows = Rows.of(dataset, "train")
    lines = [dict(zip(rows.values, row, strict=True)) for row in zip(*rows.values.values(), strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_is_read_like_its_file(name: str, tmp_path: Path) -> None:
    kind, dataset, options = DATA[name]
    wanted = read_split(kind, written(dataset, tmp_path / "train.jsonl"), "train", options)
    plain = [dict(row) for row in dataset] if name in ("numbers", "questions", "choices", "other columns") else dataset
    frame = dataset.to_pandas() if plain is not dataset and name in ("numbers", "other columns") else plain
    for given in (dataset, dataset.with_format("numpy"), plain, frame):
        found = read_split(kind, given, "train", options)
        assert [repr(e) for e in found.examples] == [repr(e) for e in wanted.examples]
        assert found.marks == wanted.marks
        assert found.where(0) == ("train, question 'a'" if kind == "qa" else "train, row 1")


def test_fine_tuning_on_a_data_set_gives_the_bits_of_its_file(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "start")
    data = DatasetDict({"train": DATA["labels"][1], "validation": DATA["labels"][1].select(range(4))})
    options = FineTuneOptions(epochs=1, batch_size=8, lr=1e-3)
    results = []
    for number, train in enumerate((data["train"], written(data["train"], tmp_path / "train.jsonl"))):
        dev = data["validation"]
        results.append(finetune("classify", folder, train, dev, output=tmp_path / str(number), options=options, device="cpu"))
    weights = [(result.folder / "model" / "model.safetensors").read_bytes() for result in results]
    assert weights[0] == weights[1]
    model = Classifier.from_pretrained(results[0].folder / "model", "cpu")
    assert model.labels == ["animal", "place"]
    found = model.predict(data["validation"]["text"])
    assert len(found) == 4


def test_null_is_an_empty_text_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": null, "label": "x"}\n{"text": "a", "label": "y"}\n')
    for given in (path, Dataset.from_dict({"text": [None, "a"], "label": ["x", "y"]})):
        split = read_split("classify", given, "train", ReadOptions())
        assert [example.text for example in split.examples] == ["", "a"]
        assert "1 examples have an empty text" in split.notes[0]
        with pytest.raises(InputError, match=r"(line|row) 1: the text is empty"):
            read_split("classify", given, "train", ReadOptions(strict=True))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"epochs": 1.5}, r"epochs = 1.5 must be a whole number"),
        ({"epochs": "2"}, r"epochs = '2' must be a whole number"),
        ({"batch_size": True}, r"batch_size = True must be a whole number"),
        ({"lr": "fast"}, r"lr = 'fast' must be a number"),
    ],
)
def test_options_of_another_type_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        FineTuneOptions(**options).resolved("classify")


def test_columns_of_a_data_set_are_texts(tmp_path: Path) -> None:
    embedder = Embedder.from_pretrained(save_encoder(tmp_path), "cpu")
    data = DATA["labels"][1]
    wanted = embedder.encode(list(data["text"]))
    assert np.array_equal(embedder.encode(data["text"]), wanted)
    assert np.array_equal(embedder.encode(data), wanted)
    mapped = data.map(lambda batch: {"vector": embedder.encode(batch["text"])}, batched=True, batch_size=16)
    assert np.allclose(np.array(mapped["vector"]), wanted)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (DatasetDict({"train": DATA["labels"][1]}), r"train holds several data sets: pass one of train"),
        (Dataset.from_dict({"text": [], "label": []}), r"train holds no example"),
        ([{"text": "a", "label": "x"}, {"text": "b"}], r"train, row 2: expected the columns text, label; it has text"),
        ([{"text": "a", "label": "x"}, "b"], r"train, row 2: expected the columns text, label; it has a str"),
        (
            Dataset.from_dict({"words": ["a"], "label": [1]}),
            r"train has no column known to hold text; name one of words, label",
        ),
        (
            {"text": ["a"], "label": ["x"]},
            r"train is a mapping of columns: pass rows, such as datasets.Dataset",
        ),
        (Dataset.from_dict({"text": [1], "label": [1]}), r"train, row 1: 'text' is a int; expected text"),
        (Dataset.from_dict({"text": ["a"], "label": [None]}), r"train: all 1 examples have no label"),
        (
            Dataset.from_dict({"text": ["a"], "label": [-1]}, features=CLASSES),  # what the hub's test sets have
            r"train: all 1 examples have no label",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_row(given: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        read_split("classify", given, "train", ReadOptions())
    with pytest.raises(InputError, match=why):
        finetune("classify", save_encoder(tmp_path / "m"), given, output=tmp_path / "run", device="cpu")
