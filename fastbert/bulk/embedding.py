"""The job behind `fastbert embed`: a vector a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbert.bulk.jobs import Advance, Job, Opened, Results, Sample
from fastbert.choices import PRECISIONS
from fastbert.errors import InputError
from fastbert.model.pooling import check_modes
from fastbert.model.prepacking import prepack
from fastbert.tasks.embedder import Embedder
from fastbert.tasks.prompted import PATTERNS
from fastbert.text.framing import Framed, Place, check_overlong


@dataclass(frozen=True)
class Embed(Job):
    """Vectors of texts, as `Embedder.encode` gives them.

    Attributes:
        pooling, normalize, overlong, precision: see `Embedder.encode`. The ranges of "int8" and "uint8" are those of some
            texts, from all over the inputs, and stand in the manifest.
    """

    name = "embed"
    part_rows = 32768
    patterns = PATTERNS

    pooling: tuple[str, ...] | None = None
    normalize: bool | None = None
    overlong: str = "truncate"
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked without the model."""
        check_overlong(self.overlong)
        if self.pooling is not None:
            check_modes(self.pooling)
        if self.precision not in PRECISIONS:
            raise InputError(f"precision = {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    @property
    def settings(self) -> dict[str, Any]:
        """See `Job.settings`."""
        pooling = None if self.pooling is None else list(self.pooling)
        names = {"pooling": pooling, "normalize": self.normalize, "overlong": self.overlong}
        return {**names, "precision": self.precision, "dtype": self.dtype}

    @property
    def own_columns(self) -> tuple[str, ...]:
        """See `Job.own_columns`."""
        return ("vector",)

    def probe(self) -> None:
        """See `Job.probe`; a single vector has no ranges."""
        opened = self.open({})
        opened.pooled(opened.prepare(["a"], str), lambda count: None)

    def settle(self, sample: Callable[[], Sample]) -> dict[str, Any]:
        """The ranges of the dimensions, where a precision needs them."""
        if self.precision not in ("int8", "uint8"):
            return {}
        opened = self.open({})
        pooled = opened.pooled(opened.prepare(*sample()), lambda count: None)
        vectors = opened.embedder.finish(pooled, self.normalize)
        return {"ranges": [vectors.min(axis=0).tolist(), vectors.max(axis=0).tolist()]}

    def open(self, settled: Mapping[str, Any]) -> _Embedding:
        """See `Job.open`."""
        return _Embedding(self, self.task, settled.get("ranges"))

    def load(self) -> Embedder:
        """See `Job.load`."""
        embedder = Embedder.from_pretrained(self.folder, self.device, self.dtype)
        prepack(embedder.model)
        return embedder


class _Embedding(Opened):
    def __init__(self, job: Embed, embedder: Embedder, ranges: Any) -> None:
        self.job, self.embedder = job, embedder
        self.ranges = None if ranges is None else np.asarray(ranges, dtype=np.float32)

    def prepare(self, texts: Sequence[Any], place: Place) -> Framed:
        return self.embedder.frame_quietly(texts, self.job.overlong, prompt=self.embedder.prompt, place=place)

    def compute(self, prepared: Framed, advance: Advance) -> Results:
        vectors = self.embedder.finish(
            self.pooled(prepared, advance), self.job.normalize, precision=self.job.precision, ranges=self.ranges
        )
        return Results({"vector": vectors}, int(np.count_nonzero(prepared.cut)))

    def pooled(self, framed: Framed, advance: Advance) -> np.ndarray:
        """float32 (n, D), as the layers behind pooling take them."""
        return self.embedder.pooled(
            framed,
            self.embedder.pooling if self.job.pooling is None else self.job.pooling,
            self.embedder.prompt,
            batch_tokens=self.job.batch_tokens,
            name="embed",
            advance=advance,
        )
