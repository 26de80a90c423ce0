"""BERT's post-norm join: y = LayerNorm(dropout(x + x_bias) + residual) * weight + bias, in one pass.

    z = dropout(x + x_bias) + residual          x, residual, y (T, N); x_bias, weight, bias (N,)
    xhat = (z - mean(z)) * rstd(z)              mean, rstd (T,) float32, saved for the backward
    y = xhat * weight + bias                    optionally a second time, for the next product: in 16 bit, or y * narrow_scale
                                                in e4m3

Forward: each program reads BLOCK_T whole rows once and keeps them in registers; statistics are float32.
Backward: z is recomputed from x and residual (both are saved anyway, by the linears around), dropout from its seed. A fixed
number of programs loops over the rows; each accumulates the column sums of dweight, dbias and dx_bias in registers and writes
them once, (3, programs, N) float32, and one reduction adds them: no atomics, the same bits in every run.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.common import (
    contiguous_rows,
    dense,
    dropped,
    in_type,
    keep_mask,
    normalised,
    normalised_gradient,
    stride_of,
)
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv, next_power_of_2


@triton.jit
def _sum(x_ptr, x_bias_ptr, residual_ptr, seed_ptr, rows, cols, inside, stride_xt, stride_rt, p, N, BLOCK_N: tl.constexpr):
    """z of rows (R, BLOCK_N), float32, zero outside."""
    at = rows.to(tl.int64)[:, None]
    z = tl.load(x_ptr + at * stride_xt + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    if x_bias_ptr is not None:
        z += tl.load(x_bias_ptr + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    if seed_ptr is not None:
        z = dropped(z, keep_mask(tl.load(seed_ptr), rows, 0, 0, p, BLOCK_N, False), p)
    if residual_ptr is not None:
        z += tl.load(residual_ptr + at * stride_rt + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    return z


@direct
@triton.jit(do_not_specialize=["T"], do_not_specialize_on_alignment=["seed_ptr"])
def _layer_norm_fwd_kernel(
    x_ptr, x_bias_ptr, residual_ptr, weight_ptr, bias_ptr, seed_ptr, y_ptr, narrow_ptr, mean_ptr, rstd_ptr,
    stride_xt, stride_rt, T, eps, p, narrow_scale,
    N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_N)
    inside = (rows < T)[:, None] & (cols < N)[None, :]
    z = _sum(x_ptr, x_bias_ptr, residual_ptr, seed_ptr, rows, cols, inside, stride_xt, stride_rt, p, N, BLOCK_N)
    y = normalised(z, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, rows, cols, T, eps, N)
    place = rows.to(tl.int64)[:, None] * N + cols[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=inside)
    if narrow_ptr is not None:
        if narrow_scale is not None:
            y *= narrow_scale
        tl.store(narrow_ptr + place, in_type(y, narrow_ptr.dtype.element_ty), mask=inside)


@direct
@triton.jit(do_not_specialize=["T"], do_not_specialize_on_alignment=["seed_ptr"])
def _layer_norm_bwd_kernel(
    dy_ptr, dnarrow_ptr, x_ptr, x_bias_ptr, residual_ptr, weight_ptr, seed_ptr, mean_ptr, rstd_ptr,
    dx_ptr, dresidual_ptr, partial_ptr,
    stride_dyt, stride_dnt, stride_xt, stride_rt, T, p,
    N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    cols = tl.arange(0, BLOCK_N)
    is_column = cols < N
    weight = tl.load(weight_ptr + cols, mask=is_column, other=0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    dbias = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    dx_bias = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for first in range(program * BLOCK_T, T, programs * BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        at = rows.to(tl.int64)[:, None]
        inside = (rows < T)[:, None] & is_column[None, :]
        z = _sum(x_ptr, x_bias_ptr, residual_ptr, seed_ptr, rows, cols, inside, stride_xt, stride_rt, p, N, BLOCK_N)
        dy = tl.load(dy_ptr + at * stride_dyt + cols[None, :], mask=inside, other=0.0).to(tl.float32)
        if dnarrow_ptr is not None:
            dy += tl.load(dnarrow_ptr + at * stride_dnt + cols[None, :], mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < T, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < T, other=0.0)
        xhat = tl.where(inside, (z - mean[:, None]) * rstd[:, None], 0.0)
        dweight += dy * xhat
        dbias += dy
        dz = normalised_gradient(dy, weight, xhat, rstd, N)
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + at * N + cols[None, :], dz.to(dresidual_ptr.dtype.element_ty), mask=inside)
        if seed_ptr is not None:
            dz = dropped(dz, keep_mask(tl.load(seed_ptr), rows, 0, 0, p, BLOCK_N, False), p)
        if x_bias_ptr is not None:
            dx_bias += tl.where(inside, dz, 0.0)
        tl.store(dx_ptr + at * N + cols[None, :], dz.to(dx_ptr.dtype.element_ty), mask=inside)
    place = partial_ptr + program * N + cols
    tl.store(place, tl.sum(dweight, axis=0), mask=is_column)
    tl.store(place + programs * N, tl.sum(dbias, axis=0), mask=is_column)
    if x_bias_ptr is not None:
        tl.store(place + 2 * programs * N, tl.sum(dx_bias, axis=0), mask=is_column)


def layer_norm_fwd(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    x_bias: torch.Tensor | None,
    p: float,
    seed: torch.Tensor | None,
    out_dtype: torch.dtype,
    statistics: bool,
    narrow_dtype: torch.dtype | None = None,
    narrow_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """x, residual (T, N) -> y (T, N) in `out_dtype`; y, or y * narrow_scale, rounded to `narrow_dtype` if that is given; and
    mean and rstd (T,) float32 if `statistics` is set.
    """
    T, N = x.shape
    x = contiguous_rows(x)
    residual = None if residual is None else contiguous_rows(residual)
    y = torch.empty((T, N), dtype=out_dtype, device=x.device)
    narrow = None if narrow_dtype is None else torch.empty((T, N), dtype=narrow_dtype, device=x.device)
    mean = torch.empty(T, dtype=torch.float32, device=x.device) if statistics else None
    rstd = torch.empty(T, dtype=torch.float32, device=x.device) if statistics else None
    if T:
        row = tuning.row("layer_norm_e4m3" if narrow_dtype == torch.float8_e4m3fn else "layer_norm_fwd", x.device, N)
        _layer_norm_fwd_kernel[(cdiv(T, row["BLOCK_T"]),)](
            x, dense(x_bias), residual, dense(weight), dense(bias), seed, y, narrow, mean, rstd,
            x.stride(0), stride_of(residual), T, eps, p, narrow_scale,
            N=N, BLOCK_N=next_power_of_2(N), **row,
        )  # fmt: skip
    return y, narrow, mean, rstd


def layer_norm_bwd(
    dy: torch.Tensor,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    x_bias: torch.Tensor | None,
    p: float,
    seed: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    separate_residual: bool,
    dnarrow: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """dy (T, N) -> dx (T, N) in x's type; dresidual in residual's type if `separate_residual` is set; and column sums (3, N).

    The column sums are float32: dweight, dbias, dx_bias (zeros without x_bias). `dnarrow`, the gradient of the rounded y, is
    added to dy.

    Without dropout and with a single type dresidual equals dx, and need not be written.
    """
    T, N = x.shape
    dy, x = contiguous_rows(dy), contiguous_rows(x)
    residual = None if residual is None else contiguous_rows(residual)
    dnarrow = None if dnarrow is None else contiguous_rows(dnarrow)
    dx = torch.empty((T, N), dtype=x.dtype, device=x.device)
    dresidual = None
    if separate_residual and residual is not None:
        dresidual = torch.empty((T, N), dtype=residual.dtype, device=x.device)
    if not T:
        return dx, dresidual, torch.zeros(3, N, dtype=torch.float32, device=x.device)
    row = tuning.row("layer_norm_bwd", x.device, N)
    programs = tuning.programs(row.pop("PER_SM"), cdiv(T, row["BLOCK_T"]), x.device)
    new = torch.zeros if x_bias is None else torch.empty
    partial = new((3, programs, N), dtype=torch.float32, device=x.device)
    _layer_norm_bwd_kernel[(programs,)](
        dy, dnarrow, x, dense(x_bias), residual, dense(weight), seed, mean, rstd, dx, dresidual, partial,
        dy.stride(0), stride_of(dnarrow), x.stride(0), stride_of(residual), T, p,
        N=N, BLOCK_N=next_power_of_2(N), **row,
    )  # fmt: skip
    return dx, dresidual, partial.sum(1)
