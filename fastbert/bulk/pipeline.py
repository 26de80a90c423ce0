"""Parts, one after the other: the next is read and tokenised, and the last one written, while the model computes.

    reader thread   part 3: rows -> prepared     this thread   part 2: prepared -> results     writer thread   part 1 -> file

No more than these three parts are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastbert.bulk.jobs import Advance, Job, Results
from fastbert.bulk.manifest import Manifest
from fastbert.bulk.plan import Part
from fastbert.bulk.reading import PartRows, Reader
from fastbert.bulk.rows import Columns
from fastbert.bulk.writing import write_part
from fastbert.data.lines import Form


def make_parts(folder: Path, manifest: Manifest, job: Job, parts: Iterable[Part], advance: Advance) -> int:
    """Makes parts of the output; returns how many texts were longer than the model reads.

    Args:
        folder: the output.
        manifest: of it.
        job: the work.
        parts: the parts; the next one is asked for when the one before it begins to be computed.
        advance: called with numbers of rows that are done.

    Raises:
        InputError: an input that has changed, or a text that cannot be used. CheckpointError: the output cannot be written.
    """
    coming = iter(parts)
    first = next(coming, None)
    if first is None:
        return 0
    columns, form = columns_of(manifest), Form(**manifest.work["reading"])
    opened = job.open(manifest.settled)
    reading = Reader(manifest.plan, columns, form)
    cut = 0

    def load(part: Part) -> tuple[Part, PartRows, Any]:
        rows = reading.read(part)
        return part, rows, opened.prepare(rows.texts, rows.place)

    def write(part: Part, rows: PartRows, results: Results) -> None:
        write_part(folder, part, manifest.plan, rows, results, columns, manifest.form, opened)

    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        loading: Future[Any] | None = reader.submit(load, first)
        writing: Future[None] | None = None
        while loading is not None:
            part, rows, prepared = loading.result()
            following = next(coming, None)
            loading = None if following is None else reader.submit(load, following)
            results = opened.compute(prepared, advance)
            del prepared
            cut += results.cut
            if writing is not None:
                writing.result()
            writing = writer.submit(write, part, rows, results)
            del rows, results
        if writing is not None:
            writing.result()
    return cut


def columns_of(manifest: Manifest) -> Columns:
    """The columns that a manifest names."""
    found = manifest.work["columns"]
    return Columns(tuple(found["texts"]), found["id"], tuple(found["keep"]))
