"""How seconds and bytes are taken, inside a candidate's process."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FLUSH_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # more than the last cache holds
FLUSHES = {"cpu": 1, "cuda": 6}  # on CUDA enough that the call is queued before they end, on a H200 in 1.5 ms
MAX_CALLS = 200


def seconds_of(call: Callable[[], Any], device: torch.device, at_least: float = 0.0, cold: bool = False) -> float:
    """The median of calls that take `at_least` seconds together; one call where that is 0.

    Args:
        call: what is timed; work it leaves running on the device counts.
        device: the clock is CUDA events for cold calls there, perf_counter around a synchronisation otherwise.
        at_least: seconds of timed calls, flushing not counted.
        cold: empty the caches before each call.
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
    """Bytes that a call needs at its peak beyond what was there before; None where the system does not tell."""
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
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps free is not what was needed
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
