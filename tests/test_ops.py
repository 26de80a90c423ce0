"""The other ops: the reference against formulas and gradcheck, cpu.py against the reference, and the backend's rules."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import make_pair, ragged

import fastbert
from fastbert import ops
from fastbert.errors import BackendError
from fastbert.ops import backends, cpu, paths, reference

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_layer_norm_is_the_formula() -> None:
    x, residual, bias = random(5, 8), random(5, 8, seed=1), random(8, seed=2)
    weight, ln_bias = random(8, seed=3), random(8, seed=4)
    keep = random(5, 8, seed=5) > 0
    out = reference.layer_norm(x, residual, weight, ln_bias, 1e-12, x_bias=bias, dropout_p=0.5, keep=keep)
    z = (x + bias) * keep * 2 + residual
    mean = z.mean(-1, keepdim=True)
    var = ((z - mean) ** 2).mean(-1, keepdim=True)  # biased
    torch.testing.assert_close(out, (z - mean) / (var + 1e-12).sqrt() * weight + ln_bias)


def test_layer_norm_eps_survives_half_precision() -> None:
    """1e-12 is 0 in float16: a constant row must still give the bias, not NaN."""
    x = torch.ones(2, 8, dtype=torch.float16)
    out = reference.layer_norm(x, None, torch.ones(8, dtype=torch.float16), torch.zeros(8, dtype=torch.float16), 1e-12)
    assert torch.isfinite(out).all()


def test_embedding_is_the_sum_and_its_padding_row_has_no_gradient() -> None:
    ids, types, positions = torch.tensor([3, 0, 2, 3]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
    tables = [random(n, 6, seed=n).requires_grad_() for n in (5, 4, 2)]
    weight, bias = random(6, seed=8), random(6, seed=9)
    out = reference.embedding(ids, types, positions, *tables, weight, bias, 1e-12, padding_idx=0)
    z = tables[0][ids] + tables[2][types] + tables[1][positions]
    torch.testing.assert_close(out, F.layer_norm(z, (6,), weight, bias, 1e-12))
    out.backward(random(4, 6, seed=10))
    assert not tables[0].grad[0].any()
    assert tables[0].grad[3].any()
    assert tables[1].grad[1].any(), "the position table has no padding row"


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_exact_erf_or_tanh(approximate: str) -> None:
    x, w, b = random(7, 4), random(6, 4, seed=1), random(6, seed=2)
    z = x @ w.T + b
    erf = 0.5 * z * (1 + torch.erf(z / 2**0.5))
    tanh = 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))
    torch.testing.assert_close(reference.linear_gelu(x, w, b, approximate), erf if approximate == "none" else tanh)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("rows", [1, 300, 5000])
def test_cpu_linear_and_ffn_are_as_exact_as_the_reference(rows: int, approximate: str) -> None:
    """oneDNN's fused epilogue and the row blocks, against float64; 5,000 rows of 1,536 take two blocks."""
    x, w1, b1 = random(rows, 96), random(1536, 96, seed=1) * 0.1, random(1536, seed=2)
    w2, b2 = random(96, 1536, seed=3) * 0.1, random(96, seed=4)
    single = [t.float() for t in (x, w1, b1, w2, b2)]
    # Libraries add the products in different orders: the floor is one unit in the last place of the sum of their sizes.
    floor = 2**-23 * float((reference.linear_gelu(x, w1, b1).abs() @ w2.abs().T).max())
    with torch.no_grad():
        for name, doubles, singles in (
            ("linear", (x, w1, b1), single[:3]),
            ("linear_gelu", (x, w1, b1, approximate), [*single[:3], approximate]),
            ("ffn", (x, w1, b1, w2, b2, approximate), [*single, approximate]),
        ):
            exact = getattr(reference, name)(*doubles)
            error = (getattr(cpu, name)(*singles).double() - exact).abs().max()
            eager = (getattr(reference, name)(*singles).double() - exact).abs().max()
            assert error <= 2 * eager + floor, name


def test_cpu_ops_record_gradients_where_they_are_asked_for() -> None:
    x, w, b = (random(*s, dtype=torch.float32).requires_grad_() for s in ((300, 8), (16, 8), (16,)))
    cpu.linear_gelu(x, w, b).sum().backward()
    cpu.linear(x, w, b).sum().backward()
    assert all(t.grad is not None and t.grad.any() for t in (x, w, b))


def test_cross_entropy_counts_labels_and_gives_zero_without_any() -> None:
    hidden, weight, bias = random(6, 4).requires_grad_(), random(9, 4, seed=1), random(9, seed=2)
    labels = torch.tensor([3, -100, 0, 8, -100, 2])
    logs = (hidden @ weight.T + bias).log_softmax(-1)
    kept = labels != -100
    expected = -logs[kept, labels[kept]].mean()
    torch.testing.assert_close(reference.cross_entropy(hidden, weight, bias, labels), expected)
    total = reference.cross_entropy(hidden, weight, bias, labels, reduction="sum")
    torch.testing.assert_close(total, expected * 4)
    none = reference.cross_entropy(hidden, weight, bias, torch.full((6,), -100))
    none.backward()
    assert float(none.detach()) == 0
    assert not hidden.grad.any()


def test_cross_entropy_does_not_overflow_in_float16() -> None:
    """The sum of 5,000 losses of about 20 is beyond float16's 65,504; their mean is not."""
    logits = torch.zeros(5000, 4, dtype=torch.float16)
    logits[:, 1] = 20.0
    assert float(reference.cross_entropy_of_logits(logits, torch.zeros(5000, dtype=torch.long))) == pytest.approx(20.0)


def test_reference_passes_gradcheck() -> None:
    x, w, b = random(3, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_(), random(5, seed=2).requires_grad_()
    ln_w, ln_b = random(4, seed=3).requires_grad_(), random(4, seed=4).requires_grad_()
    residual, keep = random(3, 4, seed=5).requires_grad_(), random(3, 4, seed=6) > 0
    labels = torch.tensor([0, 4, -100])
    check = torch.autograd.gradcheck
    assert check(
        lambda *t: reference.layer_norm(t[0], t[1], t[2], t[3], 1e-5, None, 0.3, None, keep), (x, residual, ln_w, ln_b)
    )
    ids, kind = torch.tensor([0, 2, 2]), torch.tensor([0, 1, 0])
    tables = [random(n, 4, seed=n).requires_grad_() for n in (5, 3, 2)]
    assert check(lambda *t: reference.embedding(ids, kind, ids, *t, 1e-5, 0.3, keep=keep, padding_idx=4), (*tables, ln_w, ln_b))
    w2, b2 = random(4, 5, seed=7).requires_grad_(), random(4, seed=8).requires_grad_()
    assert check(reference.ffn, (x, w, b, w2, b2))
    assert check(reference.linear_gelu, (x, w, b))
    assert check(lambda *t: reference.cross_entropy(*t, labels), (x, w, b))


def test_dropout_mask_has_its_rate_and_follows_its_seed() -> None:
    mask = ops.dropout_mask(7, (1000, 1000), 0.1)
    assert mask.dtype == torch.bool
    assert abs(float(mask.float().mean()) - 0.9) < 5 * (0.09 / 1e6) ** 0.5
    assert torch.equal(mask, ops.dropout_mask(torch.tensor(7), (1000, 1000), 0.1))
    assert not torch.equal(mask, ops.dropout_mask(8, (1000, 1000), 0.1))


# -- the backend -------------------------------------------------------------------------------------------------------------


def test_backends_agree_and_say_which_path_ran() -> None:
    model, _ = make_pair("BertModel")
    batch = ragged([9, 4, 6])
    results = {}
    for name in ("auto", "reference"):
        with torch.no_grad(), fastbert.backend(name), ops.recording() as decisions:
            results[name] = model(**batch).last_hidden_state
        paths = {d.op: d.path for d in decisions}
        assert paths["attention"] == ("cpu" if name == "auto" else "reference")
        assert paths["layer_norm"] == "reference"
    torch.testing.assert_close(results["auto"], results["reference"], atol=1e-5, rtol=1e-5)


def test_backend_triton_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_INTERPRETED", False)
    model, _ = make_pair("BertModel")
    with fastbert.backend("triton"), pytest.raises(BackendError, match="cannot run embedding: the tensors are on a CPU"):
        model(**ragged([3]))


def test_backend_triton_says_that_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_HAS_TRITON", False)
    model, _ = make_pair("BertModel")
    with fastbert.backend("triton"), pytest.raises(BackendError, match="triton is not installed"):
        model(**ragged([3]))
    assert model(**ragged([3])).last_hidden_state.shape == (1, 3, 48)


def test_backend_is_chosen_by_scope_process_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops.current_backend() == "auto"
    monkeypatch.setenv("FASTBERT_BACKEND", "reference")
    assert ops.current_backend() == "reference"
    monkeypatch.setattr(backends, "_process_backend", None)
    fastbert.set_backend("triton")
    assert ops.current_backend() == "triton"
    seen = []
    with fastbert.backend("auto"):
        thread = threading.Thread(target=lambda: seen.append(ops.current_backend()))
        thread.start()
        thread.join()
        assert ops.current_backend() == "auto"
    assert seen == ["triton"], "a with block is of its own thread"
    with pytest.raises(BackendError, match="'cuda' is not one of auto, triton, reference"):
        fastbert.set_backend("cuda")


def test_explain_reports_paths_and_padding() -> None:
    model, _ = make_pair("BertForSequenceClassification")
    found = fastbert.explain(model, **ragged([10, 5]))
    assert found.padding_share == pytest.approx(0.25)
    calls = {row[0]: row[1] for row in found.rows}
    assert calls["attention"] == calls["ffn"] == 3
    assert calls["layer_norm"] == 6
    assert "the tensors are on a CPU" in str(found)
