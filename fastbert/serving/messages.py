"""What the HTTP side and the workers send one another."""

from __future__ import annotations

from dataclasses import dataclass
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
