"""Attention with dropout over packed sequences on a CPU, and its gradient: all sequences of one length in one call.

    P = softmax(scale q k^T),   context = c (P * M) v,   M zeros and ones, c = 1 / (1 - p)

    dv = c (P * M)^T dO,   dS = P * (G - rowsum(P * G)) with G = c M * (dO v^T),   dq = scale dS k,   dk = scale dS^T q

A batch has tens of lengths and a layer some twenty small products for each: what autograd would record and copy around them
costs more than they do. Sizes: T packed tokens, H heads, D head size; n sequences of S tokens in a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.ops import reference
from fastbert.ops.recorded import records

Group = tuple[int, int]  # a length, and how many sequences of it stand one behind the other
Settings = tuple[tuple[Group, ...], float, bool, float]  # the groups, dropout, causal, scale


def attention(
    qkv: Tensor, groups: Sequence[Group], dropout_p: float, generator: torch.Generator | None, causal: bool, scale: float | None
) -> Tensor:
    """(T, 3, H, D) -> (T, H, D). The groups cover all rows.

    Args:
        generator: of the dropout masks, one behind the other as (n, H, S, S); None draws from torch's own.
        scale: of the scores; None is 1 / sqrt(D).
    """
    heads, head_dim = qkv.shape[2:]
    keeps = [
        reference.draw_mask((count, heads, length, length), dropout_p, generator, qkv.device, qkv.dtype)
        for length, count in groups
    ]
    scale = head_dim**-0.5 if scale is None else scale
    settings = (tuple(groups), dropout_p, causal, scale)
    if records(qkv) and _is_plain(qkv):
        context: Tensor = _Attention.apply(qkv, settings, *keeps)
        return context
    return _by_autograd(qkv, settings, keeps)


def _is_plain(qkv: Tensor) -> bool:
    """Whether products may be written where they belong: no autocast, no torch.func."""
    return (
        qkv.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(qkv.device.type)
        and not torch._C._are_functorch_transforms_active()
    )


def _by_autograd(qkv: Tensor, settings: Settings, keeps: Sequence[Tensor]) -> Tensor:
    """The same by the reference: with gradients of gradients, autocast, torch.func."""
    groups, dropout_p, causal, scale = settings
    heads, head_dim = qkv.shape[2:]
    contexts = []
    for rows, (length, _), keep in zip(_rows(groups), groups, keeps, strict=True):
        bias = reference.causal_bias(length, qkv.device) if causal else None
        sequences = qkv[rows].reshape(-1, length, 3, heads, head_dim)
        context, _ = reference.attend(sequences, bias, dropout_p, None, scale, keep)
        contexts.append(context.reshape(-1, heads, head_dim))
    return torch.cat(contexts)


def _rows(groups: Sequence[Group]) -> Iterator[slice]:
    """The packed rows of each group."""
    start = 0
    for length, count in groups:
        yield slice(start, start + length * count)
        start += length * count


class _Attention(torch.autograd.Function):
    """The products of a group are batched over its n H heads, (n H, S, D) and (n H, S, S)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, settings: Settings, *keeps: Tensor) -> Tensor:
        groups, dropout_p, causal, scale = settings
        heads, head_dim = qkv.shape[2:]
        c = 1 / (1 - dropout_p)
        context = qkv.new_empty(qkv.shape[0], heads, head_dim)
        kept = []
        for rows, (length, count), keep in zip(_rows(groups), groups, keeps, strict=True):
            split = qkv[rows].view(count, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
            split = split.reshape(3, count * heads, length, head_dim)  # one sequence alone is not copied
            q, k, v = split.unbind()
            scores = qkv.new_empty(count * heads, length, length)
            torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=scale, out=scores)
            if causal:
                scores += reference.causal_bias(length, qkv.device)
            probs = torch.softmax(scores, -1)
            dropped = torch.mul(probs, keep.view_as(probs), out=scores)
            out = context[rows].view(count, length, heads, head_dim)
            torch.mul((dropped @ v).view(count, heads, length, head_dim).transpose(1, 2), c, out=out)
            kept += [split, probs]
        ctx.save_for_backward(qkv, *kept, *keeps)
        ctx.settings = settings
        return context

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dcontext,) = gradients
        groups, dropout_p, _, scale = ctx.settings
        c = 1 / (1 - dropout_p)
        qkv, *kept = ctx.saved_tensors
        keeps = kept[2 * len(groups) :]
        nothing = (None,) * (1 + len(groups))
        if torch.is_grad_enabled():  # the gradient of the gradient is wanted
            (dqkv,) = torch.autograd.grad(_by_autograd(qkv, ctx.settings, keeps), qkv, dcontext, create_graph=True)
            return dqkv, *nothing
        heads, head_dim = qkv.shape[2:]
        dqkv, dcontext = torch.empty_like(qkv), dcontext.contiguous()
        for i, (rows, (length, count)) in enumerate(zip(_rows(groups), groups, strict=True)):
            split, probs = kept[2 * i : 2 * i + 2]
            q, k, v = split.unbind()
            keep = keeps[i].view_as(probs)
            dout = dcontext[rows].view(count, length, heads, head_dim).transpose(1, 2).reshape(-1, length, head_dim)
            found = qkv.new_empty(split.shape)
            dq, dk, dv = found.unbind()
            dropped = probs * keep
            torch.baddbmm(dv, dropped.transpose(1, 2), dout, beta=0, alpha=c, out=dv)
            dprobs = torch.baddbmm(dropped, dout, v.transpose(1, 2), beta=0, alpha=c, out=dropped).mul_(keep)
            dscores = torch.ops.aten._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            torch.baddbmm(dq, dscores, k, beta=0, alpha=scale, out=dq)
            torch.baddbmm(dk, dscores.transpose(1, 2), q, beta=0, alpha=scale, out=dk)
            found = found.view(3, count, heads, length, head_dim)
            dqkv[rows].view(count, length, 3, heads, head_dim).copy_(found.permute(1, 3, 0, 2, 4))
        return dqkv, *nothing
