"""A layer in training under autocast, run whole: the states and gradients of its ops, and who runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import make_pair, ragged
from torch.utils.checkpoint import checkpoint

import fastbert
from fastbert import ops
from fastbert.ops.recorded import in_training

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
training = importlib.import_module("fastbert.ops.custom_ops.training")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each layer that is run whole."""
    seen: list[int] = []
    real = training.layer
    monkeypatch.setattr(training, "layer", lambda *args: (seen.append(1), real(*args))[1])
    return seen


def model_and_batch(lengths: list[int], **fields: Any) -> tuple[Any, dict[str, Any]]:
    model, _ = make_pair("BertModel", **SIZES, **fields)
    return model.train(), ragged(lengths)


def trained(model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """States and gradients of a step by name, with the same dropout each time."""
    model.zero_grad()
    torch.manual_seed(3)
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        states = model(**batch).last_hidden_state
    (states.float() * torch.linspace(-1, 1, states.shape[-1])).square().sum().backward()
    return {"states": states.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_ops(model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    with ops.tapping():  # which wants to see each op
        return trained(model, batch)


def close(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor], bits: bool = True) -> None:
    """States to the bit; gradients up to 16 bit, to which the ops round their sums. That of a key's bias is rounding alone."""
    assert found.keys() == right.keys()
    assert not bits or torch.equal(found["states"], right["states"])
    for name in found.keys() - {n for n in found if n.endswith("key.bias")}:
        torch.testing.assert_close(found[name], right[name], rtol=4e-3, atol=4e-3 * float(right[name].abs().max()))


@pytest.mark.parametrize("fields", [{}, {"is_decoder": True, "hidden_act": "gelu_new", "hidden_dropout_prob": 0.0}], ids=str)
@pytest.mark.parametrize("lengths", [[9, 4, 7], [40, 31, 1]], ids=str)
def test_a_layer_gives_what_its_ops_give(lengths: list[int], fields: dict[str, Any], whole: list[int]) -> None:
    model, batch = model_and_batch(lengths, **fields)
    found = trained(model, batch)
    assert len(whole) == len(model.encoder.layer)
    whole.clear()
    right = by_ops(model, batch)
    assert not whole
    close(found, right)


def freeze_all(model: Any) -> None:
    model.requires_grad_(False)
    model.embeddings.requires_grad_(True)


def freeze_below(model: Any) -> None:
    model.embeddings.requires_grad_(False)
    model.encoder.layer[0].requires_grad_(False)


def train_some(model: Any) -> None:
    """BitFit's biases, and single weights."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or "key.weight" in name or "layer.1.output.dense.weight" in name)


@pytest.mark.parametrize("freeze", [freeze_all, freeze_below, train_some])
def test_frozen_parameters_get_no_gradient(freeze: Callable[[Any], None], whole: list[int]) -> None:
    model, batch = model_and_batch([9, 4, 7])
    freeze(model)
    found = trained(model, batch)
    assert whole
    assert all((p.grad is not None) == p.requires_grad for n, p in model.named_parameters() if "pooler" not in n)
    close(found, by_ops(model, batch))


def test_pass_without_gradients_repeats_one_with_them(whole: list[int]) -> None:
    """To the bit, also where the batch is smaller than the weights; gradient caching relies on it."""
    model, batch = model_and_batch([9, 4, 7])
    states = []
    for block in (nullcontext(), torch.no_grad()):
        torch.manual_seed(3)
        with ops.backend("triton"), torch.autocast("cpu", torch.float16), in_training(), block:
            states.append(model(**batch).last_hidden_state.detach())
    assert torch.equal(*states)
    assert len(whole) == 2 * len(model.encoder.layer)


def test_batched_gradients() -> None:
    model, batch = model_and_batch([9, 4, 7], num_hidden_layers=2)
    torch.manual_seed(3)
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        states = model(**batch).last_hidden_state
    wanted = [*model.encoder.layer[0].attention.output.parameters(), model.embeddings.word_embeddings.weight]
    upstream = torch.randn(2, *states.shape)
    together = torch.autograd.grad(states, wanted, upstream, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(upstream):
        for both, alone in zip(together, torch.autograd.grad(states, wanted, one, retain_graph=True), strict=True):
            torch.testing.assert_close(both[i], alone, rtol=2e-3, atol=2e-3 * float(alone.abs().max()))


@pytest.mark.parametrize("name", ["output.LayerNorm.weight", "output.dense.bias", "attention.output.dense.bias"])
def test_a_parameter_that_changed_before_the_backward_is_noticed(name: str) -> None:
    """As autograd notices it of any tensor that a backward needs."""
    model, batch = model_and_batch([9, 4, 7], num_hidden_layers=1)
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        states = model(**batch).last_hidden_state
    with torch.no_grad():
        model.encoder.layer[0].get_parameter(name).mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


def test_recording_changes_no_path(whole: list[int]) -> None:
    """So a checkpoint may recompute a forward that was recorded without."""
    model, batch = model_and_batch([9, 4, 7])
    right = trained(model, batch)
    torch.manual_seed(3)
    model.zero_grad()
    packed = fastbert.pack(**batch)
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        with ops.recording() as decisions:
            states = checkpoint(lambda x: model(x).last_hidden_state, packed, use_reentrant=False)
        (packed.unpack(states).float() * torch.linspace(-1, 1, 64)).square().sum().backward()
    assert {d.path for d in decisions if d.op != "linear"} == {"triton"}
    assert sum(d.op == "attention" for d in decisions) == len(model.encoder.layer)
    found = {"states": right["states"]} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    close(found, right)
    assert len(whole) == 3 * len(model.encoder.layer)


def test_gradients_of_some_weights_stand_alone() -> None:
    model, batch = model_and_batch([9, 4, 7], num_hidden_layers=1)
    model.requires_grad_(False)
    weight = model.encoder.layer[0].attention.self.value.weight.requires_grad_()
    found = trained(model, batch)
    assert weight.grad.untyped_storage().nbytes() == weight.grad.nbytes
    close(found, by_ops(model, batch))


def test_a_gradient_of_a_gradient_is_refused() -> None:
    model, batch = model_and_batch([9, 4, 7], num_hidden_layers=1)
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        states = model(**batch).last_hidden_state
    (gradient,) = torch.autograd.grad(states.square().sum(), model.encoder.layer[0].output.dense.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_hooked_layer_runs_as_before(whole: list[int]) -> None:
    model, batch = model_and_batch([9, 4, 7])
    right = trained(model, batch)
    whole.clear()
    seen: list[int] = []
    model.encoder.layer[1].output.dense.register_forward_hook(lambda *_: seen.append(1))
    close(trained(model, batch), right, bits=False)
    assert len(whole) == len(model.encoder.layer) - 1
    assert seen == [1]


@pytest.mark.parametrize("surroundings", ["no autocast", "tapped", "reference", "checkpointing"])
def test_elsewhere_layers_run_op_by_op(surroundings: str, whole: list[int]) -> None:
    model, batch = model_and_batch([9, 4, 7])
    autocast = torch.autocast("cpu", torch.float16, enabled=surroundings != "no autocast")
    backend = ops.backend("reference" if surroundings == "reference" else "triton")
    if surroundings == "checkpointing":
        model.gradient_checkpointing_enable()
    with backend, autocast, ops.tapping() if surroundings == "tapped" else nullcontext():
        model(**batch).last_hidden_state.sum().backward()
    assert not whole


def test_a_layer_is_one_node_of_autograd() -> None:
    model, batch = model_and_batch([9, 4, 7])
    with ops.backend("triton"), torch.autocast("cpu", torch.float16):
        states = model(fastbert.pack(**batch)).last_hidden_state
    node, names = states.grad_fn, []
    while node is not None and "_Layer" in node.name():
        names.append(node.name())
        node = node.next_functions[0][0]
    assert len(names) == len(model.encoder.layer)
