"""Metrics against the libraries that the field uses, and their own examples."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fastbert.data.squad import read_squad
from fastbert.errors import InputError
from fastbert.finetuning.metrics import (
    answer_metrics,
    class_metrics,
    multi_label_metrics,
    normalize_answer,
    number_metrics,
    tag_metrics,
)


def test_class_metrics_are_scikit_learns() -> None:
    gold, guessed = list("aabbab"), list("abbbaa")
    found = class_metrics(("accuracy", "f1", "matthews_correlation", "f1_macro"), gold, guessed, ["a", "b"])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(gold, guessed, pos_label="b"))
    assert found["matthews_correlation"] == pytest.approx(sklearn_metrics.matthews_corrcoef(gold, guessed))
    with pytest.raises(InputError, match="'f1' needs exactly two labels; there are 3 labels"):
        class_metrics(("f1",), gold, guessed, ["a", "b", "c"])
    with pytest.raises(InputError, match="metric = 'bleu' is not one of accuracy"):
        class_metrics(("bleu",), gold, guessed, ["a", "b"])


def test_numbers_and_several_labels() -> None:
    gold, guessed = [1.0, 2.0, 3.0, 5.0], [1.5, 2.5, 2.0, 9.0]
    found = number_metrics(("pearson", "spearman", "mse"), gold, guessed)
    assert found["pearson"] == pytest.approx(np.corrcoef(gold, guessed)[0, 1])
    assert found["spearman"] == pytest.approx(0.8)
    assert number_metrics(("pearson",), gold, [1.0] * 4) == {"pearson": 0.0}
    right, given = [[1, 0], [1, 1]], [[1, 0], [0, 1]]
    assert multi_label_metrics(("f1_micro", "exact"), right, given) == pytest.approx({"f1_micro": 0.8, "exact": 0.5})


def test_tags_are_scored_as_seqevals_page_shows() -> None:
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    guessed = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = tag_metrics(("f1", "precision", "recall", "accuracy"), gold, guessed)
    assert found == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8})
    loose = [["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]  # seqeval's example of the two modes
    assert tag_metrics(("f1",), *loose) == {"f1": 1.0}
    assert tag_metrics(("f1",), *loose, strict=True) == {"f1": 0.0}
    assert tag_metrics(("accuracy", "f1"), [["NOUN", "VERB"]], [["NOUN", "NOUN"]])["accuracy"] == 0.5
    assert tag_metrics(("f1", "accuracy"), [["O"]], [["O"]]) == {"f1": 0.0, "accuracy": 1.0}


def torchmetrics_squad(gold: dict[str, list[str]], guessed: dict[str, str]) -> dict[str, float]:
    """Theirs sums in float32, which loses digits over thousands of questions: parts of a hundred, joined in float64."""
    from torchmetrics.functional.text import squad

    preds = [{"id": name, "prediction_text": guessed[name]} for name in gold]
    target = [{"id": name, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for name, texts in gold.items()]
    totals = {"exact_match": 0.0, "f1": 0.0}
    for start in range(0, len(preds), 100):
        part = squad(preds[start : start + 100], target[start : start + 100])
        for name in totals:
            totals[name] += float(part[name]) * len(preds[start : start + 100]) / len(preds)
    return totals


def test_answers_equal_torchmetrics() -> None:
    gold = {"1": ["The Cat!", "a dog"], "2": ["Paris, France"], "3": ["1,000"], "4": ["an owl"]}
    guessed = {"1": "cat", "2": "in Paris", "3": "1000", "4": ""}
    assert answer_metrics(gold, guessed) == pytest.approx(torchmetrics_squad(gold, guessed), abs=1e-5)
    assert normalize_answer("The  Cat's, a hat.") == "cats hat"
    assert answer_metrics({"1": []}, {"1": ""}) == {"f1": 100.0, "exact_match": 100.0}
    assert answer_metrics({"1": []}, {"1": "x"}) == {"f1": 0.0, "exact_match": 0.0}


@pytest.mark.thorough
def test_answers_equal_torchmetrics_on_all_of_squad(test_data: Path) -> None:
    """Predictions that are right, nearly right, and wrong, for each of the 10,570 questions."""
    draws = random.Random(0)
    questions = read_squad(test_data / "squad" / "dev-v1.1.json")
    gold = {q.id: [a.text for a in q.answers] for q in questions}
    guessed = {}
    for q in questions:
        words = q.context.split()
        start = draws.randrange(len(words))
        wrong = " ".join(words[start : start + draws.randint(1, 8)])
        right = draws.choice(q.answers).text
        guessed[q.id] = draws.choice([right, f"{right} {wrong}", wrong, right.lower(), " ".join(right.split()[:1])])
    ours, theirs = answer_metrics(gold, guessed), torchmetrics_squad(gold, guessed)
    assert ours["exact_match"] == pytest.approx(theirs["exact_match"], abs=1e-4)
    assert ours["f1"] == pytest.approx(theirs["f1"], abs=1e-4)
