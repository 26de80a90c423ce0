"""Runs each candidate in a separate process, so that imports, allocations, warm-up and crashes stay isolated.

A crash, running out of memory or a call that never ends costs only that candidate its figure. The parent asks one candidate at
a time, so only one uses the machine at any moment.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.speed.jobs import Inputs, Job, Work

PRELOADED = ["torch", "transformers.models.bert.modeling_bert"]  # imported once; every process is forked from that


class CandidateError(Exception):
    """A candidate failed; the message is one line."""


class Worker:
    """A candidate in its own process.

    Args:
        make: "module:name" of the factory of the Work, called as `make(job, **options)` in that process.
        job: the job to load.
        options: further arguments.
        patience: timeout for an answer, in seconds.
        wait: whether to wait until the candidate is loaded; otherwise call `ready` later.

    Raises:
        CandidateError: here and in every call, if the candidate failed.
    """

    settings: tuple[int | None, ...]

    def __init__(
        self, make: str, job: Job, options: Mapping[str, Any] | None = None, patience: float = 1800, wait: bool = True
    ) -> None:
        context = _context()
        self._patience = patience
        self._log = tempfile.NamedTemporaryFile(prefix="candidate-", suffix=".log")  # noqa: SIM115  closed with the worker
        self._connection, theirs = context.Pipe()
        arguments = (theirs, make, job, dict(options or {}), self._log.name)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        if wait:
            self.ready()

    def ready(self) -> None:
        """Waits until the candidate is loaded, and receives its settings."""
        try:
            self.settings = self._answer()
        except BaseException:
            self.close()
            raise

    def take(self, inputs: Inputs) -> None:
        """Gives the candidate the inputs of all following calls."""
        self._ask("take", inputs)

    def outputs(self) -> list[Any]:
        """The candidate's outputs; see `Work.outputs`."""
        return list(self._ask("outputs"))

    def seconds(self, setting: int | None, at_least: float = 0.0) -> float:
        """Time of one pass in seconds; see `timing.seconds_of`."""
        return float(self._ask("seconds", setting, at_least))

    def peak_bytes(self, setting: int | None) -> int | None:
        """Peak memory of one pass in bytes; see `timing.peak_bytes`."""
        return self._ask("peak_bytes", setting)  # type: ignore[no-any-return]

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls any other method of the candidate's Work."""
        return self._ask("call", method, *arguments)

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()  # which ends the process's loop
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._log.close()

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
        except OSError:
            raise CandidateError(self._cause_of_death()) from None
        return self._answer()

    def _answer(self) -> Any:
        if not self._connection.poll(self._patience):
            self._process.kill()
            raise CandidateError(f"gave no answer within {self._patience:.0f} s and was ended")
        try:
            fine, value = self._connection.recv()
        except (EOFError, OSError):
            raise CandidateError(self._cause_of_death()) from None
        if not fine:
            raise CandidateError(value)
        return value

    def _cause_of_death(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        said = [line for line in Path(self._log.name).read_text(errors="replace").splitlines() if line.strip()]
        ended = f"its process ended with exit code {code}"
        if code is not None and code < 0:
            ended = f"its process was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                ended += ", as the system does when memory runs out"
        return f"{ended}: {said[-1].strip()[:200]}" if said else ended


def load(make: str, job: Job, options: Mapping[str, Any] | None = None) -> Work:
    """Makes the Work of a candidate in this process."""
    module, _, name = make.partition(":")
    work: Work = getattr(importlib.import_module(module), name)(job, **(options or {}))
    return work


class _Server:
    def __init__(self, work: Work, device: Any) -> None:
        self.work, self.device = work, device

    def take(self, inputs: Inputs) -> None:
        self.work.take(inputs)

    def outputs(self) -> list[Any]:
        return self.work.outputs()

    def seconds(self, setting: int | None, at_least: float) -> float:
        from benchmarks.speed.timing import seconds_of

        return seconds_of(lambda: self.work.run(setting), self.device, at_least, self.work.cold)

    def peak_bytes(self, setting: int | None) -> int | None:
        from benchmarks.speed.timing import peak_bytes

        return peak_bytes(lambda: self.work.run(setting), self.device)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.work, method)(*arguments)


def _serve(connection: Connection, make: str, job: Job, options: dict[str, Any], log: str) -> None:
    """Runs in the candidate's process: makes the Work, then answers requests until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends this process
    with Path(log).open("w") as file:  # keeps the output of libraries out of the report
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    keep_freed_memory()
    try:
        import torch

        device = torch.device(job.device)
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
        server = _Server(load(make, job, options), device)
        connection.send((True, server.work.settings))
    except BaseException as error:
        connection.send((False, one_line(error)))
        return
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            return
        _answer(connection, getattr(server, method), arguments)


def _answer(connection: Connection, method: Callable[..., Any], arguments: list[Any]) -> None:
    try:
        connection.send((True, method(*arguments)))
    except BaseException as error:  # whatever a library raises is recorded as this candidate's result
        connection.send((False, one_line(error)))


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory, for every candidate alike.

    By default, glibc returns large activations to the system after each use and faults them in again page by page, which can
    cost a padded model on a CPU more time than its matrix products.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, mallopt(3)
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


def one_line(error: BaseException) -> str:
    """An exception as one line of text, for a table."""
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {message}"[:240].rstrip(": ")


def _context() -> Any:
    """A forkserver context whose server has only imported PyTorch and transformers; spawn if there is no forkserver."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
