"""The backend in force, set for a process, a with block or by the environment; and records of what ops decide.

"auto" takes the best path that can run, "triton" the kernel or an error with the reason, "reference" the plain form alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from fastbert.choices import BACKENDS
from fastbert.errors import BackendError


class Decision(NamedTuple):
    """Which path ran an op, on what shape, and why it was not the kernel ("" where it was)."""

    op: str
    shape: tuple[int, ...]
    path: str
    reason: str


class Call(NamedTuple):
    """An op as it was called: the path that ran it, and what went in."""

    op: str
    path: str
    arguments: tuple[Any, ...]


_scoped_backend: ContextVar[str | None] = ContextVar("fastbert_backend", default=None)
_process_backend: str | None = None
heard_decisions: ContextVar[list[Decision] | None] = ContextVar("fastbert_decisions", default=None)
heard_calls: ContextVar[list[Call] | None] = ContextVar("fastbert_calls", default=None)


def current_backend() -> str:
    """The backend in force here: the innermost `backend(...)` block, else `set_backend`, else FASTBERT_BACKEND, else "auto".

    `torch.compile` takes the one in force while it traces.
    """
    chosen = _scoped_backend.get() or _process_backend
    return chosen or _known_backend(os.environ.get("FASTBERT_BACKEND") or "auto", "FASTBERT_BACKEND: ")


# What torch.compiler.assume_constant_result does, without the second that importing the compiler for it would take.
current_backend.__dict__["_dynamo_marked_constant"] = True


def set_backend(name: str) -> None:
    """Chooses the backend of the whole process: "auto", "triton" or "reference"."""
    global _process_backend
    _process_backend = _known_backend(name)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Chooses the backend inside a with block, for this thread or task alone."""
    token = _scoped_backend.set(_known_backend(name))
    try:
        yield
    finally:
        _scoped_backend.reset(token)


@contextmanager
def recording() -> Iterator[list[Decision]]:
    """Collects the decisions of every op called inside the block."""
    decisions: list[Decision] = []
    token = heard_decisions.set(decisions)
    try:
        yield decisions
    finally:
        heard_decisions.reset(token)


@contextmanager
def tapping() -> Iterator[list[Call]]:
    """Collects the calls of every op inside the block, their tensors included."""
    calls: list[Call] = []
    token = heard_calls.set(calls)
    try:
        yield calls
    finally:
        heard_calls.reset(token)


def _known_backend(name: str, source: str = "") -> str:
    if name not in BACKENDS:
        raise BackendError(f"{source}backend {name!r} is not one of {', '.join(BACKENDS)}")
    return name
