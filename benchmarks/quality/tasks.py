"""The tasks that `quality.py` trains on: their files, recipes and metrics, the same for every system.

The data are folders in FASTBERT_TEST_DATA: sst2, mrpc, cad-nli, stsb, wnut17, squad.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.conll import read_tagged
from fastbert.data.labelled import read_text_examples
from fastbert.data.layouts import find_layout
from fastbert.data.squad import read_squad
from fastbert.finetuning.metrics import answer_metrics, class_metrics, number_metrics, tag_metrics


@dataclass(frozen=True)
class Recipe:
    """How a task is trained: the paper's recipe (batch 32, warm-up over 10 %, dropout 0.1, decay 0.01, clipping at 1).

    Attributes:
        kind: a kind of task of `fastbert finetune`.
        metrics: names; the first one selects the best epoch on dev, if there is a dev set.
        epochs, lr, batch_size, max_length: the hyperparameters.
        expected: known scores, for the table.
    """

    kind: str
    metrics: tuple[str, ...]
    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 32
    max_length: int = 128
    expected: str = ""


RECIPES = {
    "sst2": Recipe("classify", ("accuracy",), epochs=1, expected="about 91 (published, MiniLM-L6-H384: 91.5)"),
    "mrpc": Recipe("classify", ("accuracy", "f1"), expected="77.2 / 83.9 (transformers, seed 0)"),
    "cad-nli": Recipe("nli", ("accuracy",)),
    "stsb": Recipe("regress", ("pearson", "spearman")),
    "wnut17": Recipe("ner", ("f1",), max_length=256, expected="33 to 48 (published, BERT-base)"),
    "squad": Recipe("qa", ("f1", "exact_match"), epochs=2, max_length=384),
}


@dataclass(frozen=True)
class Splits:
    """The examples of a task. `dev` is None if no epoch is selected on it."""

    train: list[Any]
    dev: list[Any] | None
    test: list[Any]


def load(task: str, data: Path) -> Splits:
    """The examples of a task."""
    if task == "sst2":
        train, dev = (_texts(data / "sst2" / f"{part}.tsv") for part in ("train", "dev"))
        return Splits(train, None, dev)
    if task == "mrpc":
        return _mrpc(data / "mrpc")
    if task == "cad-nli":
        return Splits(*(_texts(data / "cad-nli" / f"{part}.tsv") for part in ("train", "dev", "test")))
    if task == "stsb":
        paths = (data / "stsb" / f"sts-{part}.tsv" for part in ("train", "dev", "test"))
        return Splits(*(_texts(path, "sts-benchmark", "number") for path in paths))
    if task == "wnut17":
        names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
        return Splits(*(read_tagged(data / "wnut17" / name) for name in names))
    return Splits(read_squad(data / "squad" / "train-5pct.json"), None, read_squad(data / "squad" / "dev-v1.1.json"))


def _texts(path: Path, layout: str | None = None, kind: str = "name") -> list[Any]:
    return read_text_examples(path, find_layout(path, layout), kind)[0]


def _mrpc(folder: Path) -> Splits:
    """GLUE's split of MRPC: the pairs in dev_ids.tsv form dev, and the rest of the training file forms train."""
    path = folder / "msr_paraphrase_train.txt"
    examples, table = read_text_examples(path, find_layout(path, "mrpc"))
    ids = [line.split("\t") for line in (folder / "dev_ids.tsv").read_text().splitlines()]
    held = {tuple(pair) for pair in ids}
    rows = [tuple(line.split("\t")[1:3]) for line in path.read_text(encoding="utf-8-sig").splitlines()[1:]]
    assert len(rows) == len(table)
    train = [example for example, row in zip(examples, rows, strict=True) if row not in held]
    dev = [example for example, row in zip(examples, rows, strict=True) if row in held]
    return Splits(train, dev, _texts(folder / "msr_paraphrase_test.txt", "mrpc"))


def score(recipe: Recipe, examples: list[Any], predictions: list[Any]) -> dict[str, float]:
    """The metrics of predictions, all in percent."""
    if recipe.kind == "qa":
        gold = {question.id: [answer.text for answer in question.answers] for question in examples}
        return answer_metrics(gold, {question.id: text for question, text in zip(examples, predictions, strict=True)})
    if recipe.kind == "ner":
        found = tag_metrics(recipe.metrics, [sentence.tags for sentence in examples], predictions)
    elif recipe.kind == "regress":
        found = number_metrics(recipe.metrics, [example.label for example in examples], predictions)
    else:
        gold_names = [example.label for example in examples]
        found = class_metrics(recipe.metrics, gold_names, predictions, sorted(set(gold_names)))
    return {name: 100 * value for name, value in found.items()}
