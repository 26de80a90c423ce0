"""Dropout of the kernels: the bits, their statistics, and that every site and every path agrees on them."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_pair, ragged

import fastbert
from fastbert import ops
from fastbert.ops import reference


def kernel_mask(seed: int, shape: tuple[int, ...], p: float) -> torch.Tensor:
    with fastbert.backend("triton"):
        return ops.dropout_mask(seed, shape, p)


def philox(seed: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox-4x32-7 (Salmon et al. 2011, section 4.3) in Python's integers."""
    word, k0, k1 = 2**32 - 1, seed % 2**32, seed >> 32
    a, b, c, d = counter
    for _ in range(7):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (right >> 32) ^ b ^ k0, right & word, (left >> 32) ^ d ^ k1, left & word
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return [a, b, c, d]


def halves(seed: int, group: int, row: int, head: int) -> list[int]:
    return [half for word in philox(seed, (group, row, head, 0)) for half in (word & 0xFFFF, word >> 16)]


def test_masks_are_philox() -> None:
    seed, limit = 2**61 + 987_654_321, round(0.1 * 2**16)
    joins, scores = kernel_mask(seed, (5, 48), 0.1), kernel_mask(seed, (2, 5, 64), 0.1)
    for row in range(5):
        for column in range(48):
            assert bool(joins[row, column]) == (halves(seed, column // 8, row, 0)[column % 8] >= limit)
        for head in range(2):
            for key in range(64):
                group = key // 32 * 4 + key % 8 // 2
                assert bool(scores[head, row, key]) == (halves(seed, group, row, head)[key % 32 // 8 * 2 + key % 2] >= limit)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(600, 768), (4, 300, 384)], ids=str)
def test_keep_rate_and_independence_are_within_statistical_bounds(shape: tuple[int, ...], p: float) -> None:
    """Five standard deviations: a false alarm every million runs, and the seed is fixed."""
    keep = kernel_mask(4711, shape, p).double()
    bound = 5 * math.sqrt(p * (1 - p))
    assert abs(float(keep.mean()) - (1 - p)) < bound / math.sqrt(keep.numel())
    for axis in range(keep.dim()):  # each row, column and head, and neighbours along each axis
        others = [i for i in range(keep.dim()) if i != axis]
        assert float((keep.mean(others) - (1 - p)).abs().max()) < 1.4 * bound / math.sqrt(keep.numel() / keep.shape[axis])
        for distance in (1, 2, 8, 32):
            if keep.shape[axis] > distance:
                count = keep.shape[axis] - distance
                a, b = keep.narrow(axis, 0, count) - (1 - p), keep.narrow(axis, distance, count) - (1 - p)
                assert abs(float((a * b).mean())) < 5 * p * (1 - p) / math.sqrt(a.numel())


def test_seeds_choose_masks() -> None:
    first, again, other = (kernel_mask(seed, (64, 96), 0.3) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float((first == other).double().mean()) - (0.7**2 + 0.3**2)) < 0.05
    high = kernel_mask(1 + 2**32, (64, 96), 0.3)
    assert not torch.equal(first, high), "the upper half of the seed counts"


def test_no_and_nearly_full_dropout() -> None:
    assert kernel_mask(3, (9, 40), 0.0).all()
    assert float(kernel_mask(3, (200, 400), 0.99).double().mean()) == pytest.approx(0.01, abs=0.003)


def test_kept_values_are_scaled() -> None:
    x = torch.ones(50, 64)
    keep = kernel_mask(9, (50, 64), 0.25)
    with fastbert.backend("triton"):
        out = ops.layer_norm(x, None, torch.ones(64), torch.zeros(64), 1e-12, dropout_p=0.25, seed=9)
    expected = reference.layer_norm(x, None, torch.ones(64), torch.zeros(64), 1e-12, dropout_p=0.25, keep=keep)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("lengths", [[100, 7], [300, 40]], ids=str)
def test_attention_masks_do_not_depend_on_blocks(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbert.kernels import tuning

    qkv = torch.randn(sum(lengths), 3, 1, 32, generator=torch.Generator().manual_seed(0))
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    results = []
    for m, n in ((32, 128), (64, 128)) if max(lengths) <= 128 else ((32, 64), (64, 32), (128, 128)):
        for op in tuning.TABLE:
            if op.startswith("attention"):
                limits = (2**30, 2**30, 128) if "short" in op else (2**30, 2**30)
                monkeypatch.setitem(tuning.TABLE, op, {"default": [(limits, tuning._row(4, BLOCK_M=m, BLOCK_N=n))]})
        leaf = qkv.clone().requires_grad_()
        with fastbert.backend("triton"):
            out = ops.attention(leaf, cu, max(lengths), 0.3, 5)
        out.backward(torch.ones_like(out))
        results.append((out.detach(), leaf.grad))
    for out, gradient in results[1:]:
        torch.testing.assert_close(out, results[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-5, rtol=1e-5)


def test_every_site_of_a_model_draws_another_mask() -> None:
    model, _ = make_pair("BertModel")
    model.train()
    seen: list[tuple[str, int]] = []
    places = {"embedding": 10, "attention": 4, "linear_join": 8, "ffn_join": 9}  # of the seed among the arguments
    real = {name: getattr(ops, name) for name in places}

    def noting(name: str):
        def op(*args, **kwargs):
            seen.append((name, int(args[places[name]])))
            return real[name](*args, **kwargs)

        return op

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(ops, name, noting(name))
        model(**ragged([5, 3]))
    assert len(seen) == 1 + 3 * 3
    assert len({seed for _, seed in seen}) == len(seen)


def test_recomputed_layers_replay_their_masks() -> None:
    model, _ = make_pair("BertForMaskedLM", hidden_size=64)
    model.train()
    batch = ragged([9, 4])
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(3)
        with fastbert.backend("triton"):
            model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.thorough
def test_gradients_under_dropout_are_distributed_as_in_transformers() -> None:
    """Mean and variance of the gradient over 400 draws: a mask too strong, too weak or missing at one kind of site moves them.

    The strengths 0.15 for 0.1 in attention or behind the feed-forward alone raise the variance by 7 % and more.
    """
    strengths = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "num_hidden_layers": 2}
    batch, labels, draws = ragged([9, 4, 9, 13, 2, 4, 7, 7]), torch.arange(8) % 2, 400
    means, variances = [], []
    for model in make_pair("BertForSequenceClassification", **strengths):
        model.train()
        gradients = []
        for i in range(draws):
            torch.manual_seed(i)
            model.zero_grad()
            model(**batch, labels=labels).loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        seen = torch.stack(gradients)
        means.append(seen.mean(0))
        variances.append(seen.var(0))
    expected = sum(variances).sum() / draws  # of the difference of two means of the same distribution
    assert float((means[0] - means[1]).square().sum() / expected) < 1.5
    assert float(variances[0].sum() / variances[1].sum()) == pytest.approx(1, abs=0.04)
