"""What differs between the tasks: from examples to what a step trains on, from a model to predictions, from those to scores.

A `Problem` is made from the training examples, which decide the labels. sentences.py, tagging.py and answering.py hold them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from fastbert.data.framing import Framed
from fastbert.errors import InputError
from fastbert.finetuning.metrics import LOWER_IS_BETTER
from fastbert.finetuning.options import FineTuneOptions
from fastbert.packing import pack
from fastbert.tasks.loading import HeadTask
from fastbert.tokenizer import BertTokenizer

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


@contextmanager
def places_of(split: Split) -> Iterator[None]:
    """A task calls what it is given inputs[n]; a user wants the file and the line."""
    try:
        yield
    except InputError as error:
        found = re.match(r"inputs\[(\d+)\]", str(error))
        if found is None or hasattr(split.examples[0], "choices"):  # several inputs an example
            raise
        raise InputError(split.where(int(found[1])) + str(error)[found.end() :]) from None


@dataclass(frozen=True)
class Sample:
    """What training draws: a sequence, or the several of one choice.

    Attributes:
        ids, types: of each sequence.
        label: of the problem's own form.
    """

    ids: list[list[int]]
    types: list[list[int]]
    label: Any


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint brings along.

    Attributes:
        labels: names of its labels where it has a trained head for the task, else None.
        fixed: it is not trained, only evaluated: its labels are what they are, whatever the examples have.
    """

    labels: list[str] | None
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

    @abstractmethod
    def samples(self, task: Any, split: Split) -> tuple[list[Sample], Framed]:
        """What training draws from, and the sequences as they were framed."""

    @abstractmethod
    def targets(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The labels of a batch, as keywords of the model's forward."""

    @abstractmethod
    def predict(self, task: Any, split: Split, batch_tokens: int) -> list[Prediction]:
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

    def inputs(self, samples: Sequence[Sample], device: torch.device) -> dict[str, Any]:
        """The keywords of the model's forward for a step: one packed batch, and labels."""
        samples = sorted(samples, key=lambda sample: -len(sample.ids[0]))  # attention on a CPU wants the longest first
        rows = [row for sample in samples for row in sample.ids]
        types = [row for sample in samples for row in sample.types]
        targets = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.targets(samples).items()
        }
        return {"batch": pack(rows, token_type_ids=types).to(device), **targets}


def make_problem(
    kind: str,
    options: FineTuneOptions,
    tokenizer: BertTokenizer,
    train: Split,
    others: Sequence[Split],
    checkpoint: Checkpoint,
) -> Problem:
    """The problem of a kind."""
    from fastbert.finetuning.answering import Answering
    from fastbert.finetuning.choosing import Choosing
    from fastbert.finetuning.sentences import Sentences
    from fastbert.finetuning.tagging import Tagging

    classes: dict[str, type[Problem]] = {"choice": Choosing, "ner": Tagging, "qa": Answering}
    return classes.get(kind, Sentences)(kind, options, tokenizer, train, others, checkpoint)
