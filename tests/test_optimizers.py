"""Optimisers and schedules, to the digit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastbert
from fastbert import BertConfig
from fastbert.errors import InputError
from fastbert.training.optimizers import BertAdam, make_optimizer, parameter_groups, set_rate
from fastbert.training.schedules import rate


def test_both_schedules_to_the_digit() -> None:
    """Warm-up of 4 of 10 steps; transformers' function says the same for hf."""
    from transformers import get_linear_schedule_with_warmup

    hf = [rate("hf", step, 4, 10) for step in range(10)]
    assert hf == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], abs=1e-15)
    google = [rate("google", step, 4, 10) for step in range(10)]
    assert google == pytest.approx([0, 0.25, 0.5, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-15)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 4, 10)
    for step in range(10):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(hf[step], abs=1e-15)
        optimizer.step()
        theirs.step()
    with pytest.raises(InputError, match="schedule = 'cosine' is not one of hf, google"):
        rate("cosine", 0, 1, 2)


def test_the_first_step_of_berts_adam_is_the_closed_form() -> None:
    p, g = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    parameter = torch.nn.Parameter(p.clone())
    parameter.grad = g.clone()
    BertAdam([parameter], lr=0.1, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01).step()
    update = (0.1 * g) / ((0.001 * g**2).sqrt() + 1e-6)  # no bias correction: about 3.16 times a corrected step
    assert torch.allclose(parameter.detach(), p - 0.1 * (update + 0.01 * p), rtol=1e-6)


def test_berts_adam_follows_its_formula_in_float64() -> None:
    torch.manual_seed(0)
    p, m, v = torch.randn(50, dtype=torch.float64), torch.zeros(50).double(), torch.zeros(50).double()
    parameter = torch.nn.Parameter(p.float())
    optimizer = BertAdam([parameter], lr=0.01)
    for _ in range(20):
        g = torch.randn(50, dtype=torch.float64)
        parameter.grad = g.float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - 0.01 * (m / (v.sqrt() + 1e-6) + 0.01 * p)
    assert torch.allclose(parameter.detach().double(), p, atol=1e-5)


class Bytes(TorchDispatchMode):
    """Counts the bytes that operators read and write, each tensor once per operator."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            schema = func._schema.arguments
            for argument, value in zip(schema, args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                self.total += (1 + written) * sum(t.nbytes for t in tree_leaves(value) if isinstance(t, torch.Tensor))
            made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
            given = {t.data_ptr() for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
            self.total += sum(t.nbytes for t in made if t.data_ptr() not in given)
        return result


@pytest.mark.parametrize("name", ["adamw", "bert-adam"])
def test_a_step_is_one_pass_over_memory(name: str) -> None:
    """Parameter and both moments are read and written, the gradient is read: 28 bytes in float32.

    The fused operator declares that it writes gradients too, which it does only where a loss scaler left them scaled.
    """
    model = torch.nn.Linear(512, 512)
    optimizer = make_optimizer(name, model, 0.01)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    with Bytes() as counted:
        optimizer.step()
    parameters = sum(p.numel() for p in model.parameters())
    assert 32 * parameters <= counted.total <= 32.1 * parameters


def test_berts_adam_goes_on_from_states_of_earlier_versions() -> None:
    torch.manual_seed(0)
    groups = lambda p: [{"params": [p], "weight_decay": 0.01}]  # noqa: E731
    new, old = torch.nn.Parameter(torch.randn(9)), torch.nn.Parameter(torch.zeros(9))
    optimizer = BertAdam(groups(new), lr=0.01)
    for _ in range(3):
        new.grad = torch.randn(9)
        optimizer.step()
    state = optimizer.state_dict()["state"][0]
    kept = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "params": [0]}
    earlier = {"state": {0: {"m": state["exp_avg"].clone(), "v": state["exp_avg_sq"].clone()}}, "param_groups": [kept]}
    with torch.no_grad():
        old.copy_(new)
    resumed = BertAdam(groups(old), lr=0.5)
    resumed.load_state_dict(earlier)
    for _ in range(2):
        new.grad = torch.randn(9)
        old.grad = new.grad.clone()
        optimizer.step()
        resumed.step()
    assert torch.equal(old, new)


SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from fastbert.training.optimizers import BertAdam
from fastbert.training.state import load_optimizer_state, optimizer_state

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.Linear(4, 3)
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
optimizer = BertAdam(model.parameters(), lr=0.1)
moments = {i: {"m": torch.full(tuple(p.shape), 0.5), "v": torch.full(tuple(p.shape), 0.25)}
           for i, p in enumerate(model.parameters())}
group = {"lr": 0.3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "params": list(range(len(moments)))}
load_optimizer_state(model, optimizer, {"state": moments, "param_groups": [group]}, sharded=True)
assert optimizer.param_groups[0]["lr"] == 0.3
state = optimizer.state[next(model.parameters())]
assert state["exp_avg"].full_tensor().unique().item() == 0.5
model(torch.ones(2, 4)).sum().backward()
optimizer.step()
load_optimizer_state(model, optimizer, optimizer_state(model, optimizer, sharded=True), sharded=True)
optimizer.step()
dist.destroy_process_group()
"""


@pytest.mark.thorough
def test_berts_adam_goes_on_from_states_of_earlier_versions_with_sharded_weights() -> None:
    result = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_berts_adam_keeps_nothing_for_what_has_no_gradient_and_calls_hooks_once() -> None:
    moved, still = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])  # PyTorch wraps the step of a class when one is made
    optimizer = BertAdam([moved, still], lr=0.1)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    moved.grad = torch.ones(3)
    optimizer.step()
    assert calls == [1]
    assert still not in optimizer.state
    assert torch.equal(still, torch.ones(3))


def test_berts_adam_takes_an_empty_state_of_earlier_versions() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = BertAdam([p], lr=0.1)
    kept = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "params": [0]}
    optimizer.load_state_dict({"state": {}, "param_groups": [kept]})
    assert optimizer.param_groups[0]["fused"]
    p.grad = torch.ones(3)
    optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lamb_by_its_kernel_is_that_of_the_library(decay: float) -> None:
    library = pytest.importorskip("pytorch_optimizer", reason="LAMB is the package pytorch-optimizer's, of the extra `train`")
    from fastbert.training.lamb import lamb_class

    torch.manual_seed(0)
    start = [torch.randn(70, 90), torch.randn(7) * 100, torch.zeros(5), torch.randn(3, 4), torch.randn(0)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    settings = {"lr": 0.02, "eps": 1e-6, "weight_decay": decay, "max_grad_norm": 0.0}
    one, other = lamb_class()(ours, **settings), library.Lamb(theirs, **settings)
    with fastbert.backend("triton"):
        for step in range(4):
            for p, q in zip(ours, theirs, strict=True):
                p.grad = torch.randn(p.shape) * (step > 0 or p.dim() > 1)  # a gradient of zeros at first: no update
                q.grad = p.grad.clone()
            one.step()
            other.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(one.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"], rtol=2e-6, atol=0)
    assert not torch.equal(ours[0], start[0])


def test_lamb_leaves_to_the_library_what_its_kernel_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_optimizer", reason="LAMB is the package pytorch-optimizer's, of the extra `train`")
    from fastbert.kernels import lamb as kernel
    from fastbert.training.lamb import lamb_class

    calls: list[int] = []
    real = kernel.lamb_step
    monkeypatch.setattr(kernel, "lamb_step", lambda *a: (calls.append(1), real(*a))[1])

    def steps(dtype: torch.dtype = torch.float32, backend: str = "triton", **settings: Any) -> int:
        calls.clear()
        p = torch.nn.Parameter(torch.randn(4, 6).to(dtype))
        p.grad = torch.randn(4, 6).to(dtype)
        before = p.detach().clone()
        with fastbert.backend(backend):
            lamb_class()([p], lr=0.1, max_grad_norm=0.0, **settings).step()
        assert not torch.equal(p, before)
        return len(calls)

    assert steps() == 1
    assert steps(backend="auto") == 0
    assert steps(dtype=torch.float64) == 0
    assert steps(weight_decouple=False) == 0
    assert steps(adam=True) == 0
    assert steps(pre_norm=True) == 0
    assert steps(grad_averaging=False) == 0


def test_biases_and_layer_norms_do_not_decay_and_embeddings_do() -> None:
    model = fastbert.BertForPreTraining(BertConfig.of_size("tiny", vocab_size=50))
    decays, still = parameter_groups(model, 0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in still["params"])
    assert any("word_embeddings" in names[id(p)] for p in decays["params"])
    assert len(decays["params"]) + len(still["params"]) == len(names)  # the tied decoder once
    assert (decays["weight_decay"], still["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize("name", ["adamw", "bert-adam", "lamb"])
def test_every_optimizer_lowers_a_loss_and_keeps_its_state(name: str) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer", reason="LAMB is the package pytorch-optimizer's, of the extra `train`")
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.randn(64, 1)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
        for _ in range(steps):
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            set_rate(optimizer, 0.01)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss)

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 1))
    optimizer = make_optimizer(name, model, 0.01)
    first = train(model, optimizer, 10)
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    state = optimizer.state_dict()
    import copy

    state = copy.deepcopy(state)
    last = train(model, optimizer, 10)
    assert last < first
    model.load_state_dict(saved)
    again = make_optimizer(name, model, 0.01)
    again.load_state_dict(state)
    assert train(model, again, 10) == last


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(InputError, match="optimizer = 'sgd' is not one of adamw, bert-adam, lamb"):
        make_optimizer("sgd", torch.nn.Linear(2, 2), 0.1)
