"""Multiple choice: a text, candidates, and the number of the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.finetuning.metrics import chosen_metrics, class_metrics
from fastbert.finetuning.problems import FramedSplit, Prediction, Problem, Split
from fastbert.tasks.multiple_choice import MultipleChoice
from fastbert.tasks.sequences import frame_texts


class Choosing(Problem):
    """The best of several candidates; training wants the same number of candidates everywhere."""

    head = "choice"
    task_class = MultipleChoice

    def __init__(self, kind: str, options: Any, tokenizer: Any, train: Split, others: Sequence[Split], checkpoint: Any) -> None:
        super().__init__(kind, options, tokenizer, train, others, checkpoint)
        self.metrics = chosen_metrics(kind, options.metrics)
        self.num_choices = len(train.examples[0].choices)
        for number, example in enumerate(train.examples):
            if len(example.choices) != self.num_choices:
                raise InputError(
                    f"{train.where(number)}: {len(example.choices)} candidates, the first example has {self.num_choices}"
                )

    @property
    def settings(self) -> dict[str, Any]:
        """Lengths."""
        return {"overlong": self.options.overlong}

    def task(self, model: Any) -> Any:
        """`MultipleChoice`."""
        return MultipleChoice(model, self.tokenizer, max_length=self.options.max_length, **self.settings)

    @property
    def rows_a_sample(self) -> int:
        """A row a candidate."""
        return self.num_choices

    def frame(self, split: Split) -> FramedSplit:
        """The text with each candidate."""
        owners = [number for number, example in enumerate(split.examples) for _ in example.choices]
        framed = frame_texts(
            self.tokenizer,
            [(example.text, choice) for example in split.examples for choice in example.choices],
            max_length=self.max_length,
            overlong=self.options.overlong or "truncate",
            place=lambda pair: split.where(owners[pair]),
        )
        return FramedSplit(split, framed, framed)

    def targets(self, part: FramedSplit) -> list[Any]:
        """A sample an example."""
        return [example.label for example in part.split.examples]

    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """(B,) numbers of the right candidates."""
        return {"labels": torch.tensor(targets), "num_choices": self.num_choices}

    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """Numbers of candidates with probabilities, beside the right ones."""
        examples = part.split.examples
        rows = task.decode([example.choices for example in examples], task.scores(part.inputs, batch_tokens))
        return [r if e.label is None else {**r, "gold": e.label} for r, e in zip(rows, examples, strict=True)]

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics of predictions."""
        gold, given = [str(e.label) for e in split.examples], [str(row["label"]) for row in predictions]
        return class_metrics(self.metrics, gold, given, sorted(set(gold)))

    def counts(self, split: Split) -> Counter[str]:
        """How often each place is the right one."""
        return Counter(f"candidate {example.label}" for example in split.examples)
