"""One loop on the device for all requests: rows of any of them fill a batch.

    threads of requests: texts -> rows -> wait      the loop: rows of several requests -> one packed batch -> results to each

A row's turn comes by the tokens ahead of it: those that the loop had done when its request came, and those of the same
request's rows before it. So a request of few tokens passes one of many that came before it, and no request waits for ever, as
its rows keep their turn while others come.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert.errors import FastbertError
from fastbert.packing.batching import Step, bring_back, pack_rows, tokens_at_once
from fastbert.text.framing import Framed, Ints


class CancelledError(FastbertError):
    """The client that asked has gone."""


class Ticket:
    """A request, as the loop knows it.

    Attributes:
        cancelled: nobody waits for it any more.
        coming: it is being tokenised: its rows will come soon.
    """

    def __init__(self) -> None:
        self.cancelled = self.coming = False


@dataclass(eq=False)
class _Work:
    """Rows that a request waits for."""

    framed: Framed
    step: Step
    ticket: Ticket
    done: SimpleQueue[Any] = field(default_factory=SimpleQueue)


@dataclass(order=True)
class _Row:
    turn: int
    number: int  # of equal turns the earlier
    work: _Work = field(compare=False)
    row: int = field(compare=False)
    tokens: int = field(compare=False)


_Picked = list[_Row]


class Loop:
    """Runs the rows of all requests, in a thread of its own.

    Args:
        device: of the model.
        batch_tokens: tokens of a batch, see `batching.tokens_at_once`.
        wait: most seconds that an idle device waits for rows that are coming.
        on_death: called if the loop itself fails, once all who wait know it.
    """

    def __init__(
        self, device: torch.device, batch_tokens: int, wait: float = 0.002, on_death: Callable[[], object] | None = None
    ) -> None:
        self.device, self.wait, self._on_death = device, wait, on_death
        self.batch_tokens = tokens_at_once(batch_tokens, device)
        self.queued_tokens = 0
        self.batches = self.tokens_done = 0  # what has been computed
        self._rows: dict[Hashable, _Picked] = {}  # heaps of waiting rows, by what they can share a batch with
        self._clock = 0  # tokens taken so far
        self._coming = 0  # requests that are being tokenised
        self._picked: _Picked = []  # rows of the batch that was picked last
        self._numbers = count()
        self._change = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._live, name="loop", daemon=True)
        self._thread.start()

    def announce(self, ticket: Ticket) -> None:
        """A request has come, whose rows will follow."""
        with self._change:
            ticket.coming = True
            self._coming += 1

    def arrived(self, ticket: Ticket) -> None:
        """Rows of an announced request have come, or it has ended without any."""
        with self._change:
            if ticket.coming:
                ticket.coming = False
                self._coming -= 1
                self._change.notify_all()

    def runner(self, ticket: Ticket) -> Callable[[Framed, Step, Hashable], Iterator[tuple[Ints, list[Tensor]]]]:
        """What `batching.sharing` takes: runs rows of one request in this loop."""

        def run(framed: Framed, step: Step, key: Hashable) -> Iterator[tuple[Ints, list[Tensor]]]:
            if not len(framed):
                return
            work = _Work(framed, step, ticket)
            self._add(work, key)
            self.arrived(ticket)
            left = len(framed)
            while left:
                found = work.done.get()
                if isinstance(found, BaseException):
                    raise found
                left -= len(found[0])
                yield found

        return run

    def stop(self) -> None:
        """Ends the loop once nothing waits."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._thread.join()

    def _add(self, work: _Work, key: Hashable) -> None:
        lengths = work.framed.lengths.tolist()
        with self._change:
            if self._stopped:
                raise CancelledError("the server is stopping")
            heap = self._rows.setdefault(id(work) if key is None else key, [])
            turn = self._clock
            for row, tokens in enumerate(lengths):
                turn += tokens
                heapq.heappush(heap, _Row(turn, next(self._numbers), work, row, tokens))
            self.queued_tokens += sum(lengths)
            self._change.notify_all()

    def _live(self) -> None:
        try:
            self._run()
        except BaseException as error:
            with self._change:
                self._stopped = True
                waiting, self._rows = [row for heap in self._rows.values() for row in heap], {}
            _fail([*waiting, *self._picked], error)
            if self._on_death is not None:
                self._on_death()
            raise

    def _run(self) -> None:
        running: tuple[_Picked, Callable[[], list[Tensor]]] | None = None
        while True:
            picked = self._pick(idle=running is None)
            if picked is None:
                return
            started = self._start(picked) if picked else None
            if running is not None:
                self._finish(*running)
            running = started
            if running is not None and self.device.type == "cpu":  # which has computed it by now
                self._finish(*running)
                running = None

    def _pick(self, idle: bool) -> _Picked | None:
        """The next batch's rows; none while another runs and nothing waits; None at the end."""
        with self._change:
            while idle and not self._rows:
                if self._stopped:
                    return None
                self._change.wait()
            if idle:
                end = time.monotonic() + self.wait
                while self._coming and self.queued_tokens < self.batch_tokens and not self._stopped:
                    left = end - time.monotonic()
                    if left <= 0 or not self._change.wait(left):
                        break
            if not self._rows:
                return []
            key = min(self._rows, key=lambda one: self._rows[one][0])
            heap, total = self._rows[key], 0
            picked: _Picked = []
            while heap and (not picked or total + heap[0].tokens <= self.batch_tokens):
                row = heapq.heappop(heap)
                self.queued_tokens -= row.tokens
                if row.work.ticket.cancelled:
                    row.work.done.put(CancelledError("the client has gone"))
                    continue
                picked.append(row)
                total += row.tokens
            if not heap:
                del self._rows[key]
            self._clock += total
            self._picked = picked
            return picked

    @torch.inference_mode()
    def _start(self, picked: _Picked) -> tuple[_Picked, Callable[[], list[Tensor]]] | None:
        try:
            batch = pack_rows(*_framed(picked), self.device, own=True)
            return picked, bring_back(picked[0].work.step(batch), self.device)
        except Exception as error:  # goes to those who wait
            _fail(picked, error)
            return None

    def _finish(self, picked: _Picked, results: Callable[[], list[Tensor]]) -> None:
        try:
            found = results()
            shared = len({id(row.work) for row in picked}) > 1
            parts = [_split(result, [row.tokens for row in picked]) for result in found] if shared else []
        except Exception as error:  # goes to those who wait
            _fail(picked, error)
            return
        self.batches += 1
        self.tokens_done += sum(row.tokens for row in picked)
        if not shared:
            picked[0].work.done.put((np.array([row.row for row in picked]), found))
            return
        places: dict[int, list[int]] = {}
        for place, row in enumerate(picked):
            places.setdefault(id(row.work), []).append(place)
        for of_work in places.values():
            rows = np.array([picked[place].row for place in of_work])
            picked[of_work[0]].work.done.put((rows, [torch.cat([part[place] for place in of_work]) for part in parts]))


def _framed(picked: _Picked) -> tuple[Framed, Ints]:
    """What a batch is packed from: a request's own rows where it is alone, whose step may look at them."""
    first = picked[0].work
    if all(row.work is first for row in picked):
        return first.framed, np.array([row.row for row in picked])
    merged = Framed.merged([(row.work.framed, np.array([row.row])) for row in picked])
    return merged, np.arange(len(picked))


def _split(result: Tensor, tokens: Sequence[int]) -> Sequence[Tensor]:
    """A result row by row: it has one entry a row, or one a token."""
    return result.split(1) if len(result) == len(tokens) else result.split(list(tokens))


def _fail(picked: _Picked, error: BaseException) -> None:
    for work in {id(row.work): row.work for row in picked}.values():
        work.done.put(error)
