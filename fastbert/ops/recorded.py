"""Whether ops must compute exactly as they do while a gradient is recorded.

In training a pass without gradients has to repeat one with them bit by bit: gradient caching embeds a batch without, and again
with them. Faster products and fused epilogues, which round in another place, are for evaluation then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_here = threading.local()


def records(*tensors: Tensor | None) -> bool:
    """Whether an operation on these records a gradient, or has to compute as if it did."""
    if getattr(_here, "training", False):
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


@contextmanager
def in_training() -> Iterator[None]:
    """Inside the block, and in this thread, ops compute as if a gradient was recorded."""
    before = getattr(_here, "training", False)
    _here.training = True
    try:
        yield
    finally:
        _here.training = before
