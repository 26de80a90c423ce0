"""The feed-forward block: kernels in float32, interpreted, against the reference; test_compiled_kernels.py has 16 bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from kernel_checks import check_ffn, check_linear_gelu, random

import fastbert
from fastbert import ops
from fastbert.kernels import ffn as kernels
from fastbert.kernels import tuning

pytestmark = pytest.mark.usefixtures("poisoned")
FORMS = ["fused", "split"]


@pytest.fixture
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The launch table's choice for every phase."""
    forms = dict.fromkeys(("inference", "training", "backward"), request.param)
    monkeypatch.setitem(tuning.FFN_FORMS, "default", forms)
    return request.param


@pytest.mark.parametrize("form", FORMS, indirect=True)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("tokens", [1, 150])
def test_ffn_is_as_exact_as_plain_pytorch(form: str, approximate: str, tokens: int) -> None:
    """96 and 200 are no multiples of a block; 128 is."""
    check_ffn("cpu", torch.float32, tokens, 96, 200, approximate)
    check_ffn("cpu", torch.float32, tokens, 128, 256, approximate)


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_linear_gelu_is_as_exact_as_plain_pytorch(form: str) -> None:
    check_linear_gelu("cpu", torch.float32, 140, 384, 160, "none")
    check_linear_gelu("cpu", torch.float32, 33, 64, 80, "tanh", strided=True)


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_ffn_without_a_gradient_gives_the_same_numbers(form: str) -> None:
    x, w1, b1 = (random(*s, seed=i, device="cpu").float() for i, s in enumerate(((20, 32), (64, 32), (64,))))
    w2 = random(32, 64, seed=4, device="cpu").float()
    with fastbert.backend("triton"):
        alone = ops.ffn(x, w1, b1, w2, None)
        recorded = ops.ffn(x.requires_grad_(), w1, b1, w2, None)
    torch.testing.assert_close(alone, recorded.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("tokens", "per_multiprocessor"), [(1, 1), (64, 2), (150, 1), (150, 2)])
def test_the_kernel_of_descriptors_equals_the_plain_one(
    tokens: int, per_multiprocessor: int, keep: bool, dtype: torch.dtype
) -> None:
    """Several tiles a program, a last tile of rows that is not full, and a last tile of columns."""
    x, w, b = (random(*s, seed=i, device="cpu").to(dtype) for i, s in enumerate(((tokens, 96), (144, 96), (144,))))
    plain, h = kernels.linear_gelu_fwd(x, w, b, False, "fused", True)
    act = torch.empty(tokens, 144, dtype=dtype)
    saved = torch.empty_like(act) if keep else None
    kernels.linear_gelu_tma_fwd(
        x, w, b, act, saved, False, {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "PER_SM": per_multiprocessor}
    )
    tolerance = {"atol": 2e-5, "rtol": 2e-5} if dtype == torch.float32 else {"atol": 2e-3, "rtol": 2e-3}
    torch.testing.assert_close(act, plain, **tolerance)
    if keep:
        torch.testing.assert_close(saved, h, **tolerance)


def test_gelu_and_the_gradient_of_the_bias_before_it() -> None:
    h, dact = (random(9, 70, seed=i, device="cpu").float() for i in range(2))
    leaf = h.clone().requires_grad_()
    expected = torch.nn.functional.gelu(leaf)
    expected.backward(dact)
    act = kernels.gelu_fwd(h, False, in_place=False)
    dh, again, dbias = kernels.gelu_bwd(dact, h, False, want_act=True)
    torch.testing.assert_close(act, expected.detach())
    torch.testing.assert_close(again, act)
    torch.testing.assert_close(dh, leaf.grad)
    torch.testing.assert_close(dbias, leaf.grad.sum(0))


def test_gelu_of_16_bit_results_has_a_relative_error_below_rounding() -> None:
    """The polynomial of kernels/common.py against float64."""
    x = torch.linspace(-12, 12, 24_000).half().view(24, 1000)
    exact = torch.nn.functional.gelu(x.double())
    found = kernels.gelu_fwd(x, False, in_place=False).double()
    eager = torch.nn.functional.gelu(x).double()
    assert float((found - exact).abs().max()) <= 1.01 * float((eager - exact).abs().max())
    big = exact.abs() > 1e-4
    assert float(((found - exact)[big] / exact[big]).abs().max()) < 2.0**-11 * 1.05


def test_ffn_backward_gives_equal_bits() -> None:
    runs = []
    for _ in range(2):
        shapes = ((70, 32), (64, 32), (64,), (32, 64), (32,))
        leaves = [random(*s, seed=i, device="cpu").float().requires_grad_() for i, s in enumerate(shapes)]
        with fastbert.backend("triton"):
            ops.ffn(*leaves).backward(random(70, 32, seed=9, device="cpu").float())
        runs.append([t.grad for t in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_descriptors_are_for_aligned_tensors_below_2_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's descriptors count bytes in 32 bits on sm_100: larger ones take the kernel of pointers."""
    monkeypatch.setattr(tuning, "architecture", lambda _: "sm100")

    def has_tma(rows: int, width: int, dtype: torch.dtype = torch.bfloat16) -> bool:
        return kernels._has_tma(2, torch.empty(8, 8, dtype=dtype), torch.empty(rows, width, dtype=dtype, device="meta"))

    assert has_tma(2**18 - 1, 4096)
    assert not has_tma(2**18, 4096)
    assert not has_tma(16, 4092), "rows start at multiples of 8 bytes only"
    assert not has_tma(16, 4096, torch.float32)


@pytest.mark.parametrize(
    ("capability", "name"), [((9, 0), "sm90"), ((10, 0), "sm100"), ((10, 3), "sm100"), ((12, 0), "sm89"), ((8, 6), "sm86")]
)
def test_architectures_without_rows_of_their_own_are_named(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert tuning.architecture.__wrapped__(torch.device("cuda", 0)) == name
