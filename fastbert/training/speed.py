"""Speed measures of a run: FLOPs of a training step, the device's rate for a large matrix product, peak memory."""

from __future__ import annotations

import sys
import time

import torch

from fastbert import ops
from fastbert.model.config import BertConfig


def training_flops(config: BertConfig, tokens: int, squares: int, scored: int) -> float:
    """Floating-point operations of the matrix products of forward and backward (twice the forward).

    Args:
        config: the sizes of the model.
        tokens: real tokens.
        squares: sum of the squared lengths.
        scored: rows at which a token is predicted.
    """
    n, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    encoder = config.num_hidden_layers * ((8 * n * n + 4 * n * f) * tokens + 4 * n * squares)
    return 3.0 * (encoder + (2 * n * n + 2 * n * v) * scored)


def matmul_flops_per_s(device: torch.device, precision: str) -> float:
    """The rate of a large linear without gradients on this device in this type, measured now: the denominator of MFU."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, precision)
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        with torch.no_grad():
            ops.linear(a, b, None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes so far: of the device's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
