"""Ops whose plain PyTorch form is slow on a CPU, in larger calls; tested against reference.py.

`attention` runs all sequences of one length in one call instead of one call a sequence; with dropout cpu_attention.py does. The
linears take oneDNN's matrix product (onednn.py), with GELU in its epilogue where no gradient is recorded. `ffn` walks a large
batch in blocks of rows, so that the wide intermediate stays in memory that the allocator keeps. Sizes as in reference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import cpu_attention, onednn, reference
from fastbert.ops.recorded import records
from fastbert.ops.reference import Seed

# glibc returns each freed activation to the system and takes it back page by page, a fifth of a layer's time, until a program
# has once freed a block of nearly 32 MiB: then it keeps blocks below that size (mallopt(3), M_MMAP_THRESHOLD). So free one,
# which touches no memory. Other allocators do not care.
_block = torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8)
del _block
_SHORT = 48  # tokens of a text for which three calls are faster than PyTorch's fused attention
_FFN_BLOCK_BYTES = 24 << 20  # of the intermediate: below those 32 MiB, and large enough to fill the matrix product


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    seed: Seed = None,
    causal: bool = False,
    scale: float | None = None,
    plan: Callable[[], Plan] | None = None,
) -> Tensor:
    """As `reference.attention`: (T, 3, H, D) -> (T, H, D). See `ops.attention` for `plan`."""
    if torch.compiler.is_compiling():
        return _traced_attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale)
    if not qkv.shape[0]:
        return qkv[:, 2]
    known = plan_attention(cu_seqlens.tolist()) if plan is None else plan()
    tail = qkv.shape[0] - known.end
    if tail:
        qkv = qkv[: known.end]
    if known.order is not None:
        qkv = qkv.index_select(0, known.order)
    if not known.groups:
        context = qkv[:, 2]
    elif dropout_p > 0:
        context = cpu_attention.attention(qkv, known.groups, dropout_p, _generator(seed, qkv.device), causal, scale)
    else:
        parts = qkv.split([length * count for length, count in known.groups])
        contexts = [_equal_lengths(part, length, causal, scale) for part, (length, _) in zip(parts, known.groups, strict=True)]
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts)
    if known.back is not None:
        context = context.index_select(0, known.back)
    return F.pad(context, (0, 0, 0, 0, 0, tail)) if tail else context


class Plan(NamedTuple):
    """What attention derives from the lengths of a batch, the same in every layer.

    Attributes:
        end: rows that belong to a sequence; those behind it are a tail.
        groups: (length, how many sequences have it), longest first, without empty ones.
        order: packed rows in the order of the groups; None where the batch is in that order already.
        back: the inverse of `order`.
    """

    end: int
    groups: list[tuple[int, int]]
    order: Tensor | None
    back: Tensor | None


def plan_attention(starts: list[int]) -> Plan:
    """The plan of a batch, from the row at which each sequence starts, and the end of the last one."""
    lengths = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [(length, sum(1 for _ in group)) for length, group in groupby(order, key=lambda i: lengths[i]) if length]
    if order == list(range(len(lengths))):
        return Plan(starts[-1], groups, None, None)
    with torch.inference_mode(False):  # a batch that keeps the plan may be trained on later
        rows = _rows(starts, lengths, order)
        return Plan(starts[-1], groups, rows, torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows))))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `reference.linear`: (T, N) -> (T, F)."""
    return onednn.linear(x, weight, bias) if onednn.fits(x, weight) else F.linear(x, weight, bias)


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """As `reference.joined_linear`: (T, N) -> (T, F of all)."""
    if onednn.fits(x, weights[0]):
        y = onednn.joined_linear(x, weights, biases)
        if y is not None:
            return y
    return reference.joined_linear(x, weights, biases, linear)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """As `reference.linear_gelu`: (T, N) -> (T, F)."""
    if onednn.fits(x, weight):
        return onednn.linear_gelu(x, weight, bias, approximate)
    return reference.linear_gelu(x, weight, bias, approximate)


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """As `reference.ffn`: (T, N) -> (T, N). In blocks of rows where no gradient is recorded."""
    block = ffn_block(w1)
    if x.shape[0] <= block or torch.is_grad_enabled() or records() or x.device.type != "cpu":
        return linear(linear_gelu(x, w1, b1, approximate), w2, b2)
    return torch.cat([linear(linear_gelu(rows, w1, b1, approximate), w2, b2) for rows in x.split(block)])


def ffn_block(w1: Tensor) -> int:
    """The number of rows whose activations behind the first linear w1 (F, N) stay in a CPU's caches."""
    return max(256, _FFN_BLOCK_BYTES // (w1.shape[0] * w1.element_size()))


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """As `reference.cross_entropy`: (M, N), (V, N), (V,), (M,) -> loss."""
    return reference.cross_entropy_of_logits(linear(hidden, weight, bias), labels, ignore_index, reduction)


def _equal_lengths(qkv: Tensor, length: int, causal: bool, scale: float | None) -> Tensor:
    """Attention over n sequences of one length: (n * length, 3, H, D) -> (n * length, H, D)."""
    heads, head_dim = qkv.shape[2:]
    q, k, v = qkv.reshape(-1, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
    if length <= _SHORT and not causal and qkv.dtype == torch.float32 and not records(qkv):
        return _short(q, k, v, scale)
    context = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)
    return context.reshape(-1, heads, head_dim)


def _short(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """softmax(scale q k^T) v in three calls: (n, H, S, D) -> (n S, H, D). PyTorch's fused form takes longer for short texts."""
    count, heads, length, head_dim = q.shape
    q, k, v = (one.reshape(count * heads, length, head_dim) for one in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=head_dim**-0.5 if scale is None else scale)
    context = torch.softmax(scores, -1) @ v
    return context.view(count, heads, length, head_dim).transpose(1, 2).reshape(-1, heads, head_dim)


def _traced_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, seed: Seed, causal: bool, scale: float | None
) -> Tensor:
    """The form of a traced graph, which must not look at the lengths: all sequences padded to the longest, and back."""
    starts, ends = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    columns = torch.arange(max_seqlen, device=qkv.device)
    rows = (starts + columns).clamp(max=qkv.shape[0] - 1)
    seen = (columns < ends - starts)[:, None, None, :]
    if causal:
        seen = seen & (columns[None, :] <= columns[:, None])
    bias = torch.zeros(seen.shape, device=qkv.device).masked_fill(~seen, float("-inf"))
    context, _ = reference.attend(qkv[rows], bias, dropout_p, seed, scale)
    tokens = torch.arange(qkv.shape[0], device=qkv.device, dtype=cu_seqlens.dtype)
    owner = torch.bucketize(tokens, cu_seqlens[1:], right=True).clamp(max=cu_seqlens.shape[0] - 2)
    places = owner * max_seqlen + (tokens - cu_seqlens[owner]).clamp(max=max_seqlen - 1)
    return context.flatten(0, 1)[places].masked_fill((tokens >= cu_seqlens[-1])[:, None, None], 0.0)


def _rows(starts: list[int], lengths: list[int], order: list[int]) -> Tensor:
    """Packed rows of the sequences taken in `order`."""
    count = torch.tensor([lengths[i] for i in order])
    shift = torch.tensor([starts[i] for i in order]) - (count.cumsum(0) - count)
    return torch.arange(int(count.sum())) + shift.repeat_interleave(count)


def _generator(seed: Seed, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))
