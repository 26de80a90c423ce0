"""A worker: the process that has the model on one device. Requests come and answers go through one pipe.

main thread: receives   pool: a thread a request, which tokenises, waits for its rows, and decodes
loop: the device        sender: answers, as many together as there are
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from fastbert.errors import FastbertError, InputError, TooLongError
from fastbert.serving.messages import Answer, Ask, Cancel, Failed, Ready, send_all


def work(pipe: Connection, model: dict[str, Any], threads: int | None, batch_tokens: int, most: int) -> None:
    """Serves until the other end of the pipe closes, or its last message comes.

    Args:
        pipe: to the HTTP side.
        model: arguments of `Served`.
        threads: of a CPU; None leaves what PyTorch takes.
        batch_tokens: tokens of a batch.
        most: requests that are worked on at once.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the HTTP side drains, and then says that it is over
    import torch

    from fastbert.serving.loop import Loop
    from fastbert.serving.models import Served

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        served = Served(**model)
    except (FastbertError, OSError) as error:
        pipe.send([Failed(str(error))])
        return
    answers: SimpleQueue[Answer | None] = SimpleQueue()
    sender = threading.Thread(target=send_all, args=(pipe, answers), name="sender", daemon=True)
    sender.start()
    loop = Loop(served.task.model.device, batch_tokens, on_death=lambda: os._exit(1))
    try:
        pipe.send([Ready(served.info())])
    except OSError:  # the HTTP side is gone
        return
    tickets: dict[int, Any] = {}
    with ThreadPoolExecutor(most, "request") as pool:
        for message in _messages(pipe):
            if isinstance(message, Cancel):
                ticket = tickets.get(message.number)
                if ticket is not None:
                    ticket.cancelled = True
            elif isinstance(message, Ask):
                _begin(message, served, loop, pool, tickets, answers)
    loop.stop()
    answers.put(None)
    sender.join()


def _begin(ask: Ask, served: Any, loop: Any, pool: ThreadPoolExecutor, tickets: dict[int, Any], answers: Any) -> None:
    from fastbert.packing.batching import sharing
    from fastbert.serving.loop import CancelledError, Ticket

    ticket = tickets[ask.number] = Ticket()
    loop.announce(ticket)

    def run() -> None:
        try:
            if ticket.cancelled:
                raise CancelledError("the client has gone")
            with sharing(loop.runner(ticket)):
                answer: tuple[Any, str, str] = (served.answer(ask.name, ask.payload), "", "")
        except CancelledError as error:
            answer = (None, "gone", str(error))
        except TooLongError as error:
            answer = (None, "too long", str(error))
        except InputError as error:
            answer = (None, "input", str(error))
        except Exception as error:  # whatever it is, the others go on
            answer = (None, "failed", f"{type(error).__name__}: {error}")
        loop.arrived(ticket)
        tickets.pop(ask.number, None)
        answers.put(Answer(ask.number, *answer, loop.queued_tokens, loop.batches, loop.tokens_done))
        if "CUDA error" in answer[2]:  # the device is lost to this process: another one is started
            threading.Timer(0.5, os._exit, (1,)).start()

    pool.submit(run)


def _messages(pipe: Connection) -> Any:
    """What arrives, one by one, until the end."""
    while True:
        try:
            found = pipe.recv()
        except (EOFError, OSError):
            return
        for message in found:
            if message is None:
                return
            yield message
