"""fp8 under Triton's interpreter: what the kernels round, whole layers, the gate, and that no copy outlives its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_checks import check_e4m3_attention, check_e4m3_products, check_e4m3_rows, in_e4m3
from torch import Tensor

import fastbert
from fastbert.cli import main
from fastbert.errors import BackendError, InputError
from fastbert.kernels.e4m3 import to_e4m3
from fastbert.model import plain_layer, quantizing
from fastbert.ops import fp8
from fastbert.ops.custom_ops import fp8 as layers
from fastbert.ops.custom_ops.fp8 import Weight

E4M3 = torch.float8_e4m3fn
SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 90, "num_hidden_layers": 2}
ROWS = [[(7 * i + 3 * j) % 90 for j in range(n)] for i, n in enumerate([5, 1, 21])]


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with fastbert.backend("triton"):
        yield


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any speed will do: these tests are about values."""
    monkeypatch.setattr(quantizing, "MIN_GAIN", 0.0)
    monkeypatch.setattr(quantizing, "_ROUNDS", 1)


def make_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = fastbert.BertModel(fastbert.BertConfig(**{**SIZES, **changes}), add_pooling_layer=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model.half().eval()


def states(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(fastbert.pack(ROWS)).last_hidden_state.double()


def kept(model: Any) -> int:
    return len(fp8.all_of(model.parameters()))


# -- kernels -------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_value_is_rounded_as_a_gpu_does() -> None:
    halves = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    halves = halves[halves.isfinite()].sort().values
    between = (halves[1:] + halves[:-1]) / 2  # ties, to even
    nudged = torch.cat([between.nextafter(halves[1:]), between.nextafter(halves[:-1])])
    odd = torch.tensor([0.0, -0.0, 449.0, -1e9, float("inf"), 2.0**-10, -(2.0**-11), 1e-30])
    x = torch.cat([halves, between, nudged, odd, torch.randn(4000) * 100, torch.randn(4000) * 0.01])
    assert torch.equal(to_e4m3(x, 1.0).double(), in_e4m3(x))
    assert torch.equal(to_e4m3(x, 0.25).double() / 0.25, in_e4m3(x, 0.25))
    assert to_e4m3(torch.tensor([float("nan"), 1.0]), 1.0).isnan().tolist() == [True, False]
    assert to_e4m3(torch.empty(0, 8), 1.0).shape == (0, 8)


@pytest.mark.parametrize("largest", [0.0, 1e-6, 0.9, 3.0, 448.0, 1e5])
def test_a_weight_gets_the_largest_power_of_two_that_keeps_it_whole(largest: float) -> None:
    weight = torch.linspace(-largest, largest / 2, 32).view(2, 16)
    values, scale = Weight.of(weight)
    assert torch.equal(values.double() / scale, in_e4m3(weight, scale))
    assert float(values.float().abs().max()) <= 448
    assert largest in (0.0, 448.0) or 448 < 2 * scale * largest <= 896.1


@pytest.mark.parametrize("tanh", [False, True])
def test_products_add_a_bias_and_apply_gelu(tanh: bool) -> None:
    check_e4m3_products("cpu", torch.float16, 9, 64, 48, tanh)


@pytest.mark.parametrize("lengths", [[30, 0, 7], [120, 1, 64], [150, 3]], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_attention_writes_e4m3(lengths: list[int], p: float) -> None:
    check_e4m3_attention("cpu", torch.float16, lengths, 64, p)


@pytest.mark.parametrize("width", [96, 768])
def test_layer_norm_writes_both_types(width: int) -> None:
    check_e4m3_rows("cpu", torch.float16, 37, width)


# -- layers and models ---------------------------------------------------------------------------------------------------------


def rounded_layer(x: Tensor, operand: Tensor, layer: Any, cu: Tensor) -> tuple[Tensor, Tensor]:
    """A layer in float64 with a rounding wherever the kernels write e4m3."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ in_e4m3(weight, Weight.of(weight).scale).T + bias.double()

    def join(x: Tensor, residual: Tensor, join: Any) -> Tensor:
        z = linear(x, join.weight, join.bias) + residual
        return torch.nn.functional.layer_norm(z, z.shape[1:], join.ln_weight.double(), join.ln_bias.double(), join.eps)

    qkv = linear(operand, torch.cat(layer.qkv_weights), torch.cat(layer.qkv_biases)).view(-1, 3, layer.heads, layer.head_size)
    context = fastbert.ops.reference.attention(qkv, cu, int(cu.diff().max())).flatten(1)
    z = join(in_e4m3(context, layers._CONTEXT), x, layer.attention_join)
    act = torch.nn.functional.gelu(linear(in_e4m3(z, layers._STATES), layer.up_weight, layer.up_bias))
    y = join(in_e4m3(act, layers._ACT), z, layer.output_join)
    return y, in_e4m3(y, layers._STATES)


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_computes_what_the_roundings_say(fast: None, count: int) -> None:
    model, batch = make_model(num_hidden_layers=count), fastbert.pack(ROWS)
    usual = states(model)
    fastbert.prepack(model, "fp8", ROWS)
    assert kept(model) == count
    found = states(model)
    with torch.inference_mode(), fastbert.backend("reference"):
        x = model.embeddings(batch=batch).double()
        operand = in_e4m3(x, layers._STATES)
        for layer in model.encoder.layer:
            x, operand = rounded_layer(x, operand, plain_layer.read(layer), batch.cu_seqlens)
    # Values that float16 puts on the other side of a rounding to e4m3 add up over the layers.
    assert float((found - x).norm() / (found - usual).norm()) < (0.4 if count == 1 else 0.8)
    assert torch.nn.functional.cosine_similarity(found, usual).min() > 0.99
    fastbert.prepack(model)
    assert kept(model) == 0
    assert torch.equal(states(model), usual)


@pytest.mark.parametrize("change", ["train", "edit", "load", "data of an adapter's layer", "float and back"])
def test_a_change_of_the_weights_is_seen(fast: None, change: str) -> None:
    model = fastbert.prepack(make_model(), "fp8", ROWS)
    if change == "train":
        model.train().eval()
    elif change == "edit":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
    elif change == "load":
        model.load_state_dict({name: value / 2 for name, value in model.state_dict().items()})
    elif change == "float and back":
        model.float().half()
    else:
        for layer in model.encoder.layer:
            value = layer.attention.self.value
            fastbert.ops.forget_copies(value.weight)  # as a forward through an adapter does
            value.weight.data += 1.0
    assert torch.equal(states(model), states(copy.deepcopy(model)))
    assert kept(model) == 0


def test_a_forward_that_records_under_autocast_drops_the_copies(fast: None) -> None:
    """A fused optimiser does not raise the versions of what it changes."""
    model = fastbert.prepack(make_model(), "fp8", ROWS)
    with torch.autocast("cpu", torch.float16):
        model(fastbert.pack(ROWS)).last_hidden_state.float().sum().backward()
    assert kept(model) == 0


def test_moved_weights_leave_no_copies_behind(fast: None) -> None:
    model = fastbert.prepack(make_model(), "fp8", ROWS)
    model.to("cpu")
    assert kept(model) == 2, "nothing was moved"
    model.float()
    assert kept(model) == 0


def test_what_a_graph_reads_is_noticed_when_it_changes(fast: None) -> None:
    model, other = fastbert.prepack(make_model(), "fp8", ROWS), make_model()
    seen, plain = (fp8.Seen([*one.parameters()]) for one in (model, other))
    assert seen.are_current()
    fastbert.prepack(other, "fp8", ROWS)
    assert seen.are_current()
    assert not plain.are_current()
    with torch.no_grad():
        model.encoder.layer[1].output.dense.bias.add_(1.0)
    assert not seen.are_current()
    again = fp8.Seen([*other.parameters()])
    fastbert.prepack(other, "fp8", ROWS)
    assert not again.are_current()


def test_layers_that_share_weights_are_dropped_together(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    model.encoder.layer[1].intermediate = model.encoder.layer[0].intermediate
    usual = states(model)
    fastbert.prepack(model, "fp8", ROWS)
    assert kept(model) == 2
    fastbert.ops.forget_copies(model.encoder.layer[0].intermediate.dense.weight)
    assert kept(model) == 0
    monkeypatch.setattr(quantizing, "MIN_GAIN", 1e9)
    with pytest.raises(BackendError, match="fp8 is refused"):
        fastbert.prepack(model, "fp8", ROWS)
    assert torch.equal(states(model), usual)


def test_a_layer_of_another_head_size_is_refused_or_runs_in_16_bit(fast: None) -> None:
    model = make_model()
    inner = model.encoder.layer[1].attention.self
    inner.num_attention_heads, inner.attention_head_size = 4, 16
    with pytest.raises(BackendError, match="no kernels run layer 1, whose head size is 16"):
        fastbert.prepack(model, "fp8", ROWS)
    usual = states(model)
    inner.num_attention_heads, inner.attention_head_size = 2, 32
    fastbert.prepack(model, "fp8", ROWS)
    inner.num_attention_heads, inner.attention_head_size = 4, 16
    assert torch.nn.functional.cosine_similarity(states(model), usual).min() > 0.99


def test_layers_without_copies_run_in_16_bit_between_those_that_have_some(fast: None) -> None:
    model = make_model()
    usual = states(model)
    fastbert.prepack(model, "fp8", ROWS)
    whole = states(model)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.mul_(1.0)
    mixed = states(model)
    assert kept(model) == 1
    assert not torch.equal(mixed, whole)
    assert (mixed - usual).norm() < (whole - usual).norm()


def test_what_records_or_drops_runs_in_16_bit(fast: None) -> None:
    model = make_model()
    batch = fastbert.pack(ROWS)
    wanted = model(batch).last_hidden_state
    fastbert.prepack(model, "fp8", ROWS)
    assert torch.equal(model(batch).last_hidden_state, wanted)  # a gradient is recorded: the copies go
    assert kept(model) == 0


def test_padded_and_captured_inputs_and_other_models(fast: None) -> None:
    model, other = make_model(), make_model(hidden_size=128, num_attention_heads=4)
    alone = states(other)
    fastbert.prepack(model, "fp8", ROWS)
    assert torch.equal(states(other), alone)
    ids = torch.zeros(len(ROWS), 21, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(ROWS):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    with torch.inference_mode():
        padded = model(ids, mask).last_hidden_state
    assert torch.equal(padded[mask.bool()].double(), states(model))
    assert len(model.state_dict()) == len(other.state_dict())


# -- the gate ------------------------------------------------------------------------------------------------------------------


def test_what_is_slower_or_less_accurate_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    wanted = states(model)
    monkeypatch.setattr(quantizing, "_ROUNDS", 1)
    for gain, cosine, why in ((1e9, 0.0, "gain below"), (0.0, 1.1, "cosine below")):
        monkeypatch.setattr(quantizing, "MIN_GAIN", gain)
        monkeypatch.setattr(quantizing, "MIN_COSINE", cosine)
        with pytest.raises(BackendError, match=rf"fp8 is refused: all linears of the layers: {why}"):
            fastbert.prepack(model, "fp8", ROWS)
        printed = capsys.readouterr().err
        assert f"fp8 on 3 texts of the sample, {sum(map(len, ROWS)) - sum(row.count(0) for row in ROWS)} tokens, " in printed
        assert "x float16, cosine 0.99" in printed
        assert kept(model) == 0
        assert torch.equal(states(model), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(fast: None, value: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.encoder.layer[0].intermediate.dense.weight[0, 0] = value
    with pytest.raises(BackendError, match=r"fp8 is refused: all linears of the layers: cosine below"):
        fastbert.prepack(model, "fp8", ROWS)


def test_what_fp8_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"dtype = 'fp8' needs sample: token ids of some of your texts"):
        fastbert.prepack(make_model(), "fp8")
    with pytest.raises(InputError, match=r"the weights are torch.float32; fp8 is for float16 and bfloat16"):
        fastbert.prepack(make_model().float(), "fp8", ROWS)
    with pytest.raises(InputError, match=r"multiples of 16; layer 0 has \(64, 136, 64\)"):
        fastbert.prepack(make_model(intermediate_size=136), "fp8", ROWS)
    with pytest.raises(BackendError, match=r"no kernels run layer 0, whose head size is 24"):
        fastbert.prepack(make_model(hidden_size=96, num_attention_heads=4), "fp8", ROWS)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"autocast is on"):
        fastbert.prepack(make_model(), "fp8", ROWS)
    hooked = make_model()
    hooked.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"layers without adapters, hooks and replaced parts; layer 1 has some"):
        fastbert.prepack(hooked, "fp8", ROWS)
    with fastbert.backend("auto"), pytest.raises(InputError, match=r"no kernels run on cpu"):
        fastbert.prepack(make_model(), "fp8", ROWS)


def test_the_commands_take_it_and_say_what_it_needs(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("One text.\nAnother.\n", encoding="utf-8")
    command = ["embed", str(texts), "-o", str(tmp_path / "v.npy"), "--model", str(minilm), "--device", "cpu"]
    assert main([*command, "--fp8"]) == 2
    assert "fastbert: fp8 cannot run here: the weights are torch.float32; fp8 is for float16" in capsys.readouterr().err
    with fastbert.backend("auto"):
        assert main([*command, "--fp8", "--dtype", "bfloat16"]) == 2
    assert "no kernels run on cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--fp8", "--int8"])
    assert not (tmp_path / "v.npy").exists()
