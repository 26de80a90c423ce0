"""Multiple choice: a text, its candidates, and the index of the correct one."""

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
    """Chooses the best of several candidates; all training examples must have the same number of candidates."""

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
        """How texts beyond the length limit are handled."""
        return {"overlong": self.options.overlong}

    def task(self, model: Any) -> Any:
        """A `MultipleChoice` task around the model."""
        return MultipleChoice(model, self.tokenizer, max_length=self.options.max_length, **self.settings)

    @property
    def rows_a_sample(self) -> int:
        """One row per candidate."""
        return self.num_choices

    def frame(self, split: Split) -> FramedSplit:
        """Rows of the text paired with each candidate."""
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
        """One target per example: the index of the correct candidate."""
        return [example.label for example in part.split.examples]

    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Indices of the correct candidates, (B,), and the number of candidates."""
        return {"labels": torch.tensor(targets), "num_choices": self.num_choices}

    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """Indices of the chosen candidates with probabilities, and the gold indices."""
        examples = part.split.examples
        rows = task.decode([example.choices for example in examples], task.scores(part.inputs, batch_tokens))
        return [
            {"text": e.text, "choices": list(e.choices), **r, **({} if e.label is None else {"gold": e.label})}
            for r, e in zip(rows, examples, strict=True)
        ]

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The chosen metrics of the predictions."""
        gold, given = [str(e.label) for e in split.examples], [str(row["label"]) for row in predictions]
        return class_metrics(self.metrics, gold, given, sorted(set(gold)))

    def counts(self, split: Split) -> Counter[str]:
        """How often the candidate at each position is the correct one."""
        return Counter(f"candidate {example.label}" for example in split.examples)
