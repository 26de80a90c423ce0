"""MultipleChoice: picks which of several candidates goes best with a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.model.heads import BertForMultipleChoice
from fastbert.packing.batching import BATCH_TOKENS
from fastbert.progress import Show
from fastbert.tasks.sequences import SequenceTask
from fastbert.text.framing import Framed


class MultipleChoice(SequenceTask):
    """Picks the best candidate for a text. See `SequenceTask` for the handling of long inputs; do not use windows here."""

    model_class = BertForMultipleChoice
    head_name = "multiple-choice"
    head_parts = ("classifier.", "pooler.")

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        overlong: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[dict[str, Any]]:
        """The best candidate for each text.

        Args:
            inputs: (text, candidates), or {"text": ..., "choices": [...]}, each with two or more candidates.
            overlong, batch_tokens, show_progress: see `Classifier.predict`.

        Returns:
            {"label": index from 0, "choice": text of the candidate, "score": its probability, "scores": all probabilities} for
            each text, in order.
        """
        examples = [_example(value, i) for i, value in enumerate(inputs)]
        pairs = [(text, choice) for text, choices in examples for choice in choices]
        owners = [number for number, (_, choices) in enumerate(examples) for _ in choices]
        framed = self.frame(pairs, overlong, lambda pair: f"inputs[{owners[pair]}]")
        return self.decode([choices for _, choices in examples], self.scores(framed, batch_tokens, show_progress))

    def decode(self, candidates: Sequence[Sequence[str]], scores: torch.Tensor) -> list[dict[str, Any]]:
        """The best candidate for each text, from the scores of all pairs; see `predict`."""
        found = []
        for choices, part in zip(candidates, scores.split([len(choices) for choices in candidates]), strict=True):
            row = part.softmax(0).tolist()
            best = max(range(len(row)), key=row.__getitem__)
            found.append({"label": best, "choice": choices[best], "score": row[best], "scores": row})
        return found

    def scores(self, framed: Framed, batch_tokens: int = BATCH_TOKENS, show_progress: Show = False) -> torch.Tensor:
        """One score for each pair of text and candidate; each pair is processed independently."""
        return self.logits(framed, batch_tokens, show_progress, num_choices=1).view(-1)


def _example(value: Any, i: int) -> tuple[str, list[str]]:
    if isinstance(value, Mapping):
        value = (value.get("text"), value.get("choices"))
    good = isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)
    if not good or not isinstance(value[1], tuple | list) or len(value[1]) < 2:
        raise InputError(f"inputs[{i}] = {value!r} is not a text and two candidates or more")
    return value[0], list(value[1])
