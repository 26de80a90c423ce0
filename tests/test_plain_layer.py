"""Layers without calls of their modules, states in two types, and gradients without the detour over PyTorch operators."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import make_pair, ragged
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import fastbert
from fastbert import ops
from fastbert.model import layers, plain_layer
from fastbert.ops import cpu, cpu_inference
from fastbert.ops.recorded import in_training

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
NAMES = ("attention", "cross_entropy", "embedding", "ffn", "layer_norm")
FILES = {name: importlib.import_module(f"fastbert.ops.custom_ops.{name}") for name in NAMES}


def trained(model: Any, batch: dict[str, Any], backend: str, autocast: bool = False) -> list[torch.Tensor]:
    """Loss, states and gradients of a step, with the same dropout each time."""
    model.zero_grad()
    torch.manual_seed(3)
    with fastbert.backend(backend), torch.autocast("cpu", torch.float16, enabled=autocast):
        out = model(**batch)
    loss = out.loss.float()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def masked_lm(lengths: Sequence[int] = (9, 4, 7), **fields: Any) -> tuple[Any, dict[str, Any]]:
    model, _ = make_pair("BertForMaskedLM", **SIZES, **fields)
    batch: dict[str, Any] = ragged(list(lengths))
    return model.train(), batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] % 3 > 0, -100)}


@pytest.mark.parametrize("backend", ["reference", "auto", "triton"])
def test_a_plain_layer_is_its_modules_to_the_bit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = masked_lm()
    first = trained(model, batch, backend)
    called: list[int] = []
    monkeypatch.setattr(plain_layer, "read", lambda _: called.append(1))
    same(trained(model, batch, backend), first)
    assert len(called) == 2, "the last of three layers computes the rows that the head reads"


def no_gelu(model: Any) -> None:
    for layer in model.bert.encoder.layer:
        layer.intermediate.hidden_act = "relu"


def hooked(path: str) -> Callable[[Any], None]:
    return lambda model: (model.bert.encoder.layer[1].get_submodule(path).register_forward_hook(lambda *_: None), None)[1]


def own_forward(model: Any) -> None:
    norm = model.bert.encoder.layer[1].output.LayerNorm
    norm.forward = lambda x: torch.nn.LayerNorm.forward(norm, x)


def other_class(model: Any) -> None:
    class Linear(torch.nn.Linear):
        pass

    model.bert.encoder.layer[1].attention.self.key = Linear(64, 64)


def parametrized(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[1].intermediate.dense)


def compiled(model: Any) -> None:
    model.bert.encoder.layer[1].compile(backend="eager")


def compiled_part(model: Any) -> None:
    model.bert.encoder.layer[1].intermediate.compile(backend="eager")


def without_bias(model: Any) -> None:
    query = model.bert.encoder.layer[1].attention.self.query
    del query.bias
    query.bias = None


def bias_is_a_buffer(model: Any) -> None:
    norm = model.bert.encoder.layer[1].output.LayerNorm
    bias = norm.bias.detach()
    del norm.bias
    norm.register_buffer("bias", bias)


def no_dropout(model: Any) -> None:
    model.bert.encoder.layer[1].attention.self.dropout = None


def other_part(model: Any) -> None:
    model.bert.encoder.layer[1].intermediate = torch.nn.Linear(64, 96)


def another_class_of_weight(layer: Any) -> None:
    layer.output.dense.weight.__class__ = type("Weight", (torch.nn.Parameter,), {})


PARTS = ("", "attention", "attention.self", "attention.self.query", "attention.self.dropout", "attention.output")
PARTS += ("attention.output.dense", "attention.output.LayerNorm", "attention.output.dropout", "intermediate")
PARTS += ("intermediate.dense", "output", "output.dense", "output.LayerNorm", "output.dropout")
CHANGES: dict[str, Callable[[Any], None]] = {f"hook on {path or 'the layer'}": hooked(path) for path in PARTS}
CHANGES |= {"own forward": own_forward, "another class": other_class, "parametrized": parametrized, "relu": no_gelu}
CHANGES |= {"compiled": compiled, "a compiled part": compiled_part, "a bias removed": without_bias, "no dropout": no_dropout}
CHANGES |= {"a bias that is a buffer": bias_is_a_buffer, "a linear for a part": other_part}
CHANGES |= {"a class of its own for a weight": lambda model: another_class_of_weight(model.bert.encoder.layer[1])}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_layer_with_anything_of_its_own_is_called(change: Callable[[Any], None]) -> None:
    model, batch = masked_lm()
    assert plain_layer.read(model.bert.encoder.layer[1]) is not None
    change(model)
    assert plain_layer.read(model.bert.encoder.layer[1]) is None
    calls: list[int] = []
    model.bert.encoder.layer[1].register_forward_pre_hook(lambda *_: calls.append(1))
    model(**batch)
    assert calls == [1]


def new_weight(layer: Any) -> None:
    layer.output.dense.weight = torch.nn.Parameter(torch.zeros_like(layer.output.dense.weight))


def exchanged(layer: Any) -> None:
    parts = layer.attention.self._modules
    query, key, value = (parts.pop(name) for name in ("query", "key", "value"))
    parts.update(key=query, query=key, value=value)
    parts["dropout"] = parts.pop("dropout")


def new_linear(layer: Any) -> None:
    layer.attention.self.key = torch.nn.Linear(64, 64)


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "a new weight": new_weight,
    "a new linear": new_linear,
    "two linears exchanged": exchanged,
    "the mode": lambda layer: layer.eval(),
    "the mode of one part": lambda layer: layer.output.dropout.eval(),
    "a probability": lambda layer: setattr(layer.attention.self.dropout, "p", 0.3),
    "an epsilon": lambda layer: setattr(layer.output.LayerNorm, "eps", 1e-3),
    "the direction": lambda layer: setattr(layer.attention.self, "is_causal", True),
    "the activation": lambda layer: setattr(layer.intermediate, "hidden_act", "gelu_new"),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_what_was_read_before_is_read_again_when_it_changed(change: Callable[[Any], Any]) -> None:
    model, _ = masked_lm()
    layer = model.bert.encoder.layer[1]
    before = plain_layer.read(layer)
    assert plain_layer.read(layer) is before
    change(layer)
    after = plain_layer.read(layer)
    assert after is not before
    flat = [[id(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(one)] for one in (before, after)]
    assert flat[0] != flat[1]
    assert flat[1] == [id(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(plain_layer._read(layer))]


def test_layers_that_were_read_can_be_freed_and_copied() -> None:
    model, batch = masked_lm()
    model.eval()(**batch)
    twin = copy.deepcopy(model)
    new_weight(twin.bert.encoder.layer[1])
    assert not torch.equal(twin(**batch).logits, model(**batch).logits)
    gone = weakref.ref(model.bert.encoder.layer[1])
    del model
    gc.collect()
    assert gone() is None


CLASSES = (layers.BertLayer, layers.BertAttention, layers.BertSelfAttention, layers.BertSelfOutput, layers.BertIntermediate)
CLASSES += (layers.BertOutput, torch.nn.Linear, torch.nn.LayerNorm)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_forward_that_is_patched_on_a_class_is_called(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = masked_lm()
    real, calls = kind.forward, []
    monkeypatch.setattr(kind, "forward", lambda self, *args, **rest: (calls.append(1), real(self, *args, **rest))[1])
    model(**batch)
    assert len(calls) >= 3


def test_global_hooks_see_every_layer() -> None:
    """FLOP counters use them for their table by module."""
    model, batch = masked_lm()
    seen: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        model(**batch)
    finally:
        handle.remove()
    assert seen.count("BertLayer") == seen.count("BertSelfAttention") == 3
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    assert any(name.endswith("encoder.layer.1.attention.self") for name in counter.get_flop_counts())


def test_what_is_asked_for_decides() -> None:
    """Hidden states, probabilities, recomputation, 4-D masks and pruned rows need the modules."""
    model, _ = make_pair("BertForSequenceClassification", **SIZES)
    batch = ragged([9, 4])
    real, seen = plain_layer.run, []
    square = batch["attention_mask"][:, None, None, :] * torch.ones(1, 1, 9, 1, dtype=torch.long)

    def ran(train: bool = False, **inputs: Any) -> int:
        seen.clear()
        model.train(train)
        model(**{**batch, **inputs})
        return len(seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_layer, "run", lambda *args, **last: (seen.append(1), real(*args, **last))[1])
        assert ran() == 2, "the last of three layers computes the rows that the head reads"
        assert ran(output_hidden_states=True) == 0
        assert ran(output_attentions=True) == 0
        assert ran(attention_mask=square) == 0
        model.gradient_checkpointing_enable()
        assert ran(train=True) == 0
        assert ran() == 2


@pytest.mark.parametrize("upstream", ["both", "residual", "operand"])
def test_states_are_the_result_and_its_rounding_with_the_gradient_of_both(upstream: str) -> None:
    make = torch.Generator().manual_seed(0)
    x, residual, dy, dnarrow = (torch.randn(7, 48, generator=make) for _ in range(4))
    weight, bias, x_bias = (torch.randn(48, generator=make).requires_grad_() for _ in range(3))
    dnarrow = dnarrow.half()
    leaves = [x.half().requires_grad_(), residual.requires_grad_(), weight, bias, x_bias]

    def states(both: bool) -> list[torch.Tensor]:
        arguments = (leaves[0], leaves[1], weight, bias, 1e-12, x_bias, 0.3, torch.tensor([5]))
        file = FILES["layer_norm"]
        y, narrow = file.layer_norm_states(*arguments) if both else (file.layer_norm(*arguments), None)
        narrow = y.half() if narrow is None else narrow
        pairs = [(y, dy)] * (upstream != "operand") + [(narrow, dnarrow)] * (upstream != "residual")
        torch.autograd.backward(*zip(*pairs, strict=True))
        found = [y.detach(), narrow.detach(), *(leaf.grad.clone() for leaf in leaves)]
        for leaf in leaves:
            leaf.grad = None
        return found

    with torch.autocast("cpu", torch.float16):
        same(states(both=True), states(both=False))


class Passes(TorchDispatchMode):
    """Counts casts and additions of whole states, of so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.count = elements, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        if name in ("aten::_to_copy", "aten::add", "aten::add_") and getattr(result, "numel", int)() == self.elements:
            self.count += 1
        return result


def test_no_layer_casts_or_adds_its_states_in_a_pass_of_its_own() -> None:
    """Under autocast: a further layer adds nothing to what the others need."""
    counts = []
    for depth in (2, 3):
        model, batch = masked_lm([40, 25, 12], num_hidden_layers=depth)  # enough tokens for one product of Q, K and V
        with Passes(int(batch["attention_mask"].sum()) * 64) as passes:
            trained(model, batch, "triton", autocast=True)
        counts.append(passes.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_operators_to_the_bit(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = masked_lm()
    first = trained(model, batch, "triton", autocast)
    for file in FILES.values():
        monkeypatch.setattr(file, "eager", lambda *_: False)
    same(trained(model, batch, "triton", autocast), first)


def test_operators_are_seen_by_those_who_watch_them() -> None:
    """Selective checkpointing and FLOP counters work on operators."""
    model, batch = masked_lm()
    seen = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(function._schema.name)
            return function(*args, **(kwargs or {}))

    with Names():
        trained(model, batch, "triton")
    names = {f"fastbert::{name}{end}" for name in ("attention", "layer_norm", "ffn") for end in ("", "_backward")}
    assert names <= seen


def test_a_gradient_of_a_gradient_is_refused() -> None:
    x, weight = torch.randn(3, 16, requires_grad=True), torch.randn(16)
    with fastbert.backend("triton"):
        y = ops.layer_norm(x, None, weight, weight, 1e-12)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_joins_run_on_devices_without_autocast() -> None:
    """PyTorch knows no autocast for meta tensors, and raises where it is asked."""
    x, weight, vector = (torch.empty(shape, device="meta") for shape in ((5, 16), (16, 16), (16,)))
    states = ops.linear_join(x, x, weight, vector, vector, vector, 1e-12)
    assert states.residual.shape == (5, 16)


@pytest.mark.parametrize("plain", [True, False])
def test_a_forward_without_gradients_keeps_two_states(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer begins only its input is alive, and the output of the embeddings, which the calling frames hold."""
    model, _ = make_pair("BertModel", **SIZES, num_hidden_layers=5)
    states: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(x: torch.Tensor) -> None:
        nonlocal most
        most = max(most, 1 + sum(state() is not None for state in states))
        states.append(weakref.ref(x))

    if plain:
        real = plain_layer.run
        monkeypatch.setattr(
            plain_layer, "run", lambda layer, x, *rest, **last: (watch(x.residual), real(layer, x, *rest, **last))[1]
        )
    else:
        monkeypatch.setattr(plain_layer, "read", lambda _: None)
        for layer in model.encoder.layer:
            inner = layer.attention.forward
            layer.attention.forward = lambda x, *args, inner=inner, **rest: (watch(x), inner(x, *args, **rest))[1]
    with torch.no_grad():
        model(fastbert.pack(**ragged([9, 4])))
    assert len(states) == 5
    assert most <= 2


@pytest.mark.parametrize(("hooked_layers", "copies"), [(0, 3), (2, 0)])
def test_only_states_that_are_multiplied_are_written_in_16_bit(
    hooked_layers: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by layers that are called, nor by the last: of two layers three joins of four."""
    model, _ = make_pair("BertModel", **SIZES, num_hidden_layers=2)
    for layer in model.encoder.layer[:hooked_layers]:
        layer.register_forward_hook(lambda *_: None)
    file, written = FILES["layer_norm"], []
    real = file.layer_norm_states
    library = importlib.import_module("fastbert.ops.custom_ops")
    monkeypatch.setattr(library, "layer_norm_states", lambda *args: (written.append(1), real(*args))[1])
    with fastbert.backend("triton"), torch.autocast("cpu", torch.float16), torch.no_grad():
        model(**ragged([9, 4]))
    assert len(written) == copies


def test_batched_gradients_go_through_the_operators() -> None:
    x, weight = torch.randn(3, 16, requires_grad=True), torch.randn(16)
    with fastbert.backend("triton"):
        y = ops.layer_norm(x, None, weight, weight, 1e-12)
    upstream = torch.randn(2, 3, 16)
    (both,) = torch.autograd.grad(y, x, upstream, is_grads_batched=True, retain_graph=True)
    for one, dx in zip(upstream, both, strict=True):
        torch.testing.assert_close(torch.autograd.grad(y, x, one, retain_graph=True)[0], dx)


def test_inference_on_a_cpu_asks_once_a_forward_and_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, product_type: torch.dtype
) -> None:
    model, _ = make_pair("BertModel", **SIZES)
    model.to(product_type).eval()
    batches = [ragged([9, 4, 7]), ragged([16]), ragged([40, 2])]
    monkeypatch.setattr(cpu, "ffn_block", lambda _: 32)
    asked: list[int] = []
    real = cpu_inference.attention
    monkeypatch.setattr(cpu_inference, "attention", lambda *a, **k: (asked.append(1), real(*a, **k))[1])

    def states(batch: dict[str, Any]) -> torch.Tensor:
        asked.clear()
        found: torch.Tensor = model(**batch).last_hidden_state
        return found

    for prepacked in (False, True):
        if prepacked:
            fastbert.prepack(model)
        for batch in batches:
            with torch.no_grad():
                fast = states(batch)
                assert len(asked) == len(model.encoder.layer)
                with ops.recording():
                    assert torch.equal(states(batch), fast)
                assert not asked
    model.float()
    with torch.no_grad():
        for block in (ops.backend("reference"), ops.backend("triton"), torch.autocast("cpu", torch.bfloat16), ops.tapping()):
            with block:
                states(batches[0])
            assert not asked
        with in_training():
            states(batches[0])
        assert not asked
    states(batches[0])
    assert not asked, "a gradient is recorded"
    with torch.no_grad():
        model.to(torch.float64)
        states(batches[0])
    assert not asked


def test_dropout_that_is_on_in_evaluation_is_drawn_on_a_cpu_too() -> None:
    """As Monte Carlo dropout has it: the model evaluates, some of its dropout modules train."""
    model, _ = make_pair("BertModel", **SIZES, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.5)
    model.eval()
    batch = ragged([9, 4])
    with torch.no_grad():
        still = model(**batch).last_hidden_state
        for layer in model.encoder.layer:
            layer.output.dropout.train()
        first, second = (model(**batch).last_hidden_state for _ in range(2))
    assert not torch.equal(first, still)
    assert not torch.equal(first, second)


def test_inference_by_kernels_asks_once_a_forward_and_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make_pair("BertModel", **SIZES)
    batch = ragged([9, 4, 7])
    inference = importlib.import_module("fastbert.ops.custom_ops.inference")
    asked: list[int] = []
    real = inference.attention
    monkeypatch.setattr(inference, "attention", lambda *a, **k: (asked.append(1), real(*a, **k))[1])

    def states(**block: Any) -> torch.Tensor:
        asked.clear()
        with ops.backend("triton"):
            found: torch.Tensor = model.eval()(**batch, **block).last_hidden_state
        return found

    with torch.no_grad():
        fast = states()
        assert len(asked) == len(model.encoder.layer)
        with ops.recording() as decisions:
            assert torch.equal(states(), fast)
        assert not asked
        assert {d.path for d in decisions if d.op != "linear"} == {"triton"}
        with torch.autocast("cpu", torch.float16):
            states()
        assert not asked
        with ops.backend("reference"):
            model(**batch)
        assert not asked
    states()
    assert not asked, "a gradient is recorded"
