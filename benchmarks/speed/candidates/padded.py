"""The base of all candidates that pad: turns texts into padded batches and splits the outputs by text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.jobs import Job, Work

CLASSES = {
    "encoder": "BertModel",
    "classification": "BertForSequenceClassification",
    "question answering": "BertForQuestionAnswering",
    "masked words": "BertForMaskedLM",
    "fine-tuning": "BertForSequenceClassification",
    "pre-training": "BertForPreTraining",
}
TEXTS = {"cpu": (1, 2, 4, 8, 16, 32, 64), "cuda": (32, 64, 128, 256, 512)}


def pad(rows: list[list[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Pads rows with zeros on the right; returns (B, S) ids and mask."""
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()


class Padded(Work):
    """Sorts by length, pads each batch to its longest text, and splits the results; subclasses define `forward`."""

    sorts = True
    batch_limit = 8  # batch size for the check
    fills = False  # whether the last batch is filled up with copies of its last text

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        self.settings = TEXTS[self.device.type]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Runs the model on (B, S) ids and mask on the host; returns its first output on the host or the device."""
        raise NotImplementedError

    def width(self, longest: int) -> int:
        """The padded length S of a batch whose longest text has `longest` tokens."""
        return longest

    def outputs(self) -> list[Any]:
        """See `Work.outputs`."""
        found = self._encode(min(self.batch_limit, len(self.inputs.rows)))
        return [found[i].float().cpu().numpy() for i in range(len(found))]

    def run(self, setting: int | None) -> None:
        """See `Work.run`."""
        self._encode(setting or 1)

    @torch.inference_mode()
    def _encode(self, size: int) -> list[Tensor]:
        rows = self.inputs.rows
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i])) if self.sorts else list(range(len(rows)))
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for start in range(0, len(order), size):
            places = order[start : start + size]
            batch = [rows[i] for i in places]
            batch += batch[-1:] * (size - len(batch)) if self.fills else []
            ids, mask = pad(batch, self.width(max(map(len, batch))))
            for i, one in zip(places, self._apart(self.forward(ids, mask), ids, mask), strict=False):
                found[i] = one
        return found

    def _apart(self, output: Tensor, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """The result of each text, on the host."""
        if self.job.task == "encoder":
            weight = mask.to(output.device)[..., None]
            return list(((output.float() * weight).sum(1) / weight.sum(1)).cpu())
        if self.job.task == "classification":
            return list(output.float().cpu())
        if self.job.task == "question answering":
            lengths = mask.sum(1).tolist()
            return [row[:length] for row, length in zip(output.float().cpu(), lengths, strict=True)]
        best = output.amax(-1).float().cpu()  # (B, S), the score of the best word
        return [row[at] for row, at in zip(best, ids == self.job.mask_token_id, strict=True)]
