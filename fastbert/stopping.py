"""SIGTERM, SIGHUP and Ctrl-C as exceptions, so that a command that they stop leaves nothing half written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """SIGTERM or SIGHUP came; what is being written is removed on the way out.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_holding = 0  # blocks of `held` that the main thread is in
_waiting: list[int] = []  # signals that came meanwhile


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into `Stopped`, and Ctrl-C into KeyboardInterrupt. Ignored signals stay ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        defaults = {"SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL, "SIGINT": signal.default_int_handler}
        for name, default in defaults.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is default:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Lets signals wait for the end of a block, which raises them then: what the block makes is noted somewhere by then."""
    global _holding
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
    if not _holding and _waiting:
        number = _waiting[0]
        _waiting.clear()
        _raise(number)


def interrupt(number: int, _: Any) -> None:
    """The handler: raises now, or at the end of a block of `held`."""
    if _holding:
        _waiting.append(number)
    else:
        _raise(number)


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)
