"""Keeps freed memory in the process during training on a CPU, so that the next step can reuse it.

glibc returns large blocks and the top of its heap to the system when they are freed, and gets them back page by page. Training
frees its whole graph at every step, so that allocating some results would cost more than the matrix products that compute them.
Training is the purpose of its process, so the process may hold on to its memory.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed_memory(device: torch.device) -> None:
    """Makes glibc keep freed memory for the rest of the process; does nothing on other devices or with other C libraries."""
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
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the limit of older versions of glibc
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
