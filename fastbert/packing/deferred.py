"""Asynchronous input checks: computed on the GPU, copied to the host meanwhile, raised at a later call or by `check()`.

Kernels clamp out-of-range ids, so a bad id harms no memory; it only has to be reported. On a CPU there is nothing to wait for
and checks raise at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Check:
    """Flags being copied to the host, and the function that reports them."""

    flags: Tensor
    arrived: torch.cuda.Event | None
    report: Callable[[list[bool]], None]


class _Pending(threading.local):
    """The pending checks of one thread; errors are raised in the calls of that thread only."""

    def __init__(self) -> None:
        self.checks: deque[_Check] = deque()


_pending = _Pending()


def capturing() -> bool:
    """Whether a CUDA graph is being captured: nothing may be read back or synchronised then."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def defer(flags: Tensor, report: Callable[[list[bool]], None]) -> None:
    """Has `report(values)` called once the bool (k,) `flags` have arrived and one of them is set; it raises.

    Nothing is checked while a CUDA graph is captured: the inputs of its replays must have been checked before.
    """
    if capturing():
        return
    arrived = None
    if flags.device.type == "cuda":
        with torch.cuda.device(flags.device):
            on_host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            on_host.copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        flags = on_host
    _pending.checks.append(_Check(flags, arrived, report))


def poll() -> None:
    """Raises for failed checks whose results have arrived, without waiting for the others."""
    if not _pending.checks or capturing():
        return
    while (first := _first()) is not None:
        if first.arrived is not None and not first.arrived.query():
            _pending.checks.appendleft(first)
            return
        _settle(first)


def check() -> None:
    """Waits for every pending check of this thread, and raises for the first that failed.

    Pending checks of a thread are lost when it ends: call this at the end of a worker.

    Raises:
        InputError: an id outside its table, or bounds of a packed batch that do not fit it, with its place.
    """
    while (first := _first()) is not None:
        if first.arrived is not None:
            first.arrived.synchronize()
        _settle(first)


def _first() -> _Check | None:
    """Removes and returns the oldest check of this thread."""
    try:
        return _pending.checks.popleft()
    except IndexError:
        return None


def _settle(done: _Check) -> None:
    values = done.flags.tolist()
    if any(values):
        done.report(values)
