"""The HTTP side's view of the workers: starts them, gives each request to the least busy one, and hands answers back."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any

from fastbert.errors import CheckpointError, FastbertError
from fastbert.serving.messages import Answer, Ask, Cancel, Failed, Ready
from fastbert.serving.worker import work


class OverloadedError(FastbertError):
    """As many requests as are allowed are being worked on."""


class GoneError(FastbertError):
    """The worker ended before it answered."""


@dataclass(eq=False)
class _Worker:
    """A process and what it is busy with."""

    arguments: tuple[Any, ...]
    process: Any = None
    pipe: Any = None
    outgoing: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    waiting: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)
    info: dict[str, Any] | None = None
    queued: int = 0
    batches: int = 0
    tokens: int = 0


class Workers:
    """All workers of a server.

    Args:
        model: arguments of `Served`; its device is that of the first worker, the others follow on CUDA.
        count: how many.
        threads: of a CPU for each.
        batch_tokens: tokens of a batch.
        most: requests that are worked on at once, by all together.
    """

    def __init__(
        self, model: Mapping[str, Any], count: int = 1, threads: int | None = None, batch_tokens: int = 16384, most: int = 512
    ) -> None:
        self.most = most
        self.restarts = 0
        places = [dict(model)] if count == 1 else [{**model, "device": f"cuda:{number}"} for number in range(count)]
        self._workers = [_Worker((place, threads, batch_tokens, most)) for place in places]
        self._numbers = _numbers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self.failure: FastbertError | None = None

    async def start(self) -> dict[str, Any]:
        """Starts the workers and waits for their models; returns facts of the model.

        Raises:
            CheckpointError: the model cannot be loaded.
        """
        self._loop = asyncio.get_running_loop()
        ready = [self._launch(worker) for worker in self._workers]
        try:
            await asyncio.gather(*ready)
        except FastbertError as error:
            self.failure = error
            raise
        return self.info

    @property
    def info(self) -> dict[str, Any]:
        """Facts of the model; empty until a worker is ready."""
        return next((worker.info for worker in self._workers if worker.info is not None), {})

    @property
    def healthy(self) -> bool:
        """Whether a worker is ready."""
        return not self._stopping and any(worker.info is not None for worker in self._workers)

    @property
    def active(self) -> int:
        """Requests that are being worked on."""
        return sum(len(worker.waiting) for worker in self._workers)

    @property
    def load(self) -> dict[str, int]:
        """Tokens that wait, and what was computed: batches and tokens."""
        names = ("queued", "batches", "tokens")
        return {name: sum(getattr(worker, name) for worker in self._workers) for name in names}

    async def ask(self, name: str, payload: dict[str, Any]) -> Any:
        """The result of a request; if the task that awaits it is cancelled, its rows leave the queue.

        Raises:
            OverloadedError: as many requests as are allowed are being worked on. InputError and others: see `Served.answer`.
            GoneError: the worker ended.
        """
        from fastbert.errors import InputError, TooLongError

        if self.active >= self.most:
            raise OverloadedError(f"{self.most} requests are being worked on, which is the limit; try again later")
        ready = [worker for worker in self._workers if worker.info is not None]
        if not ready:
            raise GoneError("the model is being loaded; try again later")
        worker = min(ready, key=lambda one: len(one.waiting))
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        worker.waiting[number] = future
        worker.outgoing.put(Ask(number, name, payload))
        try:
            answer = await future
        except asyncio.CancelledError:
            worker.outgoing.put(Cancel(number))
            raise
        finally:
            worker.waiting.pop(number, None)
        kinds = {"input": InputError, "too long": TooLongError, "gone": GoneError}
        if answer.kind:
            raise kinds.get(answer.kind, FastbertError)(answer.why)
        return answer.result

    async def stop(self) -> None:
        """Ends the workers; what they have accepted is answered before."""
        self._stopping = True
        while self.active:
            await asyncio.sleep(0.01)
        for worker in self._workers:
            worker.outgoing.put(None)
        for worker in self._workers:
            if worker.process is not None:
                await asyncio.to_thread(worker.process.join, 30)
                if worker.process.is_alive():
                    worker.process.kill()

    async def _launch(self, worker: _Worker) -> None:
        """Starts a worker's process and threads, and waits until it is ready."""
        assert self._loop is not None
        spawn = multiprocessing.get_context("spawn")
        worker.pipe, theirs = spawn.Pipe()
        worker.process = spawn.Process(target=work, args=(theirs, *worker.arguments), daemon=True)
        worker.process.start()
        theirs.close()
        worker.outgoing = SimpleQueue()
        ready: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=_send, args=(worker.pipe, worker.outgoing), name="sender", daemon=True).start()
        threading.Thread(target=self._receive, args=(worker, ready), name="receiver", daemon=True).start()
        await ready

    def _receive(self, worker: _Worker, ready: asyncio.Future[None]) -> None:
        """Hands on what a worker sends, until it ends."""
        assert self._loop is not None
        pipe = worker.pipe
        while True:
            try:
                found = pipe.recv()
            except (EOFError, OSError):
                break
            self._loop.call_soon_threadsafe(self._take, worker, ready, found)
        with suppress(RuntimeError):  # the server has ended as well
            self._loop.call_soon_threadsafe(self._ended, worker, ready)

    def _take(self, worker: _Worker, ready: asyncio.Future[None], found: list[Any]) -> None:
        for message in found:
            if isinstance(message, Ready):
                worker.info = message.info
                ready.set_result(None)
            elif isinstance(message, Failed):
                ready.set_exception(CheckpointError(message.why))
            elif isinstance(message, Answer):
                worker.queued, worker.batches, worker.tokens = message.queued, message.batches, message.tokens
                future = worker.waiting.get(message.number)
                if future is not None and not future.done():
                    future.set_result(message)

    def _ended(self, worker: _Worker, ready: asyncio.Future[None]) -> None:
        """A worker's process has ended: those who wait are told, and another one is started."""
        was_ready, worker.info = worker.info is not None, None
        for future in worker.waiting.values():
            if not future.done():
                future.set_exception(GoneError("the model's process ended before it answered; try again"))
        if not ready.done():
            ready.set_exception(CheckpointError("the model's process ended while it loaded the model"))
        elif was_ready and not self._stopping:
            self.restarts += 1
            assert self._loop is not None
            self._restarting = self._loop.create_task(self._launch(worker))


def _numbers() -> Any:
    return count(1)


def _send(pipe: Any, outgoing: SimpleQueue[Any]) -> None:
    """Sends messages, as many together as there are, until None."""
    while True:
        together = [outgoing.get()]
        while not outgoing.empty():
            together.append(outgoing.get())
        try:
            if [one for one in together if one is not None]:
                pipe.send([one for one in together if one is not None])
            if None in together:
                pipe.send(None)
                return
        except (OSError, ValueError):  # the worker is gone
            return
