"""Encoders and heads in PyTorch: fastbert, transformers unmodified and compiled, and sentence-transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.candidates.padded import CLASSES, TEXTS, Padded
from benchmarks.speed.jobs import Inputs, Job, Work

TOKENS = {"cpu": (512, 1024, 2048), "cuda": (16384, 32768, 65536)}


def load_transformers(job: Job, attention: str) -> Any:
    """The model of a job from transformers, in evaluation mode."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options = {"add_pooling_layer": False} if job.task == "encoder" else {}
    kind = getattr(transformers, CLASSES[job.task])
    model = kind.from_pretrained(job.folder, dtype=getattr(torch, job.dtype), attn_implementation=attention, **options)
    return model.to(job.device).eval()


class Transformers(Padded):
    """transformers' model on padded batches of texts of similar length."""

    def __init__(self, job: Job, attention: str) -> None:
        super().__init__(job)
        self.model: Any = load_transformers(job, attention)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Padded.forward`."""
        output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        if self.job.task == "question answering":
            return torch.stack([output.start_logits, output.end_logits], -1)
        return output[0]  # type: ignore[no-any-return]


class Oracle(Transformers):
    """The eager model in float32, whatever the requested type; all candidates are checked against it."""

    def __init__(self, job: Job) -> None:
        super().__init__(replace(job, dtype="float32"), "eager")


class TransformersUnsorted(Transformers):
    """transformers' model on unsorted batches of 32 texts, as in most scripts."""

    sorts = False

    def __init__(self, job: Job, attention: str) -> None:
        super().__init__(job, attention)
        self.settings = (32,)


class Compiled(Transformers):
    """torch.compile with dynamic shapes, one graph for all sizes, and frozen weights (TORCHINDUCTOR_FREEZING)."""

    fills = True

    def __init__(self, job: Job) -> None:
        import torch._inductor.config as inductor

        inductor.freezing = True
        super().__init__(job, "sdpa")
        self.settings = tuple(size for size in self.settings if size >= 4)  # a single text would need a second graph
        self.model = torch.compile(self.model, dynamic=True)


class CompiledMaxAutotune(Transformers):
    """torch.compile(mode="max-autotune"), which captures one CUDA graph per size, so there are few sizes; CUDA only.

    Texts are padded to a multiple of 64 tokens, and the last batch is filled up to its size.
    """

    fills = True

    def __init__(self, job: Job) -> None:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        inductor.freezing = True
        dynamo.recompile_limit = 64
        super().__init__(job, "sdpa")
        self.settings = (128, 512)
        self.batch_limit = self.settings[0]
        self.model = torch.compile(self.model, dynamic=False, mode="max-autotune")

    def width(self, longest: int) -> int:
        """See `Padded.width`."""
        return min(-(-longest // 64) * 64, self.job.max_length)


class SentenceTransformers(Work):
    """SentenceTransformer.encode on texts, including tokenisation; it sorts by length itself.

    Args:
        job: the model and the device.
        patched: run its encoder by `fastbert.patch`.
        batch: its number of texts at once; None means the best of a search.
    """

    def __init__(self, job: Job, patched: bool = False, batch: int | None = None) -> None:
        import sentence_transformers as st
        from sentence_transformers import models

        body = models.Transformer(job.folder, max_seq_length=job.max_length, model_args={"dtype": getattr(torch, job.dtype)})
        pooling = models.Pooling(body.get_word_embedding_dimension(), "mean")
        self.model = st.SentenceTransformer(modules=[body, pooling], device=job.device)
        self.settings = TEXTS[torch.device(job.device).type] if batch is None else (batch,)
        if patched:
            import fastbert

            fastbert.prepack(fastbert.patch(self.model))

    def outputs(self) -> list[Any]:
        """See `Work.outputs`."""
        return list(self._encode(32))

    def run(self, setting: int | None) -> None:
        """See `Work.run`."""
        self._encode(setting or 1)

    def _encode(self, size: int) -> Any:
        return self.model.encode(self.inputs.texts or [], batch_size=size, show_progress_bar=False)


class Fastbert(Work):
    """fastbert's model on packed batches with a limited number of tokens."""

    def __init__(self, job: Job, backend: str = "auto", prepacked: bool = True) -> None:
        import fastbert

        fastbert.set_backend(backend)
        options = {"add_pooling_layer": False} if job.task == "encoder" else {}
        kind = getattr(fastbert, CLASSES[job.task])
        model = kind.from_pretrained(job.folder, dtype=getattr(torch, job.dtype), device=job.device, **options)
        self.job, self.device, self.model = job, torch.device(job.device), model.eval()
        if prepacked:
            fastbert.prepack(self.model)
        self.settings = TOKENS[self.device.type]

    def take(self, inputs: Inputs) -> None:
        """See `Work.take`; converts rows to the output format of fastbert's tokenizer, as other libraries get lists."""
        from fastbert.text.framing import Framed

        super().take(inputs)
        self.framed = Framed.of_rows(inputs.rows)

    def outputs(self) -> list[Any]:
        """See `Work.outputs`."""
        return [one.float().numpy() for one in self._encode(TOKENS[self.device.type][-1])]

    def run(self, setting: int | None) -> None:
        """See `Work.run`."""
        self._encode(setting or self.job.max_length)

    @torch.inference_mode()
    def _encode(self, batch_tokens: int) -> list[Tensor]:
        from fastbert.packing.batching import run

        rows = self.inputs.rows
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        if self.job.task == "masked words":
            masked = [[i for i, token in enumerate(row) if token == self.job.mask_token_id] for row in rows]
            sizes = [len(places) for places in masked]
        else:
            masked, sizes = [], [len(row) if self.job.task == "question answering" else 1 for row in rows]

        def step(batch: Any) -> list[Tensor]:
            return [self._step(batch, masked).float()]

        for numbers, (result,) in run(self.framed, step, self.device, batch_tokens, name="rows"):
            for i, one in zip(numbers, result.split([sizes[i] for i in numbers]), strict=True):
                found[i] = one[0] if self.job.task in ("encoder", "classification") else one
        return found

    def _step(self, batch: Any, masked: list[list[int]]) -> Tensor:
        """The results of a batch: one row per text, token or mask."""
        if self.job.task == "encoder":
            from fastbert.model.pooling import pool

            return pool(self.states(batch), batch.cu_seqlens, "mean")
        if self.job.task == "classification":
            return self.model(batch).logits  # type: ignore[no-any-return]
        if self.job.task == "question answering":
            output = self.model(batch)
            return torch.stack([output.start_logits, output.end_logits], -1)
        lengths = batch.origin.framed.lengths[batch.origin.rows]
        starts = (lengths.cumsum() - lengths).tolist()
        places = torch.tensor([start + i for start, row in zip(starts, batch.origin.rows, strict=True) for i in masked[row]])
        states = self.model.bert(batch, last_layer_rows=places.to(self.device)).last_hidden_state
        return self.model.cls.predictions(states).amax(-1)  # type: ignore[no-any-return]

    def states(self, batch: Any) -> Tensor:
        """(T, N) hidden states of a packed batch."""
        return self.model(batch).last_hidden_state  # type: ignore[no-any-return]


class FastbertQuantised(Fastbert):
    """fastbert's model with products in "int8" or "fp8", where `prepack` does not refuse them on the very texts."""

    def __init__(self, job: Job, precision: str) -> None:
        super().__init__(job)
        self.precision, self.quantised = precision, False

    def take(self, inputs: Inputs) -> None:
        """See `Work.take`."""
        import fastbert

        super().take(inputs)
        if not self.quantised:
            fastbert.prepack(self.model, self.precision, inputs.rows)
            self.quantised = True


class FastbertCaptured(Fastbert):
    """fastbert's model replayed as CUDA graphs, one per bucket of sizes."""

    def __init__(self, job: Job) -> None:
        from fastbert.graphs import CapturedModel

        super().__init__(job)
        self.captured = CapturedModel(self.model)

    def states(self, batch: Any) -> Tensor:
        """See `Fastbert.states`."""
        states = self.captured(batch).last_hidden_state
        assert states is not None
        return states


class FastbertEmbedder(Work):
    """fastbert.tasks.Embedder.encode on texts, including tokenisation."""

    def __init__(self, job: Job) -> None:
        import fastbert
        from fastbert.tasks import Embedder

        self.embedder = Embedder.from_pretrained(job.folder, device=job.device, dtype=getattr(torch, job.dtype))
        fastbert.prepack(self.embedder.model)
        self.embedder.max_length = job.max_length
        self.settings = TOKENS[torch.device(job.device).type]

    def outputs(self) -> list[Any]:
        """See `Work.outputs`."""
        return list(self._encode(TOKENS["cpu"][-1]))

    def run(self, setting: int | None) -> None:
        """See `Work.run`."""
        self._encode(setting or 512)

    def _encode(self, tokens: int) -> Any:
        texts = self.inputs.texts or []
        return self.embedder.encode(texts, batch_tokens=tokens, pooling="mean", normalize=False, show_progress=False)
