"""fastbert on a Ray cluster: an actor class for Ray Data's `map_batches`, and bulk jobs whose parts the cluster makes.

    pool = ray.data.ActorPoolStrategy(size=4)
    ds.map_batches(Embedder, fn_constructor_args=["sentence-transformers/all-MiniLM-L6-v2"], compute=pool, num_gpus=1)

Ray starts an actor for each place of the pool; it loads the model once, and computes on what Ray gives it: the GPU that it may
see, or as many threads as it has CPUs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastbert import errors, tasks
from fastbert.bulk.jobs import Advance, Job
from fastbert.bulk.manifest import Manifest, read_manifest
from fastbert.bulk.pipeline import make_parts
from fastbert.bulk.plan import Part
from fastbert.errors import InputError, TrainingError
from fastbert.model.prepacking import prepack

_TOGETHER = 4  # parts that an actor gets at a time, the next one read while one is computed


class Embedder:
    """Adds a column of vectors to batches of texts.

    Args:
        model: a directory or a hub id, which every node can read.
        column: of the texts.
        output: the column to add.
        device, dtype: as of `tasks.Embedder.from_pretrained`.
        options: of `tasks.Embedder.encode`, such as `normalize` and `precision="float16"`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        column: str = "text",
        output: str = "vector",
        device: str | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        self.column, self.output, self.options = column, output, options
        self.embedder = tasks.Embedder.from_pretrained(model, device, dtype)
        prepack(self.embedder.model)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of n values, (n,) arrays or lists -> the same and `output`, (n, D).

        Raises:
            InputError: no such column, or a value in it that is no text.
        """
        if self.column not in batch:
            raise InputError(f"column = {self.column!r}: the batch has {', '.join(batch)}")
        texts = np.asarray(batch[self.column], dtype=object).tolist()
        return {**batch, self.output: self.embedder.encode(texts, show_progress=False, **self.options)}


def make_parts_on_cluster(
    folder: Path,
    manifest: Manifest,
    job: Job,
    parts: Sequence[Part],
    advance: Advance,
    *,
    address: str = "auto",
    workers: int | None = None,
) -> int:
    """As `bulk.pipeline.make_parts`, by actors on a cluster whose nodes all see the inputs, the model and the output.

    Args:
        folder, manifest, job, parts, advance: see there.
        address: of the cluster, as `ray.init` takes it. A connection that is there already is used.
        workers: actors; None means one a GPU, or on a CPU one a node.

    Raises:
        InputError: no cluster at the address. TrainingError: Ray gave the work up.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"address = {address!r}: no Ray cluster there ({error}); `ray start --head` starts one") from None
    try:
        return _run(folder.resolve(), job, parts, advance, workers)
    finally:
        if not connected:
            ray.shutdown()


def _run(folder: Path, job: Job, parts: Sequence[Part], advance: Advance, workers: int | None) -> int:
    import ray

    count, place = _places(ray.nodes(), job.device, workers)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": part.number} for part in parts]
    items = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _TOGETHER))
    _hush()
    made = items.map_batches(
        _Maker,
        fn_constructor_args=[folder, job, Path.cwd()],
        batch_size=_TOGETHER,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(rows))),
        **place,
    )
    cut = 0
    try:
        for row in made.iter_rows():
            if row["failure"]:
                raise getattr(errors, row["kind"])(row["failure"])
            advance(int(row["rows"]))
            cut += int(row["cut"])
    except ray.exceptions.RayError as error:
        text = str(error).strip().splitlines()
        raise TrainingError(f"Ray gave up: {text[0] if text else type(error).__name__}; the same command goes on") from error
    return cut


def _places(nodes: Sequence[Mapping[str, Any]], device: str | None, workers: int | None) -> tuple[int, dict[str, Any]]:
    """How many actors, and what each asks of its node."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in alive))
    if gpus and device in (None, "cuda"):
        return workers or gpus, {"num_gpus": 1}
    cpus = sorted(int(node.get("CPU", 0)) for node in alive if node.get("CPU", 0) >= 1)
    if not cpus:
        raise InputError("the cluster has no free CPU")
    if workers is None:
        return len(cpus), {"num_cpus": cpus[0]}
    return workers, {"num_cpus": max(1, sum(cpus) // workers) if workers >= len(cpus) else cpus[0]}


def _hush() -> None:
    """Keeps what Ray Data says of its own plans off stderr, where our progress is."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)


class _Maker:
    """An actor that makes parts."""

    def __init__(self, folder: Path, job: Job, here: Path) -> None:
        self.folder, self.job, self.here = folder, job, here
        self.manifest: Manifest | None = None

    def _begin(self) -> Manifest:
        os.chdir(self.here)  # names of inputs may be relative
        manifest, job = read_manifest(self.folder), self.job
        if not job.folder.is_dir():
            job = replace(job)  # which finds the model anew, on this node
            if job.fingerprint != manifest.work["model"]["sha256"]:
                raise InputError(f"model = {job.model!r}: a node found another model there than the first process did")
        self.job = job
        return manifest

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows, cut, kind, failure = 0, 0, "", ""
        try:
            self.manifest = self.manifest or self._begin()
            parts = [self.manifest.plan.parts[number] for number in batch["number"].tolist()]
            cut = make_parts(self.folder, self.manifest, self.job, parts, lambda count: None)
            rows = sum(part.rows for part in parts)
        except errors.FastbertError as error:  # Ray would send only its text
            kind, failure = type(error).__name__, str(error)
        except OSError as error:
            kind, failure = "CheckpointError", str(error)
        found = {"rows": rows, "cut": cut, "kind": kind, "failure": failure}
        return {name: np.array([value]) for name, value in found.items()}
