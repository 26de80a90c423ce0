"""Graceful stopping at SIGTERM, SIGHUP and Ctrl-C: the current step is finished and the state is saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fastbert.stopping import interrupt


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """A list to which "SIGTERM", "SIGINT" or "SIGHUP" is added when it is received. A second Ctrl-C interrupts at once.

    Only the main thread can handle signals: in other threads the list stays empty.
    """
    came: list[str] = []

    def note(number: int, _: Any) -> None:
        came.append(signal.Signals(number).name)
        with suppress(OSError):  # stderr may be closed; print is not safe in a handler
            os.write(2, b"\nstopping after this step; Ctrl-C again interrupts at once\n")
        signal.signal(signal.SIGINT, interrupt)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # respects nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
