"""Shared by both forms of attention: tiles of a packed batch, masks, and the gradient of the scores.

tiles (R, D) of qkv (T, 3, H, D); probs = exp2(q k^T * scale * log2(e) - lse), dprobs = dout v^T
ds = probs * (dropout'(dprobs) - delta)             delta = rowsum(out * dout)
"""

import triton
import triton.language as tl

from fastbert.kernels.common import in_type, keep_mask, operand

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def first_row(cu_ptr, sequence, T):
    """First row of a sequence, clamped to the T rows; that of sequence B is the tail's."""
    return tl.minimum(tl.maximum(tl.load(cu_ptr + sequence).to(tl.int32), 0), T)


@triton.jit
def bounds(cu_ptr, sequence, T):
    """First row and length of a sequence, clamped to the T rows."""
    start = first_row(cu_ptr, sequence, T)
    end = tl.minimum(tl.load(cu_ptr + sequence + 1).to(tl.int32), T)
    return start, tl.maximum(end - start, 0)


@triton.jit
def tile(ptr, start, rows, length, stride_t, HEAD_DIM: tl.constexpr):
    """Rows `rows` of a sequence, (R, D); zeros beyond its length."""
    at = (start + rows).to(tl.int64)[:, None] * stride_t + tl.arange(0, HEAD_DIM)[None, :]
    return tl.load(ptr + at, mask=(rows < length)[:, None], other=0.0)


@triton.jit
def store_tile(ptr, values, start, rows, length, stride_t, HEAD_DIM: tl.constexpr):
    """Writes rows `rows` of a sequence, (R, D), except those beyond its length."""
    at = (start + rows).to(tl.int64)[:, None] * stride_t + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(ptr + at, in_type(values, ptr.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def clear_tail(ptr, cu_ptr, sequence, T, first, end, step, stride_t, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Zeroes rows after the last sequence: from `first` on, blocks that are `step` rows apart, up to row `end` of the tail."""
    start = first_row(cu_ptr, sequence, T)
    zero = tl.zeros((BLOCK, HEAD_DIM), tl.float32)
    for row in range(first, tl.minimum(end, T - start), step):
        store_tile(ptr, zero, start, row + tl.arange(0, BLOCK), T - start, stride_t, HEAD_DIM)


@triton.jit
def visible(queries, keys, length, CAUSAL: tl.constexpr):
    """Mask of the keys that each query may attend to, (M, N)."""
    seen = (keys < length)[None, :]
    if CAUSAL:
        seen = seen & (keys[None, :] <= queries[:, None])
    return seen


@triton.jit
def score_gradients(
    q, k, v, dout, lse, delta, seed_ptr, rows, first_key, head, seen, scale, p, MASKED: tl.constexpr
):  # fmt: skip
    """Probabilities after dropout, without the factor 1 / (1 - p), and the gradient of scale * q k^T.

    Both are (M, N), in the type of the products that follow.
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
