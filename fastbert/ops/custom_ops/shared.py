"""What the operators share: when a launcher may be called at once, on which device it runs, types under autocast, seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastbert.ops.reference import Seed

P = ParamSpec("P")
R = TypeVar("R")
_PLAIN_TENSORS = (Tensor, torch.nn.Parameter)


def on_device(launcher: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Calls a launcher with the device of its first tensor as the current one: Triton launches there, wherever tensors are."""
    with torch.cuda.device_of(arguments[0]):
        return launcher(*arguments, **keywords)


def direct(*tensors: Tensor | None) -> bool:
    """Whether the launcher may be called at once: no gradient is recorded, and these are tensors with memory of their own."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    recording = torch.is_grad_enabled()
    for t in tensors:  # noqa: SIM110 - a plain loop: every op of every layer comes by here
        if t is not None and (type(t) not in _PLAIN_TENSORS or (recording and t.requires_grad)):
            return False
    return True


def eager(*tensors: Tensor | None) -> bool:
    """Whether an autograd.Function may replace the operator, whose call takes the host a tenth of a millisecond longer.

    Not while something traces or observes operators, as torch.export, selective checkpointing and FLOP counters do, and not for
    subclasses of Tensor.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch._C._len_torch_dispatch_stack() and all(t is None or type(t) in _PLAIN_TENSORS for t in tensors)


def differentiable(
    name: str,
    run: Callable[..., Any],
    setup: Callable[..., None],
    gradients: Callable[..., Any],
    by_operators: Callable[..., Any],
) -> Callable[..., Any]:
    """`run` as an autograd.Function, made of the same parts that an operator's `register_autograd` takes.

    `gradients` calls launchers, `by_operators` operators: the latter also work on batched gradients (`is_grads_batched=True`).
    """

    def forward(ctx: Any, *inputs: Any) -> Any:  # a separate setup_context would make PyTorch inspect the signature each time
        output = run(*inputs)
        setup(ctx, inputs, output)
        return output

    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        return (by_operators if is_batched(*upstream) else gradients)(ctx, *upstream)

    members = {"forward": staticmethod(forward), "backward": staticmethod(once_differentiable(backward))}
    return type(name, (torch.autograd.Function,), members).apply  # type: ignore[attr-defined]


def is_batched(*upstream: Tensor | None) -> bool:
    """Whether these are gradients of several backward passes in one, see `torch.autograd.grad(is_grads_batched=True)`."""
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in upstream)


def weight_gradient(dy: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dy^T x, of dy (T, F) and x (T, N) -> (F, N). cuBLAS writes its float32 sums as they are where `dtype` is float32."""
    if dtype == torch.float32 != dy.dtype and dy.device.type == "cuda" and not torch.version.hip:
        return torch.mm(dy.T, x, out_dtype=dtype)
    return (dy.T @ x).to(dtype)


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
