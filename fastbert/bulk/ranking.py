"""The job behind `fastbert rank`: how well each text answers a query, and the best of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbert.bulk.jobs import Advance, Job, Opened, Results
from fastbert.bulk.manifest import read_manifest
from fastbert.bulk.writing import name_of
from fastbert.errors import InputError
from fastbert.model.prepacking import prepack
from fastbert.tasks.loading import check_top_k
from fastbert.tasks.reranker import ACTIVATIONS, Reranker
from fastbert.text.framing import Framed, Place, check_overlong


@dataclass(frozen=True)
class Rank(Job):
    """Scores of texts for a query, as `Reranker.predict` gives them.

    Attributes:
        query: a text.
        overlong: pairs beyond the limit, see `Reranker.predict`.
    """

    name = "rank"
    part_rows = 8192
    patterns = Reranker.patterns

    query: str = ""
    overlong: str = "truncate"

    def __post_init__(self) -> None:
        """Checks what can be checked without the model."""
        check_overlong(self.overlong)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Job.settings`."""
        return {"query": self.query, "overlong": self.overlong, "dtype": self.dtype}

    @property
    def own_columns(self) -> tuple[str, ...]:
        """See `Job.own_columns`."""
        return ("score",)

    def open(self, settled: Mapping[str, Any]) -> _Ranking:
        """See `Job.open`."""
        return _Ranking(self, self.task)

    def load(self) -> Reranker:
        """See `Job.load`; the model must give one score a pair."""
        reranker = Reranker.from_pretrained(self.folder, self.device, self.dtype)
        if reranker.num_labels != 1:
            raise InputError(f"the model has num_labels = {reranker.num_labels}: rank needs one score a pair")
        prepack(reranker.model)
        return reranker


class _Ranking(Opened):
    def __init__(self, job: Rank, reranker: Reranker) -> None:
        self.job, self.reranker = job, reranker

    def prepare(self, texts: Sequence[str], place: Place) -> Framed:
        return self.reranker.frame_quietly([(self.job.query, text) for text in texts], self.job.overlong, place)

    def compute(self, prepared: Framed, advance: Advance) -> Results:
        logits = self.reranker.logits(prepared, self.job.batch_tokens, advance=advance)
        scores = ACTIVATIONS[self.reranker.activation](logits).squeeze(-1).numpy()
        return Results({"score": scores}, int(np.count_nonzero(prepared.cut)))


def best_rows(folder: Path, top_k: int) -> list[dict[str, Any]]:
    """The rows with the highest scores of a complete folder of Parquet, best first; of equal ones the earlier first."""
    from pyarrow import parquet

    check_top_k(top_k)
    manifest = read_manifest(folder)
    found: list[dict[str, Any]] = []
    for part in manifest.plan.parts:  # in order, so that a stable sort keeps earlier rows first
        table = parquet.read_table(folder / name_of(part, manifest.form), partitioning=None)
        order = np.argsort(-table["score"].to_numpy(), kind="stable")[:top_k]
        found = sorted([*found, *table.take(order).to_pylist()], key=lambda row: -row["score"])[:top_k]
    return found
