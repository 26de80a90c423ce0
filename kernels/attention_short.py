"""Attention for sequences of at most 128 tokens: each program holds all of K and V of one (sequence, head).

It loops over blocks of queries, so no online softmax is needed; the backward is a single kernel with five products that keeps
dk and dv in registers. Formulas and shapes as in attention.py.
"""

import triton
import triton.language as tl

from fastbert.kernels.attention_schedule import items_of, place_of, tail_part
from fastbert.kernels.attention_tiles import LOG2_E, bounds, clear_tail, score_gradients, store_tile, tile, visible
from fastbert.kernels.common import keep_mask, operand
from fastbert.kernels.launching import direct


@triton.jit
def _fwd_sequence(
    qkv_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, start, length, head, T, scale, p, out_scale,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out and lse of one (sequence, head)."""
    out_ptr += head * HEAD_DIM
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    keys = tl.arange(0, BLOCK_N)
    k = tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
    v = tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
    for first in range(0, length, BLOCK_M):
        queries = first + tl.arange(0, BLOCK_M)
        q = tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
        s = tl.dot(operand(q), tl.trans(operand(k))) * (scale * LOG2_E)
        s = tl.where(visible(queries, keys, length, CAUSAL), s, float("-inf"))
        largest = tl.max(s, axis=1)
        probs = tl.exp2(s - largest[:, None])
        total = tl.sum(probs, axis=1)
        share = 1.0 / total
        if seed_ptr is not None:
            probs = tl.where(keep_mask(tl.load(seed_ptr), start + queries, head, 0, p, BLOCK_N, True), probs, 0.0)
            share = share * (1.0 / (1.0 - p))
        if out_scale is not None:
            share = share * out_scale
        out = tl.dot(operand(probs.to(v.dtype)), operand(v)) * share[:, None]
        store_tile(out_ptr, out, start, queries, length, H * HEAD_DIM, HEAD_DIM)
        if lse_ptr is not None:
            place = lse_ptr + head.to(tl.int64) * T + start + queries
            tl.store(place, largest + tl.log2(total), mask=queries < length)


@direct
@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=["seed_ptr", "schedule_ptr"])
def attention_short_fwd_kernel(
    qkv_ptr, cu_ptr, schedule_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, T, B, scale, p, out_scale,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out and lse, by (sequence, head)."""
    items, end, step = items_of(schedule_ptr, H)
    for item in tl.range(tl.program_id(0), end, step, disable_licm=True):
        first, head, sequence = place_of(schedule_ptr, item, items, 1, H, BLOCK_N)
        if sequence == B:
            last, _ = tail_part(schedule_ptr, first, T, 1, BLOCK_N)
            clear_tail(out_ptr + head * HEAD_DIM, cu_ptr, sequence, T, first, last, BLOCK_M, H * HEAD_DIM, BLOCK_M, HEAD_DIM)
        elif first == 0:
            start, length = bounds(cu_ptr, sequence, T)
            _fwd_sequence(
                qkv_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, start, length, head, T,
                scale, p, out_scale, H, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N,
            )  # fmt: skip


@triton.jit
def _bwd_sequence(
    qkv_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, dqkv_ptr, stride_t, stride_part, stride_h, stride_dt, stride_dh,
    start, length, head, T, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of one (sequence, head)."""
    N: tl.constexpr = H * HEAD_DIM
    dq_ptr = dqkv_ptr + head * HEAD_DIM
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    keys = tl.arange(0, BLOCK_N)
    k = tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
    v = tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
    dk = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    dv = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    for first in range(0, length, BLOCK_M):
        queries = first + tl.arange(0, BLOCK_M)
        q = tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
        dout = tile(dout_ptr + head.to(tl.int64) * stride_dh, start, queries, length, stride_dt, HEAD_DIM)
        out = tile(out_ptr + head * HEAD_DIM, start, queries, length, N, HEAD_DIM)
        delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
        place = lse_ptr + head.to(tl.int64) * T + start + queries
        lse = tl.load(place, mask=queries < length, other=float("inf"))  # which makes the rows beyond the length 0
        seen = visible(queries, keys, length, CAUSAL)
        kept, ds = score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, 0, head, seen, scale, p, True)
        dv += tl.dot(tl.trans(kept), operand(dout))
        dk += tl.dot(tl.trans(ds), operand(q))
        store_tile(dq_ptr, tl.dot(ds, operand(k)) * scale, start, queries, length, 3 * N, HEAD_DIM)
    if seed_ptr is not None:
        dv = dv * (1.0 / (1.0 - p))
    store_tile(dq_ptr + N, dk * scale, start, keys, length, 3 * N, HEAD_DIM)
    store_tile(dq_ptr + 2 * N, dv, start, keys, length, 3 * N, HEAD_DIM)


@direct
@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=["seed_ptr", "schedule_ptr"])
def attention_short_bwd_kernel(
    qkv_ptr, cu_ptr, schedule_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv, by (sequence, head)."""
    items, end, step = items_of(schedule_ptr, H)
    for item in tl.range(tl.program_id(0), end, step, disable_licm=True):
        first, head, sequence = place_of(schedule_ptr, item, items, 1, H, BLOCK_N)
        if sequence == B:
            last, _ = tail_part(schedule_ptr, first, T, 1, BLOCK_N)
            for part in tl.static_range(3):
                dq_ptr = dqkv_ptr + (part * H + head) * HEAD_DIM
                clear_tail(dq_ptr, cu_ptr, sequence, T, first, last, BLOCK_M, 3 * H * HEAD_DIM, BLOCK_M, HEAD_DIM)
        elif first == 0:
            start, length = bounds(cu_ptr, sequence, T)
            _bwd_sequence(
                qkv_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, dqkv_ptr, stride_t, stride_part, stride_h, stride_dt, stride_dh,
                start, length, head, T, scale, p, H, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N,
            )  # fmt: skip
