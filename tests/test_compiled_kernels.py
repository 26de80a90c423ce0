"""Every kernel as it is compiled for sm_80 and sm_90, run by tests/emulator: `pytest --kernels=sm90`, in 16-bit types.

What is checked of each launch: the tolerance rule for the result and every gradient, races, reads of memory that nobody wrote,
and accesses outside tensors. test_gpu.py has the full sizes; the interpreter, without layouts and copies, runs float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import CLASSES, EVERYTHING, KERNELS, fields_for, labels_for, make_pair, ragged, with_choices
from emulator import driver
from emulator.machine import Options
from emulator.reports import KernelFault
from kernel_checks import (
    LENGTHS,
    SMALL,
    check_attention,
    check_attention_schedule,
    check_cross_entropy,
    check_e4m3_attention,
    check_e4m3_products,
    check_e4m3_rows,
    check_embedding,
    check_ffn,
    check_layer_norm,
    check_linear_gelu,
    random,
)

import fastbert
from fastbert import ops
from fastbert.kernels import tuning
from fastbert.ops import reference

HALVES = [torch.float16, torch.bfloat16]
FORMS = [(0.1, False), (0.0, True)]  # dropout, causal


def one_of_both(place: int) -> torch.dtype:
    """A 16-bit type for a size: that size has the other one on the other architecture."""
    return HALVES[(place + (KERNELS == "sm90")) % 2]


@pytest.fixture(params=[False, True], ids=["as issued", "adverse"])
def schedule(request: pytest.FixtureRequest) -> Iterator[None]:
    """Copies and products finish, and warps and blocks run, as the emulator has them, or at the other end of what is legal."""
    kept = driver.RECORDER.options
    late = request.param
    driver.RECORDER.options = Options(early_copies=late, late_products=late, reverse_order=late)
    yield
    driver.RECORDER.options = kept


SHORT = list(itertools.product([32, 64, 128], repeat=2))


@pytest.mark.alternates
@pytest.mark.parametrize(("longest", "width", "form"), [(*sizes, i % 2) for i, sizes in enumerate(SHORT)])
def test_short_attention(longest: int, width: int, form: int) -> None:
    """Every pair of a size and a form; in float16, below, with both dropout and a causal mask."""
    p, causal = FORMS[form]
    check_attention("cpu", torch.bfloat16, SMALL[longest], 2, width, p, causal)


@pytest.mark.alternates
@pytest.mark.parametrize(("longest", "width"), [(32, 128), (64, 32), (128, 64), (200, 64)])
def test_attention_in_float16(longest: int, width: int) -> None:
    """Whose code differs from bfloat16's in the names of instructions alone."""
    check_attention("cpu", torch.float16, SMALL[longest], 2, width, 0.1, True)


@pytest.mark.alternates
@pytest.mark.parametrize(("p", "causal"), FORMS, ids=["dropout", "causal"])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_long_attention(width: int, p: float, causal: bool) -> None:
    check_attention("cpu", torch.bfloat16, [n for n in LENGTHS if n < 200] + [0, 200], 1, width, p, causal)


@pytest.mark.alternates
@pytest.mark.parametrize("lengths", [[60, 0, 64], [40, 128], [200, 33, 129]], ids=["64", "128", "long"])
@pytest.mark.parametrize("width", [64, 128])
def test_heaviest_launches_stand_adverse_schedules(width: int, lengths: list[int], schedule: None) -> None:
    check_attention("cpu", torch.bfloat16, lengths, 1, width, 0.1, False)


@pytest.mark.skipif(KERNELS != "sm90", reason="the row was of sm_90")
def test_a_row_that_was_shipped_with_a_race_is_found_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages: the next copy overwrites what a warp-group product still reads, and a wait comes too late for registers."""
    row = {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}
    monkeypatch.setitem(tuning.TABLE["attention_long_dkv"], "sm90", [((2, 128), row)])
    with pytest.raises(KernelFault) as caught:
        check_attention("cpu", torch.bfloat16, [200, 33, 129], 1, 128, 0.1, False)
    assert {"registers in flight", "async race"} & {report.kind for report in caught.value.reports}, caught.value


def test_linear_gelu_stands_adverse_schedules(schedule: None) -> None:
    check_linear_gelu("cpu", torch.bfloat16, 300, 320, 520, "none")


@pytest.mark.alternates
@pytest.mark.parametrize("lengths", [[64, 64], [128], [256]], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_tiles_of_attention_are_read_without_bank_conflicts(p: float, lengths: list[int], monkeypatch: Any) -> None:
    """Dropout once changed the layout of the operands: twice the wavefronts, and a product's operand moved between lanes."""
    monkeypatch.setattr(driver.RECORDER, "options", Options(counts=True))
    monkeypatch.setattr(driver.RECORDER, "launches", [])
    check_attention("cpu", torch.bfloat16, lengths, 1, 64, p, False)
    for launch in driver.RECORDER.launches:
        assert launch.costs is not None
        shared = launch.costs.total("shared")
        assert shared.moved == shared.least, launch.kernel.program.name
        if "attention" in launch.kernel.program.name:
            every = launch.costs.total("global")
            assert every.moved * 32 < 1.05 * every.bytes, launch.kernel.program.name


@pytest.mark.parametrize("lengths", [[40, 3], [150, 3]], ids=str)
def test_attention_of_strided_input(lengths: list[int]) -> None:
    check_attention("cpu", torch.bfloat16, lengths, 3, 32, 0.1, False, strided=True)


@pytest.mark.alternates
@pytest.mark.parametrize(("longest", "width"), [(30, 128), (120, 64), (150, 128)])
def test_attention_by_a_schedule(longest: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_attention_schedule(monkeypatch, "cpu", torch.bfloat16, longest, width, False)


@pytest.mark.parametrize("cu", [[0, 400], [-5, 10], [0, 200, 10]], ids=str)
def test_attention_bounds_that_lie_are_harmless(cu: list[int]) -> None:
    """A longer sequence than max_seqlen, or rows beyond the end: wrong numbers, no access outside the tensors."""
    qkv = random(10, 3, 2, 32, seed=0, device="cpu").to(torch.bfloat16).requires_grad_()
    with fastbert.backend("triton"):
        out = ops.attention(qkv, torch.tensor(cu, dtype=torch.int32), 10)
        out.sum().backward()
    assert out.shape == (10, 2, 32)


@pytest.mark.parametrize("lengths", [[60, 30], [140, 20]], ids=str)
def test_a_tail_gets_zeros(lengths: list[int]) -> None:
    qkv = random(sum(lengths) + 20, 3, 2, 64, seed=0, device="cpu").to(torch.bfloat16).requires_grad_()
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    with fastbert.backend("triton"):
        out = ops.attention(qkv, cu, max(lengths))
    out.backward(random(*out.shape, seed=1, device="cpu").to(torch.bfloat16))
    assert not out[-20:].any()
    assert qkv.grad is not None
    assert not qkv.grad[-20:].any()


@pytest.mark.parametrize(
    ("tokens", "width", "inner", "form", "dtype"),
    [
        (*sizes, form, one_of_both(i + j))
        for i, sizes in enumerate([(1, 64, 128), (150, 96, 144), (300, 320, 520)])
        for j, form in enumerate(("fused", "split"))
    ],
)
def test_ffn(tokens: int, width: int, inner: int, form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = dict.fromkeys(("inference", "training", "backward"), form)
    monkeypatch.setitem(tuning.FFN_FORMS, KERNELS, forms)
    check_ffn("cpu", dtype, tokens, width, inner)
    if tokens == 150:
        check_linear_gelu("cpu", dtype, tokens, width, inner, "tanh")


@pytest.mark.parametrize(("width", "dtype"), [(width, one_of_both(i)) for i, width in enumerate((384, 768, 1024))])
def test_rows(width: int, dtype: torch.dtype) -> None:
    check_layer_norm("cpu", dtype, 13, width, 0.1)
    check_embedding("cpu", dtype, 40, width, 0.1)


needs_e4m3 = pytest.mark.skipif(KERNELS != "sm90", reason="e4m3 came with sm_89")


@needs_e4m3
def test_linear_gelu_in_e4m3(schedule: None) -> None:
    check_e4m3_products("cpu", torch.bfloat16, 150, 272, 144, False)


@needs_e4m3
@pytest.mark.parametrize(("lengths", "width"), [([30, 0, 7], 128), ([60, 64], 64), ([150, 1], 64)], ids=str)
def test_attention_in_e4m3(lengths: list[int], width: int) -> None:
    check_e4m3_attention("cpu", torch.bfloat16, lengths, width, 0.0)


@needs_e4m3
@pytest.mark.parametrize("width", [384, 768, 1024])
def test_rows_in_e4m3(width: int) -> None:
    check_e4m3_rows("cpu", torch.bfloat16, 37, width)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_cross_entropy(dtype: torch.dtype) -> None:
    for words, reduction in itertools.product((1000, 501), ("mean", "sum")):
        check_cross_entropy("cpu", dtype, 21, 64, words, reduction)


def test_products_in_tf32() -> None:
    """Operands are rounded to TF32, so that results are as far from float64 as a rounding of the operands is."""
    qkv = random(330, 3, 1, 64, seed=0, device="cpu").float()
    cu = torch.tensor([0, 200, 201, 330], dtype=torch.int32)
    exact = reference.attention(qkv.double(), cu, 200)
    with fastbert.backend("triton"), torch.no_grad():
        found = ops.attention(qkv, cu, 200)
    assert float((found.double() - exact).abs().max()) < 2**-10 * float(exact.abs().max())


@pytest.mark.parametrize("name", CLASSES if KERNELS == "sm90" or EVERYTHING else ["BertForPreTraining"])
def test_every_class_gives_what_the_reference_gives(name: str) -> None:
    """Outputs and gradients of a tiny model, in training under autocast: layers run whole there."""
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, _ = make_pair(name, **sizes, **off, **fields_for(name))
    batch = ragged([40, 9, 1, 33])
    given = with_choices(name, batch) | labels_for(name, batch)
    if "start_positions" in given:
        given["start_positions"], given["end_positions"] = torch.tensor([3, 1, 0, 20]), torch.tensor([9, 4, 0, 30])
    results = []
    for backend, dtype in (("reference", None), ("triton", torch.bfloat16)):
        model.train().zero_grad()
        with fastbert.backend(backend), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            out = model(**given)
        loss = out.last_hidden_state.float().square().mean() if name == "BertModel" else out.loss
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append((float(loss.detach()), torch.cat(gradients).double()))
    (right, expected), (loss, found) = results
    assert loss == pytest.approx(right, rel=2e-2)
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.999
