"""The table of measured ops: their names, inputs and costs.

It is used by `run.py --suite ops` and `pytest benchmarks`. Costs are theoretical: FLOPs of the matrix products (2 per
multiply-add), and bytes with every input read once and every result written once. A backward pass counts twice the FLOPs of its
forward; it reads the upstream gradient and the inputs, and writes the gradients. Sizes are as in README.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

N, F, V, D, POSITIONS = 768, 3072, 30_522, 64, 512
TOKENS = {"cpu": 2048, "cuda": 16_384}
LENGTHS = (64, 128, 256, 512)
Named = dict[str, Any]


@dataclass(frozen=True)
class OpCase:
    """An op at one size.

    Attributes:
        name: op, size and phase.
        op: a function name in `fastbert.ops` and `fastbert.ops.reference`.
        backward: whether the backward pass is measured together with the forward.
        make: (generator of float tensors, tokens, device) -> arguments by name.
        forward_flops: (tokens) -> FLOPs.
        outputs: (tokens) -> elements of the result.
    """

    name: str
    op: str
    backward: bool
    make: Callable[[Callable[..., torch.Tensor], int, str], Named]
    forward_flops: Callable[[int], int]
    outputs: Callable[[int], int]

    def arguments(self, device: str, dtype: torch.dtype, tokens: int | None = None) -> Named:
        """Seeded arguments on a device; float tensors require gradients if the backward pass is measured."""
        generator = torch.Generator().manual_seed(11)

        def floats(*shape: int, scale: float = 1.0) -> torch.Tensor:
            made = (torch.randn(shape, generator=generator) * scale).to(device, dtype)
            return made.requires_grad_(self.backward)

        return self.make(floats, tokens or TOKENS[device.split(":")[0]], device)

    def cost(self, arguments: Named, tokens: int) -> tuple[int, int]:
        """The cost of a call as (FLOPs, bytes)."""
        tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
        size = next(t.element_size() for t in tensors if t.is_floating_point())
        touched = {name: value.numel() * value.element_size() for name, value in arguments.items() if torch.is_tensor(value)}
        if self.op == "embedding":  # only the rows of the word table that are looked up
            touched["word_weight"] = min(touched["word_weight"], tokens * N * size)
        read, written = sum(touched.values()), self.outputs(tokens) * size
        if not self.backward:
            return self.forward_flops(tokens), read + written
        floats = sum(touched[name] for name, value in arguments.items() if torch.is_tensor(value) and value.requires_grad)
        return 3 * self.forward_flops(tokens), 2 * read + 2 * written + floats


def _embedding(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
    place = torch.arange(tokens, device=device)
    ids = (torch.rand(tokens, generator=torch.Generator().manual_seed(3)) ** 6 * V).long()  # a few words are frequent
    tables = {"word_weight": floats(V, N), "position_weight": floats(POSITIONS, N), "token_type_weight": floats(2, N)}
    return {
        "input_ids": ids.to(device),
        "token_type_ids": place % 2,
        "position_ids": place % 128,
        **tables,
        "ln_weight": floats(N),
        "ln_bias": floats(N),
        "eps": 1e-12,
    }


def _layer_norm(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
    x, residual, x_bias = floats(tokens, N), floats(tokens, N), floats(N)
    return {"x": x, "residual": residual, "weight": floats(N), "bias": floats(N), "eps": 1e-12, "x_bias": x_bias}


def _attention(length: int) -> Callable[..., Named]:
    def make(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
        starts = torch.arange(0, tokens + 1, length, dtype=torch.int32, device=device)
        return {"qkv": floats(tokens, 3, N // D, D), "cu_seqlens": starts, "max_seqlen": length}

    return make


def _linear_gelu(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
    return {"x": floats(tokens, N), "weight": floats(F, N, scale=N**-0.5), "bias": floats(F)}


def _ffn(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
    up = {"x": floats(tokens, N), "w1": floats(F, N, scale=N**-0.5), "b1": floats(F)}
    return {**up, "w2": floats(N, F, scale=F**-0.5), "b2": floats(N)}


def _cross_entropy(floats: Callable[..., torch.Tensor], tokens: int, device: str) -> Named:
    count = tokens // 8
    labels = torch.arange(count, device=device) * 7 % V
    return {"hidden": floats(count, N), "weight": floats(V, N, scale=N**-0.5), "bias": floats(V), "labels": labels}


def _cases() -> Iterator[OpCase]:
    for backward in (False, True):
        phase = "forward + backward" if backward else "forward"
        yield OpCase(f"embedding, {phase}", "embedding", backward, _embedding, lambda t: 0, lambda t: t * N)
        yield OpCase(f"layer_norm, {phase}", "layer_norm", backward, _layer_norm, lambda t: 0, lambda t: t * N)
        for s in LENGTHS:
            name = f"attention, S = {s}, {phase}"
            yield OpCase(name, "attention", backward, _attention(s), lambda t, s=s: 4 * t * s * N, lambda t: t * N)
        name = f"linear_gelu, {phase}"
        yield OpCase(name, "linear_gelu", backward, _linear_gelu, lambda t: 2 * t * N * F, lambda t: t * F)
        yield OpCase(f"ffn, {phase}", "ffn", backward, _ffn, lambda t: 4 * t * N * F, lambda t: t * N)
        name = f"cross_entropy, {phase}"
        yield OpCase(name, "cross_entropy", backward, _cross_entropy, lambda t: 2 * (t // 8) * N * V, lambda t: 1)


OP_CASES = {case.name: case for case in _cases()}


def upstream_gradient(result: torch.Tensor) -> torch.Tensor:
    """A fixed upstream gradient of the result's shape, not constant, so that gradients do not cancel out."""
    ramp = torch.arange(result.numel(), device=result.device, dtype=torch.float32)
    return (0.5 + torch.sin(ramp * math.e)).to(result.dtype).view_as(result)
