"""The MLM loss: kernels against the reference, as compiled for sm_90 in `make test`; test_gpu.py has the full sizes."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import check_cross_entropy, random

import fastbert
from fastbert import ops
from fastbert.kernels import cross_entropy as kernels

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("padded_from", [1, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_as_exact_as_plain_pytorch(
    reduction: str, dtype: torch.dtype, padded_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1003 is no multiple of 8: the weight gets five rows of zeros where there are many rows of scores."""
    monkeypatch.setattr(kernels, "PADDED_FROM", padded_from)
    check_cross_entropy("cpu", dtype, 40, 64, 1003, reduction)


def test_cross_entropy_takes_a_decoder_without_a_bias() -> None:
    check_cross_entropy("cpu", torch.float32, 9, 32, 300, "mean", bias=False)


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_cross_entropy_in_chunks_is_the_same(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows at a time; scores of none, some or all rows kept for the backward."""
    row = kernels.padded_width(300) * 4
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 7 * row)
    monkeypatch.setattr(kernels, "KEPT_BYTES", kept * row)
    monkeypatch.setattr(kernels, "PADDED_FROM", 1)
    check_cross_entropy("cpu", torch.float32, 40, 32, 300, "mean")


def test_cross_entropy_without_a_label_is_zero_and_attached() -> None:
    hidden, weight = random(5, 16, seed=1, device="cpu").float().requires_grad_(), random(50, 16, seed=2, device="cpu").float()
    for labels in (torch.full((5,), -100), torch.zeros(0, dtype=torch.long)):
        with fastbert.backend("triton"):
            loss = ops.cross_entropy(hidden[: len(labels)], weight, None, labels)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert float(loss) == 0
        assert not gradient.any()


def test_cross_entropy_stands_large_scores() -> None:
    """exp of 200 overflows float32; so do sums of float16 losses."""
    hidden, weight = torch.full((3, 4), 10.0), torch.eye(4).repeat(200, 1) * 20
    labels = torch.tensor([0, 1, 799])
    with fastbert.backend("triton"):
        found = ops.cross_entropy(hidden, weight, None, labels, reduction="none")
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="none"))


def test_cross_entropy_never_holds_float32_scores() -> None:
    """(M, V) in float16 is the largest tensor that the forward and the backward make."""
    sizes: list[tuple[torch.dtype, int]] = []
    real = torch.empty

    def noted(*args, **kwargs):
        made = real(*args, **kwargs)
        sizes.append((made.dtype, made.numel()))
        return made

    hidden, weight = random(300, 16, seed=1, device="cpu").half(), random(5000, 16, seed=2, device="cpu").half()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", noted)
        _, lse, kept = kernels.cross_entropy_fwd(hidden, weight, None, torch.arange(300), -100, True)
        kernels.cross_entropy_bwd(torch.ones(300), hidden, weight, None, torch.arange(300), lse, kept, -100)
    wide = [dtype for dtype, count in sizes if count >= 300 * 5000]
    assert wide
    assert set(wide) == {torch.float16}


def test_cross_entropy_backward_gives_equal_bits() -> None:
    runs = []
    for _ in range(2):
        leaves = [
            random(*s, seed=i, device="cpu").float().requires_grad_() for i, s in enumerate(((40, 16), (300, 16), (300,)))
        ]
        with fastbert.backend("triton"):
            ops.cross_entropy(*leaves, torch.arange(40)).backward()
        runs.append([t.grad for t in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
