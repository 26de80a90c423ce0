"""The full state of model and optimiser, gathered from all processes if weights are sharded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastbert.training.optimizers import BertAdam


def model_state(model: nn.Module) -> dict[str, Any]:
    """All weights of a sharded model, gathered on the CPU; every process must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, sharded: bool) -> dict[str, Any]:
    """The full state of the optimiser. With sharded weights every process must call it."""
    if sharded:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        named = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return _numbered(named, model, optimizer)
    return optimizer.state_dict()


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], sharded: bool) -> None:
    """Loads a state from `optimizer_state` into the optimiser; the world size may differ from when it was saved."""
    if not sharded:
        optimizer.load_state_dict(state)
        return
    if isinstance(optimizer, BertAdam):
        state = optimizer.of_this_version(state)  # before its entries are distributed by their names
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    set_optimizer_state_dict(model, optimizer, _named(state, model, optimizer), options=options)


def unwrapped(model: Any) -> Any:
    """The model itself, unwrapped from DDP and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of each group's parameters, in order."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _numbered(named: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Converts a state keyed by parameter names to the numbered form of a plain optimiser.

    Sharded and unsharded runs thus write the same form of checkpoint.
    """
    groups, state, number = [], {}, 0
    for names, group in zip(_names(model, optimizer), named.get("param_groups", []), strict=False):
        numbers = list(range(number, number + len(names)))
        number += len(names)
        state.update({i: named["state"][name] for i, name in zip(numbers, names, strict=True) if name in named["state"]})
        groups.append({**group, "params": numbers})
    return {"state": state, "param_groups": groups}


def _named(numbered: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups, state = [], {}
    for names, group in zip(_names(model, optimizer), numbered["param_groups"], strict=True):
        state.update(
            {name: numbered["state"][i] for i, name in zip(group["params"], names, strict=True) if i in numbered["state"]}
        )
        groups.append({**group, "params": names})
    return {"state": state, "param_groups": groups}
