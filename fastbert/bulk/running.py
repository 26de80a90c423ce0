"""A bulk job from its inputs to a complete folder: by this process, by those of torchrun, or by workers that it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.bulk.inputs import find_inputs
from fastbert.bulk.jobs import Advance, Job, Sample
from fastbert.bulk.manifest import Manifest, close_manifest, open_manifest, work_of
from fastbert.bulk.pipeline import make_parts
from fastbert.bulk.plan import Part, Plan, make_plan
from fastbert.bulk.reading import Reader, sample
from fastbert.bulk.rows import Columns
from fastbert.bulk.workers import make_parts_by_workers
from fastbert.bulk.writing import check_columns, check_form
from fastbert.data.lines import PLAIN, Form
from fastbert.errors import CheckpointError, InputError
from fastbert.progress import Show, progress
from fastbert.training.world import World

ERRORS = ("strict", "skip")
Engine = Callable[[Path, Manifest, Job, Sequence[Part], Advance], int]  # as `make_parts`
_SAMPLE = 2048  # texts on which a job settles what holds for all parts


@dataclass(frozen=True)
class Summary:
    """What a start of a job did.

    Attributes:
        folder: the output.
        rows, parts: of the whole output.
        made: rows that this start made, by all its processes.
        skipped: rows that could not be used, and `unreadable` files.
        cut: of the rows made, those whose text was longer than the model reads.
        seconds: from the scan's end, and the loading of the model, to the last part.
        leads: whether this process is to report: the only one, or rank 0 under torchrun.
    """

    folder: Path
    rows: int
    parts: int
    made: int
    skipped: int
    unreadable: int
    cut: int
    seconds: float
    leads: bool


def run_job(
    job: Job,
    inputs: Sequence[str],
    output: str | Path,
    columns: Columns | None = None,
    form: Form = PLAIN,
    *,
    file_form: str = "parquet",
    part_rows: int | None = None,
    errors: str = "strict",
    workers: int | None = None,
    engine: Engine | None = None,
    show_progress: Show = None,
) -> Summary:
    """Runs a job over files into a folder, or does what an earlier start left undone.

    Args:
        job: what is computed, such as `Embed`.
        inputs: names of files, or patterns: text, .csv, .tsv, .jsonl, each also with .gz, or .parquet.
        output: a folder, made if absent; its manifest tells whether it was begun with the same inputs, model and settings.
        columns: what is read of each row.
        form: encoding and delimiter of the inputs.
        file_form: "parquet", "npy" (vectors only, with JSON lines of ids beside them) or "jsonl".
        part_rows: rows of a part; None takes the job's own number.
        errors: "strict" stops at the first row that cannot be used, before any work is done; "skip" counts them.
        workers: processes on this machine, None for this one: one after the other on its CUDA devices, or sharing its threads.
        engine: makes the parts in the place of this process and its workers, such as one for a cluster.
        show_progress: see `fastbert.progress`.

    Raises:
        InputError: inputs that cannot be used, a folder made of something else, or one in which another process works.
        CheckpointError: the output cannot be written; the same command goes on from there.
    """
    folder, columns = Path(output).expanduser(), columns or Columns()
    if errors not in ERRORS:
        raise InputError(f"errors = {errors!r} is not one of {', '.join(ERRORS)}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers = {workers!r} must be a whole number of at least 1")
    world = World.join(job.device)
    try:
        if world.size > 1 and (workers is not None or engine is not None):
            what = f"workers = {workers}" if engine is None else "an engine"
            raise InputError(f"{what}: torchrun has started {world.size} processes already")
        if workers is not None and workers > 1 and engine is None:
            engine = partial(make_parts_by_workers, count=workers)
        placed = job if world.size == 1 else replace(job, device=str(world.device))  # whose model is loaded once
        with ExitStack() as claim:

            def begin() -> Manifest:
                check_form(file_form)
                check_columns(columns, placed.own_columns)
                placed.check_texts(columns.texts)
                paths = find_inputs(inputs, folder)
                work = work_of(placed, columns, form, placed.part_rows if part_rows is None else part_rows, file_form)
                claim.enter_context(files.claimed(folder))

                def make() -> tuple[dict[str, Any], Plan]:
                    (placed if engine is None else replace(placed, device="cpu")).probe()  # a cluster's head may have no GPU
                    plan = make_plan(paths, columns, form, work["part_rows"], skip_errors=errors == "skip", show=show_progress)
                    return placed.settle(lambda: _sample(Reader(plan, columns, form), plan)), plan

                return open_manifest(folder, work, paths, make)

            manifest = world.from_first(begin)
            return _finish(folder, manifest, placed, world, engine, show_progress)
    finally:
        world.leave()


def _sample(reader: Reader, plan: Plan) -> Sample:
    rows = sample(reader, plan.parts, _SAMPLE)
    return rows.texts, rows.place


def _finish(folder: Path, manifest: Manifest, job: Job, world: World, engine: Engine | None, show: Show) -> Summary:
    """Makes the missing parts and closes the manifest."""
    plan = manifest.plan
    missing = world.from_first(lambda: manifest.missing(folder))
    own = missing[len(missing) * world.rank // world.size : len(missing) * (world.rank + 1) // world.size]
    if own and engine is None:
        _ = job.task  # loaded before the clock starts
    started = time.perf_counter()
    done = plan.rows - sum(part.rows for part in missing)
    shown = show if world.leads else False
    initial = done if world.size == 1 else 0
    total = plan.rows if world.size == 1 else sum(part.rows for part in own)
    with progress(total, "row", job.name, shown, initial=initial) as bar:
        try:
            cut = (engine or make_parts)(folder, manifest, job, own, bar.update) if own else 0
        except CheckpointError as error:
            left = len(manifest.missing(folder))
            raise CheckpointError(
                f"{error}; {left:,} of {len(plan.parts):,} parts are missing, the same command makes them"
            ) from error
    (all_cut,) = world.sum([cut])
    if world.leads:
        close_manifest(folder, manifest)
    return Summary(
        folder=folder,
        rows=plan.rows,
        parts=len(plan.parts),
        made=plan.rows - done,
        skipped=plan.skipped,
        unreadable=len(plan.unreadable),
        cut=int(all_cut),
        seconds=time.perf_counter() - started,
        leads=world.leads,
    )
