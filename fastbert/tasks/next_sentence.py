"""NextSentence: how likely it is that one text follows another. Paper, section 3.1, task 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.model.heads import BertForNextSentencePrediction
from fastbert.packing.batching import run
from fastbert.progress import Show
from fastbert.tasks.loading import HeadTask
from fastbert.text.framing import frame

LABELS = ("next", "random")  # 0 = B follows A, 1 = B is random


class NextSentence(HeadTask):
    """Scores how likely the second text of a pair follows the first."""

    model_class = BertForNextSentencePrediction
    head_name = "next-sentence"
    head_parts = ("cls.", "pooler.")

    @torch.inference_mode()
    def predict(
        self, pairs: Sequence[tuple[str, str]], batch_tokens: int = 4096, *, show_progress: Show = False
    ) -> list[dict[str, Any]]:
        """For each pair (A, B): the more likely label, its probability, and the probability that B follows A.

        Args:
            pairs: pairs of texts.
            batch_tokens: tokens processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            {"label": "next" or "random", "score": its probability, "next": P(B follows A)} for each pair, in order.

        Raises:
            InputError: not a pair of texts, or a pair too long for the model.
        """
        for i, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise InputError(f"pairs[{i}] = {pair!r} is not a pair of texts")
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        framed = frame(self.tokenizer, first, second, max_length=self.longest, overlong="error", place="pairs")
        found: list[dict[str, Any]] = [{} for _ in pairs]
        done = run(
            framed,
            lambda batch: [self.model(batch, return_dict=True).logits.float().softmax(-1)],
            self.model.device,
            batch_tokens,
            name="next sentence",
            show=show_progress,
            key=(),
        )
        for rows, (probabilities,) in done:
            for row, (follows, random) in zip(rows.tolist(), probabilities.tolist(), strict=True):
                label = LABELS[0] if follows >= random else LABELS[1]
                found[row] = {"label": label, "score": max(follows, random), "next": follows}
        return found
