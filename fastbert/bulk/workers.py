"""Several processes on one machine make the parts of a folder; each takes the next part when it is ready for one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastbert.bulk.jobs import Advance, Job
from fastbert.bulk.manifest import Manifest
from fastbert.bulk.pipeline import make_parts
from fastbert.bulk.plan import Part
from fastbert.errors import FastbertError, InputError, TrainingError
from fastbert.stopping import Stopped, stopping_signals

_SECONDS = 0.2  # between two looks at the workers


def make_parts_by_workers(
    folder: Path, manifest: Manifest, job: Job, parts: Sequence[Part], advance: Advance, *, count: int
) -> int:
    """As `make_parts`, by new processes.

    Raises:
        FastbertError: what a worker raised, or that one is gone; the others are stopped then.
    """
    spawn = multiprocessing.get_context("spawn")
    taken, done, cut = spawn.Value("q", 0), spawn.Value("q", 0), spawn.Value("q", 0)
    failures: Any = spawn.SimpleQueue()
    count = min(count, len(parts))
    places = _places(job, count)
    shared = (folder, manifest, parts, taken, done, cut, failures)
    workers = [
        spawn.Process(target=_work, args=(replace(job, device=device), threads, *shared), daemon=True)
        for device, threads in places
    ]
    shown = 0
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(_SECONDS)
            now = done.value
            advance(now - shown)
            shown = now
            _check(workers, failures)
        _check(workers, failures)
        advance(done.value - shown)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    return int(cut.value)


def _places(job: Job, count: int) -> list[tuple[str, int]]:
    """The device of each worker, and the threads it computes on."""
    import torch

    from fastbert.tasks.loading import default_device

    device = default_device(job.device)
    if device.type == "cuda":
        devices = torch.cuda.device_count() if device.index is None else 1
        first = device.index or 0
        return [(f"cuda:{first + at % devices}", torch.get_num_threads()) for at in range(count)]
    return [(str(device), max(1, torch.get_num_threads() // count))] * count


def _check(workers: Sequence[Any], failures: Any) -> None:
    if not failures.empty():
        raise failures.get()
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code not in (None, 0):
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise TrainingError(f"worker {number} is gone ({name}); the same command makes the parts that are missing")


def _end_with_parent() -> None:
    """Ends this process when the first one is gone, whose lock of the folder went with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(
    job: Job,
    threads: int,
    folder: Path,
    manifest: Manifest,
    parts: Sequence[Part],
    taken: Any,
    done: Any,
    cut: Any,
    failures: Any,
) -> None:
    """A worker."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which stops the others
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def mine() -> Iterator[Part]:
        while True:
            with taken.get_lock():
                number = taken.value
                taken.value += 1
            if number >= len(parts):
                return
            yield parts[number]

    def advance(count: int) -> None:
        with done.get_lock():
            done.value += int(count)

    try:
        with stopping_signals():
            found = make_parts(folder, manifest, job, mine(), advance)
        with cut.get_lock():
            cut.value += found
    except Stopped:
        sys.exit(1)
    except (FastbertError, OSError) as error:
        failures.put(error if isinstance(error, FastbertError) else InputError(str(error)))
