"""The interface of a task: turns examples into training batches, model outputs into predictions, and predictions into scores.

A `Problem` is built from the training examples, which determine the labels. registry.py lists the class for each kind of task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from fastbert.finetuning.metrics import LOWER_IS_BETTER
from fastbert.finetuning.options import FineTuneOptions
from fastbert.packing import PackedBatch
from fastbert.packing.batching import pack_rows
from fastbert.tasks.loading import HeadTask, checked_length
from fastbert.tasks.sequences import warn_of_cuts
from fastbert.text.framing import Framed
from fastbert.text.tokenizer import Tokenizer

Prediction = dict[str, Any]


@dataclass
class Split:
    """Examples with the place that each one comes from.

    Attributes:
        name: "train", "dev" or "test".
        examples: example objects of `fastbert.data`.
        place: returns the place of an example, given its index, for messages.
        notes: notes made while reading, for the report.
        marks: what tells each example in its file, for predictions: its row from 1, its id and columns to keep. By default the
            number of the example.
    """

    name: str
    examples: list[Any]
    place: Callable[[int], str] | None = None
    notes: list[str] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Numbers the examples."""
        self.marks = self.marks or [{"row": number} for number in range(1, len(self.examples) + 1)]

    def where(self, number: int) -> str:
        """The place of an example, for messages."""
        return f"{self.name}[{number}]" if self.place is None else self.place(number)

    def keep(self, numbers: Sequence[int]) -> None:
        """Keeps only the examples with these indices; they keep their places."""
        where = replace(self).where  # the current places
        self.examples = [self.examples[number] for number in numbers]
        self.marks = [self.marks[number] for number in numbers]
        self.place = lambda number: where(numbers[number])


@dataclass(frozen=True, eq=False)
class FramedSplit:
    """A split tokenized into rows; made once, before any model is built.

    Attributes:
        split: the examples.
        framed: their rows.
        inputs: the input for decoding predictions: the rows alone, or with word pieces, or with contexts.
    """

    split: Split
    framed: Framed
    inputs: Any


@dataclass(frozen=True)
class Checkpoint:
    """The properties of a checkpoint that a task depends on.

    Attributes:
        labels: label names if the checkpoint has a trained head for the task, else None.
        longest: maximum number of tokens in a row that the model and its tokenizer accept.
        fixed: the model is only evaluated, not trained, so its labels stay, whatever the examples have.
    """

    labels: list[str] | None
    longest: int
    fixed: bool = False


class Problem(ABC):
    """A task to be learned.

    Args:
        kind: one of `options.KINDS`.
        options: resolved options.
        tokenizer: the model's tokenizer.
        train: the training examples.
        others: dev and test, whose labels must be among those of the training examples.
        checkpoint: the labels and the row length of the checkpoint.
    """

    head: ClassVar[str]  # kind of head in a `ComposedModel`
    task_class: ClassVar[type[HeadTask]]

    def __init__(
        self,
        kind: str,
        options: FineTuneOptions,
        tokenizer: Tokenizer,
        train: Split,
        others: Sequence[Split],
        checkpoint: Checkpoint,
    ) -> None:
        self.kind, self.options, self.tokenizer = kind, options, tokenizer
        self.labels: list[str] = []
        self.metrics: tuple[str, ...] = ()
        self.max_length = self.length(checkpoint.longest)

    @property
    def config_fields(self) -> dict[str, Any]:
        """The configuration fields that the head needs."""
        id2label = dict(enumerate(self.labels))
        return {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}} if self.labels else {}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings saved with the model, for `from_pretrained` of the task."""
        return {}

    def restore(self, settings: dict[str, Any]) -> None:  # noqa: B027 - most problems tune nothing on dev
        """Restores settings that were tuned on dev, when a model is loaded again."""

    @abstractmethod
    def task(self, model: Any) -> Any:
        """The task's class around a model."""

    @property
    def rows_a_sample(self) -> int:
        """Rows per training sample: more than one if the rows are candidates that compete."""
        return 1

    def length(self, longest: int) -> int:
        """Maximum tokens of a row, given the maximum that the model and the tokenizer accept."""
        return checked_length(self.options.max_length, longest)

    @abstractmethod
    def frame(self, split: Split) -> FramedSplit:
        """Tokenizes a split into rows."""

    def warn_of_cuts(self, part: FramedSplit) -> None:
        """Warns of truncated examples."""
        warn_of_cuts(part.framed, self.max_length)

    @abstractmethod
    def targets(self, part: FramedSplit) -> list[Any]:
        """The training target of each sample, in the problem's own form."""

    @abstractmethod
    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """The targets of a batch, as keyword arguments of the model's forward."""

    def loss(self, model: Any, batch: PackedBatch, keywords: Mapping[str, Any]) -> torch.Tensor:
        """The loss of a batch, given the keyword arguments of `keywords`."""
        loss: torch.Tensor = model(batch, return_dict=True, **keywords).loss
        return loss

    @abstractmethod
    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """One prediction per example, ready for JSON."""

    @abstractmethod
    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics; the first one selects the best epoch and seed."""

    @abstractmethod
    def counts(self, split: Split) -> Counter[str]:
        """How often each label occurs in the examples of a split."""

    def goodness(self, found: Mapping[str, float]) -> float:
        """The selection metric, negated if lower is better, so that higher is always better; 0 if it was not measured."""
        first = self.metrics[0]
        return found.get(first, 0.0) * (-1 if first in LOWER_IS_BETTER else 1)

    def step(
        self, framed: Framed, targets: Sequence[Any], samples: Sequence[int], device: torch.device
    ) -> tuple[PackedBatch, dict[str, Any]]:
        """The batch of some samples, longest first, and the keyword arguments of the model's forward."""
        count = self.rows_a_sample
        samples = sorted(samples, key=lambda sample: -framed.lengths[sample * count])
        batch = pack_rows(framed, [sample * count + row for sample in samples for row in range(count)], device)
        keywords = self.keywords([targets[sample] for sample in samples])
        return batch, {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in keywords.items()}
