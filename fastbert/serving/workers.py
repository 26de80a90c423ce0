"""The HTTP side's view of the workers: starts them, gives each request to the least busy one, and hands answers back."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from itertools import count as counter
from queue import SimpleQueue
from typing import Any

from fastbert.errors import CheckpointError, FastbertError, InputError, TooLongError
from fastbert.serving.messages import Answer, Ask, Cancel, Failed, Ready, send_all
from fastbert.serving.worker import work
from fastbert.terminal import show_line


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
    busy: set[int] = field(default_factory=set)  # requests that it has not answered, whether or not somebody waits
    ready: bool = False
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
        self.info: dict[str, Any] = {}
        places = [dict(model)] if count == 1 else [{**model, "device": f"cuda:{number}"} for number in range(count)]
        self._workers = [_Worker((place, threads, batch_tokens, most)) for place in places]
        self._numbers = counter(1)
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
            self.kill()
            raise
        return self.info

    @property
    def healthy(self) -> bool:
        """Whether a worker is ready."""
        return not self._stopping and any(worker.ready for worker in self._workers)

    @property
    def active(self) -> int:
        """Requests that are being worked on."""
        return sum(len(worker.busy) for worker in self._workers)

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
        if self.active >= self.most:
            raise OverloadedError(f"{self.most} requests are being worked on, which is the limit; try again later")
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            raise GoneError("the model is being loaded; try again later")
        worker = min(ready, key=lambda one: len(one.busy))
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        worker.waiting[number] = future
        worker.busy.add(number)
        worker.outgoing.put(Ask(number, name, payload))
        try:
            answer = await future
        except asyncio.CancelledError:
            worker.outgoing.put(Cancel(number))
            raise
        finally:
            worker.waiting.pop(number, None)
        kinds = {"input": InputError, "too long": TooLongError, "gone": GoneError}
        if answer.kind == "failed":
            show_line(f"fastbert: a request failed: {answer.why}")
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
        self.kill()

    def kill(self) -> None:
        """Ends what is left of the workers, whatever they do."""
        self._stopping = True
        for worker in self._workers:
            if worker.process is not None and worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    async def _launch(self, worker: _Worker) -> None:
        """Starts a worker's process and threads, and waits until it is ready."""
        assert self._loop is not None
        spawn = multiprocessing.get_context("spawn")
        worker.outgoing.put(None)  # ends the sender of a process before
        worker.pipe, theirs = spawn.Pipe()
        worker.process = spawn.Process(target=work, args=(theirs, *worker.arguments), daemon=True)
        worker.process.start()
        theirs.close()
        worker.outgoing = SimpleQueue()
        ready: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=send_all, args=(worker.pipe, worker.outgoing), name="sender", daemon=True).start()
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
            with suppress(RuntimeError):  # the server has ended
                self._loop.call_soon_threadsafe(self._take, worker, ready, found)
        pipe.close()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended, worker, ready)

    def _take(self, worker: _Worker, ready: asyncio.Future[None], found: list[Any]) -> None:
        for message in found:
            if isinstance(message, Ready):
                self.info, worker.ready = message.info, True
                ready.set_result(None)
            elif isinstance(message, Failed):
                ready.set_exception(CheckpointError(message.why))
            elif isinstance(message, Answer):
                worker.queued, worker.batches, worker.tokens = message.queued, message.batches, message.tokens
                worker.busy.discard(message.number)
                future = worker.waiting.get(message.number)
                if future is not None and not future.done():
                    future.set_result(message)

    def _ended(self, worker: _Worker, ready: asyncio.Future[None]) -> None:
        """A worker's process has ended: those who wait are told, and another one is started."""
        worker.ready, worker.queued = False, 0
        worker.busy.clear()
        for future in worker.waiting.values():
            if not future.done():
                future.set_exception(GoneError("the model's process ended before it answered; try again"))
        if not ready.done():
            ready.set_exception(CheckpointError("the model's process ended while it loaded the model"))
        elif not self._stopping and ready.exception() is None:
            assert self._loop is not None
            self._restarting = self._loop.create_task(self._restart(worker))

    async def _restart(self, worker: _Worker) -> None:
        """Starts another process in the place of one that has ended, again and again until it has loaded its model."""
        for seconds in chain((0, 1, 2, 4, 8, 16), repeat(30)):
            if self._stopping:
                return
            show_line(f"fastbert: the model's process has ended; another one is started{f' in {seconds} s' if seconds else ''}")
            await asyncio.sleep(seconds)
            self.restarts += 1
            try:
                await self._launch(worker)
            except FastbertError as error:
                show_line(f"fastbert: {error}")
            else:
                return
