"""Pre-training examples, each a pure function of (seed, epoch, index), independent of worker, rank and resume point.

`CorpusExamples` makes them on demand from a corpus (dynamic masking); `static.py` reads examples that were precomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastbert.choices import OBJECTIVES
from fastbert.data.corpus import Corpus
from fastbert.data.masking import Ints, Masker, MaskingOptions
from fastbert.data.plan import Plan, PlanOptions, plan_epoch
from fastbert.errors import InputError
from fastbert.packing.batch import IGNORE
from fastbert.text.tokenizer import BertTokenizer

_PAIRS = {"mlm+nsp": "nsp", "mlm+sop": "sop", "mlm": "none", "ltr": "none"}


@dataclass
class Example:
    """One pre-training sequence with its labels.

    Attributes:
        input_ids: (S,) with [CLS], [SEP]s, masks and random words already in place.
        second: row at which segment B starts; S if there is none.
        rows: (M,) rows at which a token is predicted, ascending.
        labels: (M,) true ids at these rows; for "ltr", ids of the next token.
        next_sentence_label: 0 or 1; -100 if there is none.
    """

    input_ids: Ints
    second: int
    rows: Ints
    labels: Ints
    next_sentence_label: int


class Epoch(Protocol):
    """The examples of one epoch.

    Attributes:
        lengths: (n,) tokens of each example.
        predictions: (n,) number of predicted rows of each example, exact or expected.
    """

    lengths: Ints
    predictions: Ints

    def __getitem__(self, index: int) -> Example:
        """Example `index`; deterministic."""


class Examples(Protocol):
    """A source of examples, epoch by epoch.

    Attributes:
        max_length: most tokens of an example.
        masking: how the tokens to predict are chosen.
        objective: one of `OBJECTIVES`.
    """

    max_length: int
    masking: MaskingOptions
    objective: str

    def epoch(self, number: int) -> Epoch:
        """The examples of an epoch."""


@dataclass(frozen=True)
class ExampleOptions:
    """How examples are made: see `PlanOptions` and `MaskingOptions`."""

    objective: str = "mlm+nsp"
    max_length: int = 128
    short_share: float = 0.1
    balance: str = "exact"
    masking: MaskingOptions = field(default_factory=MaskingOptions)

    def __post_init__(self) -> None:
        """Checks the objective; `PlanOptions` checks the rest."""
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective = {self.objective!r} is not one of {', '.join(OBJECTIVES)}")
        self.plan()

    def plan(self) -> PlanOptions:
        """The options for cutting text into examples."""
        return PlanOptions(self.max_length, _PAIRS[self.objective], self.short_share, self.balance)


class CorpusExamples:
    """Examples of a corpus, made on demand."""

    def __init__(self, corpus: Corpus, options: ExampleOptions, seed: int, tokenizer: BertTokenizer | None = None) -> None:
        self.corpus, self.options, self.seed = corpus, options, seed
        self.tokenizer = tokenizer or corpus.tokenizer()
        self.masker = Masker(self.tokenizer, options.masking)
        self.objective, self.max_length = options.objective, options.max_length
        self.masking = options.masking

    def epoch(self, number: int) -> CorpusEpoch:
        """The examples of an epoch."""
        return CorpusEpoch(self, number, plan_epoch(self.corpus, self.options.plan(), self.seed, number))


class CorpusEpoch:
    """The examples of one epoch of a corpus."""

    def __init__(self, source: CorpusExamples, number: int, plan: Plan) -> None:
        self.source, self.number, self.plan = source, number, plan
        self.lengths = plan.lengths
        self.predictions = self.lengths - 1
        if source.objective != "ltr":
            self.predictions = source.masking.counts(self.lengths, source.max_length)

    def __getitem__(self, index: int) -> Example:
        """Example `index` of the plan, masked with its own random generator."""
        plan, source = self.plan, self.source
        corpus, tokenizer = source.corpus, source.tokenizer
        a = corpus.tokens(int(plan.a_start[index]), int(plan.a_end[index]))
        b = corpus.tokens(int(plan.b_start[index]), int(plan.b_end[index]))
        cls, sep = np.array([tokenizer.cls_token_id]), np.array([tokenizer.sep_token_id])
        second = len(a) + 2
        ids = np.concatenate([cls, a, sep, b, sep] if len(b) else [cls, a, sep])
        label = int(plan.label[index])
        if source.objective == "ltr":
            return Example(ids, second, np.arange(len(ids) - 1), ids[1:], label)
        candidates = np.concatenate([np.arange(1, second - 1), np.arange(second, len(ids) - 1)])
        rng = generator(source.seed, self.number, index)
        masked, rows, truth = source.masker.mask(ids, candidates, source.masking.limit(source.max_length), rng)
        return Example(masked, second, rows, truth, label)


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example: Philox, keyed by the seed, with (epoch, index) in its counter."""
    return np.random.Generator(np.random.Philox(key=seed % (1 << 128), counter=[0, 0, index, epoch]))


def tokens_of(example: Example, tokenizer: BertTokenizer) -> dict[str, Any]:
    """An example as tokens, with the index at which segment B begins, the tokens to predict by their index, and the label."""
    names = tokenizer.convert_ids_to_tokens(example.labels.tolist())
    return {
        "tokens": tokenizer.convert_ids_to_tokens(example.input_ids),
        "second": int(example.second),
        "predict": dict(zip(map(int, example.rows), names, strict=True)),
        "next_sentence_label": None if example.next_sentence_label == IGNORE else int(example.next_sentence_label),
    }


def describe(example: Example, tokenizer: BertTokenizer) -> str:
    """An example as text: its tokens by segment, predicted ones as `token<=true`, or as `token=` where the token was kept."""
    tokens = tokenizer.convert_ids_to_tokens(example.input_ids)
    words = [str(token) for token in tokens]
    for row, label in zip(example.rows, example.labels, strict=True):
        truth = str(tokenizer.convert_ids_to_tokens([label])[0])
        words[row] = f"{tokens[row]}=" if tokens[row] == truth else f"{tokens[row]}<={truth}"
    segments: Sequence[str] = [" ".join(words[: example.second]), " ".join(words[example.second :])]
    kind = {0: "0", 1: "1", IGNORE: "none"}[example.next_sentence_label]
    head = f"{len(tokens)} tokens, {len(example.rows)} to predict, pair label {kind}"
    return "\n".join([head, f"  A: {segments[0]}", *([f"  B: {segments[1]}"] if segments[1] else [])])
