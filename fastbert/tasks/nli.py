"""NLI: does a premise entail a hypothesis, contradict it, or neither? And zero-shot classification built on that."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.packing.batching import BATCH_TOKENS
from fastbert.progress import Show
from fastbert.tasks.classifier import Classifier
from fastbert.tasks.loading import check_top_k

# Spellings of the relations in data sets and checkpoints.
_NAMES = {
    "entailment": ("entailment", "entail", "entails", "entailed", "e", "yes"),
    "neutral": ("neutral", "neutrality", "n", "unknown", "maybe"),
    "contradiction": ("contradiction", "contradictory", "contradicts", "c", "no"),
    "not_entailment": ("not_entailment", "non_entailment", "not entailment", "non-entailment"),
}
_CANONICAL = {spelling: name for name, spellings in _NAMES.items() for spelling in spellings}


def relation(label: str) -> str:
    """The canonical name of a relation, from any known spelling; other labels stay as they are."""
    return _CANONICAL.get(label.strip().lower(), label)


class NLI(Classifier):
    """Predicts the relation of pairs (premise, hypothesis).

    Relations are identified by the label names in the model's configuration, never by their order.
    """

    @property
    def relations(self) -> list[str]:
        """The name of the relation of each score. Warns if the model does not name its relations."""
        names = [relation(label) for label in self.labels]
        if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
            warnings.warn(
                f"the model names its labels {', '.join(names)}, which does not tell which relation each one is; set "
                "id2label in its config.json (the order differs between checkpoints)",
                stacklevel=3,
            )
        return names

    def predict(
        self,
        inputs: Sequence[Any],
        top_k: int | None = 1,
        *,
        overlong: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[Any]:
        """The likeliest relation of each pair, and the probability of every relation.

        Args:
            inputs: (premise, hypothesis), or {"premise": ..., "hypothesis": ...}.
            top_k: see `Classifier.predict`; with 1, the same dictionary also holds the probabilities of all relations.
            overlong, batch_tokens, show_progress: see `Classifier.predict`.

        Returns:
            {"label", "score", "entailment": P, "neutral": P, "contradiction": P} for each pair, in order.
        """
        check_top_k(top_k)
        pairs = [_pair(value, i) for i, value in enumerate(inputs)]
        names = self.relations
        probabilities = self.logits(self.frame(pairs, overlong), batch_tokens, show_progress).softmax(-1)
        found: list[Any] = []
        for row in probabilities.tolist():
            ranked = sorted(zip(names, row, strict=True), key=lambda pair: -pair[1])
            answers = [{"label": name, "score": score} for name, score in ranked[: top_k or None]]
            found.append({**answers[0], **dict(zip(names, row, strict=True))} if top_k == 1 else answers)
        return found

    def zero_shot(
        self,
        texts: Sequence[str],
        candidate_labels: Sequence[str],
        *,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[dict[str, Any]]:
        """Zero-shot classification with labels the model was not trained on: each becomes a hypothesis the text may entail.

        Args:
            texts: the premises.
            candidate_labels: the labels.
            hypothesis_template: text of the hypothesis, with {} in place of the label.
            multi_label: score each label independently (entailment against contradiction); otherwise the labels compete.
            batch_tokens, show_progress: see `predict`.

        Returns:
            {"sequence", "labels", "scores"} for each text, labels best first, as in transformers' zero-shot-classification
            pipeline.

        Raises:
            InputError: no label, a template without {}, or a model without a relation named entailment.
        """
        labels = list(dict.fromkeys(candidate_labels))
        if isinstance(candidate_labels, str) or not labels:
            raise InputError(f"candidate_labels = {candidate_labels!r}: expected a list of one label or more")
        if "{}" not in hypothesis_template:
            raise InputError(f"hypothesis_template = {hypothesis_template!r} has no {{}} for the label")
        names = self.relations
        if "entailment" not in names:
            raise InputError(f"the model's labels are {', '.join(names)}: none of them is entailment")
        yes = names.index("entailment")
        against = "contradiction" if "contradiction" in names else "not_entailment"
        if (multi_label or len(labels) == 1) and against not in names:
            raise InputError(f"the model's labels are {', '.join(names)}: none of them is contradiction")
        pairs = [(text, hypothesis_template.replace("{}", label)) for text in texts for label in labels]
        framed = self.frame(pairs, place=lambda pair: f"texts[{pair // len(labels)}]")
        scores = self.logits(framed, batch_tokens, show_progress).view(len(texts), len(labels), -1)
        if multi_label or len(labels) == 1:
            both = torch.stack([scores[..., names.index(against)], scores[..., yes]], -1)
            probabilities = both.softmax(-1)[..., 1]
        else:
            probabilities = scores[..., yes].softmax(-1)
        found = []
        for text, row in zip(texts, probabilities.tolist(), strict=True):
            ranked = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])
            found.append({"sequence": text, "labels": [n for n, _ in ranked], "scores": [score for _, score in ranked]})
        return found


def _pair(value: Any, i: int) -> tuple[str, str]:
    if isinstance(value, Mapping):
        keys = ("premise", "hypothesis") if "premise" in value else ("text", "text_pair")
        value = tuple(value.get(key) for key in keys)
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise InputError(f"inputs[{i}] = {value!r} is not a pair of premise and hypothesis")
    return value[0], value[1]
