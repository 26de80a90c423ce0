"""Attention for sequences of any length: each program holds one block of queries and loops over the keys (Dao et al. 2022).

Programs walk through the items of a schedule (attention_schedule.py), or take one block of a full grid each.

The backward is two kernels: one computes dq by blocks of queries and also writes delta = rowsum(out * dout) (H, T), the other
computes dk and dv by blocks of keys. Blocks that neither the end of the sequence nor the causal diagonal cuts run a loop
without masks. Formulas and shapes as in attention.py.
"""

import triton
import triton.language as tl

from fastbert.kernels.attention_schedule import items_of, place_of, tail_part
from fastbert.kernels.attention_tiles import LOG2_E, bounds, clear_tail, score_gradients, store_tile, tile, visible
from fastbert.kernels.common import keep_mask, operand
from fastbert.kernels.launching import direct


@triton.jit
def _fwd_step(
    q, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, first_key, head, acc, largest, total, scale, p,
    HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One block of keys: the online softmax."""
    keys = first_key + tl.arange(0, BLOCK_N)
    limit = length if MASKED else first_key + BLOCK_N
    k = tile(k_ptr, start, keys, limit, stride_t, HEAD_DIM)
    s = tl.dot(operand(q), tl.trans(operand(k)))
    if MASKED:
        s = tl.where(visible(queries, keys, length, CAUSAL), s, float("-inf"))
    new = tl.maximum(largest, tl.max(s, axis=1) * (scale * LOG2_E))
    probs = tl.exp2(s * (scale * LOG2_E) - new[:, None])
    shrink = tl.exp2(largest - new)
    total = total * shrink + tl.sum(probs, axis=1)
    if seed_ptr is not None:
        probs = tl.where(keep_mask(tl.load(seed_ptr), start + queries, head, first_key, p, BLOCK_N, True), probs, 0.0)
    v = tile(k_ptr + stride_part, start, keys, limit, stride_t, HEAD_DIM)
    acc = tl.dot(operand(probs.to(v.dtype)), operand(v), acc * shrink[:, None])
    return acc, new, total


@triton.jit
def _fwd_block(
    qkv_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, start, length, first, head, T, scale, p, out_scale,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out and lse of one block of queries."""
    out_ptr += head * HEAD_DIM
    queries = first + tl.arange(0, BLOCK_M)
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k_ptr = q_ptr + stride_part
    q = tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    end = length
    whole = length // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(first + BLOCK_M, length)
        whole = tl.minimum(first // BLOCK_N * BLOCK_N, whole)
    for key in range(0, whole, BLOCK_N):
        acc, largest, total = _fwd_step(
            q, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, key, head, acc, largest, total,
            scale, p, HEAD_DIM, CAUSAL, BLOCK_N, False,
        )  # fmt: skip
    for key in range(whole, end, BLOCK_N):
        acc, largest, total = _fwd_step(
            q, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, key, head, acc, largest, total,
            scale, p, HEAD_DIM, CAUSAL, BLOCK_N, True,
        )  # fmt: skip
    share = 1.0 / total
    if seed_ptr is not None:
        share = share * (1.0 / (1.0 - p))
    if out_scale is not None:
        share = share * out_scale
    store_tile(out_ptr, acc * share[:, None], start, queries, length, H * HEAD_DIM, HEAD_DIM)
    if lse_ptr is not None:
        place = lse_ptr + head.to(tl.int64) * T + start + queries
        tl.store(place, largest + tl.log2(total), mask=queries < length)


@direct
@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr", "schedule_ptr"])
def attention_long_fwd_kernel(
    qkv_ptr, cu_ptr, schedule_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, T, B, blocks,
    scale, p, out_scale,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out and lse, by blocks of queries."""
    items, end, step = items_of(schedule_ptr, H)
    for item in tl.range(tl.program_id(0), end, step, disable_licm=True):
        first, head, sequence = place_of(schedule_ptr, item, items, blocks, H, BLOCK_M)
        if sequence == B:
            last, apart = tail_part(schedule_ptr, first, T, blocks, BLOCK_M)
            clear_tail(out_ptr + head * HEAD_DIM, cu_ptr, sequence, T, first, last, apart, H * HEAD_DIM, BLOCK_M, HEAD_DIM)
        else:
            start, length = bounds(cu_ptr, sequence, T)
            if first < length:
                _fwd_block(
                    qkv_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h,
                    start, length, first, head, T, scale, p, out_scale, H, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N,
                )  # fmt: skip


@triton.jit
def _dq_step(
    q, dout, lse, delta, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, first_key, head, dq, scale, p,
    HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq += ds k for one block of keys."""
    keys = first_key + tl.arange(0, BLOCK_N)
    limit = length if MASKED else first_key + BLOCK_N
    k = tile(k_ptr, start, keys, limit, stride_t, HEAD_DIM)
    v = tile(k_ptr + stride_part, start, keys, limit, stride_t, HEAD_DIM)
    seen = visible(queries, keys, length, CAUSAL)
    _, ds = score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, first_key, head, seen, scale, p, MASKED)
    return tl.dot(ds, operand(k), dq)


@triton.jit
def _dq_block(
    qkv_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr, stride_t, stride_part, stride_h, stride_dt, stride_dh,
    start, length, first, head, T, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq and delta of one block of queries."""
    N: tl.constexpr = H * HEAD_DIM
    dq_ptr = dqkv_ptr + head * HEAD_DIM
    queries = first + tl.arange(0, BLOCK_M)
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k_ptr = q_ptr + stride_part
    q = tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
    dout = tile(dout_ptr + head.to(tl.int64) * stride_dh, start, queries, length, stride_dt, HEAD_DIM)
    out = tile(out_ptr + head * HEAD_DIM, start, queries, length, N, HEAD_DIM)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
    place = head.to(tl.int64) * T + start + queries
    tl.store(delta_ptr + place, delta, mask=queries < length)
    lse = tl.load(lse_ptr + place, mask=queries < length, other=float("inf"))
    dq = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    end = length
    whole = length // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(first + BLOCK_M, length)
        whole = tl.minimum(first // BLOCK_N * BLOCK_N, whole)
    for key in range(0, whole, BLOCK_N):
        dq = _dq_step(
            q, dout, lse, delta, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, key, head, dq,
            scale, p, HEAD_DIM, CAUSAL, BLOCK_N, False,
        )  # fmt: skip
    for key in range(whole, end, BLOCK_N):
        dq = _dq_step(
            q, dout, lse, delta, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, key, head, dq,
            scale, p, HEAD_DIM, CAUSAL, BLOCK_N, True,
        )  # fmt: skip
    store_tile(dq_ptr, dq * scale, start, queries, length, 3 * N, HEAD_DIM)


@direct
@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr", "schedule_ptr"])
def attention_long_dq_kernel(
    qkv_ptr, cu_ptr, schedule_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, blocks, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq and delta, by blocks of queries."""
    items, end, step = items_of(schedule_ptr, H)
    for item in tl.range(tl.program_id(0), end, step, disable_licm=True):
        first, head, sequence = place_of(schedule_ptr, item, items, blocks, H, BLOCK_M)
        if sequence == B:
            last, apart = tail_part(schedule_ptr, first, T, blocks, BLOCK_M)
            clear_tail(dqkv_ptr + head * HEAD_DIM, cu_ptr, sequence, T, first, last, apart, 3 * H * HEAD_DIM, BLOCK_M, HEAD_DIM)
        else:
            start, length = bounds(cu_ptr, sequence, T)
            if first < length:
                _dq_block(
                    qkv_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
                    stride_t, stride_part, stride_h, stride_dt, stride_dh,
                    start, length, first, head, T, scale, p, H, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N,
                )  # fmt: skip


@triton.jit
def _dkv_step(
    k, v, q_ptr, stride_t, dout_ptr, stride_dt, lse_ptr, delta_ptr, seed_ptr, start, length, first_query, keys, first_key, head,
    dk, dv, scale, p, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """dk += ds^T q, dv += probs^T dout for one block of queries."""
    queries = first_query + tl.arange(0, BLOCK_M)
    q = tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
    dout = tile(dout_ptr, start, queries, length, stride_dt, HEAD_DIM)
    lse = tl.load(lse_ptr + start + queries, mask=queries < length, other=float("inf"))
    delta = tl.load(delta_ptr + start + queries, mask=queries < length, other=0.0)
    seen = visible(queries, keys, length, CAUSAL)
    kept, ds = score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, first_key, head, seen, scale, p, MASKED)
    return tl.dot(tl.trans(ds), operand(q), dk), tl.dot(tl.trans(kept), operand(dout), dv)


@triton.jit
def _dkv_block(
    qkv_ptr, seed_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr, stride_t, stride_part, stride_h, stride_dt, stride_dh,
    start, length, first, head, T, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of keys."""
    N: tl.constexpr = H * HEAD_DIM
    dk_ptr = dqkv_ptr + N + head * HEAD_DIM
    keys = first + tl.arange(0, BLOCK_N)
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k = tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
    v = tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
    dout_ptr += head.to(tl.int64) * stride_dh
    lse_ptr += head.to(tl.int64) * T
    delta_ptr += head.to(tl.int64) * T
    dk = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    dv = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    begin = 0
    masked_end = 0
    if CAUSAL:
        begin = first // BLOCK_M * BLOCK_M
        masked_end = tl.cdiv(first + BLOCK_N, BLOCK_M) * BLOCK_M
    if first + BLOCK_N > length:
        masked_end = length
    for query in range(begin, tl.minimum(masked_end, length), BLOCK_M):
        dk, dv = _dkv_step(
            k, v, q_ptr, stride_t, dout_ptr, stride_dt, lse_ptr, delta_ptr, seed_ptr, start, length, query, keys, first,
            head, dk, dv, scale, p, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N, True,
        )  # fmt: skip
    for query in range(masked_end, length, BLOCK_M):
        dk, dv = _dkv_step(
            k, v, q_ptr, stride_t, dout_ptr, stride_dt, lse_ptr, delta_ptr, seed_ptr, start, length, query, keys, first,
            head, dk, dv, scale, p, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N, False,
        )  # fmt: skip
    if seed_ptr is not None:
        dv = dv * (1.0 / (1.0 - p))
    store_tile(dk_ptr, dk * scale, start, keys, length, 3 * N, HEAD_DIM)
    store_tile(dk_ptr + N, dv, start, keys, length, 3 * N, HEAD_DIM)


@direct
@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr", "schedule_ptr"])
def attention_long_dkv_kernel(
    qkv_ptr, cu_ptr, schedule_ptr, seed_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, blocks, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dk and dv, by blocks of keys."""
    items, end, step = items_of(schedule_ptr, H)
    for item in range(tl.program_id(0), end, step):
        first, head, sequence = place_of(schedule_ptr, item, items, blocks, H, BLOCK_N)
        if sequence == B:
            last, apart = tail_part(schedule_ptr, first, T, blocks, BLOCK_N)
            for part in tl.static_range(1, 3):
                dk_ptr = dqkv_ptr + (part * H + head) * HEAD_DIM
                clear_tail(dk_ptr, cu_ptr, sequence, T, first, last, apart, 3 * H * HEAD_DIM, BLOCK_N, HEAD_DIM)
        else:
            start, length = bounds(cu_ptr, sequence, T)
            if first < length:
                _dkv_block(
                    qkv_ptr, seed_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
                    stride_t, stride_part, stride_h, stride_dt, stride_dh,
                    start, length, first, head, T, scale, p, H, HEAD_DIM, CAUSAL, BLOCK_M, BLOCK_N,
                )  # fmt: skip
