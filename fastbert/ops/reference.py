"""Every op of BERT in plain PyTorch, the obvious way: the specification of the kernels and the oracle of the tests.

Works on any device and in any floating type, float64 included. Sizes: T packed tokens, H heads, D head size, N hidden,
F intermediate, V vocabulary, M scored positions. Dropout: `keep` is a boolean mask to apply; without it one is drawn from
`seed` (an integer or a tensor of one), and without a seed from torch's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops.side_by_side import as_one

Seed = Tensor | int | None


def embedding(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    padding_idx: int | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """dropout(LayerNorm(word[ids] + token_type[types] + position[positions])): three (T,) -> (T, N). Paper, section 3.

    The word table gets no gradient at row `padding_idx`.
    """
    x = F.embedding(input_ids, word_weight, padding_idx=padding_idx)
    x = x + F.embedding(token_type_ids, token_type_weight)
    x = x + F.embedding(position_ids, position_weight)
    x = F.layer_norm(x, x.shape[-1:], ln_weight, ln_bias, eps)
    return dropout(x, dropout_p, seed, keep)


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    seed: Seed = None,
    causal: bool = False,
    scale: float | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v inside each sequence: qkv (T, 3, H, D) -> (T, H, D).

    `scale` is 1 / sqrt(D) by default; `causal` lets a token see itself and what stands before it. `keep` is
    (H, T, max_seqlen): head, packed query row, key position within its sequence. Rows behind the last sequence give zeros.
    """
    starts = cu_seqlens.tolist()
    if keep is None and dropout_p > 0:
        keep = dropout_mask(seed, (qkv.shape[2], qkv.shape[0], max_seqlen), dropout_p, qkv.device)
    context = []
    for start, end in pairwise(starts):
        length = end - start
        kept = None if keep is None else keep[:, start:end, :length]
        bias = causal_bias(length, qkv.device) if causal else None
        one, _ = attend(qkv[start:end].unsqueeze(0), bias, dropout_p, None, scale, kept)
        context.append(one.squeeze(0))
    return torch.cat([*context, torch.zeros_like(qkv[starts[-1] :, 0])])


def attend(
    qkv: Tensor,
    bias: Tensor | None,
    dropout_p: float = 0.0,
    seed: Seed = None,
    scale: float | None = None,
    keep: Tensor | None = None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over equally long sequences with any additive bias: (B, S, 3, H, D) -> (B, S, H, D) and (B, H, S, S).

    With a `prefix`, keys and values (B, H, P, D) that stand before the tokens, the probabilities are (B, H, S, P + S).

    The probabilities are returned as they multiply v, that is after dropout, as in transformers. A row whose bias is -inf
    everywhere attends to nothing and gives zeros.
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, S, D)
    if prefix is not None:
        k, v = torch.cat([prefix[0].to(k.dtype), k], dim=2), torch.cat([prefix[1].to(v.dtype), v], dim=2)
    scores = q @ k.transpose(-1, -2) * (qkv.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        bias = bias.to(scores.dtype)
        nothing = (bias == float("-inf")).all(-1, keepdim=True)
        scores = scores + bias.masked_fill(nothing, 0.0)
    probs = torch.softmax(scores, dim=-1)
    if bias is not None:
        probs = probs.masked_fill(nothing, 0.0)
    probs = dropout(probs, dropout_p, seed, keep)
    return (probs.to(v.dtype) @ v).transpose(1, 2), probs


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Seed = None,
    keep: Tensor | None = None,
) -> Tensor:
    """LayerNorm(dropout(x + x_bias) + residual) * weight + bias over the last axis: (T, N) -> (T, N).

    BERT's post-norm join: the sum goes through LayerNorm after each of a layer's two blocks.
    """
    if x_bias is not None:
        x = x + x_bias
    x = dropout(x, dropout_p, seed, keep)
    if residual is not None:
        x = x + residual
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: (T, N) -> (T, F)."""
    return F.linear(x, weight, bias)


def joined_linear(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], product: Callable[..., Tensor] = linear
) -> Tensor:
    """x [w1; w2; ...]^T + [b1; b2; ...]: (T, N) -> (T, F of all): query, key and value.

    One product with the joined weights where these stand side by side in memory already, or are smaller than what they give;
    else one each. An exported graph, which must not depend on the number of rows, has one each.
    """
    weight, bias = as_one(weights), as_one(biases)
    if weight is not None and bias is not None:
        return product(x, weight, bias)
    if not torch.compiler.is_exporting() and x.shape[0] >= x.shape[1]:
        return product(x, torch.cat(list(weights)), torch.cat(list(biases)))
    return torch.cat([product(x, w, b) for w, b in zip(weights, biases, strict=True)], dim=1)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """GELU(x weight^T + bias): (T, N) -> (T, F). "none" is the exact form with erf, BERT's own; "tanh" is gelu_new."""
    return F.gelu(F.linear(x, weight, bias), approximate=approximate)


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """GELU(x w1^T + b1) w2^T + b2: (T, N) -> (T, N), w1 (F, N), w2 (N, F)."""
    return F.linear(linear_gelu(x, w1, b1, approximate), w2, b2)


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cross entropy of the scores hidden weight^T + bias: (M, N), (V, N), (V,), labels (M,) -> loss.

    "mean" divides by the number of labels that are not `ignore_index`, and gives 0 where there is none; "sum" does not divide;
    "none" gives (M,).
    """
    return cross_entropy_of_logits(F.linear(hidden, weight, bias), labels, ignore_index, reduction)


def cross_entropy_of_logits(logits: Tensor, labels: Tensor, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """As `cross_entropy`, from scores (M, V) that are already there."""
    if reduction != "mean":
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
    return (total / (labels != ignore_index).sum().clamp(min=1)).to(losses.dtype)


def causal_bias(length: int, device: torch.device) -> Tensor:
    """(S, S) float32: -inf above the diagonal."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)


def dropout(x: Tensor, p: float, seed: Seed = None, keep: Tensor | None = None) -> Tensor:
    """Zeroes each element with probability p and scales the others by 1 / (1 - p)."""
    if keep is None:
        if p == 0:
            return x
        keep = dropout_mask(seed, x.shape, p, x.device, x.dtype)
    return x * (keep.to(x.dtype) * (1 / (1 - p)))  # in this order: backward multiplies once


def dropout_mask(
    seed: Seed,
    shape: tuple[int, ...],
    p: float,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.bool,
) -> Tensor:
    """A keep-mask of `shape`, True or 1 with probability 1 - p; the same seed gives the same mask.

    A traced graph draws from torch's own generator, as a seed of its own cannot be traced.
    """
    if torch.compiler.is_compiling():
        return (torch.rand(shape, device=device) >= p).to(dtype)
    generator = None if seed is None else torch.Generator(device or "cpu").manual_seed(int(seed))
    return draw_mask(shape, p, generator, device, dtype)


def draw_mask(
    shape: tuple[int, ...],
    p: float,
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.bool,
) -> Tensor:
    """A keep-mask from a generator. On a CPU each random 64-bit word gives four elements, and p is a multiple of 1/65,536."""
    if torch.device(device or "cpu").type != "cpu":
        return (torch.rand(shape, generator=generator, device=device) >= p).to(dtype)
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    drawn = words.view(torch.int16)[:count].view(shape)
    return torch.ge(drawn, min(round(p * 65536), 65535) - 32768, out=torch.empty(shape, dtype=dtype))
