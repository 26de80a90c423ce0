"""The results of a run: means over its seeds, and what its predictions got wrong, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastbert.data.tags import spans
from fastbert.finetuning.metrics import exact_match, normalize_answer
from fastbert.finetuning.pictures import draw_confusion, draw_counts
from fastbert.finetuning.problems import Prediction, Problem
from fastbert.terminal import markdown_table

SHOWN = 20  # errors that the report lists
WIDEST = 20  # labels of a confusion table in Markdown


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds (0 for a single seed)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def summary(found: Sequence[dict[str, float]]) -> str:
    """Metrics over seeds as text: the mean, and the standard deviation if there are two or more seeds."""
    parts = []
    for name in found[0]:
        middle, around = spread([one[name] for one in found])
        parts.append(f"{name} {middle:.4f}" + (f" +- {around:.4f}" if len(found) > 1 else ""))
    return ", ".join(parts)


@dataclass
class Errors:
    """What predictions got wrong.

    Attributes:
        lines: in Markdown.
        values: the same for JSON: "classes", precision, recall and F1 of each as scikit-learn or seqeval report them;
            "confusion", the counts of right (rows) by predicted label; "errors", the number of predictions by kind of error.
    """

    lines: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def write_errors(folder: Path, problem: Problem, predictions: Sequence[Prediction]) -> Errors:
    """What predictions got wrong; also writes a picture for most kinds of task to the folder, if matplotlib is installed."""
    if not predictions or not all("gold" in row for row in predictions):
        return Errors()
    if problem.kind == "regress":
        return Errors(_number_errors(predictions))
    if problem.options.multi_label:
        return _label_table(problem, predictions)
    if problem.kind not in ("ner", "qa"):
        return _confusion(folder, problem, predictions)
    found, picture = _tag_errors(predictions) if problem.kind == "ner" else _answer_errors(predictions)
    if draw_counts(folder / "errors.png", picture):
        found.lines += ["", "![errors](errors.png)"]
    return found


def _confusion(folder: Path, problem: Problem, predictions: Sequence[Prediction]) -> Errors:
    from sklearn.metrics import classification_report, confusion_matrix

    gold, given = ([str(row[key]) for row in predictions] for key in ("gold", "label"))
    labels = problem.labels or sorted({*gold, *given})
    matrix = confusion_matrix(gold, given, labels=labels)
    table = classification_report(gold, given, labels=labels, output_dict=True, zero_division=0)
    lines = ["## Confusion", "", *_confusion_table(matrix, labels), "", *_score_table(table, labels)]
    notes = draw_confusion(folder / "confusion.png", matrix, labels)
    if notes:
        lines += ["", "![confusion](confusion.png)", *notes]
    return Errors(lines, {"classes": _plain(table), "confusion": {"labels": labels, "counts": matrix.tolist()}})


def _confusion_table(matrix: Any, labels: Sequence[str]) -> list[str]:
    """All counts; of many labels those that are confused most often, as the whole table could not be read."""
    if len(labels) <= WIDEST:
        counts = ([name, *map(str, row)] for name, row in zip(labels, matrix.tolist(), strict=True))
        return markdown_table([["right \\ predicted", *labels], *counts])
    wrong = sorted(((-count, i, j) for i, row in enumerate(matrix.tolist()) for j, count in enumerate(row) if count and i != j))
    rows = [(labels[i], labels[j], str(-count)) for count, i, j in wrong[:SHOWN]]
    return markdown_table([("right", "predicted", "examples"), *rows])


def _plain(table: Any) -> Any:
    """A classification report without numpy's types."""
    return {key: _plain(value) for key, value in table.items()} if isinstance(table, dict) else float(table)


def _label_table(problem: Problem, predictions: Sequence[Prediction]) -> Errors:
    from sklearn.metrics import classification_report

    right, given = ([[int(name in row[key]) for name in problem.labels] for row in predictions] for key in ("gold", "labels"))
    table = classification_report(right, given, target_names=problem.labels, output_dict=True, zero_division=0)
    return Errors(["## Labels", "", *_score_table(table, problem.labels)], {"classes": _plain(table)})


def _tag_errors(predictions: Sequence[Prediction]) -> tuple[Errors, Counter[str]]:
    """Counts of spans by type of error, and precision and recall of each entity kind, from seqeval."""
    from seqeval.metrics import classification_report

    kinds = Counter[str]()
    shown: list[str] = []
    for row in predictions:
        right, given = spans(row["gold"]), spans(row["tags"])
        for span in given:
            what = _span_error(span, right)
            kinds[what] += 1
            if what not in ("right",) and len(shown) < SHOWN:
                words = " ".join(row["words"][span.start : span.end])
                shown.append(
                    f"| {what} | {words} | {span.kind} | {' '.join(row['words'][max(0, span.start - 5) : span.end + 5])} |"
                )
        missed = [s for s in right if not any(g.start < s.end and s.start < g.end for g in given)]
        kinds["missed"] += len(missed)
    table = classification_report(
        [row["gold"] for row in predictions], [row["tags"] for row in predictions], output_dict=True, zero_division=0
    )
    lines = ["## Entities", "", *_score_table(table, [name for name in table if not name.endswith("avg")], "kind", "spans")]
    lines += ["", "| predicted spans | |", "| --- | --- |", *(f"| {name} | {count} |" for name, count in kinds.most_common())]
    if shown:
        lines += ["", "| error | words | predicted | around |", "| --- | --- | --- | --- |", *map(_escape_row, shown)]
    return Errors(lines, {"classes": _plain(table), "errors": dict(kinds)}), kinds


def _span_error(span: Any, right: Sequence[Any]) -> str:
    if span in right:
        return "right"
    touching = [s for s in right if s.start < span.end and span.start < s.end]
    if not touching:
        return "spurious"
    same = [s for s in touching if (s.start, s.end) == (span.start, span.end)]
    if same:
        return "wrong kind"
    return "wrong boundary" if any(s.kind == span.kind for s in touching) else "wrong kind and boundary"


def _answer_errors(predictions: Sequence[Prediction]) -> tuple[Errors, Counter[str]]:
    kinds = Counter[str]()
    shown: list[str] = []
    for row in predictions:
        what = _answer_error(row["answer"], row["gold"])
        kinds[what] += 1
        if what != "exact" and len(shown) < SHOWN:
            shown.append(f"| {what} | {row['answer']} | {row['gold'][0] if row['gold'] else ''} | {row['id']} |")
    lines = ["## Answers", "", "| | |", "| --- | --- |", *(f"| {name} | {count} |" for name, count in kinds.most_common())]
    lines += ["", "| error | answer | right | id |", "| --- | --- | --- | --- |", *map(_escape_row, shown)]
    return Errors(lines, {"errors": dict(kinds)}), kinds


def _answer_error(answer: str, gold: Sequence[str]) -> str:
    if not answer or not gold:
        return "exact" if not answer and not gold else "an answer where there is none" if answer else "no answer found"
    if any(exact_match(text, answer) for text in gold):
        return "exact"
    given = set(normalize_answer(answer).split())
    texts = [set(normalize_answer(text).split()) for text in gold]
    if any(text < given for text in texts):
        return "too long"
    if any(given < text for text in texts):
        return "too short"
    return "overlapping" if any(given & text for text in texts) else "elsewhere"


def _number_errors(predictions: Sequence[Prediction]) -> list[str]:
    worst = sorted(predictions, key=lambda row: -abs(row["score"] - row["gold"]))[:SHOWN]
    lines = ["## Largest differences", "", "| right | predicted |", "| --- | --- |"]
    return lines + [f"| {row['gold']:g} | {row['score']:.3f} |" for row in worst]


def _score_table(table: Any, names: Sequence[str], what: str = "label", counted: str = "examples") -> list[str]:
    """A table of precision, recall and F1 by name, from a classification report of scikit-learn or seqeval."""
    rows = [(name, *(f"{table[name][key]:.3f}" for key in ("precision", "recall", "f1-score"))) for name in names]
    counts = (f"{table[name]['support']:.0f}" for name in names)
    cells = ((*row, count) for row, count in zip(rows, counts, strict=True))
    return markdown_table([(what, "precision", "recall", "F1", counted), *cells])


def _escape_row(line: str) -> str:
    return line.replace("\n", " ")
