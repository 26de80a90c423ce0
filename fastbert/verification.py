"""Verifies the paths in use against float64, op by op and layer by layer, on the user's own weights and texts.

The rule is the same as in the tests. The reference in float64 is taken as exact. The active path may have at most twice the
error of plain PyTorch in the model's type, in maximum and in root mean square, plus a few float32 roundings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert import ops
from fastbert.diagnostics import packed_batches
from fastbert.model.calling import evaluating
from fastbert.model.outputs import BertModelOutput
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.ops import reference
from fastbert.packing import PackedBatch
from fastbert.terminal import align

FLOOR = 8 * 2.0**-24  # times the scale of a result: float32 sums are taken in different orders


def allowed_error(usual: float, scale: float) -> float:
    """The tolerance: twice the error of plain PyTorch in the same type, plus a few roundings at the result's scale."""
    return 2 * usual + FLOOR * scale


@dataclass
class Comparison:
    """The comparison of one result with float64; errors are absolute.

    Attributes:
        what: the op and which of its results, or the layer.
        path: the path that ran.
        scale: largest absolute value of the exact result; for long sums, of the sum of the absolute terms.
        max_error, rms_error: errors of the path that ran.
        usual_max, usual_rms: errors of plain PyTorch in the same type.
    """

    what: str
    path: str
    scale: float
    max_error: float
    rms_error: float
    usual_max: float
    usual_rms: float

    @property
    def ok(self) -> bool:
        """Whether the errors are at most twice plain PyTorch's, plus the floor; NaN is not ok."""
        errors = ((self.max_error, self.usual_max), (self.rms_error, self.usual_rms))
        return all(error <= allowed_error(usual, self.scale) for error, usual in errors)


@dataclass
class Verification:
    """The result of `verify`.

    Attributes:
        rows: the worst call of each op for its result and each gradient, then each layer's hidden states.
    """

    rows: list[Comparison]

    @property
    def ok(self) -> bool:
        """Whether all errors are within the tolerance."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        header = ("what", "path", "scale", "max error", "plain PyTorch", "rms error", "plain PyTorch", "")
        body = [
            (
                row.what,
                row.path,
                *(f"{value:.2e}" for value in (row.scale, row.max_error, row.usual_max, row.rms_error, row.usual_rms)),
                "ok" if row.ok else "TOO LARGE",
            )
            for row in self.rows
        ]
        verdict = "all within twice plain PyTorch's error" if self.ok else "some errors are too large"
        return "\n".join([*align([header, *body]), verdict])


def verify(model: BertPreTrainedModel, *args: Any, **inputs: Any) -> Verification:
    """Runs a forward pass in evaluation mode on the active paths, and compares every op and every layer with float64.

    Gradients of ops that run a kernel are compared as well.

    Args:
        model: any model class of fastbert; only its encoder is compared.
        args, inputs: the arguments of the model's forward.

    Returns:
        A `Verification`, which prints as a table.
    """
    encoder = model.base_model
    with evaluating(model), torch.no_grad():
        with ops.tapping() as calls, ops.recording() as decisions, packed_batches(model) as batches:
            model(*args, **inputs)
        worst: dict[tuple[str, str], Comparison] = {}
        for call in calls:
            for row in _compare_op(call):
                known = worst.get((row.what, row.path))
                if known is None or _excess(row) > _excess(known):
                    worst[row.what, row.path] = row
        ran = {d.path for d in decisions if d.op != "linear"}
        layers = _compare_layers(encoder, batches[0], "+".join(sorted(ran)))
    return Verification([*worst.values(), *layers])


def _excess(row: Comparison) -> float:
    return row.max_error / (allowed_error(row.usual_max, row.scale) + 1e-30)


def _compare_op(call: ops.Call) -> list[Comparison]:
    """Compares the result of one call and, for a kernel, the gradient of each floating-point input.

    The upstream gradient is random. Gradients of the other paths are PyTorch's own.
    """
    floating = [i for i, value in enumerate(call.arguments) if isinstance(value, Tensor) and value.is_floating_point()]
    upstream: Tensor | None = None
    results: list[list[Tensor]] = []
    for function, widen in ((_reference(call.op), True), (_reference(call.op), False), (getattr(ops, call.op), False)):
        given = list(call.arguments)
        for i in floating:
            given[i] = (given[i].double() if widen else given[i]).detach().clone().requires_grad_()
        with torch.set_grad_enabled(call.path == "triton"):
            out = function(*given)
            if not out.requires_grad:
                results.append([out])
                continue
            if upstream is None:
                generator = torch.Generator().manual_seed(0)
                upstream = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
                upstream = upstream.to(call.arguments[floating[0]].dtype)
            gradients = torch.autograd.grad(out, [given[i] for i in floating], upstream.to(out.dtype))
        results.append([out.detach(), *gradients])
    names = ["", *(f" gradient {n}" for n in range(1, len(results[0])))]
    rows = [
        _compare(call.op + name, call.path, exact, eager, found)
        for name, exact, eager, found in zip(names, *results, strict=True)
    ]
    if call.op in ("ffn", "linear_gelu"):  # long sums: rounding depends on the size of the terms, not of the sum
        sizes = [value.double().abs() if i in floating else value for i, value in enumerate(call.arguments)]
        rows[0].scale = float(_reference(call.op)(*sizes).max())
    return rows


def _reference(op: str) -> Callable[..., Any]:
    return getattr(reference, op)


def _compare_layers(encoder: Any, batch: PackedBatch, path: str) -> list[Comparison]:
    """Compares the hidden states after the embeddings and after each layer."""

    def states(model: Any, backend: str | None) -> tuple[Tensor, ...]:
        with ops.backend(backend or ops.current_backend()):
            output: BertModelOutput = model(batch, output_hidden_states=True, return_dict=True)
        assert output.hidden_states is not None
        return output.hidden_states

    found, eager = states(encoder, None), states(encoder, "reference")
    wide = copy.deepcopy(encoder).double()
    embeds = batch.inputs_embeds
    if embeds is not None:
        batch = copy.copy(batch)
        batch.inputs_embeds = embeds.double()
    exact = states(wide, "reference")
    names = ["embeddings", *(f"layer {i}" for i in range(len(exact) - 1))]
    return [_compare(name, path, *three) for name, *three in zip(names, exact, eager, found, strict=True)]


def _compare(what: str, path: str, exact: Tensor, eager: Tensor, found: Tensor) -> Comparison:
    error, usual = (found.double() - exact).abs(), (eager.double() - exact).abs()
    numbers = [exact.abs().max(), error.max(), error.square().mean().sqrt(), usual.max(), usual.square().mean().sqrt()]
    return Comparison(what, path, *torch.stack(numbers).tolist())
