"""Attention with dropout on a CPU: its own backward against autograd through the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastbert import ops
from fastbert.ops import cpu, cpu_attention, reference

HEADS, HEAD_DIM = 4, 8


def rows_of(groups: list[tuple[int, int]], dtype: torch.dtype = torch.float64) -> Tensor:
    tokens = sum(length * count for length, count in groups)
    drawn = torch.randn(tokens, 3, HEADS, HEAD_DIM, dtype=dtype, generator=torch.Generator().manual_seed(2))
    return drawn.requires_grad_()


def ours(qkv: Tensor, groups: list[tuple[int, int]], causal: bool = False, scale: float | None = None) -> Tensor:
    return cpu_attention.attention(qkv, groups, 0.3, torch.Generator().manual_seed(5), causal, scale)


def by_reference(qkv: Tensor, groups: list[tuple[int, int]], causal: bool, scale: float | None) -> Tensor:
    """A sequence at a time, with the same masks."""
    draws, contexts, start = torch.Generator().manual_seed(5), [], 0
    for length, count in groups:
        keep = reference.draw_mask((count, HEADS, length, length), 0.3, draws)
        for i in range(count):
            bias = reference.causal_bias(length, qkv.device) if causal else None
            one, _ = reference.attend(qkv[start : start + length][None], bias, 0.3, None, scale, keep[i : i + 1])
            contexts.append(one[0])
            start += length
    return torch.cat(contexts)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("groups", [[(7, 1)], [(5, 3)], [(33, 2), (9, 1), (2, 4), (1, 2)]])
def test_result_and_gradient_equal_the_reference(groups: list[tuple[int, int]], causal: bool, scale: float | None) -> None:
    qkv = rows_of(groups)
    found, expected = ours(qkv, groups, causal, scale), by_reference(qkv, groups, causal, scale)
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    upstream = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(3))
    gradients = [torch.autograd.grad(out, qkv, upstream)[0] for out in (found, expected)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-13)


def test_gradients_of_gradients_and_torch_func() -> None:
    groups = [(3, 1), (2, 2)]
    qkv = rows_of(groups)
    assert torch.autograd.gradcheck(lambda x: ours(x, groups), qkv)
    assert torch.autograd.gradgradcheck(lambda x: ours(x, groups), qkv)
    found = torch.func.grad(lambda x: ours(x, groups).pow(2).sum())(qkv.detach())
    assert torch.allclose(found, torch.autograd.grad(ours(qkv, groups).pow(2).sum(), qkv)[0], rtol=0, atol=1e-13)


def test_bfloat16_and_autocast_take_the_reference() -> None:
    groups = [(6, 2), (4, 1)]
    exact = ours(rows_of(groups), groups)
    rounded = rows_of(groups).detach().bfloat16().requires_grad_()
    assert torch.allclose(ours(rounded, groups).double(), exact, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        ours(rows_of(groups, torch.float32), groups).sum().backward()


def test_a_change_of_what_backward_needs_is_noticed() -> None:
    cu_seqlens = torch.tensor([0, 6, 9], dtype=torch.int32)
    qkv = (rows_of([(6, 1), (3, 1)], torch.float32) * 1.0).contiguous()
    out = ops.attention(qkv, cu_seqlens, 6, 0.1, 7)
    with torch.no_grad():
        qkv.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 48], [48, 49, 3, 0, 3]], ids=str)
def test_short_texts_of_inference_equal_the_reference(lengths: list[int], scale: float | None) -> None:
    """Up to 48 tokens attention is three plain calls there; longer ones, and masks, stay PyTorch's own."""
    tokens = sum(lengths)
    qkv = torch.randn(tokens, 3, 2, 16, generator=torch.Generator().manual_seed(0))
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    for causal in (False, True):
        exact = reference.attention(qkv.double(), cu, max(lengths), causal=causal, scale=scale)
        with torch.no_grad():
            found = cpu.attention(qkv, cu, max(lengths), causal=causal, scale=scale)
        assert float((found - exact).abs().max()) < 1e-5
