"""The launches that BERT-base makes (plus head sizes 32 and 128), as calls of the launchers on any device.

Sizes are those of a large batch: 16,384 tokens, N = 768, F = 3072, V = 30522. `kernel_report.py` compiles all of them, the
tests compile the heaviest of each kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels import attention, common, cross_entropy, embedding, ffn, lamb, layer_norm
from fastbert.kernels.e4m3 import to_e4m3

T, N, F, V, POSITIONS, LABELLED = 16_384, 768, 3072, 30_522, 512, 2_048


@dataclass(frozen=True)
class Case:
    """A call of launchers. `floating` holds the FLOPs of the matrix products by kernel."""

    name: str
    call: Callable[[], Any]
    floating: dict[str, int]


class Tensors:
    """Makes tensors of one type on one device; on "meta" they have no memory."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of random numbers; zeros for integer types and on "meta"."""
        dtype = dtype or self.dtype
        if self.device != "meta" and dtype.is_floating_point:
            return torch.randn(shape, device=self.device).to(dtype)
        return torch.zeros(shape, dtype=dtype, device=self.device)


def cases(dtype: torch.dtype, device: str = "meta", e4m3: bool = False) -> Iterator[Case]:
    """Cases for every kernel, in the forms that inference and training use; with `e4m3`, for those that write it as well."""
    make = Tensors(dtype, device)
    seed = make(1, dtype=torch.int64)
    for width in (64, 32, 128):
        for length in (32, 64, 128, 512):
            for p in (0.0, 0.1):
                yield _attention(make, width, length, p, seed)
    for length in (64, 128, 512):
        for p in (0.0, 0.1):
            yield _attention(make, 64, length, p, seed, sequences=T // 16)
    yield from _layer_norm(make, seed)
    yield _embedding(make, seed)
    yield from _ffn(make)
    yield _cross_entropy(make)
    yield _lamb(make)
    yield Case("dropout mask", lambda: common.dropout_mask(seed, (12, T, 512), 0.1), {})
    if e4m3:
        yield from _e4m3(make)


def _attention(make: Tensors, width: int, length: int, p: float, seed: Tensor, sequences: int = 0) -> Case:
    """Sequences of that length; with `sequences` further ones, which are empty, fill them up to that number."""
    heads, count = N // width, sequences or T // length
    qkv, out = make(T, 3, heads, width), make(T, heads, width)
    lse, drawn, scale = make(heads, T, dtype=torch.float32), seed if p else None, width**-0.5
    cu_seqlens = make(count + 1, dtype=torch.int32)
    if make.device != "meta":
        cu_seqlens = torch.arange(count + 1, device=make.device, dtype=torch.int32).mul(length).clamp(max=T)

    def call() -> None:
        attention.attention_fwd(qkv, cu_seqlens, length, p, drawn, False, scale, True)
        attention.attention_bwd(out, qkv, cu_seqlens, length, out, lse, p, drawn, False, scale)

    product = 2 * T * length * N
    floating = {"attention_short_fwd": 2, "attention_short_bwd": 5, "attention_long_fwd": 2}
    floating |= {"attention_long_dq": 3, "attention_long_dkv": 4}
    name = f"attention D={width} S={length} p={p:g}{' fixed budget' if sequences else ''}"
    return Case(name, call, {kernel: products * product for kernel, products in floating.items()})


def _layer_norm(make: Tensors, seed: Tensor) -> Iterator[Case]:
    x, residual, dy = make(T, N), make(T, N), make(T, N)
    weight, bias, x_bias = make(N), make(N), make(N)
    mean, rstd = make(T, dtype=torch.float32), make(T, dtype=torch.float32)

    def call() -> None:
        layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, x_bias, 0.0, None, make.dtype, False)
        layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, x_bias, 0.1, seed, make.dtype, True)
        layer_norm.layer_norm_bwd(dy, x, residual, weight, x_bias, 0.1, seed, mean, rstd, True)

    yield Case("layer_norm", call, {})

    # Under autocast: float32 states, an additional 16-bit result, two upstream gradients; also at the width of BERT-large.
    for width in (N, 1024):
        x16, x32, w = make(T, width), make(T, width, dtype=torch.float32), make(width, dtype=torch.float32)

        def states(x16: Tensor = x16, x32: Tensor = x32, w: Tensor = w) -> None:
            layer_norm.layer_norm_fwd(x16, x32, w, w, 1e-12, w, 0.1, seed, torch.float32, True, make.dtype)
            layer_norm.layer_norm_bwd(x32, x16, x32, w, w, 0.1, seed, mean, rstd, True, x16)

        yield Case(f"layer_norm states N={width}", states, {})


def _embedding(make: Tensors, seed: Tensor) -> Case:
    ids = make(T, dtype=torch.int64)
    tables = make(V, N), make(POSITIONS, N), make(2, N)
    weight, bias, dy = make(N), make(N), make(T, N)
    mean, rstd = make(T, dtype=torch.float32), make(T, dtype=torch.float32)

    def call() -> None:
        embedding.embedding_fwd(ids, ids, ids, *tables, weight, bias, 1e-12, 0.1, seed, True)
        embedding.embedding_bwd(dy, ids, ids, ids, *tables, weight, 0.1, seed, mean, rstd)
        embedding.table_bwd(dy, ids, V, make.dtype, 0)

    return Case("embedding", call, {})


def _ffn(make: Tensors) -> Iterator[Case]:
    x, dy, h = make(T, N), make(T, N), make(T, F)
    w1, b1, w2 = make(F, N), make(F), make(N, F)
    product = dict.fromkeys(("linear_gelu", "linear_gelu_tma", "linear_gelu_bwd"), 2 * T * N * F)
    for form in ("fused", "split"):
        for keep in (False, True):
            kind = "training" if keep else "inference"
            yield Case(f"ffn {form} {kind}", lambda k=keep, f=form: ffn.linear_gelu_fwd(x, w1, b1, False, f, k), product)
        yield Case(f"ffn {form} backward", lambda f=form: ffn.linear_gelu_bwd(dy, w2, h, False, f), product)


def _lamb(make: Tensors) -> Case:
    p, g, m, v = (make(F, N, dtype=torch.float32) for _ in range(4))
    return Case("lamb", lambda: lamb.lamb_step(p, g, m, v, 0.999, 1e-3, (0.9, 0.999), 1e-6), {})


def _e4m3(make: Tensors) -> Iterator[Case]:
    x, residual, weight, bias = make(T, N), make(T, N), make(N), make(F)
    x8, up = make(T, N, dtype=torch.float8_e4m3fn), make(F, N, dtype=torch.float8_e4m3fn)
    rest = (weight, weight, 1e-12, weight, 0.0, None, make.dtype, False, torch.float8_e4m3fn, 4.0)
    yield Case("to_e4m3", lambda: to_e4m3(x, 4.0), {})
    yield Case("layer_norm e4m3", lambda: layer_norm.layer_norm_fwd(x, residual, *rest), {})
    product = {"linear_gelu_tma": 2 * T * N * F}
    yield Case("ffn e4m3", lambda: ffn.linear_gelu_e4m3(x8, up, bias, 0.25, 4.0, False), product)
    for length in (64, 128, 512):
        qkv, cu_seqlens = make(T, 3, N // 64, 64), make(T // length + 1, dtype=torch.int32)

        def attend(qkv: Tensor = qkv, cu_seqlens: Tensor = cu_seqlens, length: int = length) -> None:
            attention.attention_fwd(qkv, cu_seqlens, length, 0.0, None, False, 0.125, False, None, 8.0)

        floating = dict.fromkeys(("attention_short_fwd", "attention_long_fwd"), 4 * T * length * N)
        yield Case(f"attention D=64 S={length} e4m3", attend, floating)


def _cross_entropy(make: Tensors) -> Case:
    hidden, weight, bias = make(LABELLED, N), make(V, N), make(V)
    labels, upstream = make(LABELLED, dtype=torch.int64), make(LABELLED, dtype=torch.float32)

    def call() -> None:
        _, lse, kept = cross_entropy.cross_entropy_fwd(hidden, weight, bias, labels, -100, True)
        cross_entropy.cross_entropy_bwd(upstream, hidden, weight, bias, labels, lse, kept, -100)

    return Case("cross_entropy", call, {})
