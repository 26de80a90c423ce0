"""Extractive question answering: the answer's start and end in windows of the context, [CLS] if a window lacks the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from fastbert.data.squad import Question, misplaced
from fastbert.errors import InputError
from fastbert.finetuning.metrics import answer_f1, answer_metrics, chosen_metrics
from fastbert.finetuning.problems import FramedSplit, Prediction, Problem, Split
from fastbert.tasks.question_answerer import QuestionAnswerer, frame_questions, warn_of_cut_questions, window_length

LISTED = 5


class Answering(Problem):
    """Answers as spans of contexts; if the training data have unanswerable questions, their threshold is tuned on dev."""

    head = "span"
    task_class = QuestionAnswerer

    def __init__(self, kind: str, options: Any, tokenizer: Any, train: Split, others: Sequence[Split], checkpoint: Any) -> None:
        super().__init__(kind, options, tokenizer, train, others, checkpoint)
        self.metrics = chosen_metrics(kind, options.metrics)
        self.null_threshold = 0.0 if any(question.impossible for question in train.examples) else None
        for split in [train, *others]:
            self._leave_out_unknown(split)
            lost = misplaced(split.examples)
            if lost:
                ids = ", ".join(question.id for question in lost[:LISTED]) + (", ..." if len(lost) > LISTED else "")
                left = "left out" if split is train and not checkpoint.fixed else "kept: their answers count as text"
                split.notes.append(f"{len(lost)} questions have an answer that is not in its context ({ids}): {left}")
        if checkpoint.fixed:
            return
        gone = {question.id for question in misplaced(train.examples)}
        train.keep([number for number, question in enumerate(train.examples) if question.id not in gone])
        if not train.examples:
            raise InputError(f"{train.name} holds no question with an answer that stands in its context")

    def _leave_out_unknown(self, split: Split) -> None:
        """Drops questions that have no answers and are not marked impossible: they can be neither trained on nor scored."""
        known = [number for number, question in enumerate(split.examples) if question.answers or question.impossible]
        if not known:
            raise InputError(f"{split.name}: no question has answers, or is_impossible; there is nothing to learn or to score")
        if len(known) < len(split.examples):
            left = len(split.examples) - len(known)
            split.notes.append(f"{left} questions have neither answers nor is_impossible: left out")
            split.keep(known)

    @property
    def settings(self) -> dict[str, Any]:
        """The stride of windows and the null threshold."""
        return {"doc_stride": self.options.doc_stride, "null_threshold": self.null_threshold}

    def restore(self, settings: dict[str, Any]) -> None:
        """Restores the null threshold that was tuned with a saved model."""
        self.null_threshold = settings.get("null_threshold", self.null_threshold)

    def task(self, model: Any) -> Any:
        """A `QuestionAnswerer` around the model."""
        return QuestionAnswerer(model, self.tokenizer, max_length=self.options.max_length, **self.settings)

    def length(self, longest: int) -> int:
        """Maximum number of tokens in a window."""
        return window_length(self.options.max_length, longest)

    def frame(self, split: Split) -> FramedSplit:
        """Rows of a question followed by a window of its context."""
        questions = frame_questions(
            self.tokenizer,
            [(question.question, question.context) for question in split.examples],
            max_length=self.max_length,
            doc_stride=self.options.doc_stride,
            place=split.where,
        )
        return FramedSplit(split, questions.framed, questions)

    def warn_of_cuts(self, part: FramedSplit) -> None:
        """Warns of truncated questions; contexts are never truncated."""
        warn_of_cut_questions(part.inputs)

    def targets(self, part: FramedSplit) -> list[Any]:
        """One target per window: the columns of the answer's first and last token."""
        framed = part.framed
        spans = [_tokens(q, offsets) for q, offsets in zip(part.split.examples, part.inputs.offsets, strict=True)]
        found = []
        for i, owner in enumerate(framed.owners):
            span, first = spans[owner], int(framed.firsts[i])
            inside = span is not None and first <= span[0] and span[1] < first + framed.counts[i]
            shift = int(framed.columns[i]) - first
            found.append((span[0] + shift, span[1] + shift) if span is not None and inside else (0, 0))
        return found

    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Start and end columns, (B,) each."""
        starts, ends = (torch.tensor([target[side] for target in targets]) for side in (0, 1))
        return {"start_positions": starts, "end_positions": ends}

    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """Answers with their positions, the gold answers, and the margin by which "no answer" is chosen."""
        rows, split = [], part.split
        for question, found in zip(split.examples, task.answer(part.inputs, batch_tokens=batch_tokens), strict=True):
            best = found.choose(None)
            row = {
                "id": question.id,
                "question": question.question,
                "answer": best.text,
                "start": best.start,
                "end": best.end,
                "score": best.score,
            }
            if question.answers or question.impossible:
                row["gold"] = [answer.text for answer in question.answers]
            rows.append({**row, "null_margin": found.null - best.score if found.answers else 0.0})
        if self.null_threshold is not None and split.name == "dev":
            self.null_threshold = task.null_threshold = best_threshold(rows)
        if self.null_threshold is not None:
            for row in rows:
                if row["null_margin"] > self.null_threshold:
                    row |= {"answer": "", "start": 0, "end": 0}
        return rows

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Exact match and F1, in percent."""
        gold = {question.id: [answer.text for answer in question.answers] for question in split.examples}
        found = answer_metrics(gold, {row["id"]: row["answer"] for row in predictions})
        return {name: found[name] for name in self.metrics}

    def counts(self, split: Split) -> Counter[str]:
        """Numbers of questions with and without an answer."""
        return Counter("without an answer" if q.impossible else "with an answer" for q in split.examples)


def best_threshold(rows: Sequence[Prediction]) -> float:
    """The "no answer" threshold with the best F1, found as in SQuAD 2.0's script; rows hold answer, gold and null_margin."""
    gains: dict[float, float] = {}  # margin -> change of the total F1 if the answers with that margin become "no answer"
    for row in rows:
        golds = row.get("gold") or [""]
        given = max(answer_f1(gold, row["answer"]) for gold in golds)
        gains[row["null_margin"]] = gains.get(row["null_margin"], 0.0) + float(not row.get("gold")) - given
    margins = sorted(gains, reverse=True)
    best, best_at, total = 0.0, margins[0] if margins else 0.0, 0.0
    for margin, below in zip(margins, [*margins[1:], None], strict=True):
        total += gains[margin]
        if total > best:
            best, best_at = total, margin - 1.0 if below is None else below
    return best_at


def _tokens(question: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and last token of the first answer that occurs in the context; None if there is none."""
    answer = next((a for a in question.answers if a.start >= 0), None)
    if answer is None:
        return None
    start, end = answer.start, answer.start + len(answer.text)
    inside = [at for at, (first, last) in enumerate(offsets) if first < end and last > start]
    return (inside[0], inside[-1]) if inside else None
