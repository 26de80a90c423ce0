"""Plans which text goes into which example of an epoch: a pure function of the corpus, a seed and the epoch.

Paper, section 3.1 and appendix A.2; the procedure follows google's create_pretraining_data. Sentences of a document are
gathered until they fill a sequence; a random cut makes the first ones segment A. B is the rest, or, half of the time, text of
another document, in which case the rest is put back for the next example. Differences from google's code, and their reasons:

* Nothing is truncated. A sentence longer than half of the room is split into equal parts beforehand, and a sentence that no
  longer fits starts the next example: every token is in exactly one example of an epoch, random B segments aside.
* A random B never comes from A's own document; any other text of the corpus is equally likely.
* `balance="exact"` compensates for random pairs that were forced (a single sentence was left); if documents of one sentence
  leave no other way, it splits a sentence in half to make a pair. google's procedure drifts to 54-61 % random.
* Short sequences are drawn for each example, not for each document, so that a few long documents also get their share of them.
"""

from __future__ import annotations

import random
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fastbert.choices import BALANCES
from fastbert.data.corpus import Corpus
from fastbert.errors import InputError
from fastbert.packing.batch import IGNORE

PAIR_TASKS = ("nsp", "sop", "none")
_DEBT = 16  # surplus of random pairs at which single sentences are split: the last resort to restore the balance


@dataclass(frozen=True)
class PlanOptions:
    """How text is cut into examples.

    Attributes:
        max_length: most tokens of an example, special tokens included.
        pairs: "nsp" (label 1: B is random), "sop" (label 1: the two were swapped), "none" (one segment).
        short_share: share of examples with a random shorter length. Paper: 0.1.
        balance: how NSP labels are balanced, "exact" or "google".
    """

    max_length: int
    pairs: str = "nsp"
    short_share: float = 0.1
    balance: str = "exact"

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.pairs not in PAIR_TASKS:
            raise InputError(f"pairs = {self.pairs!r} is not one of {', '.join(PAIR_TASKS)}")
        if self.balance not in BALANCES:
            raise InputError(f"balance = {self.balance!r} is not one of {', '.join(BALANCES)}")
        if self.max_length < 8:
            raise InputError(f"max_length = {self.max_length} must be at least 8: special tokens and some text")
        if not 0 <= self.short_share <= 1:
            raise InputError(f"short_share = {self.short_share} must be within 0..1")

    @property
    def num_special(self) -> int:
        """Number of special tokens in an example: [CLS] and [SEP]s."""
        return 2 if self.pairs == "none" else 3


@dataclass
class Plan:
    """The examples of an epoch as token spans of the corpus, end exclusive. B is empty if there is only one segment.

    Attributes:
        a_start, a_end, b_start, b_end: (n,) int64.
        label: (n,) int64, 0, 1, or -100 if there is none.
    """

    a_start: NDArray[np.int64]
    a_end: NDArray[np.int64]
    b_start: NDArray[np.int64]
    b_end: NDArray[np.int64]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.label)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each example, special tokens included."""
        second = self.b_end - self.b_start
        return self.a_end - self.a_start + second + np.where(second > 0, 3, 2)

    @property
    def random_share(self) -> float:
        """Share of label 1 among the examples that have a label."""
        labelled = self.label[self.label != IGNORE]
        return float(labelled.mean()) if len(labelled) else 0.0


def plan_epoch(corpus: Corpus, options: PlanOptions, seed: int, epoch: int) -> Plan:
    """Plans the examples of an epoch, in the order of the corpus.

    Raises:
        InputError: next-sentence pairs were requested but the corpus has a single document.
    """
    if options.pairs == "nsp" and corpus.num_documents < 2:
        raise InputError(
            f"{corpus.folder} holds {corpus.num_documents} document: next-sentence prediction needs text of another for its "
            "random pairs. Separate documents by blank lines, add files, or train with the objective mlm or mlm+sop"
        )
    room = options.max_length - options.num_special
    units = _Units.of(corpus, room if options.pairs == "none" else room // 2)
    draw = random.Random(f"{seed}/{options.max_length}/{epoch}").random
    cut = {"none": _single, "sop": _ordered, "nsp": _next_sentence}[options.pairs]
    rows = array("q")
    for row in cut(units, room, options, draw):
        rows.extend(row)
    plan = Plan(*(np.ascontiguousarray(column) for column in np.frombuffer(rows, np.int64).reshape(-1, 5).T))
    if options.pairs == "nsp" and options.balance == "exact" and abs(plan.random_share - 0.5) > 0.01 + 1 / len(plan):
        warnings.warn(
            f"{plan.random_share:.1%} of the pairs of {corpus.folder} are random: single words cannot be split into a pair",
            stacklevel=2,
        )
    return plan


Row = tuple[int, int, int, int, int]
Draw = Callable[[], float]


@dataclass
class _Units:
    """The units that examples are made of: sentences, or equal parts of long sentences.

    Attributes:
        starts: (units + 1,) token at which each unit starts, and the number of tokens.
        documents: (documents + 1,) unit at which each document starts, and the number of units.
    """

    starts: NDArray[np.int64]
    documents: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Corpus, longest: int) -> _Units:
        """The units of a corpus, each of at most `longest` tokens."""
        sentences = corpus.sentence_starts()
        lengths = np.diff(sentences)
        parts = -(-lengths // longest)
        first = np.concatenate([[0], parts.cumsum()])
        owner = np.repeat(np.arange(len(lengths)), parts)
        ordinal = np.arange(first[-1]) - first[owner]
        starts = sentences[owner] + ordinal * lengths[owner] // parts[owner]
        return cls(np.append(starts, corpus.num_tokens), first[corpus.document_starts()])

    def of_documents(self) -> Iterator[tuple[int, list[int]]]:
        """For each document: its first unit, and the tokens at which its units start, followed by its end."""
        for first, last in pairwise(self.documents.tolist()):
            yield first, self.starts[first : last + 1].tolist()


def _target(room: int, short_share: float, draw: Draw) -> int:
    """Number of tokens to gather: all the room or, with probability `short_share`, a random length of at least 2."""
    return 2 + int(draw() * (room - 1)) if draw() < short_share else room


def _gather(starts: list[int], unit: int, target: int, room: int) -> int:
    """End (exclusive) of the units gathered from `unit` on, until the target is reached or the next unit does not fit."""
    end, last = unit + 1, len(starts) - 1
    while end < last and starts[end] - starts[unit] < target and starts[end + 1] - starts[unit] <= room:
        end += 1
    return end


def _single(units: _Units, room: int, options: PlanOptions, draw: Draw) -> Iterator[Row]:
    for _, starts in units.of_documents():
        unit = 0
        while unit < len(starts) - 1:
            end = _gather(starts, unit, _target(room, options.short_share, draw), room)
            yield starts[unit], starts[end], 0, 0, IGNORE
            unit = end


def _ordered(units: _Units, room: int, options: PlanOptions, draw: Draw) -> Iterator[Row]:
    """Sentence-order pairs (Lan et al. 2020): two consecutive pieces of text, swapped half of the time."""
    for _, starts in units.of_documents():
        unit = 0
        while unit < len(starts) - 1:
            end = _gather(starts, unit, _target(room, options.short_share, draw), room)
            if end - unit == 1:
                yield starts[unit], starts[end], 0, 0, IGNORE
            else:
                cut = unit + 1 + int(draw() * (end - unit - 1))
                a, b = (starts[unit], starts[cut]), (starts[cut], starts[end])
                yield (*b, *a, 1) if draw() < 0.5 else (*a, *b, 0)
            unit = end


def _next_sentence(units: _Units, room: int, options: PlanOptions, draw: Draw) -> Iterator[Row]:
    count, owed = len(units.starts) - 1, 0  # owed: random pairs so far minus true ones
    for first, starts in units.of_documents():
        unit, own = 0, len(starts) - 1
        while unit < own:
            target = _target(room, options.short_share, draw)
            end = _gather(starts, unit, target, room)
            alone = end - unit == 1
            cut = unit + 1 if alone else unit + 1 + int(draw() * (end - unit - 1))
            coin = draw() < 0.5
            if options.balance == "exact" and owed:
                coin = owed < 0
            if alone and options.balance == "exact" and owed >= _DEBT and starts[end] - starts[unit] > 1:
                middle = (starts[unit] + starts[end]) // 2
                yield starts[unit], middle, middle, starts[end], 0
                unit, owed = end, owed - 1
            elif alone or coin:
                other = int(draw() * (count - own))
                other += own if other >= first else 0
                left = max(target, starts[unit + 1] - starts[unit] + 1) - (starts[cut] - starts[unit])
                bound = int(units.documents[np.searchsorted(units.documents, other, "right")])
                there = units.starts[other : min(bound, other + left) + 1].tolist()  # each unit has at least one token
                stop = there[_gather(there, 0, left, left)]
                yield starts[unit], starts[cut], there[0], min(stop, there[0] + left), 1
                unit, owed = cut, owed + 1
            else:
                yield starts[unit], starts[cut], starts[cut], starts[end], 0
                unit, owed = end, owed - 1
