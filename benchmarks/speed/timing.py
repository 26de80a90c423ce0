"""Measures seconds and bytes inside a candidate's process."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FLUSH_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # more than the last-level cache holds
FLUSHES = {"cpu": 1, "cuda": 6}  # on CUDA enough to queue the call before they end (1.5 ms on an H200)
MAX_CALLS = 200


def seconds_of(call: Callable[[], Any], device: torch.device, at_least: float = 0.0, cold: bool = False) -> float:
    """Median time of calls that take at least `at_least` seconds in total; a single call if that is 0.

    Args:
        call: the function to time, including work that it leaves running on the device.
        device: cold calls on a CUDA device are timed with CUDA events, all others with perf_counter and synchronisation.
        at_least: seconds of timed calls, without flushing.
        cold: flush the caches before each call.
    """
    one = _cold_cuda if cold and device.type == "cuda" else _by_the_host
    flush = torch.empty(FLUSH_BYTES[device.type] if cold else 0, dtype=torch.uint8, device=device)
    taken: list[float] = []
    while not taken or (sum(taken) < at_least and len(taken) < MAX_CALLS):
        if cold:
            for _ in range(FLUSHES[device.type]):
                flush.fill_(len(taken) & 1)
        taken.append(one(call, device))
    return statistics.median(taken)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """Peak memory of a call in bytes, beyond what was in use before; None if the system does not report it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not (clear.exists() and status.exists()):
        call()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator holds free must not count
    clear.write_text("5")  # resets the high-water mark, proc(5)
    before = _kibibytes(status, "VmRSS")
    call()
    return 1024 * (_kibibytes(status, "VmHWM") - before)


def _by_the_host(call: Callable[[], Any], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def _cold_cuda(call: Callable[[], Any], device: torch.device) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kibibytes(status: Path, key: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])
