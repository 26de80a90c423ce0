"""Runs the parts of a model: by an op on their parameters, on packed rows, or as transformers calls them.

    nobody looks at it        an op reads the part's parameters, or the part is called on packed rows (T, ...)
    it is watched             hooks and a forward of its own get (B, S, ...), where the caller's batch was padded
    it is of another class    it gets (B, S, ...) as well, unless it is known to map row by row: linears, and adapters on them

A watched part computes the same numbers: what it is given is packed inside it again, with the same dropout.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastbert import ops
from fastbert.model import masks
from fastbert.ops import recorded
from fastbert.packing import PackedBatch

GELU_FORMS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_OTHER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
_WEIGHTED = (nn.Linear, nn.LayerNorm, nn.Embedding)
_PLAIN: dict[type, Any] = {kind: kind.forward for kind in (*_WEIGHTED, nn.Dropout)}  # and the forward, which may be patched
_ROW_BY_ROW = (*_WEIGHTED, nn.Dropout, nn.Identity)
_UNSEEING = ("torch.distributed", "transformers.utils.output_capturing")  # whose hooks need no padded form: sharding, recording
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
C = TypeVar("C", bound=type)
P = ParamSpec("P")
R = TypeVar("R")


def plain(cls: C) -> C:
    """Decorator of the classes that BERT is built of."""
    _PLAIN[cls] = cls.forward  # type: ignore[attr-defined]
    return cls


def is_plain(*modules: nn.Module) -> bool:
    """Whether an op on their parameters may replace calling these modules: unmodified, unhooked, all randomness from the seeds.

    Only the very classes that BERT is built of, with plain Parameters, no hook, their own forward, and not compiled: a LoRA
    layer, a quantised linear or a hooked module is called instead.
    """
    for module in modules:  # plain loops: every op of every layer comes by here
        state = module.__dict__
        kind = type(module)
        if kind not in _PLAIN or _PLAIN[kind] is not kind.forward or may_be_watched(state):
            return False
        parameters = state["_parameters"]
        for value in parameters.values():
            if type(value) is not nn.Parameter:
                return False
        if "weight" not in parameters and kind in _WEIGHTED:
            return False
    return True


def have_own_forward(kinds: Iterable[type]) -> bool:
    """Whether these classes are those that BERT is built of, each with the forward that it was defined with."""
    return all(_PLAIN.get(kind) is kind.forward for kind in kinds)  # type: ignore[attr-defined]


def is_watched(*modules: nn.Module) -> bool:
    """Whether any module has a custom forward, or a hook that needs the padded form."""
    return any(may_be_watched(module.__dict__) and _is_watched(module) for module in modules)


def may_be_watched(state: dict[str, Any]) -> Any:
    """Whether a module of these attributes has any hook at all, or a forward of its own."""
    return (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or state.get("_compiled_call_impl")  # `module.compile()`
    )


def _is_watched(module: nn.Module) -> bool:
    if "forward" in module.__dict__ and not _is_compiled(module):
        return True
    hooks = [hook for kind in _HOOKS for hook in getattr(module, kind).values()]
    return any(not (getattr(hook, "__module__", None) or "").startswith(_UNSEEING) for hook in hooks)


def call(module: nn.Module, batch: PackedBatch | None, *rows: Tensor) -> Tensor:
    """A module on packed rows (T, ...); where it is watched, or may mix rows, on (B, S, ...), if the caller's batch was."""
    below = module._modules.get("base_layer")
    if isinstance(below, nn.Linear):  # an adapter's: merged, it is another weight, and nothing shows it
        ops.forget_copies(below.weight)
    if batch is None or not batch.padded or not (is_watched(module) or not maps_rows(module)):
        return module(*rows)
    return batch.pack(module(*(batch.unpack(value) for value in rows)))


def maps_rows(module: nn.Module) -> bool:
    """Whether a module is known to map row by row: linears and the like, quantised ones, and adapters around them."""
    known = isinstance(module, _ROW_BY_ROW) or hasattr(module, "base_layer")
    return known or type(module).__module__.startswith(("torch.ao.", "torch.nn.quantized"))


def call_part(part: nn.Module, kind: type, batch: PackedBatch, causal: bool, *rows: Tensor, **options: Any) -> Any:
    """A part that attends, on packed rows, in the way that it wants.

    Args:
        part, kind: what stands in the model, and the class that is expected there.
        batch, rows, options: what `kind` is called with. A part of another class gets (B, S, N) and the mask that is added to
            the scores, and returns states, or a tuple of them and more, as transformers' parts do.
        causal: whether that mask lets tokens see only what is before them.
    """
    ours = takes_packed(part, kind)
    if ours and not (batch.padded and may_be_watched(part.__dict__) and _is_watched(part)):
        return part(*rows, batch=batch, **options)
    padded = [batch.unpack(value) for value in rows]
    mask = masks.shown(batch, causal, padded[0].dtype)
    if ours:
        return _packed(part(*padded, mask, batch=batch, **options), batch)
    return _packed(part(*padded, mask), batch)


def call_rows(part: nn.Module, kind: type, batch: PackedBatch, *rows: Tensor, **options: Any) -> Tensor:
    """A part that maps row by row, on packed rows; one of another class takes rows alone."""
    if not takes_packed(part, kind):
        return call(part, batch, *rows)
    if batch.padded and is_watched(part):
        return batch.pack(part(*(batch.unpack(value) for value in rows), batch=batch, **options))
    return part(*rows, batch=batch, **options)


def _packed(result: Any, batch: PackedBatch) -> Any:
    """The states (B, S, N) of what a part returned as packed rows, whatever stands beside them."""
    if isinstance(result, Tensor):
        return batch.pack(result)
    if isinstance(result, tuple):
        return batch.pack(result[0]), *result[1:]
    packed = copy.copy(result)  # a hook may keep what it was shown
    packed.last_hidden_state = batch.pack(result.last_hidden_state)
    return packed


def kept(x: Tensor, batch: PackedBatch, states: list[Tensor] | None) -> Tensor:
    """Adds a hidden state in the caller's form, and gives what to go on with: that very state, where gradients may be asked."""
    if states is None:
        return x
    states.append(batch.unpack(x) if batch.padded else x)
    return batch.pack(states[-1]) if batch.padded and torch.is_grad_enabled() else x


def is_unchanged(part: Any, kind: Any) -> bool:
    """Whether a part is of `kind` and runs its forward; accelerate's, which passes keywords on to it, counts as well."""
    return isinstance(part, kind) and type(part).forward is kind.forward and not _has_own_forward(part)


def takes_packed(part: nn.Module, kind: Any) -> bool:
    """Whether a part is of `kind`, or holds one and passes keywords on to it, as FSDP, accelerate and torch.compile wrap it."""
    if isinstance(part, kind):
        return is_unchanged(part, kind)
    if _has_own_forward(part) or not any(isinstance(inner, kind) for child in part.children() for inner in child.modules()):
        return False
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(part.forward).parameters.values())


def _has_own_forward(part: nn.Module) -> bool:
    return "forward" in part.__dict__ and not hasattr(part, "_hf_hook") and not _is_compiled(part)


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch._dynamo")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside a with block; then every part is in the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def dropout_p(module: nn.Module) -> float:
    """The probability that a dropout module applies now."""
    return float(module.p) if isinstance(module, nn.Dropout) and module.training else 0.0


def without_gradient_at(table: Tensor, row: int | None) -> Tensor:
    """A table whose row gets no gradient, as nn.Embedding has it for its padding index."""
    if row is None or not (torch.is_grad_enabled() and table.requires_grad):
        return table
    view = table.view_as(table)
    view.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(row, device=gradient.device), 0.0))
    return view


def dense(module: nn.Linear, x: Tensor, batch: PackedBatch | None = None) -> Tensor:
    """x W + b, of rows (T, ...) or (B, S, ...)."""
    if not is_plain(module):
        return call(module, batch, x)
    if x.dim() == 2:
        return ops.linear(x, module.weight, module.bias)
    return ops.linear(x.flatten(0, -2), module.weight, module.bias).unflatten(0, x.shape[:-1])


def joined_dense(modules: Sequence[nn.Linear], x: Tensor, batch: PackedBatch | None = None) -> Tensor:
    """The products with several linears side by side, (T, N) -> (T, 3N) for three: as one where nobody looks at them."""
    if is_plain(*modules) and all(module.bias is not None for module in modules):
        return ops.joined_linear(x, [module.weight for module in modules], [module.bias for module in modules])
    return torch.cat([dense(module, x, batch) for module in modules], dim=1)


def join(
    norm: nn.LayerNorm,
    dropout: nn.Module | None,
    x: Tensor,
    residual: Tensor,
    batch: PackedBatch | None,
    seed: Tensor | None,
) -> Tensor:
    """LayerNorm(dropout(x) + residual), (T, N): the post-norm join."""
    if is_plain(norm) and norm.bias is not None and (dropout is None or is_plain(dropout)):
        p = 0.0 if dropout is None else dropout_p(dropout)
        return ops.layer_norm(x, residual, norm.weight, norm.bias, norm.eps, None, p, seed)
    return call(norm, batch, (x if dropout is None else call(dropout, batch, x)) + residual)


def dense_and_activation(module: nn.Linear, x: Tensor, name: str, batch: PackedBatch | None = None) -> Tensor:
    """activation(x W + b)."""
    if name in GELU_FORMS and is_plain(module):
        y = ops.linear_gelu(x.flatten(0, -2), module.weight, module.bias, GELU_FORMS[name])
        return y.unflatten(0, x.shape[:-1])
    x = dense(module, x, batch)
    return F.gelu(x, approximate=GELU_FORMS[name]) if name in GELU_FORMS else _OTHER_ACTIVATIONS[name](x)


def repeatable(forward: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a forward: in training it gives the same bits without gradients as with them. See `recorded`."""

    @functools.wraps(forward)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        module: Any = args[0]
        if not module.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        with recorded.in_training():
            return forward(*args, **kwargs)

    return run


def fresh_seeds(module: nn.Module, count: int, device: torch.device) -> Tensor | None:
    """One seed for each dropout site, (count,) int64, from torch's generator of that device; None where nothing drops out."""
    if not module.training or not any(dropout_p(part) for part in module.modules()):
        return None
    return torch.randint(2**62, (count,), device=device)


def seed_at(seeds: Tensor | None, index: int) -> Tensor | None:
    """One of the seeds, where there are any."""
    return None if seeds is None else seeds[index]
