"""SIGTERM and Ctrl-C as a wish to stop: the step is finished, the state is saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """A list that names "SIGTERM" or "SIGINT" once it came. A second Ctrl-C interrupts at once. Only in the main thread."""
    came: list[str] = []

    def note(number: int, _: Any) -> None:
        came.append(signal.Signals(number).name)
        os.write(2, b"\nstopping after this step; Ctrl-C again interrupts at once\n")  # print is not safe in a handler
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
