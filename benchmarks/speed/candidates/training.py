"""Training steps (forward, backward and AdamW) on the same batches for all candidates.

Batches hold texts of similar length, like those of `group_by_length`; masks and labels are drawn before the clock starts,
while padding and packing are timed. In 16 bit the weights stay in float32 under autocast. Dropout is on while steps are timed,
and off while they are checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.candidates.models import load_transformers
from benchmarks.speed.candidates.padded import CLASSES, pad
from benchmarks.speed.jobs import Inputs, Job, Work, masked_places

BATCH = {"cpu": 16, "cuda": 128}
NUM_LABELS = 3
CHECKED_GRADIENTS = ("attention.self.query.weight", "attention.output.LayerNorm.weight", "output.dense.weight")


@dataclass(frozen=True)
class Batch:
    """The texts of a step with their labels.

    Attributes:
        rows: ids, with masked words replaced if the task is pre-training.
        words: labels of `rows`, -100 where nothing is to be predicted.
        classes: (B,) class or next-sentence label of each text.
    """

    rows: list[list[int]]
    words: list[list[int]]
    classes: Tensor


class Training(Work):
    """The base of all training candidates; subclasses define `loss_of`."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        self.model: Any = None

    def use(self, model: Any, **options: Any) -> None:
        """Sets the model to train, in training mode; its initial weights are saved for the check."""
        self.model = model.to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True, **options)
        self.start = [parameter.detach().clone() for parameter in self.model.parameters()]

    def take(self, inputs: Inputs) -> None:
        """See `Work.take`."""
        super().take(inputs)
        self.batches = list(self._batches(inputs.rows))

    def _batches(self, rows: list[list[int]]) -> Iterator[Batch]:
        """Batches of texts of similar length; labels and masks depend only on the text's index."""
        size = min(BATCH[self.device.type], len(rows))
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            words = [[-100] * len(rows[i]) for i in places]
            masked = [list(rows[i]) for i in places]
            if self.job.task == "pre-training":
                for i, row, wanted in zip(places, masked, words, strict=True):
                    for at in masked_places(i, len(row)):
                        wanted[at], row[at] = row[at], self.job.mask_token_id
            classes = torch.tensor([i % (2 if self.job.task == "pre-training" else NUM_LABELS) for i in places])
            yield Batch(masked, words, classes)

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a step, attached to its autograd graph."""
        raise NotImplementedError

    def outputs(self) -> list[Any]:
        """Loss and some gradients of the first batch, without dropout, with the initial weights."""
        with torch.no_grad():
            for parameter, start in zip(self.model.parameters(), self.start, strict=True):
                parameter.copy_(start)
        self.model.eval()
        loss = self.loss_of(self.batches[0])
        loss.backward()
        names = dict(self._module().named_parameters())
        layers = sorted({int(n.split("layer.")[1].split(".")[0]) for n in names if "encoder.layer." in n})
        wanted = [f"bert.encoder.layer.{i}.{name}" for i in (layers[0], layers[-1]) for name in CHECKED_GRADIENTS]
        found = [loss.detach().float().reshape(1), *(names[name].grad.float().flatten() for name in wanted)]
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        return [one.cpu().numpy() for one in found]

    def run(self, setting: int | None) -> None:
        """Runs a step on each batch."""
        for batch in self.batches:
            self.loss_of(batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def _module(self) -> Any:
        return getattr(self.model, "_orig_mod", self.model)

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast context; enabled for 16-bit types only."""
        return torch.autocast(self.device.type, getattr(torch, self.job.dtype), enabled=self.job.dtype != "float32")


class Transformers(Training):
    """transformers' model on padded batches."""

    def __init__(self, job: Job, attention: str, compiled: bool = False) -> None:
        super().__init__(job)
        self.use(load_transformers(replace(job, dtype="float32"), attention))
        if compiled:
            self.model = torch.compile(self.model, dynamic=True)

    def loss_of(self, batch: Batch) -> Tensor:
        """See `Training.loss_of`."""
        ids, mask = (tensor.to(self.device) for tensor in pad(batch.rows))
        classes = batch.classes.to(self.device)
        labels: dict[str, Tensor] = {"labels": classes}
        if self.job.task == "pre-training":
            width = ids.shape[1]
            words = torch.tensor([row + [-100] * (width - len(row)) for row in batch.words]).to(self.device)
            labels = {"labels": words, "next_sentence_label": classes}
        with self.precision():
            return self.model(input_ids=ids, attention_mask=mask, **labels).loss  # type: ignore[no-any-return]


class Oracle(Transformers):
    """The eager model in float32, whatever the requested type; all candidates are checked against it."""

    def __init__(self, job: Job) -> None:
        super().__init__(replace(job, dtype="float32"), "eager")


class Fastbert(Training):
    """fastbert's model on packed batches."""

    def __init__(self, job: Job, backend: str = "auto") -> None:
        import fastbert

        super().__init__(job)
        fastbert.set_backend(backend)
        self.use(getattr(fastbert, CLASSES[job.task]).from_pretrained(job.folder))

    def loss_of(self, batch: Batch) -> Tensor:
        """See `Training.loss_of`."""
        packed = self.packed(batch)
        labels: dict[str, Tensor] = {"labels": batch.classes}
        if self.job.task == "pre-training":
            rows, words = scored(batch)
            labels = {"labels": words, "scored_rows": rows, "next_sentence_label": batch.classes}
        labels = {name: tensor.to(self.device) for name, tensor in labels.items()}
        with self.precision():
            return self.model(packed, **labels).loss  # type: ignore[no-any-return]

    def packed(self, batch: Batch, device: torch.device | str | None = None) -> Any:
        """The rows of a step, packed as in fine-tuning."""
        from fastbert.packing.batching import pack_rows
        from fastbert.text.framing import Framed

        return pack_rows(Framed.of_rows(batch.rows), range(len(batch.rows)), device or self.device)


class FastbertCaptured(Fastbert):
    """fastbert's whole step as a CUDA graph, one for each bucket of sizes, to which batches are filled up."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.use(self.model, capturable=True)

    def take(self, inputs: Inputs) -> None:
        """See `Training.take`; captures the step for each bucket."""
        super().take(inputs)
        from fastbert.graphs import CapturedStep

        self.steps: dict[tuple[int, ...], Any] = {}
        step = None
        for batch in self.batches:
            filled = self._filled(batch)
            if _sizes(filled) not in self.steps:
                step = self.steps[_sizes(filled)] = CapturedStep(self._step, filled, step)

    def run(self, setting: int | None) -> None:
        """Replays the captured step of each batch."""
        for batch in self.batches:
            filled = self._filled(batch)
            self.steps[_sizes(filled)](**filled)

    def _step(self, **inputs: Any) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        batch = inputs.pop("batch")
        with self.precision():
            loss: Tensor = self.model(batch, **inputs).loss
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _filled(self, batch: Batch) -> dict[str, Any]:
        from fastbert.graphs import Bucket
        from fastbert.packing import fixed_budget

        packed = self.packed(batch, "cpu")
        tokens, sequences, longest = Bucket.of(packed)
        classes = torch.full((sequences,), -100).index_copy(0, torch.arange(len(batch.rows)), batch.classes)
        filled: dict[str, Any] = {"batch": fixed_budget(packed, tokens, sequences, longest), "labels": classes}
        if self.job.task == "pre-training":
            rows, words = scored(batch)
            short = -len(rows) % max(1, tokens // 32)  # of about a seventh of the tokens
            filled["labels"] = torch.cat([words, torch.full((short,), -100)])
            filled["scored_rows"] = torch.cat([rows, torch.zeros(short, dtype=torch.long)])
            filled["next_sentence_label"] = classes
        return {name: value.to(self.device, non_blocking=True) for name, value in filled.items()}


def _sizes(filled: dict[str, Any]) -> tuple[int, ...]:
    """What a captured step is fixed to: the budget of its batch, and the number of scored rows."""
    packed = filled["batch"]
    return packed.num_tokens, packed.batch_size, packed.max_seqlen, len(filled.get("scored_rows", ()))


def scored(batch: Batch) -> tuple[Tensor, Tensor]:
    """The packed rows that have a label, and their labels, (M,) each."""
    flat = torch.tensor([label for row in batch.words for label in row])
    rows = (flat != -100).nonzero()[:, 0]
    return rows, flat[rows]
