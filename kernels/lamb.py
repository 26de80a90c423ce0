"""A step of LAMB for one tensor in two passes over memory: 40 bytes a parameter (You et al. 2020).

    p = keep p,   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   u = m / (sqrt(v) + eps)
    p = p - step r u,   r = min(|p|, 10) / (|u| + eps), or 1 where a norm is 0

It is the form of the package pytorch-optimizer: keep = 1 - lr * decay, and step = lr / (1 - b1^steps).

p, g, m, v: any shape, contiguous, float32. The first pass writes m and v, and each of its programs the sums of p^2 and u^2
over its blocks, (programs, 2) float32; the second adds these up and computes u again. Neither uses atomics.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv

_MOST = 512  # programs of the first pass, whose sums each program of the second adds up
_LARGEST_NORM = tl.constexpr(10.0)


@direct
@triton.jit(do_not_specialize=["n"])
def _lamb_moments_kernel(
    p_ptr, g_ptr, m_ptr, v_ptr, sum_ptr, n, keep, b1, not_b1, b2, not_b2, eps, BLOCK: tl.constexpr
):  # fmt: skip
    """m and v, and the sums of squares of p and of the update."""
    weights = tl.zeros((BLOCK,), tl.float32)
    updates = tl.zeros((BLOCK,), tl.float32)
    for first in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < n
        p = tl.load(p_ptr + at, mask=inside, other=0.0) * keep
        g = tl.load(g_ptr + at, mask=inside, other=0.0)
        m = tl.load(m_ptr + at, mask=inside, other=0.0) * b1 + g * not_b1
        v = tl.load(v_ptr + at, mask=inside, other=0.0) * b2 + g * g * not_b2
        tl.store(m_ptr + at, m, mask=inside)
        tl.store(v_ptr + at, v, mask=inside)
        u = m / (tl.sqrt(v) + eps)
        weights += p * p
        updates += u * u
    place = sum_ptr + tl.program_id(0) * 2
    tl.store(place, tl.sum(weights, axis=0))
    tl.store(place + 1, tl.sum(updates, axis=0))


@direct
@triton.jit(do_not_specialize=["n", "programs"])
def _lamb_step_kernel(
    p_ptr, m_ptr, v_ptr, sum_ptr, n, programs, keep, step, eps, MOST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """p, one block."""
    each = tl.arange(0, MOST)
    weight = tl.sqrt(tl.sum(tl.load(sum_ptr + each * 2, mask=each < programs, other=0.0), axis=0))
    update = tl.sqrt(tl.sum(tl.load(sum_ptr + each * 2 + 1, mask=each < programs, other=0.0), axis=0))
    ratio = tl.where((weight > 0) & (update > 0), tl.minimum(weight, _LARGEST_NORM) / (update + eps), 1.0)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    p = tl.load(p_ptr + at, mask=inside, other=0.0) * keep
    m = tl.load(m_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    tl.store(p_ptr + at, p - step * ratio * (m / (tl.sqrt(v) + eps)), mask=inside)


def lamb_step(
    p: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    keep: float,
    step: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Changes p, m and v in place."""
    n = p.numel()
    if not n:
        return
    row = tuning.row("lamb", p.device)
    programs = min(cdiv(n, row["BLOCK"]), _MOST)
    sums = torch.empty((programs, 2), dtype=torch.float32, device=p.device)
    b1, b2 = betas
    _lamb_moments_kernel[(programs,)](p, g, m, v, sums, n, keep, b1, 1 - b1, b2, 1 - b2, eps, **row)
    _lamb_step_kernel[(cdiv(n, row["BLOCK"]),)](p, m, v, sums, n, programs, keep, step, eps, MOST=_MOST, **row)
