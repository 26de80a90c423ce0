"""Attention over packed sequences: kernels and cpu.py against reference.py, and reference.py against the formula."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import LENGTHS as EVERY_BRANCH
from kernel_checks import assert_exact, check_attention, random

import fastbert
from fastbert import ops
from fastbert.ops import cpu, reference

LENGTHS = [7, 1, 0, 12, 7, 3]


def packed(lengths: list[int], heads: int = 2, width: int = 16, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, heads, width, generator=generator, dtype=torch.float64).to(dtype)
    return qkv, torch.tensor([0, *lengths]).cumsum(0).int(), max(lengths)


@pytest.mark.parametrize("causal", [False, True])
def test_reference_attention_is_the_formula(causal: bool) -> None:
    qkv, cu, longest = packed(LENGTHS)
    out = reference.attention(qkv, cu, longest, causal=causal)
    start = 0
    for n in LENGTHS:
        q, k, v = qkv[start : start + n].unbind(1)
        for head in range(2):
            for i in range(n):
                seen = i + 1 if causal else n
                weights = torch.softmax(k[:seen, head] @ q[i, head] / 4.0, 0)  # sqrt(16)
                torch.testing.assert_close(out[start + i, head], weights @ v[:seen, head])
        start += n


@pytest.mark.parametrize("lengths", [LENGTHS, [12, 7, 7, 3, 1], [5, 5, 5], [4], [0, 0, 3]], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_cpu_attention_equals_reference_with_gradients(lengths: list[int], causal: bool, scale: float | None) -> None:
    qkv, cu, longest = packed(lengths)
    results = []
    for form in (cpu.attention, reference.attention):
        x = qkv.clone().requires_grad_()
        out = form(x, cu, longest, causal=causal, scale=scale)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        out.backward(upstream)
        results.append((out.detach(), x.grad))
    torch.testing.assert_close(*[r[0] for r in results])
    torch.testing.assert_close(*[r[1] for r in results])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cpu_attention_is_as_exact_as_eager_in_the_same_type(dtype: torch.dtype) -> None:
    qkv, cu, longest = packed([33, 64, 5, 64], dtype=dtype)
    exact = reference.attention(qkv.double(), cu, longest)
    error = (cpu.attention(qkv, cu, longest).double() - exact).abs().max()
    eager = (reference.attention(qkv, cu, longest).double() - exact).abs().max()
    assert error <= 2 * eager + 1e-7


def test_cpu_attention_takes_strided_input() -> None:
    qkv, cu, longest = packed(LENGTHS)
    wide = torch.zeros(qkv.shape[0], 3, 4, 16, dtype=qkv.dtype)
    wide[:, :, ::2] = qkv
    torch.testing.assert_close(cpu.attention(wide[:, :, ::2], cu, longest), reference.attention(qkv, cu, longest))


def test_attention_ignores_other_sequences() -> None:
    qkv, cu, longest = packed([4, 6])
    before = ops.attention(qkv, cu, longest)
    qkv[4:] = torch.randn_like(qkv[4:])
    after = ops.attention(qkv, cu, longest)
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4:], after[4:])


@pytest.mark.parametrize("form", [cpu.attention, reference.attention])
def test_attention_dropout_replays_from_its_seed_and_keeps_the_mean(form) -> None:
    qkv, cu, longest = packed([64] * 8, dtype=torch.float32)
    drawn = [form(qkv, cu, longest, dropout_p=0.5, seed=torch.tensor(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    many = torch.stack([form(qkv, cu, longest, dropout_p=0.5, seed=s) for s in range(200)]).mean(0)
    plain = form(qkv, cu, longest)
    assert float((many - plain).abs().mean()) < 0.05 * float(plain.abs().mean()) + 0.02


def test_reference_attention_applies_a_given_mask() -> None:
    qkv, cu, longest = packed([3, 2], heads=1)
    keep = torch.zeros(1, 5, 3, dtype=torch.bool)
    keep[0, :, 0] = True  # only the first key of each sequence is kept
    out = reference.attention(qkv, cu, longest, dropout_p=0.5, keep=keep)
    q, k, v = qkv[:3].unbind(1)
    probs = torch.softmax(q[:, 0] @ k[:, 0].T / 4.0, -1)
    torch.testing.assert_close(out[:3, 0], 2 * probs[:, :1] * v[:1, 0])


def test_masked_rows_give_zeros_not_nan() -> None:
    qkv = torch.randn(1, 4, 3, 2, 8)
    bias = torch.zeros(1, 1, 4, 4)
    bias[:, :, 2] = float("-inf")
    out, probs = ops.masked_attention(qkv, bias)
    assert not out[:, 2].any()
    assert not probs[:, :, 2].any()
    assert torch.isfinite(out).all()


def test_reference_attention_passes_gradcheck() -> None:
    qkv, cu, longest = packed([3, 0, 4], width=4)
    qkv.requires_grad_()
    for causal in (False, True):
        assert torch.autograd.gradcheck(lambda x, c=causal: reference.attention(x, cu, longest, causal=c), qkv)


# -- the kernels, under the interpreter in float32; test_compiled_kernels.py has 16 bit, test_gpu.py the full sizes ------------


@pytest.mark.parametrize(("p", "causal"), [(0.0, False), (0.1, True)])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_long_attention_is_as_exact_as_plain_pytorch(width: int, p: float, causal: bool, poisoned: None) -> None:
    lengths = EVERY_BRANCH if width == 64 else [n for n in EVERY_BRANCH if n <= 200]
    check_attention("cpu", torch.float32, lengths, 1, width, p, causal)


def test_long_attention_takes_several_heads(poisoned: None) -> None:
    check_attention("cpu", torch.float32, [140, 3, 65], 3, 32, 0.1, False)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("longest", [16, 33, 64, 128])
def test_short_attention_is_as_exact_as_plain_pytorch(longest: int, p: float, causal: bool, poisoned: None) -> None:
    lengths = [n for n in (1, 2, 17, 0, 63, 64, 65, 127) if n < longest] + [longest]
    check_attention("cpu", torch.float32, lengths, 2, 32, p, causal)


@pytest.mark.parametrize("width", [16, 64, 128])
def test_short_attention_takes_every_head_size(width: int, poisoned: None) -> None:
    check_attention("cpu", torch.float16, [40, 128, 1], 1, width, 0.1, False)


@pytest.mark.parametrize("lengths", [[40, 3], [150, 3]], ids=str)
def test_attention_kernels_take_strided_input(lengths: list[int], poisoned: None) -> None:
    check_attention("cpu", torch.float32, lengths, 3, 32, 0.1, False, strided=True)


@pytest.mark.parametrize("lengths", [[0, 5, 0, 0], [0, 0], [0, 140, 0], [1]], ids=str)
def test_attention_kernels_take_empty_sequences(lengths: list[int], poisoned: None) -> None:
    qkv, cu, longest = packed(lengths, dtype=torch.float32)
    qkv.requires_grad_()
    with fastbert.backend("triton"):
        out = ops.attention(qkv, cu, longest)
    torch.testing.assert_close(out, reference.attention(qkv, cu, longest))
    out.sum().backward()
    assert qkv.grad.isfinite().all()


@pytest.mark.parametrize("form", ["kernel", "cpu", "reference"])
@pytest.mark.parametrize("lengths", [[7, 3], [140, 20]], ids=str)
def test_attention_gives_zeros_behind_the_last_sequence(form: str, lengths: list[int], poisoned: None) -> None:
    """A fixed token budget has a tail that belongs to no sequence: it must be finite, and take part in nothing."""
    qkv, cu, longest = packed([*lengths, 20], dtype=torch.float32)
    cu = cu[:-1]
    qkv.requires_grad_()
    with fastbert.backend({"kernel": "triton", "cpu": "auto", "reference": "reference"}[form]):
        out = ops.attention(qkv, cu, longest)
    assert not out[-20:].any()
    out.backward(random(*out.shape, seed=1, device="cpu").float())
    assert not qkv.grad[-20:].any()
    torch.testing.assert_close(out[:-20], reference.attention(qkv[:-20], cu, longest))


@pytest.mark.parametrize("lengths", [[60, 128, 5], [60, 150]], ids=str)
def test_attention_backward_gives_equal_bits(lengths: list[int]) -> None:
    gradients = []
    for _ in range(2):
        qkv, cu, longest = packed(lengths, dtype=torch.float32)
        qkv.requires_grad_()
        with fastbert.backend("triton"):
            ops.attention(qkv, cu, longest, 0.1, 7).backward(random(*qkv.shape[:1], 2, 16, seed=1, device="cpu").float())
        gradients.append(qkv.grad)
    assert torch.equal(*gradients)


def test_attention_stands_large_scores(poisoned: None) -> None:
    """Scores of several thousand: exp would overflow without the running maximum."""
    qkv, cu, longest = packed([40, 130], dtype=torch.float32)
    results = []
    for module, value in ((reference, qkv.double()), (reference, qkv), (ops, qkv)):
        leaf = (value * 60).requires_grad_()
        with fastbert.backend("triton" if module is ops else "reference"):
            out = module.attention(leaf, cu, longest)
        out.sum().backward()
        results.append((out.detach(), leaf.grad))
    (exact, exact_gradient), (eager, eager_gradient), (found, gradient) = results
    assert_exact("result", found, eager, exact)
    assert_exact("gradient", gradient, eager_gradient, exact_gradient)


def test_attention_bounds_that_lie_are_harmless() -> None:
    """A longer sequence than max_seqlen, or rows beyond the end: wrong numbers for those, no address outside the tensors."""
    qkv, _, _ = packed([10], dtype=torch.float32)
    for wild in ([0, 400], [-5, 10], [0, 200, 10]):
        with fastbert.backend("triton"):
            assert ops.attention(qkv, torch.tensor(wild, dtype=torch.int32), 10).shape == (10, 2, 16)
