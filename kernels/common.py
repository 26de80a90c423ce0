"""What several kernels share: dropout bits, LayerNorm's statistics, GELU and its derivative.

Dropout. A keep-mask is a function of the seed and of coordinates alone, so a backward, a recomputation and a test draw the same
one, whatever the block sizes. Four neighbouring columns share one Philox-4x32 block: counter (column // 4, row, head, 0), key the
64-bit seed; the column is kept where its 32-bit word is at least p * 2^32. Seven rounds pass BigCrush (Salmon et al. 2011).
"""

import torch
import triton
import triton.language as tl

PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def keep_mask(seed, rows, head, first_column, p, COLUMNS: tl.constexpr):
    """Rows (R,), columns first_column + (0..COLUMNS-1), first_column a multiple of 4 -> bool (R, COLUMNS)."""
    groups = first_column // 4 + tl.arange(0, COLUMNS // 4)
    counter = groups[None, :] + tl.zeros_like(rows)[:, None]
    zero = tl.zeros_like(counter)
    a, b, c, d = tl.philox(seed, counter, rows[:, None] + zero, head + zero, zero, PHILOX_ROUNDS)
    threshold = (tl.full((1,), p, tl.float32) * 4294967296.0).to(tl.uint32)[None, :]
    even = tl.join(a >= threshold, c >= threshold)
    odd = tl.join(b >= threshold, d >= threshold)
    return tl.join(even, odd).reshape(rows.shape[0], COLUMNS)


@triton.jit
def dropped(x, keep, p):
    """x / (1 - p) where kept, else 0."""
    return tl.where(keep, x * (1.0 / (1.0 - p)), 0.0)


@triton.jit
def statistics(z, is_column, eps, N: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps) of each row of z (R, BLOCK_N), over its N columns; two passes over registers."""
    mean = tl.sum(z, axis=1) / N
    centred = tl.where(is_column[None, :], z - mean[:, None], 0.0)
    return mean, tl.rsqrt(tl.sum(centred * centred, axis=1) / N + eps)


@triton.jit
def normalised_gradient(dy, weight, xhat, rstd, N: tl.constexpr):
    """Gradient of z, of which xhat = (z - mean) * rstd: LayerNorm's backward for rows (R, BLOCK_N), zero outside the columns."""
    g = dy * weight[None, :]
    projected = tl.sum(g * xhat, axis=1) / N
    return (g - xhat * projected[:, None] - (tl.sum(g, axis=1) / N)[:, None]) * rstd[:, None]


@triton.jit
def gelu(x, TANH: tl.constexpr):
    """x Phi(x), exact with erf; or the tanh form, written as x * sigmoid(2u)."""
    if TANH:
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_derivative(x, TANH: tl.constexpr):
    """d gelu / dx: Phi(x) + x phi(x), or the derivative of the tanh form."""
    if TANH:
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit(do_not_specialize=["rows", "columns"], do_not_specialize_on_alignment=["seed_ptr", "mask_ptr"])
def _dropout_mask_kernel(mask_ptr, seed_ptr, rows, columns, p, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = tl.program_id(1) * BLOCK_C
    head = tl.program_id(2)
    column = first + tl.arange(0, BLOCK_C)
    keep = keep_mask(tl.load(seed_ptr), row, head, first, p, BLOCK_C)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = (head.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    tl.store(mask_ptr + place, keep, mask=inside)


def dropout_mask(seed: torch.Tensor, shape: tuple[int, ...], p: float) -> torch.Tensor:
    """The keep-mask of a site, bool, on the seed's device.

    Args:
        seed: int64, one element.
        shape: (rows, columns) for the joins, (heads, rows, key positions) for attention.
        p: probability to drop.
    """
    heads, rows, columns = (1, *shape) if len(shape) == 2 else shape
    mask = torch.empty(shape, dtype=torch.bool, device=seed.device)
    block_r, block_c = 16, 128
    grid = (triton.cdiv(rows, block_r), triton.cdiv(columns, block_c), heads)
    if mask.numel():
        _dropout_mask_kernel[grid](mask, seed, rows, columns, p, BLOCK_R=block_r, BLOCK_C=block_c)
    return mask


def contiguous_rows(x: torch.Tensor) -> torch.Tensor:
    """x itself where its last axis is contiguous, else a copy: kernels take any stride of the other axes."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
