"""What the HTTP side and the workers send one another: lists of messages, of which None is the last."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

NAMES = ("embed", "rerank", "predict", "tokenize")


@dataclass(frozen=True)
class Ask:
    """A request: `name` is one of `NAMES`, and `payload` what `Served.answer` takes."""

    number: int
    name: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for a request any more."""

    number: int


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model; `info` are facts of it."""

    info: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A worker cannot load its model."""

    why: str


@dataclass(frozen=True)
class Answer:
    """The result of a request, or why there is none: `kind` is "", "input", "too long", "gone" or "failed".

    `queued` are the tokens that wait in the worker at that moment.
    """

    number: int
    result: Any
    kind: str = ""
    why: str = ""
    queued: int = 0
    batches: int = 0
    tokens: int = 0


def send_all(pipe: Connection, messages: SimpleQueue[Any]) -> None:
    """Sends what is put into a queue, as many together as there are, until None has been sent."""
    together: list[Any] = []
    while None not in together:
        together = [messages.get()]
        while not messages.empty():
            together.append(messages.get())
        try:
            pipe.send(together)
        except (OSError, ValueError):  # the other side is gone
            return
