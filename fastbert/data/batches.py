"""Pre-training batches: examples packed end to end up to a fixed number of tokens, so that every step has the same shape.

    (T,) tokens of whole examples, then a tail of dummy tokens; (M,) rows to predict; (B,) pair labels; T, M, B are fixed.

Which examples share a batch depends, like the examples themselves, only on (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fastbert.data.examples import Example, Examples
from fastbert.errors import InputError
from fastbert.packing import PackedBatch
from fastbert.packing.batch import IGNORE
from fastbert.packing.inputs import Limits


@dataclass
class PreTrainingBatch:
    """One packed batch of pre-training examples with its labels.

    Attributes:
        packed: T tokens, B sequences (the last ones may be empty).
        scored_rows: (M,) packed rows at which a token is predicted, padded with row 0.
        labels: (M,) their true ids, padded with -100.
        next_sentence_label: (B,) 0, 1, or -100; None if the objective has no pairs.
        num_tokens, num_mlm_labels, num_pair_labels, num_sequences: real entries, padding excluded.
        squares: sum of the squared lengths, which attention's cost depends on.
    """

    packed: PackedBatch
    scored_rows: Tensor
    labels: Tensor
    next_sentence_label: Tensor | None
    num_tokens: int
    num_mlm_labels: int
    num_pair_labels: int
    num_sequences: int
    squares: int

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a model's forward, apart from the packed batch."""
        found: dict[str, Any] = {"labels": self.labels, "scored_rows": self.scored_rows}
        if self.next_sentence_label is not None:
            found["next_sentence_label"] = self.next_sentence_label
        return found

    def to(self, device: torch.device | str) -> PreTrainingBatch:
        """The same batch on another device."""
        return self._moved(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> PreTrainingBatch:
        """The same batch in page-locked memory; `DataLoader(pin_memory=True)` calls it."""
        return self._moved(lambda value: value.pin_memory())

    def _moved(self, move: Callable[[Any], Any]) -> PreTrainingBatch:
        """The batch with `move` applied to every tensor and to the packed batch, which stays marked as checked."""
        pairs = None if self.next_sentence_label is None else move(self.next_sentence_label)
        packed, rows, labels = move(self.packed), move(self.scored_rows), move(self.labels)
        return replace(self, packed=packed, scored_rows=rows, labels=labels, next_sentence_label=pairs)


@dataclass(frozen=True)
class Budget:
    """The fixed shape of a batch: T tokens, B sequences, M predictions, and the longest length."""

    tokens: int
    sequences: int
    predictions: int
    max_length: int

    @classmethod
    def of(cls, examples: Examples, tokens: int) -> Budget:
        """The budget of batches of `tokens` tokens.

        Raises:
            InputError: fewer tokens than the longest example.
        """
        if tokens < examples.max_length:
            raise InputError(f"batch_tokens = {tokens} is below max_length = {examples.max_length}: no such example would fit")
        masking, longest = examples.masking, examples.max_length
        predictions = tokens if examples.objective == "ltr" else max(masking.budget(tokens), masking.limit(longest))
        return cls(tokens, max(tokens // 16, 1), predictions, longest)


class EpochBatches(Dataset[PreTrainingBatch]):
    """The batches of one epoch; `epoch_batches[i]` is deterministic.

    Args:
        examples: source of the examples.
        budget: the shape of each batch.
        seed, epoch: determine order and content.
        limits: embedding-table sizes of the model that reads the batches, if the caller has checked the corpus's vocabulary
            against them; ids are then not checked again in each step.
        shuffle: False keeps the order of the corpus.
    """

    def __init__(
        self, examples: Examples, budget: Budget, seed: int, epoch: int, limits: Limits | None = None, shuffle: bool = True
    ) -> None:
        self.budget, self.limits = budget, limits
        self.pairs = examples.objective in ("mlm+nsp", "mlm+sop")
        self.source = examples.epoch(epoch)
        self.order = np.arange(len(self.source.lengths))
        if shuffle:
            key = np.random.Philox(key=seed % (1 << 128), counter=[0, 1, 0, epoch])
            self.order = np.random.Generator(key).permutation(self.order)
        self.starts = _fill(self.source.lengths[self.order], self.source.predictions[self.order], budget)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.starts) - 1

    @property
    def tail_share(self) -> float:
        """Share of dummy tokens in the epoch: 0 to 1."""
        return 1 - int(self.source.lengths.sum()) / (len(self) * self.budget.tokens)

    def __getitem__(self, number: int) -> PreTrainingBatch:
        """Batch `number` of the epoch."""
        rows = self.order[self.starts[number] : self.starts[number + 1]]
        return collate([self.source[int(i)] for i in rows], self.budget, self.pairs, self.limits)


def _fill(lengths: NDArray[np.int64], predictions: NDArray[np.int64], budget: Budget) -> NDArray[np.int64]:
    """(batches + 1,) index of the first example of each batch, which takes as many consecutive examples as fit."""
    if not len(lengths):
        raise InputError("there is no example to train on")
    tokens, scored = np.concatenate([[0], lengths.cumsum()]), np.concatenate([[0], predictions.cumsum()])
    starts = [0]
    while starts[-1] < len(lengths):
        at = starts[-1]
        by_tokens = np.searchsorted(tokens, tokens[at] + budget.tokens, "right") - 1
        by_predictions = np.searchsorted(scored, scored[at] + budget.predictions, "right") - 1
        starts.append(int(max(at + 1, min(by_tokens, by_predictions, at + budget.sequences))))
    return np.array(starts)


def collate(examples: list[Example], budget: Budget, pairs: bool, limits: Limits | None = None) -> PreTrainingBatch:
    """Collates examples end to end, longest first, and pads the batch to the budget.

    Predictions beyond the budget are dropped (bernoulli only), from the last examples in the order given, whatever their
    lengths.
    """
    counts = np.diff(np.minimum(np.cumsum([0, *(len(one.rows) for one in examples)]), budget.predictions))
    order = np.argsort([-len(one.input_ids) for one in examples], kind="stable")
    examples, counts = [examples[i] for i in order], counts[order]
    lengths = np.array([len(one.input_ids) for one in examples])
    starts = np.concatenate([[0], lengths.cumsum()])
    real = int(starts[-1])
    ids, types, positions = (np.zeros(budget.tokens, dtype=np.int64) for _ in range(3))
    ids[:real] = np.concatenate([one.input_ids for one in examples])
    positions[:real] = np.arange(real) - np.repeat(starts[:-1], lengths)
    types[:real] = positions[:real] >= np.repeat([one.second for one in examples], lengths)
    bounds = np.full(budget.sequences + 1, real, dtype=np.int32)
    bounds[: len(starts)] = starts
    rows = np.concatenate([one.rows[:n] + start for one, n, start in zip(examples, counts, starts, strict=False)])
    truth = np.concatenate([one.labels[:n] for one, n in zip(examples, counts, strict=True)])
    scored = np.zeros(budget.predictions, dtype=np.int64)
    labels = np.full(budget.predictions, IGNORE, dtype=np.int64)
    scored[: len(rows)], labels[: len(rows)] = rows, truth
    follows = np.full(budget.sequences, IGNORE, dtype=np.int64)
    follows[: len(examples)] = [one.next_sentence_label for one in examples]
    packed = PackedBatch(
        input_ids=torch.from_numpy(ids),
        token_type_ids=torch.from_numpy(types),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(bounds),
        max_seqlen=budget.max_length,
        padded_length=budget.max_length,
        tail=budget.tokens - real,
    )
    packed.know_lengths(np.diff(bounds).tolist())
    packed.mark_checked(limits)
    return PreTrainingBatch(
        packed,
        torch.from_numpy(scored),
        torch.from_numpy(labels),
        torch.from_numpy(follows) if pairs else None,
        num_tokens=real,
        num_mlm_labels=len(rows),
        num_pair_labels=int((follows != IGNORE).sum()),
        num_sequences=len(examples),
        squares=int((lengths**2).sum()),
    )
