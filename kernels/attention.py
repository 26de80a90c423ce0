"""Softmax attention within each sequence of a packed batch, with dropout, reading QKV in the layout of its projection.

    out_i = sum_j dropout(softmax_j(scale * q_i . k_j)) v_j        i, j in one sequence; causal: j <= i

    qkv (T, 3, H, D), any strides except a last one of 1; cu_seqlens (B + 1,) int32; out (T, H, D)
    lse (H, T) float32, saved for the backward: log2 of sum_j exp(scale * q_i . k_j). All exponentials are in base 2, because
    the hardware has exp2, and scale * log2(e) becomes one multiplication.

The launch table chooses between two forms: attention_short.py for sequences of at most 128 tokens, attention_long.py for any
length. Neither uses atomics. Batches with empty sequences, or with many that are shorter than the longest, run by a schedule
(attention_schedule.py): `attention_schedule` makes it once for all layers, and a call without one makes its own.

Rows after the last sequence (the tail of a fixed token budget) are zero, in the output and in the gradient. The dropout mask is
a function of (head, packed query row, key position in the sequence).
"""

import torch

from fastbert.kernels import attention_long, attention_schedule, attention_short, tuning
from fastbert.kernels.attention_schedule import grid_of, make_schedule
from fastbert.kernels.tuning import cdiv


def schedule_if_it_pays(cu_seqlens: torch.Tensor, max_seqlen: int, tokens: int, heads: int) -> torch.Tensor | None:
    """The schedule for all calls on a batch; None where a full grid is as good."""
    return make_schedule(cu_seqlens, tokens) if _pays(cu_seqlens, tokens, cdiv(max_seqlen, 64), 64, heads) else None


def attention_fwd(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    p: float,
    seed: torch.Tensor | None,
    causal: bool,
    scale: float,
    statistics: bool,
    schedule: torch.Tensor | None = None,
    e4m3_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """qkv (T, 3, H, D) -> out (T, H, D), and lse (H, T) float32 in base 2 if `statistics` is set.

    With `e4m3_scale`, out is out * e4m3_scale in e4m3.
    """
    T, _, H, D = qkv.shape
    B = cu_seqlens.shape[0] - 1
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    out = torch.empty((T, H, D), dtype=qkv.dtype if e4m3_scale is None else torch.float8_e4m3fn, device=qkv.device)
    lse = torch.empty((H, T), dtype=torch.float32, device=qkv.device) if statistics else None
    if not T:
        return out, lse
    cu_seqlens = cu_seqlens.contiguous()
    tensors = (seed, out, lse, *qkv.stride()[:3], T, B)
    shape = {"H": H, "HEAD_DIM": D, "CAUSAL": causal}
    size = qkv.element_size(), D
    if tuning.has_row("attention_short_fwd", qkv.device, *size, max_seqlen):
        row = tuning.row("attention_short_fwd", qkv.device, *size, max_seqlen)
        items = _short_items(schedule, cu_seqlens, T, H)
        grid, items = grid_of(items, T, B, 1, row["BLOCK_N"], H)
        attention_short.attention_short_fwd_kernel[grid](qkv, cu_seqlens, items, *tensors, scale, p, e4m3_scale, **shape, **row)
    else:
        row = tuning.row("attention_long_fwd", qkv.device, *size)
        blocks = cdiv(max_seqlen, row["BLOCK_M"])
        schedule = schedule_if_it_pays(cu_seqlens, max_seqlen, T, H) if schedule is None else schedule
        grid, items = grid_of(schedule, T, B, blocks, row["BLOCK_M"], H)
        attention_long.attention_long_fwd_kernel[grid](
            qkv, cu_seqlens, items, *tensors, blocks, scale, p, e4m3_scale, **shape, **row
        )
    return out, lse


def attention_bwd(
    dout: torch.Tensor,
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    out: torch.Tensor,
    lse: torch.Tensor,
    p: float,
    seed: torch.Tensor | None,
    causal: bool,
    scale: float,
    schedule: torch.Tensor | None = None,
) -> torch.Tensor:
    """dout (T, H, D) -> dqkv (T, 3, H, D)."""
    T, _, H, D = qkv.shape
    B = cu_seqlens.shape[0] - 1
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    dout = dout if dout.stride(2) == 1 else dout.contiguous()
    cu_seqlens = cu_seqlens.contiguous()
    dqkv = torch.empty((T, 3, H, D), dtype=qkv.dtype, device=qkv.device)
    if not T:
        return dqkv
    sizes = (*qkv.stride()[:3], *dout.stride()[:2], T, B)
    shape = {"H": H, "HEAD_DIM": D, "CAUSAL": causal}
    size = qkv.element_size(), D
    if tuning.has_row("attention_short_bwd", qkv.device, *size, max_seqlen):
        row = tuning.row("attention_short_bwd", qkv.device, *size, max_seqlen)
        items = _short_items(schedule, cu_seqlens, T, H)
        grid, items = grid_of(items, T, B, 1, row["BLOCK_N"], H)
        attention_short.attention_short_bwd_kernel[grid](
            qkv, cu_seqlens, items, seed, out, lse, dout, dqkv, *sizes, scale, p, **shape, **row
        )
        return dqkv
    schedule = schedule_if_it_pays(cu_seqlens, max_seqlen, T, H) if schedule is None else schedule
    delta = torch.empty_like(lse)
    row = tuning.row("attention_long_dq", qkv.device, *size)
    blocks = cdiv(max_seqlen, row["BLOCK_M"])
    grid, items = grid_of(schedule, T, B, blocks, row["BLOCK_M"], H)
    attention_long.attention_long_dq_kernel[grid](
        qkv, cu_seqlens, items, seed, out, lse, dout, delta, dqkv, *sizes, blocks, scale, p, **shape, **row
    )
    row = tuning.row("attention_long_dkv", qkv.device, *size)
    blocks = cdiv(max_seqlen, row["BLOCK_N"])
    grid, items = grid_of(schedule, T, B, blocks, row["BLOCK_N"], H)
    attention_long.attention_long_dkv_kernel[grid](
        qkv, cu_seqlens, items, seed, lse, dout, delta, dqkv, *sizes, blocks, scale, p, **shape, **row
    )
    return dqkv


def _short_items(schedule: torch.Tensor | None, cu_seqlens: torch.Tensor, tokens: int, heads: int) -> torch.Tensor | None:
    """The schedule for sequences of up to 128 tokens if they have under 25 on average: most are empty then. Else None."""
    if not _pays(cu_seqlens, tokens, 1, 28, heads):  # 28 / 1.125 = 25
        return None
    return make_schedule(cu_seqlens, tokens) if schedule is None else schedule


def _pays(cu_seqlens: torch.Tensor, tokens: int, blocks: int, block: int, heads: int) -> bool:
    return attention_schedule.pays(tokens, cu_seqlens.shape[0] - 1, blocks, block, heads, cu_seqlens.device)
