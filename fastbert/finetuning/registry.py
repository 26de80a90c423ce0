"""The `Problem` class for each kind of task."""

from __future__ import annotations

from collections.abc import Sequence

from fastbert.finetuning.answering import Answering
from fastbert.finetuning.choosing import Choosing
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Checkpoint, Problem, Split
from fastbert.finetuning.sentences import Sentences
from fastbert.finetuning.tagging import Tagging
from fastbert.text.tokenizer import Tokenizer

PROBLEMS: dict[str, type[Problem]] = {
    "classify": Sentences,
    "nli": Sentences,
    "regress": Sentences,
    "choice": Choosing,
    "ner": Tagging,
    "qa": Answering,
}


def make_problem(
    kind: str,
    options: FineTuneOptions,
    tokenizer: Tokenizer,
    train: Split,
    others: Sequence[Split],
    checkpoint: Checkpoint,
) -> Problem:
    """Builds the problem for a kind of task."""
    return PROBLEMS[kind](kind, options, tokenizer, train, others, checkpoint)
