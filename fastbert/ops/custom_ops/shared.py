"""What the operators share: when a launcher may be called at once, on which device it runs, types under autocast, seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastbert.ops.reference import Seed

P = ParamSpec("P")
R = TypeVar("R")


def on_device(launcher: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Calls a launcher with the device of its first tensor as the current one: Triton launches there, wherever tensors are."""
    with torch.cuda.device_of(arguments[0]):
        return launcher(*arguments, **keywords)


def direct(*tensors: Tensor | None) -> bool:
    """Whether the launcher may be called at once: no gradient is recorded, and these are tensors with memory of their own."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    recording = torch.is_grad_enabled()
    return all(t is None or (type(t) in (Tensor, torch.nn.Parameter) and not (recording and t.requires_grad)) for t in tensors)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """The type of products under autocast, None outside it."""
    if device.type in ("cuda", "cpu") and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def operands(*tensors: Tensor | None) -> list[Any]:
    """The tensors in autocast's type; as they are outside it."""
    dtype = next((autocast_type(t.device) for t in tensors if t is not None), None)
    return [t if t is None or dtype is None else t.to(dtype) for t in tensors]


def drawn_seed(seed: Seed, p: float, device: torch.device) -> Tensor | None:
    """One int64 on the device, drawn from torch's generator where there is none; None without dropout."""
    if p == 0:
        return None
    if seed is None:
        return torch.randint(2**62, (1,), device=device)
    return seed if isinstance(seed, Tensor) else torch.tensor([seed], dtype=torch.int64, device=device)


def absent(like: Tensor) -> Tensor:
    """Stands for an output that is not wanted: operators return tensors only."""
    return like.new_empty(0)
