"""FillMask: the words that a masked language model would put at each [MASK]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.lm_heads import BertForMaskedLM
from fastbert.packing import pack, token_budget_batches
from fastbert.tasks.loading import HeadTask

_SCORES_AT_ONCE = 1 << 24  # of the vocabulary at masks: 64 MiB in float32


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
            texts: each with one [MASK] or more; or pairs of texts, whose second one has segment 1.
            top_k: candidates for each mask, best first.
            targets: only these, each an entry of the vocabulary ("##ed" as well) or a word that becomes one.
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
        encoded = self.tokenizer(list(texts), return_token_type_ids=True)
        rows, types = encoded["input_ids"], encoded["token_type_ids"]
        limit = self.longest
        mask_id = self.tokenizer.mask_token_id
        for i, row in enumerate(rows):
            if mask_id not in row:
                raise InputError(f"texts[{i}] has no {self.tokenizer.mask_token}")
            if len(row) > limit:
                raise InputError(f"texts[{i}] has {len(row)} tokens, the limit is {limit}")
        found: list[Any] = [None] * len(rows)
        for indices in token_budget_batches([len(row) for row in rows], batch_tokens):
            segments = [types[i] for i in indices] if self.tokenizer.segments_pairs else None
            batch = pack([rows[i] for i in indices], token_type_ids=segments).to(self.model.device)
            assert batch.input_ids is not None
            masks = (batch.input_ids == mask_id).nonzero().view(-1)
            states = self.model.bert(batch, last_layer_rows=masks, return_dict=True).last_hidden_state
            best = iter(self._best(states, top_k, wanted))
            for i in indices:
                places = [at for at, token in enumerate(rows[i]) if token == mask_id]
                answers = [
                    [self._answer(rows[i], place, token, score, len(places)) for token, score in next(best)] for place in places
                ]
                found[i] = answers[0] if len(answers) == 1 else answers
        return found

    def _best(self, states: Tensor, top_k: int, wanted: list[int] | None) -> Iterator[list[tuple[int, float]]]:
        """The best tokens and their probabilities for each row of (M, N), of as many rows at once as memory is kept for."""
        for rows in states.split(max(1, _SCORES_AT_ONCE // self.model.config.vocab_size)):
            probs = self.model.cls.predictions(rows).float().softmax(-1)
            scores = probs if wanted is None else probs[:, wanted]
            values, order = scores.topk(min(top_k, scores.shape[1]))
            for row_values, row in zip(values.tolist(), order.tolist(), strict=True):
                tokens = row if wanted is None else [wanted[i] for i in row]
                yield list(zip(tokens, row_values, strict=True))

    def _answer(self, row: list[int], place: int, token: int, score: float, masks: int) -> dict[str, Any]:
        filled = [i for i in [*row[:place], token, *row[place + 1 :]] if i != self.tokenizer.pad_token_id]
        sequence = self.tokenizer.decode(filled, skip_special_tokens=masks == 1)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}

    def _target_ids(self, targets: Sequence[str]) -> list[int]:
        ids, vocab = [], self.tokenizer.get_vocab()
        for target in [targets] if isinstance(targets, str) else targets:
            if target in vocab:
                ids.append(vocab[target])
                continue
            pieces = self.tokenizer.encode(target, add_special_tokens=False)
            if len(pieces) != 1 or pieces[0] == self.tokenizer.unk_token_id:
                shown = " ".join(str(token) for token in self.tokenizer.convert_ids_to_tokens(pieces))
                raise InputError(f"target {target!r} is not one entry of the vocabulary but {shown or 'nothing'!r}")
            ids.append(pieces[0])
        if not ids:
            raise InputError("targets is empty; expected at least one word")
        return list(dict.fromkeys(ids))
