"""QuestionAnswerer: extracts the span of a text that answers a question. Paper, sections 4.2 and 4.3."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.model.heads import BertForQuestionAnswering
from fastbert.packing import PackedBatch
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks.answers import Found, ScoredWindow, best_answers, null_score
from fastbert.tasks.loading import HeadTask, check_top_k, checked_length
from fastbert.text.encoding import check_text
from fastbert.text.framing import Framed, Framer, Place, place_of
from fastbert.text.tokenizer import Tokenizer

MAX_LENGTH, DOC_STRIDE, MAX_QUESTION, N_BEST, MAX_ANSWER = 384, 128, 64, 20, 30


@dataclass(frozen=True)
class FramedQuestions:
    """Questions with their contexts, framed as rows.

    Attributes:
        framed: the rows; windows walk along the context, and only questions are cut.
        contexts: the context of each question.
        offsets: for each question, the character span of each token of its context.
    """

    framed: Framed
    contexts: list[str]
    offsets: list[list[tuple[int, int]]]


def frame_questions(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int,
    doc_stride: int = DOC_STRIDE,
    max_question: int = MAX_QUESTION,
    place: Place | str = "inputs",
) -> FramedQuestions:
    """Encodes (question, context) pairs as rows, question first, with windows along the context; see `QuestionAnswerer`."""
    for number, pair in enumerate(pairs):
        for text in pair:
            check_text(text, place_of(place)(number))
    contexts = [context for _, context in pairs]
    distinct = list(dict.fromkeys(contexts))
    encoded = tokenizer(distinct, add_special_tokens=False).encodings if distinct else []
    known = {context: (e.ids, list(e.offsets)) for context, e in zip(distinct, encoded, strict=True)}
    questions = tokenizer.encode_ids([question for question, _ in pairs], add_special_tokens=False)
    room = min(max_question, max_length // 2)
    framer = Framer(tokenizer, max_length, place)
    for ids, context in zip(questions, contexts, strict=True):
        framer.walk(ids[:room], known[context][0], False, step=doc_stride, cut=max(0, len(ids) - room))
    return FramedQuestions(framer.framed(), contexts, [known[context][1] for context in contexts])


def warn_of_cut_questions(questions: FramedQuestions, max_question: int = MAX_QUESTION) -> None:
    """Warns if questions were truncated, with their number."""
    cut = int((questions.framed.cut > 0).sum())
    if cut:
        warnings.warn(
            f"{cut} of {questions.framed.num_texts} questions have over {max_question} tokens and were truncated", stacklevel=3
        )


def window_length(max_length: int | None, longest: int) -> int:
    """Tokens of a window: `max_length`; if that is None, 384 or the model's limit, whichever is lower."""
    return min(MAX_LENGTH, longest) if max_length is None else checked_length(max_length, longest)


@dataclass(frozen=True)
class Answered:
    """The result for a question: the best answers, best first, and the score of "no answer"."""

    answers: list[Found]
    null: float

    def choose(self, null_threshold: float | None) -> Found:
        """The best answer, or "no answer" if its score exceeds the best answer's by more than `null_threshold`."""
        none = Found("", 0, 0, self.null)
        if not self.answers:
            return none
        return none if null_threshold is not None and self.null - self.answers[0].score > null_threshold else self.answers[0]


class QuestionAnswerer(HeadTask):
    """Answers questions from texts of any length.

    Args:
        model: an instance of `model_class`, or a composed model.
        tokenizer: its tokenizer.
        max_length: tokens of a window including question and special tokens; None means 384, or the model's limit if lower.
        doc_stride: tokens from the start of a window to the start of the next, as in the released code of BERT.
        max_question: most tokens of a question; the rest is cut, with a warning.
        null_threshold: how far "no answer" must score above the best answer to be chosen; with None it is never chosen.
    """

    model_class = BertForQuestionAnswering
    head_name = "question-answering"
    head_parts = ("qa_outputs.",)
    setting_names = ("max_length", "doc_stride", "max_question", "null_threshold")

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        doc_stride: int = DOC_STRIDE,
        max_question: int = MAX_QUESTION,
        null_threshold: float | None = None,
    ) -> None:
        super().__init__(model, tokenizer)
        self.max_length = window_length(max_length, self.longest)
        self.doc_stride, self.max_question, self.null_threshold = doc_stride, max_question, null_threshold
        for name, value in (("doc_stride", doc_stride), ("max_question", max_question)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} = {value!r} must be a whole number from 1")
        if null_threshold is not None and not (isinstance(null_threshold, int | float) and null_threshold == null_threshold):
            raise InputError(f"null_threshold = {null_threshold!r} must be a number")

    def predict(
        self,
        inputs: Sequence[Any],
        top_k: int = 1,
        *,
        n_best: int = N_BEST,
        max_answer: int = MAX_ANSWER,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[Any]:
        """The best answer to each question.

        Args:
            inputs: {"question": ..., "context": ...}, or (question, context).
            top_k: 1 gives one answer per question; more gives a list of answers, best first.
            n_best: starts and ends considered in each window, and answers over which the softmax is taken.
            max_answer: most tokens of an answer.
            batch_tokens: tokens processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            {"answer", "score", "start", "end"} with `context[start:end] == answer`; "" at 0 to 0 if no answer was found. The
            score is a softmax over the best answers, including "no answer" if there is a threshold.
        """
        check_top_k(top_k)
        pairs = [_question(value, i) for i, value in enumerate(inputs)]
        found = []
        questions = self.frame(pairs)
        warn_of_cut_questions(questions, self.max_question)
        for answered in self.answer(questions, n_best, max_answer, batch_tokens, show_progress):
            candidates = list(answered.answers)
            if self.null_threshold is not None or not candidates:
                candidates.append(Found("", 0, 0, answered.null))
            top = max(candidate.score for candidate in candidates)
            total = sum(math.exp(candidate.score - top) for candidate in candidates)
            best = answered.choose(self.null_threshold)
            ranked = [best, *sorted((c for c in candidates if c != best), key=lambda c: -c.score)][:top_k]
            rows = [
                {"answer": c.text, "score": math.exp(c.score - top) / total, "start": c.start, "end": c.end} for c in ranked
            ]
            found.append(rows[0] if top_k == 1 else rows)
        return found

    def frame(self, pairs: Sequence[tuple[str, str]]) -> FramedQuestions:
        """Encodes (question, context) pairs as rows."""
        return frame_questions(
            self.tokenizer,
            pairs,
            max_length=self.max_length,
            doc_stride=self.doc_stride,
            max_question=self.max_question,
        )

    @torch.inference_mode()
    def answer(
        self,
        questions: FramedQuestions,
        n_best: int = N_BEST,
        max_answer: int = MAX_ANSWER,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = False,
    ) -> list[Answered]:
        """The best answers to each question with their scores, and the score of "no answer"."""
        framed = questions.framed
        scored: list[ScoredWindow] = [ScoredWindow((), (), 0.0, ())] * len(framed)

        def score(batch: PackedBatch) -> list[Tensor]:
            out = self.model(batch, return_dict=True)
            return [out.start_logits.float(), out.end_logits.float()]

        done = run(framed, score, self.model.device, batch_tokens, name="answer", show=show_progress, key=())
        for rows, results in done:
            sizes = framed.lengths[rows].tolist()
            for i, start, end in zip(rows, *(part.split(sizes) for part in results), strict=True):
                first, count, column = int(framed.firsts[i]), int(framed.counts[i]), int(framed.columns[i])
                inside = slice(column, column + count)
                offsets = questions.offsets[framed.owners[i]][first : first + count]
                null = float(start[0] + end[0])
                scored[i] = ScoredWindow(start[inside].tolist(), end[inside].tolist(), null, offsets, first)
        found = []
        for context, rows_of_text in zip(questions.contexts, framed.rows_of_texts(), strict=True):
            windows = [scored[i] for i in rows_of_text]
            found.append(Answered(best_answers(windows, context, n_best, max_answer), null_score(windows)))
        return found


def _question(value: Any, i: int) -> tuple[str, str]:
    if isinstance(value, Mapping):
        value = (value.get("question"), value.get("context"))
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise InputError(f"inputs[{i}] = {value!r} is not a question and a context")
    return value[0], value[1]
