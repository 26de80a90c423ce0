"""What differs between the tasks: from examples to what a step trains on, from a model to predictions, from those to scores.

A `Problem` is made from the training examples, which decide the labels. registry.py has those of each kind.
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
from fastbert.text.tokenizer import BertTokenizer

Prediction = dict[str, Any]


@dataclass
class Split:
    """Examples, and where each comes from.

    Attributes:
        name: "train", "dev" or "test".
        examples: of `fastbert.data`.
        place: what messages call the example of a number.
        notes: what reading found, for the report.
    """

    name: str
    examples: list[Any]
    place: Callable[[int], str] | None = None
    notes: list[str] = field(default_factory=list)

    def where(self, number: int) -> str:
        """The place of an example."""
        return f"{self.name}[{number}]" if self.place is None else self.place(number)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other examples; those that stay keep their places."""
        where = replace(self).where  # as it was
        self.examples = [self.examples[number] for number in numbers]
        self.place = lambda number: where(numbers[number])


@dataclass(frozen=True, eq=False)
class FramedSplit:
    """A split as a model reads it: made once, before any model is.

    Attributes:
        split: the examples.
        framed: their rows.
        inputs: what the task decodes predictions from: the rows alone, or with pieces of words, or with contexts.
    """

    split: Split
    framed: Framed
    inputs: Any


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint brings along.

    Attributes:
        labels: names of its labels where it has a trained head for the task, else None.
        longest: tokens of a row that the model and its tokenizer take.
        fixed: it is not trained, only evaluated: its labels are what they are, whatever the examples have.
    """

    labels: list[str] | None
    longest: int
    fixed: bool = False


class Problem(ABC):
    """A task to be learned.

    Args:
        kind: of `options.KINDS`.
        options: resolved ones.
        tokenizer: of the model.
        train: the training examples.
        others: dev and test, whose labels must be among those of the training examples.
        checkpoint: what the model brings along.
    """

    head: ClassVar[str]  # kind of a composed head
    task_class: ClassVar[type[HeadTask]]

    def __init__(
        self,
        kind: str,
        options: FineTuneOptions,
        tokenizer: BertTokenizer,
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
        """What the head needs to be said in the configuration."""
        id2label = dict(enumerate(self.labels))
        return {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}} if self.labels else {}

    @property
    def settings(self) -> dict[str, Any]:
        """What is written beside the model, for `from_pretrained` of the task."""
        return {}

    def restore(self, settings: dict[str, Any]) -> None:  # noqa: B027 - most problems find nothing on dev
        """Takes back what was found on dev with a model that is read again."""

    @abstractmethod
    def task(self, model: Any) -> Any:
        """The task's class around a model."""

    @property
    def rows_a_sample(self) -> int:
        """Rows of one of the samples that training draws: more than one where they compete."""
        return 1

    def length(self, longest: int) -> int:
        """Tokens of a row, of those that model and tokenizer take."""
        return checked_length(self.options.max_length, longest)

    @abstractmethod
    def frame(self, split: Split) -> FramedSplit:
        """The rows of a split."""

    def warn_of_cuts(self, part: FramedSplit) -> None:
        """Warns of what was cut of the examples."""
        warn_of_cuts(part.framed, self.max_length)

    @abstractmethod
    def targets(self, part: FramedSplit) -> list[Any]:
        """What is to be learned of each sample of the rows, in the problem's own form."""

    @abstractmethod
    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """The targets of a batch, as keywords of the model's forward."""

    @abstractmethod
    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """One prediction an example, ready for JSON."""

    @abstractmethod
    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics, the one that chooses first."""

    @abstractmethod
    def counts(self, split: Split) -> Counter[str]:
        """How often each label stands in some examples."""

    def goodness(self, found: Mapping[str, float]) -> float:
        """The metric that chooses, turned so that more is better; 0 where nothing was measured."""
        first = self.metrics[0]
        return found.get(first, 0.0) * (-1 if first in LOWER_IS_BETTER else 1)

    def step(
        self, framed: Framed, targets: Sequence[Any], samples: Sequence[int], device: torch.device
    ) -> tuple[PackedBatch, dict[str, Any]]:
        """The batch of some samples, the longest first, and the keywords of the model's forward."""
        count = self.rows_a_sample
        samples = sorted(samples, key=lambda sample: -framed.lengths[sample * count])
        batch = pack_rows(framed, [sample * count + row for sample in samples for row in range(count)], device)
        keywords = self.keywords([targets[sample] for sample in samples])
        return batch, {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in keywords.items()}
