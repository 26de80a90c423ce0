"""Classification, NLI and regression: predicts the label, the labels or the number of a text or a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fastbert.errors import InputError
from fastbert.finetuning.labels import decide_labels, names_of_numbers
from fastbert.finetuning.metrics import chosen_metrics, class_metrics, multi_label_metrics, number_metrics, positive_label
from fastbert.finetuning.problems import FramedSplit, Prediction, Problem, Split
from fastbert.packing import PackedBatch
from fastbert.tasks.classifier import Classifier, one_label, several_labels
from fastbert.tasks.nli import NLI, relation
from fastbert.tasks.sequences import frame_texts


class Sentences(Problem):
    """Predicts labels or numbers for texts and pairs."""

    head = "sequence"
    task_class = Classifier

    def __init__(self, kind: str, options: Any, tokenizer: Any, train: Split, others: Sequence[Split], checkpoint: Any) -> None:
        super().__init__(kind, options, tokenizer, train, others, checkpoint)
        for split in [train, *others]:
            self._check_pairs(split)
        self.metrics = chosen_metrics("multi-label" if options.multi_label else kind, options.metrics)
        self._names: Sequence[str] | None = None
        self.weights: torch.Tensor | None = None
        if kind == "regress":
            self.labels = ["LABEL_0"]
            return
        if kind == "nli":
            self.task_class = NLI  # type: ignore[misc]
        wanted = None if options.labels is None else [self._name(label) for label in options.labels]
        found = [name for example in train.examples for name in self._of(example)]
        known = None if checkpoint.labels is None else [self._name(label) for label in checkpoint.labels]
        self.labels = decide_labels(found, wanted, known, options.new_head, checkpoint.fixed)
        self._names = names_of_numbers(found, self.labels, wanted, checkpoint.fixed)
        if "f1" in self.metrics:
            positive_label(self.labels)
        self.weights = None if options.class_weights is None or checkpoint.fixed else self._weights(train)
        for split in [train, *others] if checkpoint.fixed else others:
            for number, example in enumerate(split.examples):
                for name in self._of(example):
                    if name not in self.labels:
                        raise InputError(
                            f"{split.where(number)}: the label {name!r} is not among those of the model: "
                            f"{', '.join(self.labels)}"
                        )

    @property
    def problem_type(self) -> str:
        """The `problem_type` of `BertConfig`."""
        if self.kind == "regress":
            return "regression"
        return "multi_label_classification" if self.options.multi_label else "single_label_classification"

    @property
    def config_fields(self) -> dict[str, Any]:
        """The labels and the problem type."""
        return {**super().config_fields, "problem_type": self.problem_type}

    @property
    def settings(self) -> dict[str, Any]:
        """How texts beyond the length limit are handled."""
        names = ("overlong", "overlap", "window_scores")
        return {name: getattr(self.options, name) for name in names}

    def task(self, model: Any) -> Any:
        """A `Classifier` or `NLI` around the model."""
        return self.task_class(model, self.tokenizer, max_length=self.options.max_length, **self.settings)

    def frame(self, split: Split) -> FramedSplit:
        """Rows of texts or pairs."""
        framed = frame_texts(
            self.tokenizer,
            [e.text if e.pair is None else (e.text, e.pair) for e in split.examples],
            max_length=self.max_length,
            overlong=self.options.overlong or "truncate",
            overlap=self.options.overlap,
            place=split.where,
        )
        return FramedSplit(split, framed, framed)

    def targets(self, part: FramedSplit) -> list[Any]:
        """One target per row: each window of a text has the text's label."""
        labels = [self._target(example) for example in part.split.examples]
        return [labels[owner] for owner in part.framed.owners]

    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Label indices or numbers, (B,), or floats of 0 and 1, (B, C), for several labels."""
        return {"labels": torch.tensor(targets)}

    def loss(self, model: Any, batch: PackedBatch, keywords: Mapping[str, Any]) -> torch.Tensor:
        """The loss, with weights of the labels if there are any: their weighted mean over the batch."""
        if self.weights is None:
            return super().loss(model, batch, keywords)
        logits = model(batch, return_dict=True).logits.float()
        return cross_entropy(logits, keywords["labels"], weight=self.weights.to(logits.device))

    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """Labels with probabilities, or numbers, and the gold values."""
        logits = task.logits(part.inputs, batch_tokens)
        if self.kind == "regress":
            found: list[Prediction] = [{"score": value} for value in logits.view(-1).tolist()]
        elif self.options.multi_label:
            found = [several_labels(self.labels, row) for row in logits.sigmoid().tolist()]
        else:
            found = [one_label(self.labels, row) for row in logits.softmax(-1).tolist()]
        return [
            {**_shown(example), **row, **({} if example.label is None else {"gold": self._gold(example)})}
            for row, example in zip(found, part.split.examples, strict=True)
        ]

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The chosen metrics of the predictions."""
        if self.kind == "regress":
            gold = [example.label for example in split.examples]
            return number_metrics(self.metrics, gold, [row["score"] for row in predictions])
        if self.options.multi_label:
            sets = [[self._of(example) for example in split.examples], [row["labels"] for row in predictions]]
            right, given = ([[int(name in one) for name in self.labels] for one in rows] for rows in sets)
            return multi_label_metrics(self.metrics, right, given)
        golds = [self._of(example)[0] for example in split.examples]
        return class_metrics(self.metrics, golds, [row["label"] for row in predictions], self.labels)

    def counts(self, split: Split) -> Counter[str]:
        """How often each label occurs; empty for regression."""
        if self.kind == "regress":
            return Counter()
        return Counter(name for example in split.examples for name in self._of(example))

    def _weights(self, train: Split) -> torch.Tensor:
        """float32 (C,): the weight of each label."""
        given = self.options.class_weights
        if not isinstance(given, Mapping):  # "balanced"
            from sklearn.utils.class_weight import compute_class_weight

            names = [self._of(example)[0] for example in train.examples]
            found = compute_class_weight("balanced", classes=np.array(self.labels), y=names)
            return torch.tensor(found, dtype=torch.float32)
        by_name = {self._name(name): weight for name, weight in given.items()}
        missing = [name for name in self.labels if name not in by_name]
        extra = [name for name in by_name if name not in self.labels]
        if missing or extra:
            what = f"has no weight for {missing[0]!r}" if missing else f"names {extra[0]!r}"
            raise InputError(f"class_weights {what}; the labels are {', '.join(self.labels)}")
        return torch.tensor([float(by_name[name]) for name in self.labels])

    def _name(self, label: str) -> str:
        return relation(label) if self.kind == "nli" else label

    def _of(self, example: Any) -> list[str]:
        """The label names of an example, as the model names them."""
        if example.label is None:
            return []
        names = [self._name(name) for name in (example.label if isinstance(example.label, tuple) else (example.label,))]
        if self._names is None:
            return names
        return [self._names[int(name)] if name.isdecimal() and int(name) < len(self._names) else name for name in names]

    def _gold(self, example: Any) -> Any:
        if self.kind == "regress":
            return example.label
        return self._of(example) if self.options.multi_label else self._of(example)[0]

    def _target(self, example: Any) -> Any:
        if self.kind == "regress":
            return float(example.label)
        names = self._of(example)
        return [float(name in names) for name in self.labels] if self.options.multi_label else self.labels.index(names[0])

    def _check_pairs(self, split: Split) -> None:
        pairs = sum(example.pair is not None for example in split.examples)
        if pairs not in (0, len(split.examples)):
            raise InputError(f"{split.name} mixes single texts and pairs: {pairs} of {len(split.examples)} are pairs")
        if self.kind == "nli" and not pairs:
            raise InputError(f"{split.name} holds single texts; NLI needs pairs: name the column of the second text")


def _shown(example: Any) -> dict[str, str]:
    """The text of an example, or its pair, as predictions have it."""
    return {"text": example.text} if example.pair is None else {"text": example.text, "text_pair": example.pair}
