"""One function for every task with a trained head: inputs to predictions as rows, by the name of the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.errors import InputError
from fastbert.progress import Show
from fastbert.tasks.classifier import Classifier, one_label, several_labels
from fastbert.tasks.multiple_choice import MultipleChoice
from fastbert.tasks.next_sentence import NextSentence
from fastbert.tasks.nli import NLI
from fastbert.tasks.question_answerer import QuestionAnswerer
from fastbert.tasks.token_tagger import TokenTagger
from fastbert.text.framing import Framed, Place

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class HowToPredict:
    """Options of predictions; each task uses its own.

    Attributes:
        device, dtype: as of the tasks' `from_pretrained`.
        top_k: answers to a question (None: 1), or labels with a score (None: all).
        overlong: texts beyond the limit; None means the model's own setting.
        aggregation: of entities, see `TokenTagger.predict`.
        candidates, template: labels and hypothesis of zero-shot classification.
        null_threshold: the margin above which "no answer" is chosen; None keeps the model's.
    """

    device: str | None = None
    dtype: str | None = None
    top_k: int | None = None
    overlong: str | None = None
    aggregation: str = "first"
    candidates: tuple[str, ...] | None = None
    template: str = "This example is {}."
    null_threshold: float | None = None


@dataclass(frozen=True)
class Predictor:
    """A model and how it predicts.

    Attributes:
        run: inputs to one prediction each: texts, pairs, (question, context), (text, choices), or with `words` lists of words.
        frame, of_rows: the two halves of `run` for tasks of whole texts: inputs to rows of tokens, rows to predictions.
        labels: the names under "scores", if predictions have such.
        several: whether a text may have several labels.
    """

    run: Callable[[Sequence[Any], Show], Rows]
    labels: tuple[str, ...] = ()
    several: bool = False
    frame: Callable[[Sequence[Any], Place], Framed] | None = None
    of_rows: Callable[[Framed, Show, Callable[[int], object] | None], Rows] | None = None


def open_predictor(kind: str, folder: Path, how: HowToPredict, words: bool = False) -> Predictor:
    """Loads the model of a task.

    Args:
        kind: "classify", "regress", "nli", "ner", "qa", "choice", "next-sentence" or "zero-shot".
        folder: of the model.
        how: the options.
        words: whether the inputs of "ner" are lists of words, in place of texts.

    Raises:
        InputError: zero-shot classification without labels. CheckpointError: the model lacks the head.
    """
    place: dict[str, Any] = {"device": how.device, "dtype": how.dtype}
    if kind == "ner":
        return _tagger(TokenTagger.from_pretrained(folder, **place), how, words)
    if kind == "qa":
        return _answerer(QuestionAnswerer.from_pretrained(folder, **place), how)
    if kind == "choice":
        chooser = MultipleChoice.from_pretrained(folder, **place)
        return Predictor(lambda examples, show: chooser.predict(examples, overlong=how.overlong, show_progress=show))
    if kind == "next-sentence":
        return _next_sentence(NextSentence.from_pretrained(folder, **place), how)
    if kind == "zero-shot":
        return _zero_shot(folder, place, how)
    task: Classifier = (NLI if kind == "nli" else Classifier).from_pretrained(folder, **place)
    return _classifier(task, kind, how)


def shown(value: Any) -> dict[str, str]:
    """A text or a pair, as predictions in a file have it."""
    return {"text": value} if isinstance(value, str) else {"text": value[0], "text_pair": value[1]}


def _tagger(tagger: TokenTagger, how: HowToPredict, words: bool) -> Predictor:
    if words:
        return Predictor(lambda sentences, show: [{"tags": tags} for tags in tagger.tag(sentences, show_progress=show)])
    return Predictor(
        lambda texts, show: [{"entities": row} for row in tagger.predict(texts, how.aggregation, show_progress=show)]
    )


def _answerer(answerer: QuestionAnswerer, how: HowToPredict) -> Predictor:
    if how.null_threshold is not None:
        answerer.null_threshold = how.null_threshold
    top_k = 1 if how.top_k is None else how.top_k

    def run(pairs: Sequence[Any], show: Show) -> Rows:
        found = answerer.predict(pairs, top_k, show_progress=show)
        return [row if isinstance(row, dict) else {"answers": row} for row in found]

    return Predictor(run)


def _next_sentence(task: NextSentence, how: HowToPredict) -> Predictor:
    names = ("next", "random")

    def run(pairs: Sequence[Any], show: Show) -> Rows:
        found = task.predict(pairs, show_progress=show)
        return [one_label(names, [row["next"], 1 - row["next"]], how.top_k) for row in found]

    return Predictor(run, names)


def _zero_shot(folder: Path, place: dict[str, Any], how: HowToPredict) -> Predictor:
    labels = how.candidates
    if labels is None:
        raise InputError("zero-shot classification needs --candidates: labels, separated by commas")
    model = NLI.from_pretrained(folder, **place)

    def run(texts: Sequence[Any], show: Show) -> Rows:
        found = model.zero_shot(texts, labels, hypothesis_template=how.template, show_progress=show)
        return [{**one_label(row["labels"], row["scores"], how.top_k), "labels": row["labels"]} for row in found]

    return Predictor(run, tuple(dict.fromkeys(labels)))


def _classifier(task: Classifier, kind: str, how: HowToPredict) -> Predictor:
    several = task.problem_type == "multi_label_classification"
    names = task.relations if isinstance(task, NLI) else task.labels

    def frame(inputs: Sequence[Any], place: Place) -> Framed:
        return task.frame_quietly(inputs, how.overlong, place)

    def of_rows(framed: Framed, show: Show, advance: Callable[[int], object] | None = None) -> Rows:
        logits = task.logits(framed, show_progress=show, advance=advance)
        if kind == "regress":
            return [{"score": row[0]} for row in logits.tolist()]
        scores = task.probabilities(logits).tolist()
        return [several_labels(names, row) if several else one_label(names, row, how.top_k) for row in scores]

    def run(inputs: Sequence[Any], show: Show) -> Rows:
        return of_rows(task.frame(inputs, how.overlong), show)

    return Predictor(run, () if kind == "regress" else tuple(names), several, frame, of_rows)
