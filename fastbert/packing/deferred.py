"""Checks on a GPU that nobody waits for: computed there, copied out beside the work, raised at a later call or by `check()`.

Kernels clamp what is out of range, so a bad id harms no memory; it must only be heard of. On a CPU there is nothing to wait for
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
    """Flags on their way to the host, and what to raise for them."""

    flags: Tensor
    arrived: torch.cuda.Event | None
    report: Callable[[list[bool]], None]


class _Pending(threading.local):
    """The checks of one thread: its mistakes are raised in its own calls, and in nobody else's."""

    def __init__(self) -> None:
        self.checks: deque[_Check] = deque()


_pending = _Pending()


def capturing() -> bool:
    """Whether a CUDA graph is being recorded, in which nothing may be read or waited for."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def defer(flags: Tensor, report: Callable[[list[bool]], None]) -> None:
    """Has `report(values)` called once the bool (k,) `flags` have arrived and one of them is set; it raises.

    Nothing is checked while a CUDA graph is recorded: what goes into its replays must have been checked before.
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
    """Raises for the checks that have arrived and failed; waits for none."""
    if not _pending.checks or capturing():
        return
    while (first := _first()) is not None:
        if first.arrived is not None and not first.arrived.query():
            _pending.checks.appendleft(first)
            return
        _settle(first)


def check() -> None:
    """Waits for every check that this thread put off, and raises for the first that failed.

    Checks of a thread that has ended are gone with it: let a worker call this before it ends.

    Raises:
        InputError: an id outside its table, or bounds of a packed batch that do not fit it, with its place.
    """
    while (first := _first()) is not None:
        if first.arrived is not None:
            first.arrived.synchronize()
        _settle(first)


def _first() -> _Check | None:
    """Takes this thread's oldest check."""
    try:
        return _pending.checks.popleft()
    except IndexError:
        return None


def _settle(done: _Check) -> None:
    values = done.flags.tolist()
    if any(values):
        done.report(values)
