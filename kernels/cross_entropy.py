"""The MLM loss from hidden states and the tied decoder: loss_m = log sum_v exp(s_mv) - s_m,label.

    s = hidden weight^T + bias
    hidden (M, N), weight (V, N), bias (V,), labels (M,) -> losses (M,) float32; lse (M,) float32, saved

Rows are processed in chunks. cuBLAS writes the scores of a chunk in the operands' type; a kernel reads them once, with a
running maximum and sum in float32, so no (M, V) float32 tensor exists. For the backward the scores of the first rows are kept,
within a memory budget; the others are recomputed. A kernel turns a chunk of scores into its gradient, (softmax - onehot) *
upstream, in one pass that also yields the partial column sums of dbias; two cuBLAS products compute dhidden and dweight from
it.

cuBLAS needs sizes that are multiples of 8: for V = 30522 it falls back to kernels of an older architecture, at less than half
the speed. The products therefore run on a weight and a bias that are padded with zero rows, whose scores are ignored; rows of
the score buffer start at multiples of 64 elements.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.common import contiguous_rows
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv

CHUNK_BYTES = 256 << 20  # of scores computed at a time
KEPT_BYTES = 1 << 30  # of scores kept for the backward
PADDED_FROM = 256  # rows of scores


@triton.constexpr_function
def _padded(V):
    return (V + 63) // 64 * 64


@direct
@triton.jit(do_not_specialize=["ignore_index"])
def _cross_entropy_fwd_kernel(
    logit_ptr, label_ptr, loss_ptr, lse_ptr, stride_m, V: tl.constexpr, ignore_index, BLOCK_V: tl.constexpr
):
    row = tl.program_id(0)
    logit_ptr += row.to(tl.int64) * stride_m
    largest = tl.full((BLOCK_V,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_V,), tl.float32)
    for first in range(0, V, BLOCK_V):
        cols = first + tl.arange(0, BLOCK_V)
        logits = tl.load(logit_ptr + cols, mask=cols < _padded(V), other=float("-inf")).to(tl.float32)
        logits = tl.where(cols < V, logits, float("-inf"))
        new = tl.maximum(largest, logits)
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(largest - safe) + tl.exp(logits - safe)
        largest = new
    top = tl.max(largest, axis=0)
    lse = top + tl.log(tl.sum(total * tl.exp(largest - top), axis=0))
    label = tl.load(label_ptr + row)
    counted = label != ignore_index
    target = tl.load(logit_ptr + tl.minimum(tl.maximum(label, 0), V - 1)).to(tl.float32)
    tl.store(loss_ptr + row, tl.where(counted, lse - target, 0.0))
    tl.store(lse_ptr + row, lse)


@direct
@triton.jit(do_not_specialize=["M", "ignore_index"])
def _cross_entropy_bwd_kernel(
    logit_ptr, label_ptr, lse_ptr, upstream_ptr, dlogit_ptr, partial_ptr, stride_m, stride_dm, M, V: tl.constexpr, ignore_index,
    BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    columns: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    program, programs = tl.program_id(0) // columns, tl.num_programs(0) // columns
    cols = tl.program_id(0) % columns * BLOCK_V + tl.arange(0, BLOCK_V)
    dbias = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for first in range(program * BLOCK_M, M, programs * BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        real = rows < M
        inside = real[:, None] & (cols < _padded(V))[None, :]
        label = tl.load(label_ptr + rows, mask=real, other=0)
        upstream = tl.load(upstream_ptr + rows, mask=real & (label != ignore_index), other=0.0)
        lse = tl.load(lse_ptr + rows, mask=real, other=0.0)
        at = rows.to(tl.int64)[:, None]
        logits = tl.load(logit_ptr + at * stride_m + cols[None, :], mask=inside, other=float("-inf")).to(tl.float32)
        logits = tl.where((cols < V)[None, :], logits, float("-inf"))
        probs = tl.exp(logits - lse[:, None])
        dlogits = (probs - tl.where(cols[None, :] == label[:, None], 1.0, 0.0)) * upstream[:, None]
        tl.store(dlogit_ptr + at * stride_dm + cols[None, :], dlogits.to(dlogit_ptr.dtype.element_ty), mask=inside)
        dbias += tl.where(inside, dlogits, 0.0)
    tl.store(partial_ptr + program * V + cols, tl.sum(dbias, axis=0), mask=cols < V)


def padded_width(V: int) -> int:
    """Stride of the score buffer's rows, in elements."""
    return cdiv(V, 64) * 64


def kept_rows(hidden: torch.Tensor, weight: torch.Tensor) -> int:
    """Number of rows of scores that a forward keeps for its backward."""
    return min(hidden.shape[0], _rows_in(KEPT_BYTES, weight.shape[0], hidden))


def _rows_in(budget: int, V: int, like: torch.Tensor) -> int:
    return max(1, budget // (padded_width(V) * like.element_size()))


def _even(t: torch.Tensor, rows: int) -> torch.Tensor:
    """A weight (V, N) or bias (V,), padded with zeros to a multiple of 8 along V; the tensor itself if V is one.

    For few rows of scores the copy would take longer than the product.
    """
    missing = -t.shape[0] % 8 if rows >= PADDED_FROM else 0
    return torch.nn.functional.pad(t, (0,) * (2 * t.dim() - 1) + (missing,)) if missing else t


def _buffer(rows: int, V: int, like: torch.Tensor) -> torch.Tensor:
    """Rows of scores. Columns from V on are uninitialised; kernels load them, 16 bytes at a time, and ignore them."""
    return torch.empty((rows, padded_width(V)), dtype=like.dtype, device=like.device)


def _scores(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    return torch.mm(hidden, weight.T, out=out) if bias is None else torch.addmm(bias, hidden, weight.T, out=out)


def cross_entropy_fwd(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses (M,) float32, 0 at ignored rows; lse (M,) float32; with `keep`, scores of the first rows, (rows, padded width)."""
    (M, _), V = hidden.shape, weight.shape[0]
    weight, bias = _even(weight, M), None if bias is None else _even(bias, M)
    losses = torch.empty(M, dtype=torch.float32, device=hidden.device)
    lse = torch.empty_like(losses)
    labels = labels.contiguous()
    row = tuning.row("cross_entropy_fwd", hidden.device)
    kept = _buffer(kept_rows(hidden, weight) if keep else 0, V, hidden)
    kept[:, len(weight) :] = 0
    first, step = 0, _rows_in(CHUNK_BYTES, V, hidden)
    scratch = None
    while first < M:
        count = kept.shape[0] if first < kept.shape[0] else min(step, M - first)
        if first >= kept.shape[0] and scratch is None:
            scratch = _buffer(count, V, hidden)
        chunk = slice(first, first + count)
        logits = _scores(hidden[chunk], weight, bias, (kept if scratch is None else scratch[:count])[:, : len(weight)])
        _cross_entropy_fwd_kernel[(count,)](
            logits, labels[chunk], losses[chunk], lse[chunk], logits.stride(0), V=V, ignore_index=ignore_index, **row
        )
        first += count
    return losses, lse, kept


def cross_entropy_bwd(
    upstream: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    lse: torch.Tensor,
    kept: torch.Tensor,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """upstream (M,) float32 -> dhidden (M, N) and dweight (V, N) in the types of hidden and weight, dbias (V,) float32."""
    (M, N), V = hidden.shape, weight.shape[0]
    weight, bias = _even(weight, M), None if bias is None else _even(bias, M)
    width = len(weight)
    hidden, upstream, labels = contiguous_rows(hidden), upstream.contiguous(), labels.contiguous()
    dhidden = torch.empty((M, N), dtype=hidden.dtype, device=hidden.device)
    dbias = torch.zeros(V, dtype=torch.float32, device=hidden.device)
    dweight: torch.Tensor | None = None
    step = min(max(M, 1), _rows_in(CHUNK_BYTES, V, hidden))
    dlogits_buffer = _buffer(step, V, hidden)
    scratch = _buffer(step, V, hidden) if kept.shape[0] < M else None
    first = 0
    while first < M:
        is_kept = first < kept.shape[0]
        count = min(step, (kept.shape[0] if is_kept else M) - first)
        chunk = slice(first, first + count)
        if is_kept:
            logits = kept[chunk, :width]
        else:
            assert scratch is not None
            logits = _scores(hidden[chunk], weight, bias, scratch[:count, :width])
        row = tuning.row("cross_entropy_bwd", hidden.device)
        programs = min(row.pop("PROGRAMS"), cdiv(count, row["BLOCK_M"]))
        partial = torch.empty((programs, V), dtype=torch.float32, device=hidden.device)
        dlogits = dlogits_buffer[:count, :width]
        _cross_entropy_bwd_kernel[(programs * cdiv(V, row["BLOCK_V"]),)](
            logits, labels[chunk], lse[chunk], upstream[chunk], dlogits, partial, logits.stride(0), dlogits.stride(0), count,
            V=V, ignore_index=ignore_index, **row,
        )  # fmt: skip
        dbias += partial.sum(0)
        torch.mm(dlogits, weight, out=dhidden[chunk])
        part = dlogits.T @ hidden[chunk]
        dweight = part if dweight is None else dweight.float() + part  # float32 from the second chunk on
        first += count
    if dweight is None:
        dweight = torch.zeros_like(weight)
    return dhidden, dweight[:V].to(weight.dtype), dbias
