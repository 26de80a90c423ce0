"""The LayerNorm join: kernels against the reference, as compiled for sm_90 in `make test`; test_gpu.py has the full sizes."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import check_layer_norm, kept, random

import fastbert
from fastbert import ops

pytestmark = pytest.mark.usefixtures("poisoned")
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("width", [384, 768, 1024])
def test_layer_norm_is_as_exact_as_plain_pytorch(width: int, p: float, dtype: torch.dtype) -> None:
    check_layer_norm("cpu", dtype, 37, width, p)


@pytest.mark.parametrize("parts", [(), ("residual",), ("x_bias",)], ids=str)
def test_layer_norm_parts_are_optional(parts: tuple[str, ...]) -> None:
    check_layer_norm("cpu", torch.float32, 9, 48, 0.1, parts)


@pytest.mark.parametrize("tokens", [1, 4, 5])
def test_layer_norm_takes_any_number_of_rows(tokens: int) -> None:
    check_layer_norm("cpu", torch.float32, tokens, 40, 0.1)


def test_layer_norm_takes_rows_at_odd_places() -> None:
    check_layer_norm("cpu", torch.float16, 11, 96, 0.1, offset=3)


def test_layer_norm_of_no_rows_has_gradients_of_zero() -> None:
    x, weight, bias = (torch.zeros(*shape, requires_grad=True) for shape in ((0, 32), (32,), (32,)))
    with fastbert.backend("triton"):
        out = ops.layer_norm(x, None, weight, bias, 1e-12)
    out.sum().backward()
    assert out.shape == (0, 32)
    assert not weight.grad.any()


def test_layer_norm_mixes_types() -> None:
    """Autocast's form: a half operand, a float32 residual, a float32 result; their gradients keep their types."""
    x, residual = random(6, 64, seed=1, device="cpu").half(), random(6, 64, seed=2, device="cpu").float()
    weight, bias = random(64, seed=3, device="cpu").float(), random(64, seed=4, device="cpu").float()
    leaves = [t.requires_grad_() for t in (x, residual, weight, bias)]
    with fastbert.backend("triton"):
        out = ops.layer_norm(*leaves, 1e-12)
    expected = torch.nn.functional.layer_norm(x.float() + residual, (64,), weight, bias, 1e-12)
    torch.testing.assert_close(out, expected)
    out.backward(torch.ones_like(out))
    assert [t.grad.dtype for t in leaves] == [torch.float16, torch.float32, torch.float32, torch.float32]


def test_layer_norm_of_a_constant_row_is_its_bias() -> None:
    with fastbert.backend("triton"):
        out = ops.layer_norm(torch.ones(2, 16).half(), None, torch.ones(16).half(), torch.full((16,), 2.0).half(), 1e-12)
    assert torch.equal(out, torch.full((2, 16), 2.0).half())


def test_layer_norm_backward_gives_equal_bits() -> None:
    seed = torch.tensor(5)
    assert kept(seed, (50, 32), 0.1) is not None
    runs = []
    for _ in range(2):
        leaves = [random(50, 32, seed=1, device="cpu").float(), random(50, 32, seed=2, device="cpu").float()]
        leaves += [torch.ones(32), torch.zeros(32), torch.ones(32)]
        leaves = [t.requires_grad_() for t in leaves]
        with fastbert.backend("triton"):
            ops.layer_norm(*leaves[:4], 1e-12, leaves[4], 0.1, seed).backward(random(50, 32, seed=3, device="cpu").float())
        runs.append([t.grad for t in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
