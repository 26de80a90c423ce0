"""LAMB's step. No operator: nothing traces or differentiates it. See kernels/lamb.py."""

from __future__ import annotations

from torch import Tensor

from fastbert.kernels import lamb as kernels
from fastbert.ops.custom_ops.shared import on_device


def lamb_step(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, keep: float, step: float, betas: tuple[float, float], eps: float
) -> None:
    """A step of one parameter, which changes p, m and v in place."""
    on_device(kernels.lamb_step, p, g, m, v, keep, step, betas, eps)
