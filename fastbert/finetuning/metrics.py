"""Metrics of tasks, by the libraries that the field uses: scikit-learn, scipy, seqeval; SQuAD's own rules for answers.

All are shares between 0 and 1 (correlations between -1 and 1), except exact match and F1 of answers, which are per cent as
SQuAD's script prints them.
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
    """The metrics of a task: the names that were given, or its own.

    Raises:
        InputError: a name that the task does not have.
    """
    for name in names:
        if name not in _KNOWN[kind]:
            raise InputError(f"metric = {name!r} is not one of {', '.join(_KNOWN[kind])}")
    return tuple(names) or DEFAULTS[kind]


def class_metrics(names: Sequence[str], gold: Sequence[str], guessed: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Metrics of single labels.

    Args:
        names: "accuracy", "matthews_correlation", "f1_macro", or "f1": of the positive class of two, the last label by name.
        gold, guessed: label names.
        labels: all names that the model knows.
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
    """Metrics of several labels: "f1_micro", "f1_macro", "exact" (all labels of an example right); (n, C) of 0 and 1."""
    from sklearn import metrics

    known: dict[str, Callable[[], float]] = {
        "f1_micro": lambda: metrics.f1_score(gold, guessed, average="micro", zero_division=0),
        "f1_macro": lambda: metrics.f1_score(gold, guessed, average="macro", zero_division=0),
        "exact": lambda: metrics.accuracy_score(gold, guessed),
    }
    return _compute(names, known)


def number_metrics(names: Sequence[str], gold: Sequence[float], guessed: Sequence[float]) -> dict[str, float]:
    """Metrics of numbers: "pearson", "spearman", "mse". A correlation with a constant is 0."""
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
    """Metrics of tags.

    Args:
        names: "f1", "precision", "recall", of spans, and "accuracy", of words. Tags that are no spans (parts of speech) count
            as classes of words, and the first three are means over the classes.
        strict: a span counts only where its tags follow IOB2's, or IOBES' or BILOU's, rules.
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
    """Exact match and F1 of answers in per cent, each the best over the right answers of a question; SQuAD's rules.

    Args:
        gold: for each question the right answers; none means that it has no answer, which "" is right for.
        guessed: for each question the answer that was found.
    """
    totals = Counter[str]()
    for name, right in gold.items():
        answers = [text for text in right if normalize_answer(text)] or [""]
        given = guessed.get(name, "")
        totals["exact_match"] += max(exact_match(answer, given) for answer in answers)
        totals["f1"] += max(answer_f1(answer, given) for answer in answers)  # type: ignore[assignment]
    return {name: 100.0 * totals[name] / max(len(gold), 1) for name in ("f1", "exact_match")}


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: str, guessed: str) -> int:
    """1 where both are the same once normalised."""
    return int(normalize_answer(gold) == normalize_answer(guessed))


def answer_f1(gold: str, guessed: str) -> float:
    """F1 of the words of two answers; of two empty ones 1."""
    right, given = normalize_answer(gold).split(), normalize_answer(guessed).split()
    if not right or not given:
        return float(right == given)
    shared = sum((Counter(right) & Counter(given)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def check_installed() -> None:
    """Raises InputError where the libraries are not there, before work begins."""
    import importlib.util

    for package in ("sklearn", "scipy", "seqeval"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"fine-tuning {EXTRA} (the package {package} is missing)")


def positive_label(labels: Sequence[str]) -> str:
    """The class that "f1" is of: the last of two by name. InputError where there are not two."""
    if len(labels) != 2:
        raise InputError(f"the metric 'f1' is of one class of two; there are {len(labels)} labels: use 'f1_macro'")
    return max(labels)


def _compute(names: Sequence[str], known: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"metric = {unknown[0]!r} is not one of {', '.join(known)}")
    return {name: float(known[name]()) for name in names}
