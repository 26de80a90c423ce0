"""Classifier: predicts a label, several labels, or a number for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastbert.model.heads import BertForSequenceClassification
from fastbert.packing.batching import BATCH_TOKENS
from fastbert.progress import Show
from fastbert.tasks.loading import check_top_k
from fastbert.tasks.sequences import SequenceTask

THRESHOLD = 0.5  # probability above which a label is assigned in multi-label classification


def one_label(names: Sequence[str], probabilities: Sequence[float], top_k: int | None = None) -> dict[str, Any]:
    """{"label", "score", "scores"}: the likeliest label, its probability, and the probabilities by name, likeliest first.

    Args:
        names: the labels.
        probabilities: one for each of them.
        top_k: how many labels `scores` holds; None means all.
    """
    ranked = sorted(zip(names, probabilities, strict=True), key=lambda pair: -pair[1])
    return {"label": ranked[0][0], "score": ranked[0][1], "scores": dict(ranked[:top_k])}


def several_labels(names: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """{"labels", "scores"} of a text that may have several labels: those above `THRESHOLD`, and the probability of each."""
    scores = dict(zip(names, probabilities, strict=True))
    return {"labels": [name for name, probability in scores.items() if probability > THRESHOLD], "scores": scores}


class Classifier(SequenceTask):
    """Classifies texts or pairs. See `SequenceTask` for the handling of long inputs."""

    model_class = BertForSequenceClassification
    head_name = "sequence-classification"
    head_parts = ("classifier.", "pooler.")

    @property
    def labels(self) -> list[str]:
        """Names of the labels, in the order of the scores."""
        names: list[str] = self.model.config.label_names
        return names

    @property
    def problem_type(self) -> str:
        """The problem type in `BertConfig`; if that is None, regression for one label, else single-label classification."""
        config = self.model.config
        return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")

    def predict(
        self,
        inputs: Sequence[Any],
        top_k: int | None = 1,
        *,
        overlong: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[Any]:
        """The likeliest labels of each input, with their probabilities.

        Args:
            inputs: texts; pairs as tuples, or as {"text": ..., "text_pair": ...}.
            top_k: 1 gives one {"label", "score"} per input; more, or None for all, gives a list of them, best first, as in
                transformers' text-classification pipeline.
            overlong: overrides the task's setting.
            batch_tokens: tokens processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            Results in the order of the inputs. For a regression the score is the number itself. For multi-label models, pass
            `top_k=None` and select the labels with a score above `THRESHOLD`.
        """
        check_top_k(top_k)
        framed = self.frame(inputs, overlong)
        scores = self.probabilities(self.logits(framed, batch_tokens, show_progress))
        found = []
        for row in scores.tolist():
            ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])[: top_k or None]
            answers = [{"label": label, "score": score} for label, score in ranked]
            found.append(answers[0] if top_k == 1 else answers)
        return found

    def probabilities(self, logits: Tensor) -> Tensor:
        """(n, C): softmax for a single label, sigmoid for multiple labels, the numbers themselves for a regression."""
        if self.problem_type == "regression":
            return logits
        return logits.sigmoid() if self.problem_type == "multi_label_classification" else logits.softmax(-1)
