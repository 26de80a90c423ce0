"""Multiple choice: a text, candidates, and the number of the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from fastbert.data.framing import Framed
from fastbert.errors import InputError
from fastbert.finetuning.metrics import chosen_metrics, class_metrics
from fastbert.finetuning.problems import Prediction, Problem, Sample, Split
from fastbert.tasks.multiple_choice import MultipleChoice


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
        return {"on_long": self.options.on_long}

    def task(self, model: Any) -> Any:
        """`MultipleChoice`."""
        return MultipleChoice(model, self.tokenizer, max_length=self.options.max_length, **self.settings)

    def samples(self, task: Any, split: Split) -> tuple[list[Sample], Framed]:
        """A sample an example, with a sequence a candidate."""
        framed = task.frame([(e.text, choice) for e in split.examples for choice in e.choices])
        rows, at = [], 0
        for example in split.examples:
            part = slice(at, at + len(example.choices))
            rows.append(Sample(framed.ids[part], framed.types[part], example.label))
            at = part.stop
        return rows, framed

    def targets(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """(B,) numbers of the right candidates."""
        return {"labels": torch.tensor([sample.label for sample in samples]), "num_choices": self.num_choices}

    def predict(self, task: Any, split: Split, batch_tokens: int) -> list[Prediction]:
        """Numbers of candidates with probabilities, beside the right ones."""
        rows = task.predict([(e.text, e.choices) for e in split.examples], batch_tokens=batch_tokens, show_progress=False)
        return [r if e.label is None else {**r, "gold": e.label} for r, e in zip(rows, split.examples, strict=True)]

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The metrics of predictions."""
        gold, given = [str(e.label) for e in split.examples], [str(row["label"]) for row in predictions]
        return class_metrics(self.metrics, gold, given, sorted(set(gold)))

    def counts(self, split: Split) -> Counter[str]:
        """How often each place is the right one."""
        return Counter(f"candidate {example.label}" for example in split.examples)
