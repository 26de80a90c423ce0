"""FillMask: the words that a masked language model would put at each [MASK]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.lm_heads import BertForMaskedLM
from fastbert.packing import pack, token_budget_batches
from fastbert.tasks.loading import HeadTask


class FillMask(HeadTask):
    """Predicts masked tokens."""

    model_class = BertForMaskedLM
    head_name = "masked-language-model"
    head_parts = ("cls.",)

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str], top_k: int = 5, targets: Sequence[str] | None = None, batch_tokens: int = 4096
    ) -> list[Any]:
        """The likeliest tokens at each [MASK], each with its probability over the whole vocabulary.

        Args:
            texts: each with one [MASK] or more.
            top_k: candidates for each mask, best first.
            targets: only these words, each a single entry of the vocabulary.
            batch_tokens: tokens run at once.

        Returns:
            For each text a list of {"score", "token", "token_str", "sequence"}, or with several masks a list of such lists,
            in the order of the masks: the form of transformers' fill-mask pipeline.

        Raises:
            InputError: a text without a mask or too long for the model, or a target that is not one token.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string; expected a list of texts")
        if top_k < 1:
            raise InputError(f"top_k = {top_k} must be at least 1")
        wanted = None if targets is None else self._target_ids(targets)
        rows = self.tokenizer.encode_ids(texts)
        limit = self.model.config.max_position_embeddings
        mask_id = self.tokenizer.mask_token_id
        for i, row in enumerate(rows):
            if mask_id not in row:
                raise InputError(f"texts[{i}] has no {self.tokenizer.mask_token}")
            if len(row) > limit:
                raise InputError(f"texts[{i}] has {len(row)} tokens, the limit is {limit}")
        found: list[Any] = [None] * len(rows)
        for indices in token_budget_batches([len(row) for row in rows], batch_tokens):
            batch = pack([rows[i] for i in indices]).to(self.model.device)
            assert batch.input_ids is not None
            masks = (batch.input_ids == mask_id).nonzero().view(-1)
            states = self.model.bert(batch, last_layer_rows=masks).last_hidden_state
            probs = self.model.cls.predictions(states).float().softmax(-1)
            counts = [rows[i].count(mask_id) for i in indices]
            for i, part in zip(indices, probs.split(counts), strict=True):
                found[i] = self._candidates(rows[i], part, top_k, wanted)
        return found

    def _candidates(self, row: list[int], probs: Tensor, top_k: int, wanted: list[int] | None) -> list[Any]:
        places = [at for at, token in enumerate(row) if token == self.tokenizer.mask_token_id]
        answers = []
        for place, scores in zip(places, probs, strict=True):
            if wanted is not None:
                scores = scores[wanted]
            values, order = scores.topk(min(top_k, scores.shape[0]))
            ids = order.tolist() if wanted is None else [wanted[i] for i in order.tolist()]
            answers.append([self._answer(row, place, i, v, len(places)) for i, v in zip(ids, values.tolist(), strict=True)])
        return answers[0] if len(answers) == 1 else answers

    def _answer(self, row: list[int], place: int, token: int, score: float, masks: int) -> dict[str, Any]:
        filled = [i for i in [*row[:place], token, *row[place + 1 :]] if i != self.tokenizer.pad_token_id]
        sequence = self.tokenizer.decode(filled, skip_special_tokens=masks == 1)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}

    def _target_ids(self, targets: Sequence[str]) -> list[int]:
        ids = []
        for target in [targets] if isinstance(targets, str) else targets:
            pieces = self.tokenizer.encode(target, add_special_tokens=False)
            if len(pieces) != 1 or pieces[0] == self.tokenizer.unk_token_id:
                shown = " ".join(str(token) for token in self.tokenizer.convert_ids_to_tokens(pieces))
                raise InputError(f"target {target!r} is not one entry of the vocabulary but {shown or 'nothing'!r}")
            ids.append(pieces[0])
        if not ids:
            raise InputError("targets is empty; expected at least one word")
        return list(dict.fromkeys(ids))
