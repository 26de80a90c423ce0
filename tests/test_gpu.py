"""The real kernels on a CUDA device, at full sizes. `pytest -m gpu` runs these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, make_pair, ragged, worst
from kernel_checks import (
    LENGTHS,
    SMALL,
    check_attention,
    check_attention_schedule,
    check_cross_entropy,
    check_embedding,
    check_ffn,
    check_frequent_word,
    check_layer_norm,
    check_linear_gelu,
    in_e4m3,
    random,
)
from pretraining_cases import make_corpus, make_recipe

import fastbert
from fastbert import graphs, ops
from fastbert.errors import InputError
from fastbert.kernels import ffn
from fastbert.kernels.e4m3 import to_e4m3
from fastbert.model import quantizing
from fastbert.ops import paths
from fastbert.ops.custom_ops import fp8 as layers
from fastbert.ops.custom_ops.fp8 import Weight
from fastbert.packing import deferred, fixed_budget
from fastbert.packing.inputs import Limits
from fastbert.training import pretrain
from fastbert.training.records import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
HALVES = [torch.float16, torch.bfloat16]
TYPES = [torch.float32, *HALVES]
BASE, LARGE = (768, 12, 3072), (1024, 16, 4096)
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KERNEL_SIZES = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "max_position_embeddings": 512}


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Several workers of pytest-xdist share the card."""
    yield
    torch.cuda.empty_cache()


@pytest.fixture
def tf32() -> Any:
    """float32 products in TF32, the form that has kernels; plain PyTorch is measured in it as well."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


# -- every op at full sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(("tokens", "width"), [(65_536, 768), (16_384, 1024), (16_411, 384)])
def test_layer_norm(tokens: int, width: int, p: float, dtype: torch.dtype) -> None:
    check_layer_norm("cuda", dtype, tokens, width, p)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width", "p"), [(65_536, 768, 0.1), (16_384, 1024, 0.0)])
def test_embedding(tokens: int, width: int, p: float, dtype: torch.dtype) -> None:
    check_embedding("cuda", dtype, tokens, width, p, (30_522, 512, 2))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_frequent_word(dtype: torch.dtype) -> None:
    check_frequent_word("cuda", dtype, 20_000, 1024)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(("heads", "width"), [(24, 32), (12, 64), (8, 128)])
@pytest.mark.parametrize(
    "lengths", [LENGTHS, [1, 2, 17, 63, 64, 65, 127, 128, 0] * 4, [32, 7] * 8, [64] * 6], ids=["long", "128", "32", "64"]
)
def test_attention(lengths: list[int], heads: int, width: int, p: float, causal: bool, dtype: torch.dtype) -> None:
    check_attention("cuda", dtype, lengths, heads, width, p, causal)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("longest", [30, 60, 120, 500])
def test_attention_by_a_schedule(
    longest: int, causal: bool, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_attention_schedule(monkeypatch, "cuda", dtype, longest, width, causal)


def test_lamb_is_that_of_the_library() -> None:
    library = pytest.importorskip("pytorch_optimizer", reason="LAMB is the package pytorch-optimizer's, of the extra `train`")
    from fastbert.training.lamb import lamb_class

    torch.manual_seed(0)
    start = [torch.randn(30_522, 768, device="cuda"), torch.randn(7, device="cuda") * 100, torch.zeros(5, device="cuda")]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    one, other = (
        kind(p, lr=0.02, weight_decay=0.01, max_grad_norm=0.0) for kind, p in ((lamb_class(), ours), (library.Lamb, theirs))
    )
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step()
        other.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("length", [128, 512])
def test_attention_of_64k_tokens(length: int, dtype: torch.dtype) -> None:
    check_attention("cuda", dtype, [length] * (65_536 // length), 2, 64, 0.0, False)


@pytest.mark.parametrize("lengths", [LENGTHS, [100, 128, 1]], ids=["long", "short"])
def test_attention_in_tf32(lengths: list[int], tf32: None) -> None:
    check_attention("cuda", torch.float32, lengths, 4, 64, 0.1, False)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("width", "inner"), [(768, 3072), (1024, 4096), (384, 1536)])
@pytest.mark.parametrize("tokens", [1, 1000, 16_384])
def test_ffn(tokens: int, width: int, inner: int, dtype: torch.dtype) -> None:
    check_ffn("cuda", dtype, tokens, width, inner)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_linear_gelu(approximate: str, tf32: None) -> None:
    check_linear_gelu("cuda", torch.float16, 4096, 768, 3072, approximate)
    check_linear_gelu("cuda", torch.bfloat16, 77, 768, 768, approximate, strided=True)
    check_linear_gelu("cuda", torch.float32, 512, 768, 768, approximate)


@pytest.mark.parametrize("form", ["fused", "split"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_ffn_in_both_forms(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbert.kernels import tuning

    forms = dict.fromkeys(("inference", "training", "backward"), form)
    monkeypatch.setattr(tuning, "FFN_FORMS", {"default": forms})
    check_ffn("cuda", dtype, 3000, 768, 3072)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3000])
def test_cross_entropy(rows: int, dtype: torch.dtype) -> None:
    check_cross_entropy("cuda", dtype, rows, 768, 30_522, "mean")


# -- every kernel at sizes that compute-sanitizer gets through: `campaign.py` runs these under it ------------------------------

# The reference runs on the CPU: no product of the vendor's stands between the sanitizer and our kernels.


@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [(0.1, False), (0.0, True)], ids=["dropout", "causal"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("longest", list(SMALL))
def test_small_attention(longest: int, width: int, form: tuple[float, bool], dtype: torch.dtype) -> None:
    check_attention("cuda", dtype, SMALL[longest], 2, width, *form, reference_on="cpu")


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("longest", [30, 120, 150])
def test_small_attention_by_a_schedule(longest: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_attention_schedule(monkeypatch, "cuda", torch.bfloat16, longest, width, False)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_small_rows(dtype: torch.dtype) -> None:
    check_layer_norm("cuda", dtype, 37, 768, 0.1, reference_on="cpu")
    check_layer_norm("cuda", dtype, 1, 1023, 0.0, offset=3, reference_on="cpu")
    check_embedding("cuda", dtype, 41, 768, 0.1, reference_on="cpu")


def test_small_products() -> None:
    """With the vendor's products in the backward, as ours have them."""
    check_linear_gelu("cuda", torch.bfloat16, 130, 128, 264, "none", reference_on="cpu")
    check_ffn("cuda", torch.bfloat16, 77, 128, 512, reference_on="cpu")
    check_cross_entropy("cuda", torch.bfloat16, 9, 64, 1003, "mean", reference_on="cpu")


def test_small_fused_products() -> None:
    """Forward alone, where every product is ours."""
    x, weight, bias = (
        random(*shape, seed=i, device="cuda").bfloat16() for i, shape in enumerate([(130, 128), (272, 128), (272,)])
    )
    exact = x.double() @ weight.double().T + bias.double()
    for keep in (False, True):
        act, h = ffn.linear_gelu_fwd(x, weight, bias, False, "fused", keep)
        assert torch.allclose(act.double(), torch.nn.functional.gelu(exact), rtol=1e-2, atol=1e-2)
        assert h is None or torch.allclose(h.double(), exact, rtol=1e-2, atol=1e-2)
    x8, w8 = to_e4m3(x, 4.0), Weight.of(weight)
    exact = (x8.double() / 4) @ (w8.values.double() / w8.scale).T + bias.double()
    act = layers.linear_gelu(x8, 4.0, w8, bias, 4.0, False)
    assert torch.allclose(act.double() / 4, torch.nn.functional.gelu(exact), rtol=2**-4, atol=1e-2)


def test_small_tf32_products(tf32: None) -> None:
    check_linear_gelu("cuda", torch.float32, 130, 128, 264, "none")
    check_ffn("cuda", torch.float32, 77, 128, 512)
    check_cross_entropy("cuda", torch.float32, 9, 64, 1003, "mean")


@pytest.mark.parametrize("width", [64, 128])
def test_small_tf32_attention(width: int, tf32: None) -> None:
    for lengths in SMALL.values():
        check_attention("cuda", torch.float32, lengths, 2, width, 0.1, False)


# -- the model -----------------------------------------------------------------------------------------------------------------


def batch_for(name: str, lengths: list[int]) -> dict[str, torch.Tensor]:
    batch = ragged(lengths)
    return {key: value.view(2, 2, -1) for key, value in batch.items()} if name == "BertForMultipleChoice" else batch


@pytest.mark.parametrize("lengths", [[11, 5, 8, 1], [300, 128, 64, 1]], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_equals_the_cpu(name: str, lengths: list[int]) -> None:
    model, _ = make_pair(name, **KERNEL_SIZES, initializer_range=0.05)
    batch = batch_for(name, lengths)
    with torch.no_grad():
        expected = model(**batch)
        model.to("cuda", torch.float16)
        with fastbert.backend("triton"):
            found = model(**{key: value.cuda() for key, value in batch.items()})
    for key in expected.keys():
        real = expected[key] > -1e30  # question answering masks padding with the lowest value of the type
        assert worst(found[key].cpu().float()[real], expected[key][real]) < 2e-2, key


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [BASE, LARGE], ids=["base", "large"])
def test_base_and_large_layers_follow_float32(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    width, heads, inner = size
    fields = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": 512}
    model, _ = make_pair("BertModel", **fields, num_hidden_layers=4, initializer_range=0.02)
    batch = fastbert.pack(**ragged([512, 300, 128, 64, 17, 1]))
    with torch.no_grad():
        expected = model(batch).last_hidden_state
        with fastbert.backend("triton"):
            found = model.to("cuda", dtype)(batch.to("cuda")).last_hidden_state.float().cpu()
    assert torch.cosine_similarity(found, expected, dim=1).min() > 0.999


def test_verify_finds_no_error(minilm: Any) -> None:
    model = fastbert.BertModel.from_pretrained(minilm, device="cuda", dtype=torch.float16)
    with fastbert.backend("triton"):
        found = fastbert.verify(model, **{k: v.cuda() for k, v in ragged([200, 128, 40, 3], vocab=30_000).items()})
    assert found.ok, str(found)


def test_training_step_has_the_gradients_of_the_cpu(tf32: None) -> None:
    model, _ = make_pair("BertForPreTraining", **KERNEL_SIZES, **OFF, initializer_range=0.05)
    batch = ragged([60, 33, 8, 200])
    batch = {**batch, "labels": batch["input_ids"].clone(), "next_sentence_label": torch.tensor([0, 1, 1, 0])}
    gradients = []
    for device in ("cpu", "cuda"):
        model.to(device).train()
        model.zero_grad()
        with fastbert.backend("auto" if device == "cpu" else "triton"):
            model(**{key: value.to(device) for key, value in batch.items()}).loss.backward()
        gradients.append([p.grad.cpu().clone() for p in model.parameters()])
    assert max(worst(a, b) for a, b in zip(*gradients, strict=True)) < 1e-2


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [BASE, LARGE], ids=["base", "large"])
def test_layers_run_whole_give_what_their_ops_give(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """States to the bit, with dropout; weight gradients are float32 sums, which the ops round to 16 bit."""
    width, heads, inner = size
    fields = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": 512}
    model, _ = make_pair("BertModel", **fields, num_hidden_layers=2, initializer_range=0.02)
    model.cuda().train()
    batch = fastbert.pack(**ragged([512, 300, 128, 64, 17, 1] * 2)).to("cuda")
    upstream = torch.linspace(-1, 1, width, device="cuda") / batch.num_tokens
    found = []
    for listens in (nullcontext(), ops.tapping()):
        model.zero_grad()
        torch.manual_seed(1)
        with listens, torch.autocast("cuda", dtype):
            states = model(batch).last_hidden_state
        (256 * states.float() * upstream).square().sum().backward()
        found.append([states.detach(), *(p.grad for p in model.encoder.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    names = [name for name, _ in model.encoder.named_parameters()]
    pairs = zip(names, found[0][1:], found[1][1:], strict=True)
    far = {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in pairs}
    far = {name: error for name, error in far.items() if not name.endswith("key.bias")}  # whose gradient is rounding alone
    assert max(far.values()) < 2e-2, far
    weights = (grad for name, grad in zip(names, found[0][1:], strict=True) if name.endswith("dense.weight"))
    assert all(not torch.equal(grad, grad.to(dtype).float()) for grad in weights)


def test_dropout_follows_the_seed_and_a_backward_gives_equal_bits() -> None:
    model, _ = make_pair("BertForMaskedLM", **KERNEL_SIZES)
    model.to("cuda", torch.bfloat16).train()
    batch = {key: value.cuda() for key, value in ragged([200, 40, 128]).items()}
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model.zero_grad()
        with fastbert.backend("triton"):
            model(**batch, labels=batch["input_ids"]).loss.backward()
        results.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_float32_without_tf32_trains_with_dropout() -> None:
    """Attention has no kernel there: the plain form draws its masks on the device, and the same seed gives the same ones."""
    model, _ = make_pair("BertModel", **KERNEL_SIZES)
    model.to("cuda").train()
    batch = fastbert.pack(**ragged([20, 7, 7])).to("cuda")
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        out = model(batch).last_hidden_state
        out.square().mean().backward()
        found.append(out.detach())
    assert torch.equal(*found)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_compiles_with_inductor() -> None:
    model, _ = make_pair("BertModel", **KERNEL_SIZES)
    model.to("cuda", torch.float16)
    batch = fastbert.pack(**ragged([100, 7])).to("cuda")
    with torch.no_grad(), fastbert.backend("triton"):
        found = torch.compile(model, fullgraph=True)(batch).last_hidden_state
        assert worst(found.float(), model(batch).last_hidden_state.float()) < 1e-2


# -- the device ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_packed_forward_never_waits_for_the_device(training: bool) -> None:
    model, _ = make_pair("BertForSequenceClassification", **KERNEL_SIZES)
    model.to("cuda", torch.float16).train(training)
    batch = fastbert.pack(**ragged([100, 7, 0 + 1])).to("cuda")
    with fastbert.backend("triton"):
        model(batch)  # compiles
        batch.checked = None
        torch.cuda.set_sync_debug_mode("error")
        try:
            out = model(batch).logits
            if training:
                out.float().square().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    fastbert.check()


@pytest.mark.parametrize("form", ["packed", "padded", "masked"])
def test_out_of_range_ids_raise_and_leave_the_device_alive(form: str) -> None:
    model, _ = make_pair("BertModel", **KERNEL_SIZES)
    model.to("cuda", torch.float16)
    deferred._pending.checks.clear()
    ids = torch.full((2, 5), 500)
    given = {"input_ids": fastbert.pack(ids).to("cuda") if form == "packed" else ids.cuda()}
    if form == "masked":
        given["attention_mask"] = torch.ones(2, 5, device="cuda")

    def run() -> None:
        model(**given)  # a mask needs the lengths, and so tells at once
        fastbert.check()

    with pytest.raises(InputError, match=r"input_ids\[0, 0\] = 500 is outside the vocabulary"):
        run()
    torch.cuda.synchronize()
    assert model(torch.ones(1, 3, dtype=torch.long, device="cuda")).last_hidden_state.isfinite().all()


def test_graph_replay_equals_eager() -> None:
    model, _ = make_pair("BertModel", **KERNEL_SIZES)
    model.to("cuda", torch.float16)
    captured = graphs.CapturedModel(model, max_graphs=2)
    for lengths in ([100, 7], [5, 6], [100, 8], [200, 128, 1], [5, 6], [1]):
        batch = fastbert.pack(**ragged(lengths, seed=sum(lengths))).to("cuda")
        found = captured(batch)
        with torch.no_grad():
            expected = model(batch)
        assert worst(found.last_hidden_state.float(), expected.last_hidden_state.float()) < 1e-2
        assert worst(found.pooler_output.float(), expected.pooler_output.float()) < 1e-2
        assert len(captured._graphs) <= 2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    assert worst(captured(batch).last_hidden_state.float(), model(batch).last_hidden_state.float()) < 1e-2


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("tokens", "width", "inner"), [(1, 384, 1536), (1000, 768, 3072), (16_384, 1024, 4096)])
def test_products_in_e4m3(tokens: int, width: int, inner: int, dtype: torch.dtype) -> None:
    """Operands have no rounding left, so what differs is the sum's, and the result's in e4m3."""
    x = to_e4m3(torch.randn(tokens, width, device="cuda"), 4.0)
    weight = Weight.of(torch.randn(inner, width, device="cuda") * width**-0.5)
    bias = torch.randn(inner, device="cuda", dtype=dtype)
    exact = (x.double() / 4) @ (weight.values.double() / weight.scale).T + bias.double()
    assert (layers.product(x, 4.0, weight, bias, dtype).double() - exact).norm() < 4e-3 * exact.norm()
    for tanh in (False, True):
        wanted = torch.nn.functional.gelu(exact, approximate="tanh" if tanh else "none")
        found = layers.linear_gelu(x, 4.0, weight, bias, 4.0, tanh).double() / 4
        rounded = in_e4m3(wanted, 4.0)
        assert (found - rounded).norm() < 0.2 * (rounded - wanted).norm()  # few values fall on the other side of a rounding


def test_a_gpu_converts_to_e4m3_as_the_interpreter_is_made_to() -> None:
    x = torch.cat([torch.randn(10_000) * s for s in (1e-3, 1.0, 300.0)] + [torch.tensor([float("nan"), 1e9, -1e9, 464.0])])
    wanted = x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(to_e4m3(x.cuda(), 1.0).view(torch.uint8).cpu() & 0x7F, wanted & 0x7F)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [BASE, LARGE], ids=["base", "large"])
def test_layers_in_fp8_are_near_those_in_16_bit(
    size: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "MIN_GAIN", 0.0)
    width, heads, inner = size
    fields = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": 512}
    model, _ = make_pair("BertModel", **fields, num_hidden_layers=4, initializer_range=0.02)
    model.to("cuda", dtype)
    batch = fastbert.pack(**ragged([512, 300, 128, 64, 17, 1])).to("cuda")
    captured = graphs.CapturedModel(model)
    with torch.inference_mode():
        usual = captured(batch).last_hidden_state.float()
        fastbert.prepack(model, "fp8", [list(range(1, 100))])
        short = fastbert.pack(**ragged([9])).to("cuda")
        captured_first = captured(short).last_hidden_state.float()  # of sizes that no forward has had
        assert worst(captured_first, model(short).last_hidden_state.float()) < 1e-2
        found = model(batch).last_hidden_state.float()
        assert torch.cosine_similarity(found, usual, dim=1).min() > 0.99
        assert not torch.equal(found, usual)
        assert worst(captured(batch).last_hidden_state.float(), found) < 1e-2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    with torch.inference_mode():
        again = captured(batch).last_hidden_state.float()
        assert worst(again, model(batch).last_hidden_state.float()) < 1e-2
        assert worst(again, found) > 1e-2


def _new_step() -> Callable[..., torch.Tensor]:
    model, _ = make_pair("BertForMaskedLM", **KERNEL_SIZES, **OFF)
    model.to("cuda").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=True, fused=True)

    def step(batch: Any, rows: Any, labels: Any) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(batch, labels=labels, scored_rows=rows).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def test_captured_steps_of_several_shapes_share_memory_and_follow_the_eager_one() -> None:
    made = []
    for seed, lengths in enumerate(([200, 40, 3], [30, 20], [500, 256, 10])):
        batch = fastbert.pack(**ragged(lengths, seed=seed), limits=Limits(101, 2, 512))
        rows = torch.arange(0, 40)
        labels = batch.input_ids[rows].masked_fill(rows % 3 == 0, -100)
        batch = fixed_budget(batch, *graphs.Bucket.of(batch))
        made.append({"batch": batch.to("cuda"), "rows": rows.cuda(), "labels": labels.cuda()})
    order = [0, 1, 2, 1, 0, 2, 2, 1]
    losses = {}
    for form in ("eager", "captured"):
        step = _new_step()
        with fastbert.backend("triton"):
            runs: list[Any] = []
            for inputs in made:
                if form == "captured":
                    runs.append(graphs.CapturedStep(step, inputs, runs[-1] if runs else None))
                else:
                    runs.append(step)
                    for _ in range(3):
                        step(**inputs)
            losses[form] = [float(runs[i](**made[i])) for i in order]
    assert losses["captured"] == pytest.approx(losses["eager"], rel=2e-2)


def test_a_captured_training_step_follows_the_eager_one() -> None:
    limits = Limits(101, 2, 512)
    budget = {"tokens": 320, "sequences": 6, "max_seqlen": 256}

    def batches() -> list[dict[str, Any]]:
        made = []
        for seed, lengths in enumerate(([200, 40, 3], [120, 120], [256, 10, 9, 8])):
            batch = fastbert.pack(**ragged(lengths, seed=seed), limits=limits)
            rows = torch.arange(0, 40)
            labels = batch.input_ids[rows].masked_fill(rows % 3 == 0, -100)
            made.append({"batch": fixed_budget(batch, **budget).to("cuda"), "rows": rows.cuda(), "labels": labels.cuda()})
        return made

    losses = {}
    for form in ("eager", "captured"):
        step = _new_step()
        given = batches()
        with fastbert.backend("triton"):
            if form == "captured":
                run = graphs.CapturedStep(step, given[0])  # three steps of warm-up on the first batch
            else:
                run = step
                for _ in range(3):
                    step(**given[0])
            losses[form] = [float(run(**given[i % 3])) for i in range(6)]
    assert losses["captured"] == pytest.approx(losses["eager"], rel=2e-2)


def test_pretraining_captures_its_step_and_follows_the_eager_one(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 80)
    sizes = ["model.config.hidden_size=64", "model.config.intermediate_size=128", "phases.0.batches_per_step=2"]
    changes = [*sizes, "run.precision=bfloat16", "model.config.hidden_dropout_prob=0.0", "run.log_every=1"]
    losses = []
    for capture in ("false", "true"):
        recipe = make_recipe(corpus.folder, *changes, "model.config.attention_probs_dropout_prob=0.0", f"run.capture={capture}")
        pretrain(recipe, tmp_path / capture, "cuda")
        records = read_metrics(tmp_path / capture / "metrics.jsonl")
        losses.append([record["masked_lm_loss"] for record in records if record["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_what_has_no_kernel_is_said_once() -> None:
    paths._warned.clear()
    model, _ = make_pair("BertModel")  # head size 12
    with pytest.warns(UserWarning, match="head size 12 is not one of 16, 32, 64, 128") as caught:
        model.to("cuda", torch.float16)(torch.ones(1, 3, dtype=torch.long, device="cuda"))
    assert len([w for w in caught if "head size" in str(w.message)]) == 1
