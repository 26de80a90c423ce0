"""Shared by several kernels: dropout masks, rounding to other types, LayerNorm's statistics, GELU and its derivative.

Dropout. A mask depends on the seed and on coordinates only, so the backward, a recomputation and a test draw the same one,
whatever the block sizes. Eight columns share one Philox-4x32 block with counter (group, row, head, 0) and the 64-bit seed as
its key; a column is kept if its 16 bits are at least p * 2^16. Seven rounds pass BigCrush (Salmon et al. 2011). The eight
columns of a group are chosen so that a single thread holds all of them, or several threads would draw the same block:
neighbours in the joins; in attention {2q, 2q + 1} + {0, 8, 16, 24} of every 32, following the layout of tensor-core
accumulators.

GELU. In float32 it calls erf. For 16-bit results, log2 of Phi(-|x|) is a polynomial of degree 7 that was fitted for this
project. Its relative error is below 5e-6 wherever Phi(-|x|) > 1e-10, a fiftieth of float16's rounding, for a third of the
instructions.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv

PHILOX_ROUNDS = tl.constexpr(7)
ON_A_GPU = tl.constexpr(not triton.knobs.runtime.interpret)


@triton.jit
def _spread(x):
    """(R, G) -> (R, G, 1, 1, 1)."""
    return x[:, :, None, None, None]


@triton.jit
def keep_mask(seed, rows, head, first_column, p, COLUMNS: tl.constexpr, ATTENTION: tl.constexpr):
    """Rows (R,), columns first_column + (0..COLUMNS-1), first_column a multiple of 32 -> bool (R, COLUMNS)."""
    ROWS: tl.constexpr = rows.shape[0]
    group = (first_column // 8 + tl.arange(0, COLUMNS // 8))[None, :] + tl.zeros_like(rows)[:, None]
    zero = tl.zeros_like(group)
    a, b, c, d = tl.philox(seed, group, rows[:, None] + zero, head + zero, zero, PHILOX_ROUNDS)
    threshold = (tl.full((1,), p, tl.float32) * 65536.0 + 0.5).to(tl.uint32)[None, :] << 16
    # (R, groups, 2, 2, 2): a, b, c, d by the second and the first of the last three, their low and high bits by the last.
    # Chosen by comparisons with constants, which cost nothing, and not by tl.join: behind one, Triton takes a product's operand
    # for packed 8-bit data, and moves it between lanes for that.
    pair = tl.arange(0, 2)
    first, second, high = pair[None, None, :, None, None], pair[None, None, None, :, None], pair[None, None, None, None, :]
    a, b, c, d = _spread(a), _spread(b), _spread(c), _spread(d)
    word = tl.where(second == 0, tl.where(first == 0, a, c), tl.where(first == 0, b, d))
    keep = (word << (16 - 16 * high).to(tl.uint32)) >= threshold[:, :, None, None, None]
    if ATTENTION:
        keep = keep.reshape(ROWS, COLUMNS // 32, 4, 2, 2, 2).permute(0, 1, 3, 4, 2, 5)
    return keep.reshape(ROWS, COLUMNS)


@triton.jit
def rounded_to_tf32(x):
    """The nearest float32 whose last 13 bits are zero; ties round away from zero. NaN and infinity are unchanged.

    Computed on the bits: float arithmetic would do it too, but a compiler that fuses multiply and add undoes it.
    """
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x == x, ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True), x)


@triton.jit
def operand(x):
    """An operand as tensor cores should get it: 16 bit unchanged, float32 rounded to TF32.

    Tensor cores truncate float32 to TF32. Truncation is up to twice as far off as rounding and always towards zero, so that
    sums would have three times PyTorch's error. The interpreter multiplies in full float32, so nothing is rounded there.
    """
    if ON_A_GPU and x.dtype == tl.float32:
        x = rounded_to_tf32(x)
    return x


@triton.jit
def in_type(x, TYPE: tl.constexpr):
    """float32 x in another type, rounded to nearest. In e4m3, values beyond +-448 become +-448.

    GPUs convert to e4m3 so. The interpreter truncates, overflows and loses NaN; for it x is rounded here.
    """
    if tl.float8e4nv == TYPE and not ON_A_GPU:
        is_nan = x != x
        x = tl.clamp(x, -448.0, 448.0)
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        subnormal = (x + 24576.0) - 24576.0  # multiples of 2^-9
        y = tl.where(tl.abs(x) < 0.015625, subnormal, normal).to(TYPE).to(tl.uint8, bitcast=True)
        return tl.where(is_nan, 0x7F, y).to(tl.uint8).to(TYPE, bitcast=True)
    return x.to(TYPE)


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
def normalised(z, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, rows, cols, T, eps, N: tl.constexpr):
    """LayerNorm of z (R, BLOCK_N), the sums of tokens `rows`; saves their statistics if mean_ptr and rstd_ptr are given."""
    mean, rstd = statistics(z, cols < N, eps, N)
    if mean_ptr is not None:
        tl.store(mean_ptr + rows, mean, mask=rows < T)
        tl.store(rstd_ptr + rows, rstd, mask=rows < T)
    weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + cols, mask=cols < N, other=0.0).to(tl.float32)
    return (z - mean[:, None]) * rstd[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def normalised_gradient(dy, weight, xhat, rstd, N: tl.constexpr):
    """Gradient with respect to z, where xhat = (z - mean) * rstd: LayerNorm's backward on rows (R, BLOCK_N), zero beyond N."""
    g = dy * weight[None, :]
    projected = tl.sum(g * xhat, axis=1) / N
    return (g - xhat * projected[:, None] - (tl.sum(g, axis=1) / N)[:, None]) * rstd[:, None]


@triton.jit
def _upper_tail(x):
    """Phi(-|x|) of the normal distribution, relative error below 5e-6."""
    a = tl.abs(x)
    q = -1.7577833966629435e-06 * a + 5.993674858473241e-05
    q = q * a - 0.0009163646027445793
    q = q * a + 0.008447393774986267
    q = q * a - 0.0538245253264904
    q = q * a - 0.45861566066741943
    q = q * a - 1.1511801481246948
    return tl.exp2(q * a - 1.0000038146972656)


@triton.jit
def gelu(x, TANH: tl.constexpr, FINE: tl.constexpr):
    """x Phi(x), or the tanh form, written as x * sigmoid(2u). FINE for float32 results."""
    if TANH:
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    if FINE:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return tl.maximum(x, 0.0) - tl.abs(x) * _upper_tail(x)


@triton.jit
def gelu_derivative(x, TANH: tl.constexpr, FINE: tl.constexpr):
    """d gelu / dx: Phi(x) + x phi(x), or the derivative of the tanh form."""
    if TANH:
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    if FINE:
        phi = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        tail = _upper_tail(x)
        phi = tl.where(x > 0, 1.0 - tail, tail)
    return phi + x * 0.3989422804014327 * tl.exp2(x * x * -0.7213475204444817)


@direct
@triton.jit(do_not_specialize=["rows", "columns"], do_not_specialize_on_alignment=["seed_ptr", "mask_ptr"])
def _dropout_mask_kernel(
    mask_ptr, seed_ptr, rows, columns, p, ATTENTION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = tl.program_id(1) * BLOCK_C
    head = tl.program_id(2)
    column = first + tl.arange(0, BLOCK_C)
    keep = keep_mask(tl.load(seed_ptr), row, head, first, p, BLOCK_C, ATTENTION)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = (head.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    tl.store(mask_ptr + place, keep, mask=inside)


def dropout_mask(seed: torch.Tensor, shape: tuple[int, ...], p: float) -> torch.Tensor:
    """The dropout mask that a kernel draws from a seed: bool, True where a value is kept, on the seed's device.

    Args:
        seed: int64, one element.
        shape: (rows, columns) for the joins, (heads, rows, key positions) for attention.
        p: probability to drop.
    """
    heads, rows, columns = (1, *shape) if len(shape) == 2 else shape
    mask = torch.empty(shape, dtype=torch.bool, device=seed.device)
    block_r, block_c = 16, 128
    grid = (cdiv(rows, block_r), cdiv(columns, block_c), heads)
    if mask.numel():
        _dropout_mask_kernel[grid](mask, seed, rows, columns, p, ATTENTION=len(shape) == 3, BLOCK_R=block_r, BLOCK_C=block_c)
    return mask


def dense(x: torch.Tensor | None) -> torch.Tensor | None:
    """x if it is contiguous, else a contiguous copy; None stays None."""
    return None if x is None else x.contiguous()


def stride_of(x: torch.Tensor | None) -> int:
    """Elements from a row to the next; 0 for None."""
    return 0 if x is None else x.stride(0)


def contiguous_rows(x: torch.Tensor) -> torch.Tensor:
    """x if its last axis is contiguous, else a copy; kernels accept any strides of the other axes."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
