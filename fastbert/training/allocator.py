"""How a training on a CPU keeps its memory: what a step frees, the next one takes again.

glibc gives large blocks and the top of its heap back to the system when they are freed, and gets them again page by page. A
training frees its whole graph at every step, and then some results cost more than the products that make them. It is what its
process is for, so it may keep what it had.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed_memory(device: torch.device) -> None:
    """Lets glibc keep freed memory for the rest of the process; nothing on other devices and with other C libraries."""
    if device.type == "cpu":
        _keep()


@functools.cache
def _keep() -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if not mallopt(_MMAP_THRESHOLD, 1 << 30):
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # an older glibc takes no more
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
