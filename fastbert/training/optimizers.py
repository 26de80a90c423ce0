"""Optimisers for BERT: AdamW, BERT's original Adam and LAMB, and which parameters get weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastbert.errors import InputError
from fastbert.training.lamb import lamb_class

OPTIMIZERS = ("adamw", "bert-adam", "lamb")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: with weight decay, and without it for biases and LayerNorm weights.

    Embeddings decay. Shared parameters appear once.
    """
    still = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.LayerNorm)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in still], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in still], "weight_decay": 0.0},
    ]


def make_optimizer(
    name: str,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """Makes an optimiser for a model's parameters.

    Args:
        name: "adamw" (PyTorch's, fused), "bert-adam" (`BertAdam`) or "lamb" (pytorch-optimizer's, see lamb.py).

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    if name == "bert-adam":
        return BertAdam(groups, lr=lr, betas=betas, eps=eps)
    if name == "lamb":
        try:
            kind = lamb_class()
        except ImportError:
            raise InputError("optimizer = 'lamb' needs the package pytorch-optimizer: pip install pytorch-optimizer") from None
        optimizer: torch.optim.Optimizer = kind(groups, lr=lr, betas=betas, eps=eps, max_grad_norm=0.0)
        return optimizer
    raise InputError(f"optimizer = {name!r} is not one of {', '.join(OPTIMIZERS)}")


class BertAdam(torch.optim.AdamW):
    """The Adam that BERT was trained with: no bias correction, decoupled weight decay, epsilon added outside the square root.

        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   p = p - lr (m / (sqrt(v) + eps) + decay p)

    It is AdamWeightDecayOptimizer in the released code. PyTorch's fused AdamW computes it in one pass over memory: the bias
    corrections 1 - b^step are 1 from the start, as the steps are counted from infinity.

    Args:
        params: parameters, or groups with their own `weight_decay`.
        capturable: whether steps may be captured in a CUDA graph.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        capturable: bool = False,
    ) -> None:
        shared: dict[str, Any] = {"eps": eps, "weight_decay": weight_decay, "capturable": capturable, "fused": True}
        super().__init__(params, lr=lr, betas=betas, **shared)

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        for p in group["params"]:
            if p.grad is not None and not self.state[p]:
                never = torch.full((), math.inf, dtype=torch.float32, device=p.device)
                self.state[p] = {"step": never, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return super()._init_group(group, *lists)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, also one of version 0.7 and before."""
        super().load_state_dict(self.of_this_version(state_dict))

    def of_this_version(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A state with AdamW's names and settings; in version 0.7 and before the moments were called m and v."""
        groups = state_dict["param_groups"]
        if all("fused" in group for group in groups):
            return state_dict
        moments = {
            i: {"step": torch.tensor(math.inf), "exp_avg": state["m"], "exp_avg_sq": state["v"]}
            for i, state in state_dict["state"].items()
        }
        known = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return {"state": moments, "param_groups": [new | old for new, old in zip(known, groups, strict=True)]}


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
