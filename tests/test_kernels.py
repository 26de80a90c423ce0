"""The whole model on kernels, under Triton's interpreter; the ops as PyTorch operators; torch.compile; dispatch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from conftest import CLASSES, make_pair, ragged, worst

import fastbert
from fastbert import ops
from fastbert.errors import BackendError
from fastbert.kernels.common import rounded_to_tf32
from fastbert.ops import cpu, paths, reference

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "max_position_embeddings": 300}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def inputs_of(name: str, lengths: list[int]) -> dict[str, Any]:
    """A batch with labels, as the class takes them."""
    batch: dict[str, Any] = ragged(lengths)
    ids, size = batch["input_ids"], len(lengths)
    if name == "BertForMultipleChoice":
        return {key: value.view(2, 2, -1) for key, value in batch.items()} | {"labels": torch.tensor([1, 0])}
    if name in ("BertForMaskedLM", "BertLMHeadModel", "BertForPreTraining", "BertForTokenClassification"):
        labels = ids % 2 if name == "BertForTokenClassification" else ids.clone()
        batch["labels"] = labels.masked_fill(torch.arange(ids.shape[1]) % 3 == 1, -100)
    if name == "BertForPreTraining":
        batch["next_sentence_label"] = torch.arange(size) % 2
    if name in ("BertForSequenceClassification", "BertForNextSentencePrediction"):
        batch["labels"] = torch.arange(size) % 2
    if name == "BertForQuestionAnswering":
        batch |= {"start_positions": torch.zeros(size, dtype=torch.long), "end_positions": torch.tensor(lengths) - 1}
    return batch


def step(model: torch.nn.Module, batch: dict[str, Any], backend: str) -> tuple[Any, list[torch.Tensor]]:
    """Output and gradients; without a loss, of a fixed random projection of the outputs."""
    model.zero_grad()
    with fastbert.backend(backend), ops.recording() as decisions:
        out = model(**batch)
        loss = out.get("loss")
        if loss is None:
            random = torch.Generator().manual_seed(1)
            loss = sum((v * torch.randn(v.shape, generator=random)).sum() for v in out.to_tuple())
        loss.backward()
    paths = {d.path for d in decisions if d.op != "linear"}
    assert paths == {"triton" if backend == "triton" else "reference"}
    return out, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@triton.jit
def _round_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(y_ptr + place, rounded_to_tf32(tl.load(x_ptr + place)))


def test_float32_is_rounded_to_the_nearest_tf32() -> None:
    """Ten bits behind the leading one; what tensor cores cut off is zero, so that nothing is cut off."""
    drawn = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(500).remainder(60).sub(30)
    special = torch.tensor(
        [0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 1 + 2.0**-11, -1 - 2.0**-11, 3e38, 1e-40]
    )
    x = torch.cat([drawn, special, torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)])
    y = torch.empty(512)
    _round_kernel[(1,)](x, y, SIZE=512)
    finite = x.isfinite()
    assert bool((y[finite].view(torch.int32) & 0x1FFF == 0).all())
    cut = (x[finite].view(torch.int32) & ~0x1FFF).view(torch.float32)
    step = ((x[finite].view(torch.int32) & ~0x1FFF) + 0x2000).view(torch.float32)
    nearest = torch.where((x[finite].double() - cut).abs() < (step.double() - x[finite]).abs(), cut, step)
    assert torch.equal(y[finite], nearest)
    assert torch.equal(y[x.isinf()], x[x.isinf()])
    assert bool(y[x.isnan()].isnan().all())


@pytest.mark.parametrize(
    ("name", "lengths"),
    [*((name, [9, 4, 6, 1]) for name in CLASSES), ("BertForPreTraining", [150, 20, 1, 64]), ("BertModel", [150, 20, 1, 64])],
    ids=str,
)
def test_every_class_equals_the_reference_with_all_gradients(name: str, lengths: list[int], poisoned: None) -> None:
    model, _ = make_pair(name, **SIZES, **OFF, num_hidden_layers=2)
    model.train()
    batch = inputs_of(name, lengths)
    (expected, gradients), (found, ours) = step(model, batch, "reference"), step(model, batch, "triton")
    for key in expected.keys():
        if isinstance(expected[key], torch.Tensor):
            assert worst(found[key], expected[key]) < 1e-5, key
    for (parameter, _), a, b in zip(model.named_parameters(), ours, gradients, strict=True):
        assert worst(a, b) < 2e-5, parameter
    model.eval()
    with torch.no_grad():
        with fastbert.backend("reference"):
            expected = model(**batch)
        with fastbert.backend("triton"):
            found = model(**batch)
    for key in expected.keys():
        if isinstance(expected[key], torch.Tensor):
            assert worst(found[key], expected[key]) < 1e-5, key


@pytest.mark.thorough
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_ten_training_steps_follow_the_reference(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout the reference gets the kernels' masks in place of its own."""
    if dropout:
        monkeypatch.setattr(reference, "dropout_mask", kernel_masks)
    losses = {}
    for backend in ("reference", "triton"):
        model, _ = make_pair(
            "BertForPreTraining",
            **SIZES,
            num_hidden_layers=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        torch.manual_seed(5)
        losses[backend] = []
        for index in range(10):
            batch = inputs_of("BertForPreTraining", [6 + index, 3, 1])
            with fastbert.backend(backend):
                loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[backend].append(float(loss.detach()))
    assert losses["triton"] == pytest.approx(losses["reference"], rel=1e-4)
    assert losses["triton"][-1] < losses["triton"][0]


def kernel_masks(
    seed: Any, shape: tuple[int, ...], p: float, device: Any = None, dtype: torch.dtype = torch.bool
) -> torch.Tensor:
    from fastbert.ops import custom_ops as library

    return library.dropout_mask(seed, tuple(shape), p, torch.device(device or "cpu")).to(dtype)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_layers_are_recomputed_on_the_path_of_their_forward(backend: str) -> None:
    """A backward may run behind the block that chose the backend, or in another thread, as it does on a GPU."""
    model, _ = make_pair("BertForMaskedLM", **SIZES)
    model.train()
    model.gradient_checkpointing_enable()
    batch = inputs_of("BertForMaskedLM", [5, 9])
    with fastbert.backend(backend):
        losses = [model(**batch).loss for _ in range(2)]
    losses[0].backward()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            losses[1].backward()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


def test_operands_may_be_strided() -> None:
    """Vectors that are columns of a table, or one element expanded."""
    table = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    x, one = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), torch.ones(1).expand(64)
    bounds = torch.tensor([[0, 9], [3, 9], [5, 9]])
    ids = torch.tensor([[1, 9], [0, 9], [3, 9], [1, 9], [2, 9]])[:, 0]
    qkv = torch.randn(5, 3, 2, 16, generator=torch.Generator().manual_seed(2))
    calls: list[Any] = [
        lambda: ops.layer_norm(x, None, one, table[:, 1], 1e-12, table[:, 0]),
        lambda: ops.embedding(ids, ids * 0, ids, table.T.repeat(2, 1), x, x, one, table[:, 2], 1e-12),
        lambda: ops.linear_gelu(x, torch.eye(64), table[:, 0]),
        lambda: ops.attention(qkv, bounds[:, 0].int(), 3),
        lambda: ops.attention(qkv, bounds[:, 0], 3),
        lambda: ops.cross_entropy(x, torch.stack([one, table[:, 0]]), table[:2, 1], ids.clamp(max=1)),
    ]
    for call in calls:
        with fastbert.backend("reference"):
            expected = call()
        with fastbert.backend("triton"):
            torch.testing.assert_close(call(), expected)


def test_frozen_weights_and_packed_batches_train() -> None:
    model, _ = make_pair("BertModel", **SIZES)
    model.train()
    for parameter in model.embeddings.parameters():
        parameter.requires_grad_(False)
    with fastbert.backend("triton"):
        model(fastbert.pack(**ragged([5, 9]))).last_hidden_state.sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.embeddings.parameters())


def test_autocast_gives_the_types_of_plain_pytorch() -> None:
    model, _ = make_pair("BertForMaskedLM", **SIZES, **OFF)
    model.train()
    batch = inputs_of("BertForMaskedLM", [9, 4])
    results = {}
    for backend in ("reference", "triton"):
        with fastbert.backend(backend), torch.autocast("cpu", torch.float16):
            out = model(**batch, return_logits=False, output_hidden_states=True)
        out.loss.backward()
        results[backend] = (out.loss.dtype, [h.dtype for h in out.hidden_states], float(out.loss.detach()))
    assert results["triton"][:2] == results["reference"][:2]
    assert results["triton"][2] == pytest.approx(results["reference"][2], rel=2e-2)


def test_the_interpreter_is_not_asked_for_products_in_bfloat16() -> None:
    """It multiplies the bit patterns."""
    model, _ = make_pair("BertModel", **SIZES)
    batch = inputs_of("BertModel", [9, 4])
    with fastbert.backend("triton"):
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(BackendError, match="interpreter multiplies bfloat16 wrongly"),
        ):
            model(**batch)
        with pytest.raises(BackendError, match="cannot run attention: Triton's interpreter multiplies bfloat16 wrongly"):
            model.bfloat16()(**batch)


def test_backend_triton_needs_a_gpu_or_the_interpreter() -> None:
    code = (
        "import torch, fastbert\n"
        "model = fastbert.BertModel(fastbert.BertConfig.of_size('tiny'))\n"
        "try:\n"
        "    with fastbert.backend('triton'): model(torch.ones(1, 3, dtype=torch.long))\n"
        "except fastbert.FastbertError as error: print(type(error).__name__, error)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=True)
    if not torch.cuda.is_available():
        assert run.stdout.startswith("BackendError backend 'triton' cannot run embedding: the tensors are on a CPU")
        assert "TRITON_INTERPRET=1" in run.stdout


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ops.attention(torch.zeros(3, 3, 1, 24), torch.tensor([0, 3], dtype=torch.int32), 3), "head size 24"),
        (lambda: ops.layer_norm(torch.zeros(3, 4).double(), None, torch.ones(4), torch.zeros(4), 1e-12), "torch.float64"),
        (lambda: ops.layer_norm(torch.zeros(1, 9000), None, torch.ones(9000), torch.zeros(9000), 1e-12), "hidden size 9000"),
        (lambda: ops.masked_attention(torch.zeros(1, 3, 3, 1, 16), None), "4-D masks"),
        (lambda: ops.attention(torch.zeros(3, 3, 1, 16), torch.tensor([0, 3], dtype=torch.int32), 3, scale=-1.0), "scale"),
    ],
)
def test_backend_triton_names_what_has_no_kernel(call: Any, reason: str) -> None:
    with fastbert.backend("triton"), pytest.raises(BackendError, match=reason):
        call()


def test_auto_falls_back_on_a_gpu_with_one_warning_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake device: where kernels are to be expected, what cannot run on one is said once for each reason."""
    monkeypatch.setattr(paths, "_warned", set())
    gpu = type("FakeGpuTensor", (torch.Tensor,), {"device": property(lambda _: torch.device("cuda"))})
    monkeypatch.setattr(paths, "capability", lambda _: (9, 0))
    monkeypatch.setattr(paths, "_tf32", lambda: False)
    cases = [
        ("attention", torch.zeros(3, 3, 1, 24).half(), "head size 24 is not one of 16, 32, 64, 128"),
        ("layer_norm", torch.zeros(3, 4).double(), "there are no kernels for torch.float64"),
        ("ffn", torch.zeros(3, 4), "float32 products have a kernel in TF32 only"),
    ]
    for op, x, reason in cases:
        x = x.as_subclass(gpu)
        with warnings.catch_warnings(record=True) as caught, ops.recording() as decisions:
            warnings.simplefilter("always")
            for _ in range(2):
                obstacle = reason if op == "attention" else ""
                chosen = paths.choose(op, x, x.shape, obstacle)
        assert chosen is getattr(cpu if hasattr(cpu, op) else reference, op)
        assert [str(w.message) for w in caught if reason in str(w.message)], op
        assert len(caught) == 1
        assert all(reason in d.reason for d in decisions)


def test_dense_masks_are_said_once_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_warned", set())
    gpu = type("FakeGpuTensor", (torch.Tensor,), {"device": property(lambda _: torch.device("cuda"))})
    qkv = torch.randn(1, 4, 3, 2, 16).as_subclass(gpu)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            ops.masked_attention(qkv, None)
    assert [str(w.message) for w in caught] == [
        "fastbert runs attention without a kernel: 3-D and 4-D masks, output_attentions and traced masks have no kernel"
    ]


def test_explain_names_the_kernels() -> None:
    model, _ = make_pair("BertForSequenceClassification", **SIZES)
    with fastbert.backend("triton"):
        found = fastbert.explain(model, **ragged([10, 5]))
    paths = {row[0]: row[3] for row in found.rows}
    assert paths == {"embedding": "triton", "attention": "triton", "linear": "cpu", "layer_norm": "triton", "ffn": "triton"}


# -- PyTorch operators ---------------------------------------------------------------------------------------------------------


def operator_samples() -> list[tuple[str, tuple[Any, ...]]]:
    """Arguments for each operator of the library; what has a gradient asks for it."""
    make = torch.Generator().manual_seed(0)

    def random(*shape: int, grad: bool = True) -> torch.Tensor:
        return torch.randn(shape, generator=make).requires_grad_(grad)

    ids, kind, seed = torch.tensor([3, 1, 0, 3]), torch.tensor([0, 1, 1, 0]), torch.tensor([5])
    cu = torch.tensor([0, 3, 4], dtype=torch.int32)
    per_row, labels = torch.rand(4), torch.tensor([1, -100, 4, 0])
    lse, out = torch.zeros(2, 4), random(4, 2, 16, grad=False)
    tables = random(9, 16), random(8, 16), random(2, 16)
    plain_tables = tuple(t.detach() for t in tables)
    x, weight = random(4, 16), random(16)
    plain = random(4, 16, grad=False)
    return [
        ("layer_norm", (x, random(4, 16), weight, random(16), 1e-12, random(16), 0.5, seed, torch.float32, torch.float16)),
        ("layer_norm", (x, None, weight, random(16), 1e-12, None, 0.0, None, torch.float32, None)),
        ("layer_norm_backward", (plain, plain, plain, plain, per_row.repeat(4), None, 0.0, None, per_row, per_row, False)),
        ("embedding", (ids, kind, ids, *tables, weight, random(16), 1e-12, 0.5, seed, 0)),
        ("embedding_backward", (plain, ids, kind, ids, *plain_tables, per_row.repeat(4), 0.0, None, per_row, per_row)),
        ("table_backward", (plain, ids, plain_tables[0], 0)),
        ("attention", (random(4, 3, 2, 16), cu, 3, 0.5, seed, False, 0.25)),
        ("attention_backward", (out, random(4, 3, 2, 16, grad=False), cu, 3, out, lse, 0.0, None, True, 0.25)),
        ("linear_gelu", (x, random(24, 16), random(24), False)),
        ("gelu_backward", (plain, random(4, 16, grad=False), True)),
        ("ffn", (x, random(24, 16), random(24), random(16, 24), random(16), False)),
        ("ffn_backward", (plain, random(16, 24, grad=False), random(4, 24, grad=False), False)),
        ("cross_entropy", (x, random(70, 16), random(70), labels, -100)),
        (
            "cross_entropy_backward",
            (per_row, plain, random(70, 16, grad=False), None, labels, per_row, torch.rand(4, 128), -100),
        ),
    ]


@pytest.mark.parametrize("index", range(14))
def test_operators_pass_opcheck(index: int) -> None:
    from fastbert.ops import custom_ops as library  # noqa: F401

    name, arguments = operator_samples()[index]
    torch.library.opcheck(getattr(torch.ops.fastbert, name).default, arguments)


def test_every_operator_is_checked() -> None:
    files = ("attention", "cross_entropy", "embedding", "ffn", "layer_norm")
    values = [value for file in files for value in vars(importlib.import_module(f"fastbert.ops.custom_ops.{file}")).values()]
    defined = {value._name for value in values if isinstance(value, torch.library.CustomOpDef)}
    assert defined == {name for name, _ in operator_samples()}


@pytest.mark.parametrize(
    ("form", "backend"), [pytest.param("padded", "triton", marks=pytest.mark.thorough), ("packed", "auto")]
)
def test_compiles_to_at_most_three_graphs_over_ten_lengths(form: str, backend: str) -> None:
    """aot_eager traces forward and backward as inductor would, without needing a C++ compiler."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, _ = make_pair("BertModel", **SIZES, **OFF, num_hidden_layers=1)
    model.train()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for length in (9, 12, 16, 17, 20, 31, 32, 33, 40, 64):
        batch = ragged([length, 2])
        given = {"input_ids": fastbert.pack(**batch)} if form == "packed" else batch
        model.zero_grad()
        with fastbert.backend(backend):
            found = compiled(**given).last_hidden_state
        found.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        expected = model(**given).last_hidden_state
        expected.square().sum().backward()
        assert worst(found, expected) < 1e-5
        eager = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert max(worst(gradients[name], gradient) for name, gradient in eager.items()) < 1e-4
    assert counter.frame_count <= 3


def test_export_takes_the_operators() -> None:
    model, _ = make_pair("BertModel", **SIZES, num_hidden_layers=1)
    ids = torch.randint(1, 100, (2, 7), generator=torch.Generator().manual_seed(0))
    with fastbert.backend("triton"), torch.no_grad():
        program = torch.export.export(model, (ids,), strict=False)
    names = {str(node.target) for node in program.graph.nodes}
    assert "fastbert.attention.default" in names
    with torch.no_grad():
        assert worst(program.module()(ids).last_hidden_state, model(ids).last_hidden_state) < 1e-5
