"""FillMask: the words that a masked language model predicts at each [MASK]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.model.lm_heads import BertForMaskedLM
from fastbert.packing import PackedBatch
from fastbert.packing.batching import run
from fastbert.progress import Show
from fastbert.tasks.loading import HeadTask
from fastbert.tasks.sequences import frame_texts

_SCORES_AT_ONCE = 1 << 24  # scores over the vocabulary at all masks together: 64 MiB in float32


class FillMask(HeadTask):
    """Predicts masked tokens."""

    model_class = BertForMaskedLM
    head_name = "masked-language-model"
    head_parts = ("cls.", "lm_head.")

    @torch.inference_mode()
    def predict(
        self,
        texts: Sequence[Any],
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = 4096,
        *,
        show_progress: Show = False,
    ) -> list[Any]:
        """The likeliest tokens at each [MASK], each with its probability over the whole vocabulary.

        Args:
            texts: texts, each with one [MASK] or more; or pairs of texts, the second of which gets segment 1.
            top_k: number of candidates for each mask, best first.
            targets: restricts the candidates to these; each is an entry of the vocabulary (such as "##ed") or a word that is
                tokenised into one entry.
            batch_tokens: tokens processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            For each text a list of {"score", "token", "token_str", "sequence"}, or with several masks a list of such lists,
            in the order of the masks, in the format of transformers' fill-mask pipeline.

        Raises:
            InputError: a text without a mask or too long for the model, or a target that is not one token.
        """
        if top_k < 1:
            raise InputError(f"top_k = {top_k} must be at least 1")
        wanted = None if targets is None else torch.tensor(self._target_ids(targets), device=self.model.device)
        framed = frame_texts(self.tokenizer, texts, max_length=self.longest, overlong="error", place="texts")
        masks = [np.flatnonzero(framed.row(i) == self.tokenizer.mask_token_id) for i in range(len(framed))]
        for i, places in enumerate(masks):
            if not len(places):
                raise InputError(f"texts[{i}] has no {self.tokenizer.mask_token}")
        found: list[Any] = [None] * len(framed)

        def best(batch: PackedBatch) -> list[Tensor]:
            assert batch.origin is not None
            rows = batch.origin.rows
            starts = framed.lengths[rows].cumsum() - framed.lengths[rows]
            masked = np.concatenate([masks[i] + start for i, start in zip(rows, starts, strict=True)])
            return self._best(batch, torch.from_numpy(masked).to(batch.device, non_blocking=True), top_k, wanted)

        for rows, (scores, tokens) in run(framed, best, self.model.device, batch_tokens, name="fill mask", show=show_progress):
            ranked = iter(zip(tokens.tolist(), scores.tolist(), strict=True))
            for i in rows:
                row, places = framed.row(i).tolist(), masks[i].tolist()
                answers = [
                    [self._answer(row, place, token, score, len(places)) for token, score in zip(*next(ranked), strict=True)]
                    for place in places
                ]
                found[i] = answers[0] if len(answers) == 1 else answers
        return found

    def _best(self, batch: PackedBatch, masks: Tensor, top_k: int, wanted: Tensor | None) -> list[Tensor]:
        """(M, k) probabilities and ids of the best tokens at M masks, computed in chunks to bound memory."""
        states = self.model.base_model(batch, last_layer_rows=masks, return_dict=True).last_hidden_state
        values, tokens = [], []
        for rows in states.split(max(1, _SCORES_AT_ONCE // self.model.config.vocab_size)):
            probabilities = self.model.mlm_head(rows).float().softmax(-1)
            scores = probabilities if wanted is None else probabilities[:, wanted]
            best, order = scores.topk(min(top_k, scores.shape[1]))
            values.append(best)
            tokens.append(order if wanted is None else wanted[order])
        return [torch.cat(values), torch.cat(tokens)]

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
