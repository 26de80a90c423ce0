"""Query, key and value side by side in memory: one product without a copy, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_pair, ragged
from torch.autograd import forward_ad

import fastbert
from fastbert.ops import reference
from fastbert.ops.side_by_side import as_one, place_side_by_side


def placed() -> tuple[Any, list[torch.nn.Linear]]:
    """A model whose first layer's weights stand side by side, and its linears."""
    model, _ = make_pair("BertModel")
    attention = model.encoder.layer[0].attention.self
    linears = [attention.query, attention.key, attention.value]
    place_side_by_side([m.weight for m in linears])
    place_side_by_side([m.bias for m in linears])
    return model, linears


def stand_together(linears: list[torch.nn.Linear]) -> bool:
    with torch.no_grad():
        return as_one([m.weight for m in linears]) is not None and as_one([m.bias for m in linears]) is not None


def test_one_product_gives_what_three_give(monkeypatch: pytest.MonkeyPatch) -> None:
    _, linears = placed()
    weights, biases = [m.weight for m in linears], [m.bias for m in linears]
    x = torch.randn(7, 48)
    calls = []

    def product(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments[1])
        return reference.linear(*arguments)

    with torch.no_grad():
        found = reference.joined_linear(x, weights, biases, product)
        assert [call.data_ptr() for call in calls] == [weights[0].data_ptr()], "one, of the weights themselves"
        expected = torch.cat([m(x) for m in linears], dim=1)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(reference.joined_linear(x, weights, biases).detach(), expected)


def test_parameters_stay_what_they_are(tmp_path: Path) -> None:
    before, _ = make_pair("BertModel")
    model, linears = placed()
    assert stand_together(linears)
    assert all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True))
    model.load_state_dict(before.state_dict())
    assert stand_together(linears)
    model.save_pretrained(tmp_path)
    batch = ragged([5, 9])
    with torch.no_grad():
        expected = before(**batch).last_hidden_state
        for other in (model, fastbert.BertModel.from_pretrained(tmp_path), copy.deepcopy(model)):
            torch.testing.assert_close(other.eval()(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("change", ["double", "replaced", "swapped"])
def test_what_was_moved_or_replaced_stands_alone(change: str) -> None:
    model, linears = placed()
    if change == "double":
        model.double()
    elif change == "replaced":
        linears[1].weight = torch.nn.Parameter(linears[1].weight * 2)
    else:
        linears[1], linears[2] = linears[2], linears[1]
    assert not stand_together(linears)
    with torch.no_grad():
        x = torch.randn(5, 48, dtype=linears[0].weight.dtype)
        found = reference.joined_linear(x, [m.weight for m in linears], [m.bias for m in linears])
        torch.testing.assert_close(found, torch.cat([m(x) for m in linears], dim=1))


def test_training_reaches_each_of_them() -> None:
    model, linears = placed()
    assert as_one([m.weight for m in linears]) is None, "a gradient is recorded"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [m.weight.detach().clone() for m in linears]
    model.train()(**ragged([5, 9])).last_hidden_state.square().sum().backward()
    gradients = [m.weight.grad.clone() for m in linears]
    optimizer.step()
    for m, old, gradient in zip(linears, before, gradients, strict=True):
        torch.testing.assert_close(m.weight.detach(), old - 0.1 * gradient)
    assert stand_together(linears)


def test_weights_that_were_placed_in_inference_mode_train() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, 3)) for _ in range(3)]
    with torch.inference_mode():
        place_side_by_side(parameters)
    assert not any(p.is_inference() for p in parameters)
    sum((p**2).sum() for p in parameters).backward()
    assert all(torch.equal(p.grad, torch.full((2, 3), 2.0)) for p in parameters)


def test_tangents_reach_each_of_them() -> None:
    values = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(3)]
    place_side_by_side(values)
    with torch.no_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(v.detach(), torch.ones_like(v)) for v in values]
        assert as_one(duals) is None


def test_linears_without_a_bias_are_left_alone() -> None:
    model, _ = make_pair("BertModel")
    attention = model.encoder.layer[0].attention.self
    for name in ("query", "key", "value"):
        setattr(attention, name, torch.nn.Linear(48, 48, bias=False))
    assert fastbert.prepack(model) is model
    assert model(**ragged([5, 9])).last_hidden_state.isfinite().all()


def test_what_shares_its_memory_is_left_where_it_is() -> None:
    flat = torch.zeros(12)
    views = [torch.nn.Parameter(flat[:6].view(2, 3)), torch.nn.Parameter(flat[6:].view(2, 3))]
    alone = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))]
    wide = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, 4))]
    for parameters in (views, alone, wide):
        places = [p.data_ptr() for p in parameters]
        place_side_by_side(parameters)
        assert [p.data_ptr() for p in parameters] == places
