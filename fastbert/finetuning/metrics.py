"""Metrics of tasks, computed by the standard libraries (scikit-learn, scipy, seqeval) and, for answers, by SQuAD's rules.

All are fractions between 0 and 1 (correlations between -1 and 1) except "mse", which is a squared error, and exact match and
F1 of answers, which are percentages, as in SQuAD's script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastbert.data.tags import find_scheme
from fastbert.errors import InputError

EXTRA = 'needs the extra "tasks": pip install "fastbert-triton[tasks]", or in a checkout pip install ".[tasks]"'
DEFAULTS = {
    "classify": ("accuracy", "f1_macro"),
    "multi-label": ("f1_micro", "f1_macro", "exact"),
    "nli": ("accuracy",),
    "regress": ("pearson", "spearman"),
    "choice": ("accuracy",),
    "ner": ("f1", "precision", "recall"),
    "qa": ("f1", "exact_match"),
}
_CLASSES = ("accuracy", "f1", "f1_macro", "matthews_correlation")
_KNOWN = {
    "classify": _CLASSES,
    "multi-label": ("f1_micro", "f1_macro", "exact"),
    "nli": _CLASSES,
    "regress": ("pearson", "spearman", "mse"),
    "choice": ("accuracy", "f1_macro"),
    "ner": ("f1", "precision", "recall", "accuracy"),
    "qa": ("f1", "exact_match"),
}
LOWER_IS_BETTER = ("mse",)


def chosen_metrics(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """The metrics of a task: the given names, or the task's defaults.

    Raises:
        InputError: a metric that the task does not have.
    """
    for name in names:
        if name not in _KNOWN[kind]:
            raise InputError(f"metric = {name!r} is not one of {', '.join(_KNOWN[kind])}")
    return tuple(names) or DEFAULTS[kind]


def class_metrics(names: Sequence[str], gold: Sequence[str], guessed: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Metrics of single-label classification.

    Args:
        names: "accuracy", "matthews_correlation", "f1_macro", or "f1", which is binary: its positive class is the label whose
            name comes last in alphabetical order.
        gold, guessed: label names.
        labels: all labels of the model.
    """
    from sklearn import metrics

    known: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy_score(gold, guessed),
        "matthews_correlation": lambda: metrics.matthews_corrcoef(gold, guessed),
        "f1_macro": lambda: metrics.f1_score(gold, guessed, labels=sorted(set(gold)), average="macro", zero_division=0),
        "f1": lambda: metrics.f1_score(gold, guessed, pos_label=positive_label(labels), zero_division=0),
    }
    return _compute(names, known)


def multi_label_metrics(names: Sequence[str], gold: Any, guessed: Any) -> dict[str, float]:
    """Metrics of multi-label classification: "f1_micro", "f1_macro", "exact" (all labels correct); inputs (n, C), 0 or 1."""
    from sklearn import metrics

    known: dict[str, Callable[[], float]] = {
        "f1_micro": lambda: metrics.f1_score(gold, guessed, average="micro", zero_division=0),
        "f1_macro": lambda: metrics.f1_score(gold, guessed, average="macro", zero_division=0),
        "exact": lambda: metrics.accuracy_score(gold, guessed),
    }
    return _compute(names, known)


def number_metrics(names: Sequence[str], gold: Sequence[float], guessed: Sequence[float]) -> dict[str, float]:
    """Metrics of regression: "pearson", "spearman", "mse"; the correlation with a constant is defined as 0."""
    import numpy as np
    from scipy import stats
    from sklearn import metrics

    constant = len(set(gold)) < 2 or len(set(guessed)) < 2
    known: dict[str, Callable[[], float]] = {
        "pearson": lambda: 0.0 if constant else stats.pearsonr(gold, guessed)[0],
        "spearman": lambda: 0.0 if constant else stats.spearmanr(gold, guessed)[0],
        "mse": lambda: metrics.mean_squared_error(np.asarray(gold), np.asarray(guessed)),
    }
    return _compute(names, known)


def tag_metrics(
    names: Sequence[str], gold: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]], strict: bool = False
) -> dict[str, float]:
    """Metrics of word tags.

    Args:
        names: "f1", "precision" and "recall" of spans, and "accuracy" of words. Tags that do not encode spans (parts of
            speech) are scored as classes of words, and the first three are macro averages over the classes.
        strict: count a span only if its tags follow the rules of their scheme (IOB2, IOBES or BILOU).
    """
    if not any(tag != "O" for tags in [*gold, *guessed] for tag in tags):
        return dict.fromkeys(names, 0.0) | ({"accuracy": 1.0} if "accuracy" in names else {})
    scheme = find_scheme([*gold])
    if scheme is None:
        return _word_metrics(names, gold, guessed)
    from seqeval import metrics

    options: dict[str, Any] = {"zero_division": 0}
    if strict:
        from seqeval import scheme as schemes

        options |= {"mode": "strict", "scheme": getattr(schemes, scheme)}
    rows = [list(tags) for tags in gold], [list(tags) for tags in guessed]
    known: dict[str, Callable[[], float]] = {
        "f1": lambda: metrics.f1_score(*rows, **options),
        "precision": lambda: metrics.precision_score(*rows, **options),
        "recall": lambda: metrics.recall_score(*rows, **options),
        "accuracy": lambda: metrics.accuracy_score(*rows),
    }
    return _compute(names, known)


def _word_metrics(names: Sequence[str], gold: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]]) -> dict[str, float]:
    from sklearn import metrics

    right, given = [t for tags in gold for t in tags], [t for tags in guessed for t in tags]
    options: dict[str, Any] = {"average": "macro", "zero_division": 0, "labels": sorted(set(right))}
    known: dict[str, Callable[[], float]] = {
        "f1": lambda: metrics.f1_score(right, given, **options),
        "precision": lambda: metrics.precision_score(right, given, **options),
        "recall": lambda: metrics.recall_score(right, given, **options),
        "accuracy": lambda: metrics.accuracy_score(right, given),
    }
    return _compute(names, known)


def answer_metrics(gold: Mapping[str, Sequence[str]], guessed: Mapping[str, str]) -> dict[str, float]:
    """Exact match and F1 of answers in percent by SQuAD's rules, each the maximum over the gold answers of a question.

    Args:
        gold: the gold answers of each question; an empty list marks an unanswerable question, for which "" is correct.
        guessed: the predicted answer of each question.
    """
    totals = Counter[str]()
    for name, right in gold.items():
        answers = [text for text in right if normalize_answer(text)] or [""]
        given = guessed.get(name, "")
        totals["exact_match"] += max(exact_match(answer, given) for answer in answers)
        totals["f1"] += max(answer_f1(answer, given) for answer in answers)  # type: ignore[assignment]
    return {name: 100.0 * totals[name] / max(len(gold), 1) for name in ("f1", "exact_match")}


def normalize_answer(text: str) -> str:
    """The text in lower case, without punctuation, articles and extra white space."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: str, guessed: str) -> int:
    """1 if both answers are equal after normalization, else 0."""
    return int(normalize_answer(gold) == normalize_answer(guessed))


def answer_f1(gold: str, guessed: str) -> float:
    """F1 of the words of two answers; 1 if both are empty."""
    right, given = normalize_answer(gold).split(), normalize_answer(guessed).split()
    if not right or not given:
        return float(right == given)
    shared = sum((Counter(right) & Counter(given)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def check_installed() -> None:
    """Raises InputError if a required library is missing, before any work begins."""
    import importlib.util

    for package in ("sklearn", "scipy", "seqeval"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"fine-tuning {EXTRA} (the package {package} is missing)")


def positive_label(labels: Sequence[str]) -> str:
    """The positive class of "f1": of two labels, the last in alphabetical order; InputError unless there are exactly two."""
    if len(labels) != 2:
        raise InputError(f"the metric 'f1' needs exactly two labels; there are {len(labels)} labels: use 'f1_macro'")
    return max(labels)


def _compute(names: Sequence[str], known: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"metric = {unknown[0]!r} is not one of {', '.join(known)}")
    return {name: float(known[name]()) for name in names}
