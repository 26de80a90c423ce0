"""oneDNN's product on a CPU: its gradients, and prepacked weights that never go stale where a change can be seen."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import make_pair
from scipy.stats import spearmanr

import fastbert
from fastbert import ops
from fastbert.ops import onednn
from fastbert.tasks import Embedder

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _onednn_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "MKL_TRAINS_FASTER", False)  # whatever processor runs the tests


def test_linear_trains_by_pytorch_s_own_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors((5, 8), (6, 8), (6,))
    monkeypatch.setattr(onednn, "MKL_TRAINS_FASTER", True)
    assert ops.linear(*inputs).grad_fn.name() == "AddmmBackward0"
    assert ops.linear_gelu(*inputs).grad_fn.name() == "GeluBackward0"


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("rows", [1, 2, 17, 600])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_gradients_are_as_exact_as_pytorch_s(rows: int, with_bias: bool) -> None:
    """Result and gradients err at most twice as much against float64 as PyTorch's own linear does."""
    x, weight, bias = tensors((rows, 96), (160, 96), (160,))
    inputs = (x, weight, bias) if with_bias else (x, weight)
    upstream = torch.randn(rows, 160)

    def results(function, inputs, upstream):
        y = function(*inputs, *(() if with_bias else (None,)))
        return [y.detach(), *torch.autograd.grad(y, inputs, upstream)]

    exact = results(F.linear, [t.detach().double().requires_grad_() for t in inputs], upstream.double())
    plain, ours = results(F.linear, inputs, upstream), results(ops.linear, inputs, upstream)
    assert ops.linear(*inputs, *(() if with_bias else (None,))).grad_fn.name() == "_LinearBackward"
    for right, theirs, found in zip(exact, plain, ours, strict=True):
        floor = 8 * torch.finfo(torch.float32).eps * float(right.abs().max())
        assert float((found - right).abs().max()) <= 2 * float((theirs - right).abs().max()) + floor


def test_linear_takes_strided_gradients_and_has_second_ones() -> None:
    x, weight, bias = tensors((5, 8), (6, 8), (6,))
    ops.linear(x, weight, bias).sum().backward()  # an expanded upstream gradient
    assert torch.allclose(x.grad, weight.sum(0).expand(5, 8))
    (first,) = torch.autograd.grad(ops.linear(x, weight, bias).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), weight)
    (expected,) = torch.autograd.grad(
        torch.autograd.grad(F.linear(x, weight, bias).pow(2).sum(), x, create_graph=True)[0].sum(), weight
    )
    assert torch.allclose(second, expected, rtol=1e-4, atol=1e-5)


def test_linear_under_function_transforms() -> None:
    x, weight, bias = (t.detach() for t in tensors((5, 8), (6, 8), (6,)))
    found = torch.func.grad(lambda w: ops.linear(x, w, bias).pow(2).sum())(weight)
    assert torch.allclose(found, torch.func.grad(lambda w: F.linear(x, w, bias).pow(2).sum())(weight), rtol=1e-4, atol=1e-5)
    many = torch.stack([x, 2 * x])
    weight.requires_grad_()
    assert torch.allclose(torch.vmap(lambda one: ops.linear(one, weight, bias))(many), F.linear(many, weight, bias), atol=1e-5)


@pytest.fixture
def model(product_type: torch.dtype) -> fastbert.BertModel:
    made, _ = make_pair("BertModel")
    return made.to(product_type).eval()


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two results of the same layers, by products in another order, are equal up to rounding."""
    rounding = 1e-5 if found.dtype == torch.float32 else 0.1
    return torch.allclose(found, expected, rtol=rounding, atol=rounding)


def encode(model: fastbert.BertModel) -> torch.Tensor:
    with torch.no_grad():
        return model(fastbert.pack([[2, 7, 8, 9, 3], [2, 11, 3]])).last_hidden_state


def kept(model: torch.nn.Module) -> int:
    return sum(parameter in onednn._prepacked for parameter in model.parameters())


def test_prepacked_weights_give_the_same(model: fastbert.BertModel) -> None:
    before, calls = encode(model), []
    assert fastbert.prepack(model) is model
    layers = model.config.num_hidden_layers
    assert kept(model) == 4 * layers + 1  # query with key and value, three more linears a layer, the pooler
    original = onednn._product
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "_product", lambda x, w, *rest: calls.append(w.is_mkldnn) or original(x, w, *rest))
        after = encode(model)
    assert all(calls)
    assert len(calls) == 4 * layers + 1
    assert close(after, before)


def no_grad_edit(model: fastbert.BertModel) -> None:
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(1.5)


def load(model: fastbert.BertModel) -> None:
    model.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items()})


def move(model: fastbert.BertModel) -> None:
    dtype = model.dtype
    model.double().to(dtype)
    no_grad_edit(model)


def train_with_fused_adamw(model: fastbert.BertModel) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(fastbert.pack([[2, 7, 8, 3]])).last_hidden_state.pow(2).sum().backward()
    optimizer.step()


def train_by_the_reference(model: fastbert.BertModel) -> None:
    with fastbert.backend("reference"):
        train_with_fused_adamw(model)


def train_biases_only(model: fastbert.BertModel) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    train_with_fused_adamw(model)


def train_keys_only(model: fastbert.BertModel) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("self.key" in name)
    train_with_fused_adamw(model)


def train_out_of_sight(model: fastbert.BertModel) -> None:
    """As a compiled step does: no op of ours sees the gradients."""
    for parameter in model.train().parameters():
        parameter.data.mul_(1.5)
    model.eval()


CHANGES = [no_grad_edit, load, move, train_with_fused_adamw, train_by_the_reference, train_biases_only, train_keys_only]


@pytest.mark.parametrize("change", [*CHANGES, train_out_of_sight])
def test_prepacked_weights_never_go_stale(model: fastbert.BertModel, change) -> None:
    before = encode(fastbert.prepack(model))
    change(model)
    after = encode(model)
    assert not torch.allclose(after, before, atol=1e-3)
    assert close(after, encode(copy.deepcopy(model)))  # a copy has nothing prepacked
    assert kept(copy.deepcopy(model)) == 0


def test_a_tied_decoder_is_dropped_when_its_embedding_trains() -> None:
    made, _ = make_pair("BertForMaskedLM")
    fastbert.prepack(made.eval())
    decoder = made.cls.predictions.decoder.weight
    assert decoder in onednn._prepacked
    made.bert(fastbert.pack([[2, 7, 3]])).last_hidden_state.sum().backward()
    assert decoder not in onednn._prepacked


def test_prepacked_models_pickle_and_go_away(model: fastbert.BertModel) -> None:
    before, count = encode(model), len(onednn._prepacked)
    fastbert.prepack(model)
    assert torch.equal(encode(pickle.loads(pickle.dumps(model))), before)
    assert "prepacked" not in str(model.state_dict().keys())
    del model
    other, _ = make_pair("BertModel")
    assert kept(other) == 0
    assert len(onednn._prepacked) >= count


def test_prepack_leaves_other_types_alone() -> None:
    made, _ = make_pair("BertModel")
    half = fastbert.prepack(made.half())
    assert kept(half) == 0
    with torch.inference_mode():
        inner, _ = make_pair("BertModel")
        assert torch.isfinite(encode(fastbert.prepack(inner.eval()))).all()


@pytest.mark.parametrize("rows", [1, 3, 17, 600])
@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
def test_products_of_each_type_are_as_exact_as_pytorch_s(rows: int, approximate: str | None, product_type: torch.dtype) -> None:
    """The product, and GELU of it, err at most twice as much against float64 as PyTorch's own, and as prepacked products."""
    x, weight, bias = (t.detach() for t in tensors((rows, 96), (160, 96), (160,), dtype=product_type))

    def run(linear, *inputs):
        y = linear(*inputs)
        return y if approximate is None else F.gelu(y, approximate=approximate)

    exact, plain = run(F.linear, *(t.double() for t in (x, weight, bias))), run(F.linear, x, weight, bias)
    with torch.inference_mode():
        found = [ops.linear(x, weight, bias) if approximate is None else ops.linear_gelu(x, weight, bias, approximate)]
        ops.prepack([weight])
        found += [ops.linear(x, weight, bias) if approximate is None else ops.linear_gelu(x, weight, bias, approximate)]
    floor = 8 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    for one in found:
        assert one.dtype == product_type
        assert float((one - exact).abs().max()) <= 2 * float((plain - exact).abs().max()) + floor


def test_layers_in_each_type_are_as_exact_as_transformers(product_type: torch.dtype) -> None:
    """A model's states err at most twice as much against float64 as those of transformers in the same type."""
    ours, theirs = make_pair("BertModel")
    ids = torch.arange(5, 37).view(2, 16)
    with torch.inference_mode():
        exact = theirs.double().eval()(ids).last_hidden_state
        plain = theirs.to(product_type)(ids).last_hidden_state
        found = fastbert.prepack(ours.to(product_type).eval())(ids).last_hidden_state
    assert float((found - exact).norm()) <= 2 * float((plain - exact).norm())


def test_a_model_of_each_type_trains(product_type: torch.dtype) -> None:
    made, _ = make_pair("BertForSequenceClassification")
    made.to(product_type).train()(torch.arange(5, 37).view(2, 16), labels=torch.tensor([0, 1])).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    assert made.bert.encoder.layer[0].attention.self.query.weight.grad.dtype == product_type


@pytest.mark.parametrize("in_product", [True, False])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("rows", [3, 200])
def test_gelu_of_a_product_is_as_exact_in_a_pass_of_its_own(
    rows: int, approximate: str, in_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them runs depends on the processor and on the number of rows."""
    monkeypatch.setattr(onednn, "GELU_IN_PRODUCT", in_product)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, 48), (80, 48), (80,)))
    exact = torch.nn.functional.gelu(x.double() @ weight.double().T + bias.double(), approximate=approximate)
    with torch.no_grad():
        found = onednn.linear_gelu(x, weight, bias, approximate)
    assert float((found - exact).abs().max()) < 1e-5


def test_products_have_few_sizes() -> None:
    """Compiling one takes longer than computing it; what is computed in vain is at most a sixteenth, or 15 rows."""
    for dtype, numbers, most, few in ((torch.bfloat16, range(1, 2049), 15, 64), (torch.float32, range(1, 513), 7, 64)):
        sizes = {rows: onednn.round_up(rows, dtype) for rows in numbers}
        assert all(rows <= size <= max(rows + most, rows * 17 / 16) for rows, size in sizes.items())
        assert len({*sizes.values()}) == few
        assert all(onednn.round_up(size, dtype) == size for size in sizes.values())
    assert onednn.round_up(2001, torch.float32) == 2001


@pytest.mark.parametrize("lengths", [[1], [5, 3], [40, 40, 31]])
def test_rows_that_fill_a_product_up_reach_no_result(lengths: list[int], product_type: torch.dtype) -> None:
    """Also where the last layer computes some rows only, and where a layer in the middle is called as a module."""
    ours, _ = make_pair("BertModel")
    ours = fastbert.prepack(ours.to(product_type).eval())
    batch = fastbert.pack([list(range(5, 5 + length)) for length in lengths])
    rows = torch.tensor([0, batch.num_tokens - 1, 0])
    with torch.inference_mode():
        states = ours(batch).last_hidden_state
        assert states.shape == (sum(lengths), ours.config.hidden_size)
        some = ours(batch, last_layer_rows=rows).last_hidden_state
        assert some.shape == (3, ours.config.hidden_size)
        assert close(some, states[rows])
        seen: list[tuple[int, ...]] = []
        ours.encoder.layer[1].output.register_forward_hook(lambda *given: seen.append(given[2].shape))
        assert close(ours(batch).last_hidden_state, states)
    assert seen == [states.shape]


@pytest.mark.skipif(torch.bfloat16 not in onednn.TYPES, reason="no products in bfloat16 here: PyTorch's own take minutes")
def test_sts_b_in_bfloat16_is_as_good(minilm: Path, test_data: Path) -> None:
    """Spearman correlation on every sixth pair, in points; a tenth is 0.1 % of it."""
    rows = [line.split("\t") for line in (test_data / "stsb/sts-test.tsv").read_text(encoding="utf-8").splitlines()][::6]
    points = {}
    for name in ("float32", "bfloat16"):
        embedder = Embedder.from_pretrained(minilm, "cpu", name)
        fastbert.prepack(embedder.model)
        first, second = (embedder.encode([row[column] for row in rows], normalize=True) for column in (5, 6))
        points[name] = 100 * float(spearmanr((first * second).sum(1), [float(row[4]) for row in rows]).statistic)
    assert points["float32"] > 70
    assert points["bfloat16"] == pytest.approx(points["float32"], abs=0.1)
