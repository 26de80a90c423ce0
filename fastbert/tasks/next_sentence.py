"""NextSentence: how likely one text follows another. Paper, section 3.1, task 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.heads import BertForNextSentencePrediction
from fastbert.packing import pack, token_budget_batches
from fastbert.tasks.loading import HeadTask

LABELS = ("next", "random")  # 0 = B follows A, 1 = B is random


class NextSentence(HeadTask):
    """Scores pairs of texts."""

    model_class = BertForNextSentencePrediction
    head_name = "next-sentence"
    head_parts = ("cls.", "bert.pooler.")

    @torch.inference_mode()
    def predict(self, pairs: Sequence[tuple[str, str]], batch_tokens: int = 4096) -> list[dict[str, Any]]:
        """For each pair (A, B) the likelier label, its probability, and the probability that B follows A.

        Args:
            pairs: of texts.
            batch_tokens: tokens run at once.

        Returns:
            {"label": "next" or "random", "score": its probability, "next": P(B follows A)} for each pair, in order.

        Raises:
            InputError: not a pair of texts, or a pair too long for the model.
        """
        for i, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"pairs[{i}] = {pair!r} is not a pair of texts")
        encoded = self.tokenizer([a for a, _ in pairs], [b for _, b in pairs], return_token_type_ids=True)
        rows, types = encoded["input_ids"], encoded["token_type_ids"]
        limit = self.longest
        for i, row in enumerate(rows):
            if len(row) > limit:
                raise InputError(f"pairs[{i}] has {len(row)} tokens, the limit is {limit}")
        found: list[dict[str, Any]] = [{} for _ in rows]
        for indices in token_budget_batches([len(row) for row in rows], batch_tokens):
            segments = [types[i] for i in indices] if self.tokenizer.segments_pairs else None
            batch = pack([rows[i] for i in indices], token_type_ids=segments).to(self.model.device)
            probs = self.model(batch, return_dict=True).logits.float().softmax(-1).tolist()
            for i, (follows, random) in zip(indices, probs, strict=True):
                label = LABELS[0] if follows >= random else LABELS[1]
                found[i] = {"label": label, "score": max(follows, random), "next": follows}
        return found
