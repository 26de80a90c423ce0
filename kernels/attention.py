"""Softmax attention inside each sequence of a packed batch, with dropout, in the layout that the QKV projection wrote.

    out_i = sum_j dropout(softmax_j(scale * q_i . k_j)) v_j        i, j in one sequence; causal: j <= i

    qkv (T, 3, H, D), any strides but the last; cu_seqlens (B + 1,) int32; out (T, H, D)
    lse (H, T) float32, saved: log2 of sum_j exp(scale * q_i . k_j). Base 2 throughout: exp2 is what the hardware has, and
    scale * log2(e) is folded into one multiplication.

Short form, longest sequence at most 128: a program holds the whole K and V of one (sequence, head) and walks its queries, so
there is no online softmax; its backward is one kernel with five products, dk and dv in registers.
Long form: a program holds one block of queries and walks the keys (flash attention, Dao 2022). Its backward is two kernels:
dq by blocks of queries, which also writes delta = rowsum(out * dout) (H, T), and dk, dv by blocks of keys. No atomics anywhere.
Blocks without a cut, by the sequence's end or the causal diagonal, run a loop that has no masks.

Rows behind the last sequence (the tail of a fixed token budget) get zeros, here and in the gradient. The keep-mask of dropout
is a function of (head, packed query row, key position in its sequence).
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.common import keep_mask, operand

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _bounds(cu_ptr, sequence, T):
    """First row and length of a sequence, never outside the T rows."""
    start = tl.minimum(tl.maximum(tl.load(cu_ptr + sequence).to(tl.int32), 0), T)
    end = tl.minimum(tl.load(cu_ptr + sequence + 1).to(tl.int32), T)
    return start, tl.maximum(end - start, 0)


@triton.jit
def _place(blocks, H: tl.constexpr, BLOCK: tl.constexpr):
    """First row, head and sequence of a program; the blocks of one head stand side by side, so that they share its K and V."""
    program = tl.program_id(0)
    return program % blocks * BLOCK, program // blocks % H, program // blocks // H


@triton.jit
def _tile(ptr, start, rows, length, stride_t, HEAD_DIM: tl.constexpr):
    """Rows `rows` of a sequence, (R, D); zeros beyond its length."""
    at = (start + rows).to(tl.int64)[:, None] * stride_t + tl.arange(0, HEAD_DIM)[None, :]
    return tl.load(ptr + at, mask=(rows < length)[:, None], other=0.0)


@triton.jit
def _store_tile(ptr, values, start, rows, length, stride_t, HEAD_DIM: tl.constexpr):
    at = (start + rows).to(tl.int64)[:, None] * stride_t + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(ptr + at, values.to(ptr.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def _clear_tail(ptr, cu_ptr, sequence, T, first, step, stride_t, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Zeros in the rows behind the last sequence, from its row `first` on, every `step` rows."""
    start = tl.minimum(tl.maximum(tl.load(cu_ptr + sequence).to(tl.int32), 0), T)
    zero = tl.zeros((BLOCK, HEAD_DIM), tl.float32)
    for row in range(first, T - start, step):
        _store_tile(ptr, zero, start, row + tl.arange(0, BLOCK), T - start, stride_t, HEAD_DIM)


@triton.jit
def _visible(queries, keys, length, CAUSAL: tl.constexpr):
    """Which keys a query may see, (M, N)."""
    seen = (keys < length)[None, :]
    if CAUSAL:
        seen = seen & (keys[None, :] <= queries[:, None])
    return seen


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=["seed_ptr"])
def _attention_short_fwd_kernel(
    qkv_ptr, cu_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, T, B, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head, sequence = tl.program_id(0) % H, tl.program_id(0) // H
    out_ptr += head * HEAD_DIM
    if sequence == B:
        _clear_tail(out_ptr, cu_ptr, sequence, T, 0, BLOCK_M, H * HEAD_DIM, BLOCK_M, HEAD_DIM)
    else:
        start, length = _bounds(cu_ptr, sequence, T)
        q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
        keys = tl.arange(0, BLOCK_N)
        k = _tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
        v = _tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
        for first in range(0, length, BLOCK_M):
            queries = first + tl.arange(0, BLOCK_M)
            q = _tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
            s = tl.dot(operand(q), tl.trans(operand(k))) * (scale * LOG2_E)
            s = tl.where(_visible(queries, keys, length, CAUSAL), s, float("-inf"))
            largest = tl.max(s, axis=1)
            probs = tl.exp2(s - largest[:, None])
            total = tl.sum(probs, axis=1)
            share = 1.0 / total
            if seed_ptr is not None:
                probs = tl.where(keep_mask(tl.load(seed_ptr), start + queries, head, 0, p, BLOCK_N, True), probs, 0.0)
                share = share * (1.0 / (1.0 - p))
            out = tl.dot(operand(probs.to(v.dtype)), operand(v)) * share[:, None]
            _store_tile(out_ptr, out, start, queries, length, H * HEAD_DIM, HEAD_DIM)
            if lse_ptr is not None:
                place = lse_ptr + head.to(tl.int64) * T + start + queries
                tl.store(place, largest + tl.log2(total), mask=queries < length)


@triton.jit
def _score_gradients(
    q, k, v, dout, lse, delta, seed_ptr, rows, first_key, head, seen, scale, p, MASKED: tl.constexpr
):  # fmt: skip
    """Probabilities after dropout, without its factor 1 / (1 - p), and the gradient of scale * q k^T, both (M, N) and rounded
    to the type of their products.
    """
    probs = tl.exp2(tl.dot(operand(q), tl.trans(operand(k))) * (scale * LOG2_E) - lse[:, None])
    if MASKED:
        probs = tl.where(seen, probs, 0.0)
    dprobs = tl.dot(operand(dout), tl.trans(operand(v)))
    if seed_ptr is not None:
        keep = keep_mask(tl.load(seed_ptr), rows, head, first_key, p, k.shape[0], True)
        ds = probs * (tl.where(keep, dprobs, 0.0) * (1.0 / (1.0 - p)) - delta[:, None])
        probs = tl.where(keep, probs, 0.0)
    else:
        ds = probs * (dprobs - delta[:, None])
    return operand(probs.to(dout.dtype)), operand(ds.to(q.dtype))


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=["seed_ptr"])
def _attention_short_bwd_kernel(
    qkv_ptr, cu_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head, sequence = tl.program_id(0) % H, tl.program_id(0) // H
    N: tl.constexpr = H * HEAD_DIM
    dq_ptr = dqkv_ptr + head * HEAD_DIM
    if sequence == B:
        for part in tl.static_range(3):
            _clear_tail(dq_ptr + part * N, cu_ptr, sequence, T, 0, BLOCK_M, 3 * N, BLOCK_M, HEAD_DIM)
    else:
        start, length = _bounds(cu_ptr, sequence, T)
        q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
        keys = tl.arange(0, BLOCK_N)
        k = _tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
        v = _tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
        dk = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
        dv = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
        for first in range(0, length, BLOCK_M):
            queries = first + tl.arange(0, BLOCK_M)
            q = _tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
            dout = _tile(dout_ptr + head.to(tl.int64) * stride_dh, start, queries, length, stride_dt, HEAD_DIM)
            out = _tile(out_ptr + head * HEAD_DIM, start, queries, length, N, HEAD_DIM)
            delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
            place = lse_ptr + head.to(tl.int64) * T + start + queries
            lse = tl.load(place, mask=queries < length, other=float("inf"))  # which makes the rows beyond the length 0
            seen = _visible(queries, keys, length, CAUSAL)
            kept, ds = _score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, 0, head, seen, scale, p, True)
            dv += tl.dot(tl.trans(kept), operand(dout))
            dk += tl.dot(tl.trans(ds), operand(q))
            _store_tile(dq_ptr, tl.dot(ds, operand(k)) * scale, start, queries, length, 3 * N, HEAD_DIM)
        if seed_ptr is not None:
            dv = dv * (1.0 / (1.0 - p))
        _store_tile(dq_ptr + N, dk * scale, start, keys, length, 3 * N, HEAD_DIM)
        _store_tile(dq_ptr + 2 * N, dv, start, keys, length, 3 * N, HEAD_DIM)


@triton.jit
def _fwd_step(
    q, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, first_key, head, acc, largest, total, scale, p,
    HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One block of keys: the online softmax."""
    keys = first_key + tl.arange(0, BLOCK_N)
    limit = length if MASKED else first_key + BLOCK_N
    k = _tile(k_ptr, start, keys, limit, stride_t, HEAD_DIM)
    s = tl.dot(operand(q), tl.trans(operand(k)))
    if MASKED:
        s = tl.where(_visible(queries, keys, length, CAUSAL), s, float("-inf"))
    new = tl.maximum(largest, tl.max(s, axis=1) * (scale * LOG2_E))
    probs = tl.exp2(s * (scale * LOG2_E) - new[:, None])
    shrink = tl.exp2(largest - new)
    total = total * shrink + tl.sum(probs, axis=1)
    if seed_ptr is not None:
        probs = tl.where(keep_mask(tl.load(seed_ptr), start + queries, head, first_key, p, BLOCK_N, True), probs, 0.0)
    v = _tile(k_ptr + stride_part, start, keys, limit, stride_t, HEAD_DIM)
    acc = tl.dot(operand(probs.to(v.dtype)), operand(v), acc * shrink[:, None])
    return acc, new, total


@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr"])
def _attention_long_fwd_kernel(
    qkv_ptr, cu_ptr, seed_ptr, out_ptr, lse_ptr, stride_t, stride_part, stride_h, T, B, blocks, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    first, head, sequence = _place(blocks, H, BLOCK_M)
    out_ptr += head * HEAD_DIM
    if sequence == B:
        step = blocks * BLOCK_M
        _clear_tail(out_ptr, cu_ptr, sequence, T, first, step, H * HEAD_DIM, BLOCK_M, HEAD_DIM)
    else:
        start, length = _bounds(cu_ptr, sequence, T)
        if first < length:
            queries = first + tl.arange(0, BLOCK_M)
            q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
            k_ptr = q_ptr + stride_part
            q = _tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
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
            _store_tile(out_ptr, acc * share[:, None], start, queries, length, H * HEAD_DIM, HEAD_DIM)
            if lse_ptr is not None:
                place = lse_ptr + head.to(tl.int64) * T + start + queries
                tl.store(place, largest + tl.log2(total), mask=queries < length)


@triton.jit
def _dq_step(
    q, dout, lse, delta, k_ptr, stride_t, stride_part, seed_ptr, start, length, queries, first_key, head, dq, scale, p,
    HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq += ds k for one block of keys."""
    keys = first_key + tl.arange(0, BLOCK_N)
    limit = length if MASKED else first_key + BLOCK_N
    k = _tile(k_ptr, start, keys, limit, stride_t, HEAD_DIM)
    v = _tile(k_ptr + stride_part, start, keys, limit, stride_t, HEAD_DIM)
    seen = _visible(queries, keys, length, CAUSAL)
    _, ds = _score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, first_key, head, seen, scale, p, MASKED)
    return tl.dot(ds, operand(k), dq)


@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr"])
def _attention_long_dq_kernel(
    qkv_ptr, cu_ptr, seed_ptr, out_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, blocks, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    first, head, sequence = _place(blocks, H, BLOCK_M)
    N: tl.constexpr = H * HEAD_DIM
    dq_ptr = dqkv_ptr + head * HEAD_DIM
    if sequence == B:
        step = blocks * BLOCK_M
        _clear_tail(dq_ptr, cu_ptr, sequence, T, first, step, 3 * N, BLOCK_M, HEAD_DIM)
    else:
        start, length = _bounds(cu_ptr, sequence, T)
        if first < length:
            queries = first + tl.arange(0, BLOCK_M)
            q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
            k_ptr = q_ptr + stride_part
            q = _tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
            dout = _tile(dout_ptr + head.to(tl.int64) * stride_dh, start, queries, length, stride_dt, HEAD_DIM)
            out = _tile(out_ptr + head * HEAD_DIM, start, queries, length, N, HEAD_DIM)
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
            _store_tile(dq_ptr, dq * scale, start, queries, length, 3 * N, HEAD_DIM)


@triton.jit
def _dkv_step(
    k, v, q_ptr, stride_t, dout_ptr, stride_dt, lse_ptr, delta_ptr, seed_ptr, start, length, first_query, keys, first_key, head,
    dk, dv, scale, p, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """dk += ds^T q, dv += probs^T dout for one block of queries."""
    queries = first_query + tl.arange(0, BLOCK_M)
    q = _tile(q_ptr, start, queries, length, stride_t, HEAD_DIM)
    dout = _tile(dout_ptr, start, queries, length, stride_dt, HEAD_DIM)
    lse = tl.load(lse_ptr + start + queries, mask=queries < length, other=float("inf"))
    delta = tl.load(delta_ptr + start + queries, mask=queries < length, other=0.0)
    seen = _visible(queries, keys, length, CAUSAL)
    kept, ds = _score_gradients(q, k, v, dout, lse, delta, seed_ptr, start + queries, first_key, head, seen, scale, p, MASKED)
    return tl.dot(tl.trans(ds), operand(q), dk), tl.dot(tl.trans(kept), operand(dout), dv)


@triton.jit(do_not_specialize=["T", "B", "blocks"], do_not_specialize_on_alignment=["seed_ptr"])
def _attention_long_dkv_kernel(
    qkv_ptr, cu_ptr, seed_ptr, lse_ptr, dout_ptr, delta_ptr, dqkv_ptr,
    stride_t, stride_part, stride_h, stride_dt, stride_dh, T, B, blocks, scale, p,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    first, head, sequence = _place(blocks, H, BLOCK_N)
    N: tl.constexpr = H * HEAD_DIM
    dk_ptr = dqkv_ptr + N + head * HEAD_DIM
    if sequence == B:
        step = blocks * BLOCK_N
        _clear_tail(dk_ptr, cu_ptr, sequence, T, first, step, 3 * N, BLOCK_N, HEAD_DIM)
        _clear_tail(dk_ptr + N, cu_ptr, sequence, T, first, step, 3 * N, BLOCK_N, HEAD_DIM)
    else:
        start, length = _bounds(cu_ptr, sequence, T)
        if first < length:
            keys = first + tl.arange(0, BLOCK_N)
            q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
            k = _tile(q_ptr + stride_part, start, keys, length, stride_t, HEAD_DIM)
            v = _tile(q_ptr + stride_part + stride_part, start, keys, length, stride_t, HEAD_DIM)
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
            _store_tile(dk_ptr, dk * scale, start, keys, length, 3 * N, HEAD_DIM)
            _store_tile(dk_ptr + N, dv, start, keys, length, 3 * N, HEAD_DIM)


def attention_fwd(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    p: float,
    seed: torch.Tensor | None,
    causal: bool,
    scale: float,
    statistics: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """qkv (T, 3, H, D) -> out (T, H, D), and lse (H, T) float32 in base 2 where `statistics` are asked for."""
    T, _, H, D = qkv.shape
    B = cu_seqlens.shape[0] - 1
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    out = torch.empty((T, H, D), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((H, T), dtype=torch.float32, device=qkv.device) if statistics else None
    if not T:
        return out, lse
    tensors = (qkv, cu_seqlens.contiguous(), seed, out, lse, *qkv.stride()[:3], T, B)
    shape = {"H": H, "HEAD_DIM": D, "CAUSAL": causal}
    size = qkv.element_size(), D
    if tuning.has_row("attention_short_fwd", qkv.device, *size, max_seqlen):
        row = tuning.row("attention_short_fwd", qkv.device, *size, max_seqlen)
        _attention_short_fwd_kernel[((B + 1) * H,)](*tensors, scale, p, **shape, **row)
    else:
        row = tuning.row("attention_long_fwd", qkv.device, *size)
        blocks = triton.cdiv(max_seqlen, row["BLOCK_M"])
        _attention_long_fwd_kernel[(blocks * H * (B + 1),)](*tensors, blocks, scale, p, **shape, **row)
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
        _attention_short_bwd_kernel[((B + 1) * H,)](
            qkv, cu_seqlens, seed, out, lse, dout, dqkv, *sizes, scale, p, **shape, **row
        )
        return dqkv
    delta = torch.empty_like(lse)
    row = tuning.row("attention_long_dq", qkv.device, *size)
    blocks = triton.cdiv(max_seqlen, row["BLOCK_M"])
    _attention_long_dq_kernel[(blocks * H * (B + 1),)](
        qkv, cu_seqlens, seed, out, lse, dout, delta, dqkv, *sizes, blocks, scale, p, **shape, **row
    )
    row = tuning.row("attention_long_dkv", qkv.device, *size)
    blocks = triton.cdiv(max_seqlen, row["BLOCK_N"])
    _attention_long_dkv_kernel[(blocks * H * (B + 1),)](
        qkv, cu_seqlens, seed, lse, dout, delta, dqkv, *sizes, blocks, scale, p, **shape, **row
    )
    return dqkv
