"""The claims about kernels, as functions of a device and of sizes: small ones under Triton's interpreter, full ones on a GPU.

Each runs an op three times on the same numbers: the reference in float64 (what is true), the reference in the type (what plain
PyTorch makes of it), the kernels. A kernel passes when its error is at most twice plain PyTorch's, in maximum and in root mean
square, plus a few float32 roundings at the scale of the result. So for the result and every gradient, from a random upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastbert
from fastbert import ops
from fastbert.kernels import attention, attention_schedule, layer_norm
from fastbert.kernels.e4m3 import to_e4m3
from fastbert.ops import reference
from fastbert.ops.custom_ops import fp8
from fastbert.verification import allowed_error

# By the longest: at most 32, 64, 128, and the long form; sequences without a token, of one token, and with a cut block.
SMALL = {32: [32, 7, 0, 1], 64: [64, 0, 33, 1], 128: [128, 1, 0, 77], 200: [200, 1, 129, 0, 64]}
LENGTHS = [1, 2, 17, 63, 64, 65, 127, 128, 129, 200, 512]


def random(*shape: int, seed: int, device: str, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device) * scale


def assert_exact(what: str, found: Tensor, eager: Tensor, exact: Tensor, rounding: float = 0.0) -> None:
    """The tolerance rule. An operand's `rounding` may show in single values even where plain PyTorch's error is smaller."""
    assert found.shape == exact.shape, f"{what}: {tuple(found.shape)} instead of {tuple(exact.shape)}"
    error, usual = (found.double() - exact).abs(), (eager.double() - exact).abs()
    assert bool(torch.isfinite(error).all()), f"{what}: not finite at {(~torch.isfinite(error)).nonzero()[0].tolist()}"
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    for name, value, limit in (
        ("max", float(error.max()) if error.numel() else 0.0, float(usual.max()) if usual.numel() else 0.0),
        ("rms", float(error.pow(2).mean().sqrt()), float(usual.pow(2).mean().sqrt())),
    ):
        allowed = max(allowed_error(limit, scale), rounding * scale if name == "max" else 0.0)
        if exact.numel() and value > allowed:
            place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
            raise AssertionError(
                f"{what}: {name} error {value:.3g} against {limit:.3g} of plain PyTorch (scale {scale:.3g}); worst at {place}: "
                f"{float(found[place])!r} instead of {float(exact[place])!r}"
            )


def compare(
    run: Callable[..., Tensor], inputs: dict[str, Tensor | None], dtype: torch.dtype, reference_on: str | None = None
) -> None:
    """`run(module, **inputs)` with module `reference` and `ops`; every input gets a gradient.

    The reference runs where the kernels do, or on the device `reference_on`.
    """
    results = {}
    values = {name: None if v is None else v.to(dtype) for name, v in inputs.items()}
    upstream = None
    for path, module, widen in (("exact", reference, True), ("eager", reference, False), ("found", ops, False)):
        here = {n: v if v is None or module is ops or reference_on is None else v.to(reference_on) for n, v in values.items()}
        leaves = {n: None if v is None else (v.double() if widen else v).detach().requires_grad_() for n, v in here.items()}
        with fastbert.backend("triton" if module is ops else "reference"), ops.recording() as decisions:
            out = run(module, **leaves)
        if module is ops:
            assert {d.path for d in decisions} == {"triton"}, decisions
        if upstream is None:
            upstream = random(*out.shape, seed=99, device=str(out.device)).to(dtype)
        out.backward(upstream.to(out.device, out.dtype))
        results[path] = {"result": out.detach(), **{n: v.grad for n, v in leaves.items() if v is not None}}
    if reference_on is not None:
        results["found"] = {name: value.to(reference_on) for name, value in results["found"].items()}
    for name, exact in results["exact"].items():
        found, eager = results["found"][name], results["eager"][name]
        assert found.dtype == eager.dtype or name == "result", f"{name}: {found.dtype}, the reference gives {eager.dtype}"
        assert_exact(name, found, eager, exact, _rounding(found))


def _rounding(like: Tensor) -> float:
    """Of an operand in TF32, where that is in force: PyTorch multiplies a sequence of one token in full float32 even there."""
    return 2**-11 if like.is_cuda and like.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else 0.0


def kept(seed: Tensor, shape: tuple[int, ...], p: float) -> Tensor | None:
    """The mask that the kernels draw."""
    with fastbert.backend("triton"):
        return ops.dropout_mask(seed, shape, p) if p else None


def dropout(module: Any, seed: Tensor, keep: Tensor | None, p: float, device: torch.device) -> dict[str, Any]:
    """The dropout arguments of a call: the mask for the reference, the seed for the kernels."""
    if not p:
        return {}
    assert keep is not None
    return {"dropout_p": p, "keep": keep.to(device)} if module is reference else {"dropout_p": p, "seed": seed}


def check_layer_norm(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    p: float,
    parts: tuple[str, ...] = ("residual", "x_bias"),
    offset: int = 0,
    reference_on: str | None = None,
) -> None:
    seed = torch.tensor(2**61 + 12345 + width, device=device)
    keep = kept(seed, (tokens, width), p)
    inputs: dict[str, Tensor | None] = {
        "x": random(tokens, width, seed=1, device=device),
        "residual": random(tokens, width, seed=2, device=device) if "residual" in parts else None,
        "weight": random(width, seed=3, device=device) * 0.3 + 1,
        "bias": random(width, seed=4, device=device),
        "x_bias": random(width, seed=5, device=device) if "x_bias" in parts else None,
    }

    def run(module: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, x_bias: Tensor | None) -> Tensor:
        x, residual = off(x, offset), None if residual is None else off(residual, offset)
        return module.layer_norm(x, residual, weight, bias, 1e-12, x_bias, **dropout(module, seed, keep, p, x.device))

    compare(run, inputs, dtype, reference_on)


def off(x: Tensor, columns: int) -> Tensor:
    """The same values in rows that start `columns` elements off, with a gap behind each."""
    if not columns:
        return x
    return torch.cat([x[:, :columns], x, x[:, :5]], dim=1)[:, columns : columns + x.shape[1]]


def check_embedding(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    p: float,
    sizes: tuple[int, int, int] = (1000, 600, 2),
    reference_on: str | None = None,
) -> None:
    """Ids as text has them: one id at every fifth place, others rare, the padding id among them."""
    vocabulary, positions, kinds = sizes
    seed = torch.tensor(77, device=device)
    keep = kept(seed, (tokens, width), p)
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, vocabulary, (tokens,), generator=generator)
    ids[::5], ids[1::17] = 101 % vocabulary, 0
    ids, place = ids.to(device), (torch.arange(tokens) % min(positions, 128)).to(device)
    kind = torch.randint(0, kinds, (tokens,), generator=generator).to(device)
    inputs: dict[str, Tensor | None] = {
        "word_weight": random(vocabulary, width, seed=1, device=device),
        "position_weight": random(positions, width, seed=2, device=device),
        "token_type_weight": random(kinds, width, seed=3, device=device),
        "ln_weight": random(width, seed=4, device=device) * 0.3 + 1,
        "ln_bias": random(width, seed=5, device=device),
    }

    def run(module: Any, **tensors: Tensor) -> Tensor:
        where = tensors["word_weight"].device
        indices = (ids.to(where), kind.to(where), place.to(where))
        return module.embedding(*indices, **tensors, eps=1e-12, padding_idx=0, **dropout(module, seed, keep, p, where))

    compare(run, inputs, dtype, reference_on)


def check_frequent_word(device: str, dtype: torch.dtype, tokens: int, width: int) -> None:
    """All tokens are one word: rounded to 16 bit before they are added, they would be off by several units of the sum."""
    generator = torch.Generator().manual_seed(0)
    ids, kinds, places = (torch.arange(tokens, device=device) % n + n // 3 for n in (1, 1, 40))
    values = [torch.randn(n, width, generator=generator).to(device, dtype) for n in (3, 60, 1)]
    scale = [torch.ones(width, device=device, dtype=dtype), torch.zeros(width, device=device, dtype=dtype)]
    upstream = torch.randn(tokens, width, generator=generator).to(device, dtype)
    gradients = []
    for backend, widen in (("triton", Tensor.clone), ("reference", Tensor.double)):
        tables = [widen(value).requires_grad_() for value in values]
        with fastbert.backend(backend):
            out = ops.embedding(ids, kinds, places, *tables, *map(widen, scale), 1e-12)
        out.backward(widen(upstream))
        gradients.append(tables[0].grad[0].double())
    found, exact = gradients
    rounding = (exact.to(dtype).double() - exact).abs()
    beyond = (found - exact).abs() - rounding - allowed_error(0.0, float(exact.abs().max()))
    assert bool((beyond <= 0).all()), f"beyond the rounding of the sum by {float(beyond.max()):.3g}"


def check_attention(
    device: str,
    dtype: torch.dtype,
    lengths: list[int],
    heads: int,
    width: int,
    p: float,
    causal: bool,
    strided: bool = False,
    reference_on: str | None = None,
) -> None:
    tokens, longest = sum(lengths), max(lengths)
    seed = torch.tensor(2**40 + 7, device=device)
    keep = kept(seed, (heads, tokens, longest), p)
    cu_seqlens = torch.tensor([0, *lengths], device=device).cumsum(0).int()

    def run(module: Any, qkv: Tensor) -> Tensor:
        if strided:  # rows of another tensor, at an odd distance, one head apart
            qkv = torch.cat([qkv, qkv[:, :, :1]], dim=2)[:, :, :heads]
        where = qkv.device
        return module.attention(qkv, cu_seqlens.to(where), longest, causal=causal, **dropout(module, seed, keep, p, where))

    compare(run, {"qkv": random(tokens, 3, heads, width, seed=tokens, device=device)}, dtype, reference_on)


def check_attention_schedule(monkeypatch: Any, device: str, dtype: torch.dtype, longest: int, width: int, causal: bool) -> None:
    """Kernels with a schedule give, bit by bit, what they give without: empty sequences, a tail, several items a program."""
    lengths = [longest, 0, 7, 16, 1, 0, longest - 3, 0, 0]
    real, tokens = sum(lengths), sum(lengths) + 70
    cu = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    seed, scale = torch.tensor([3], device=device), width**-0.5
    qkv = random(tokens, 3, 2, width, seed=0, device=device).to(dtype)
    dout = random(tokens, 2, width, seed=1, device=device).to(dtype)

    def results(schedule: Tensor | None) -> list[Tensor]:
        common = (0.1, seed, causal, scale)
        out, lse = attention.attention_fwd(qkv, cu, longest, *common, True, schedule)
        assert lse is not None
        return [out, lse[:, :real], attention.attention_bwd(dout, qkv, cu, longest, out, lse, *common, schedule)]

    monkeypatch.setattr(attention_schedule, "pays", lambda *_: False)
    full = results(None)
    monkeypatch.setattr(attention_schedule, "pays", lambda *_: True)
    monkeypatch.setattr(attention_schedule, "_resident", lambda _: 2)
    made = attention.schedule_if_it_pays(cu, longest, tokens, 2)
    assert made is not None
    for scheduled in (results(made), results(None)):
        assert all(map(torch.equal, full, scheduled))
    assert full[0][:real].any()
    assert not full[0][real:].any()
    assert not full[2][real:].any()


def check_linear_gelu(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    inner: int,
    approximate: str,
    strided: bool = False,
    reference_on: str | None = None,
) -> None:
    def run(module: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return module.linear_gelu(off(x, 8 if strided else 0), weight, bias, approximate)

    compare(run, _ffn_inputs(device, tokens, width, inner, ("x", "weight", "bias")), dtype, reference_on)


def check_ffn(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    inner: int,
    approximate: str = "none",
    reference_on: str | None = None,
) -> None:
    def run(module: Any, **tensors: Tensor) -> Tensor:
        return module.ffn(**tensors, approximate=approximate)

    compare(run, _ffn_inputs(device, tokens, width, inner, ("x", "w1", "b1", "w2", "b2")), dtype, reference_on)


def _ffn_inputs(device: str, tokens: int, width: int, inner: int, names: tuple[str, ...]) -> dict[str, Tensor | None]:
    shapes = ((tokens, width), (inner, width), (inner,), (width, inner), (width,))
    scales = (1.0, width**-0.5, 1.0, inner**-0.5, 1.0)
    return {
        name: random(*shape, seed=i, device=device, scale=scale)
        for i, (name, shape, scale) in enumerate(zip(names, shapes, scales, strict=False))
    }


def check_cross_entropy(
    device: str,
    dtype: torch.dtype,
    rows: int,
    width: int,
    vocabulary: int,
    reduction: str,
    bias: bool = True,
    reference_on: str | None = None,
) -> None:
    labels = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(3))
    labels[::7] = -100
    labels = labels.to(device)
    inputs = {
        "hidden": random(rows, width, seed=1, device=device),
        "weight": random(vocabulary, width, seed=2, device=device, scale=width**-0.5),
        "bias": random(vocabulary, seed=3, device=device) if bias else None,
    }

    def run(module: Any, **tensors: Tensor) -> Tensor:
        where = tensors["hidden"].device
        return module.cross_entropy(**tensors, labels=labels.to(where), reduction=reduction)

    compare(run, inputs, dtype, reference_on)


# -- e4m3: what a kernel writes in it is as near as a rounding of what it writes in 16 bit -------------------------------------


def in_e4m3(x: Tensor, scale: float = 1.0) -> Tensor:
    """What a tensor is after a way through e4m3, in float64. PyTorch's own conversion does not saturate."""
    return (x.double() * scale).clamp(-448, 448).to(torch.float8_e4m3fn).double() / scale


def _assert_rounded(found: Tensor, scale: float, usual: Tensor) -> None:
    assert found.dtype == torch.float8_e4m3fn
    values, usual = found.double() / scale, usual.double()
    assert (values - usual).norm() <= 1.1 * (in_e4m3(usual, scale) - usual).norm()
    assert torch.allclose(values, usual, rtol=2**-4 + 2**-8, atol=1.1 * 2**-10 / scale)


def check_e4m3_products(device: str, dtype: torch.dtype, tokens: int, width: int, inner: int, tanh: bool) -> None:
    """A product with its bias, and linear + GELU, of operands that are e4m3 already."""
    x = to_e4m3(random(tokens, width, seed=1, device=device).float(), 4.0)
    weight = fp8.Weight.of(random(inner, width, seed=2, device=device, scale=width**-0.5).float())
    bias = random(inner, seed=3, device=device).to(dtype)
    exact = (x.double() / 4) @ (weight.values.double() / weight.scale).T + bias.double()
    assert (fp8.product(x, 4.0, weight, bias, dtype).double() - exact).norm() <= 4e-3 * exact.norm()
    usual = torch.nn.functional.gelu(exact, approximate="tanh" if tanh else "none")
    _assert_rounded(fp8.linear_gelu(x, 4.0, weight, bias, 4.0, tanh), 4.0, usual)


def check_e4m3_attention(device: str, dtype: torch.dtype, lengths: list[int], width: int, p: float) -> None:
    tokens, cu = sum(lengths) + 5, torch.tensor([0, *lengths], device=device).cumsum(0).int()
    qkv = random(tokens, 3, 2, width, seed=0, device=device).to(dtype)
    seed = torch.tensor([3], device=device) if p else None
    common = (cu, max(lengths), p, seed, False, width**-0.5, False, None)
    usual, found = attention.attention_fwd(qkv, *common)[0], attention.attention_fwd(qkv, *common, 8.0)[0]
    _assert_rounded(found, 8.0, usual)
    assert not found[sum(lengths) :].double().any()


def check_e4m3_rows(device: str, dtype: torch.dtype, tokens: int, width: int) -> None:
    """LayerNorm with its second result, and conversion alone."""
    x, residual = (random(tokens, width, seed=seed, device=device).to(dtype) for seed in (0, 1))
    weight, bias = (random(width, seed=seed, device=device).to(dtype) for seed in (2, 3))
    rest = (weight, bias, 1e-12, bias, 0.0, None, dtype, False)
    usual, none, _, _ = layer_norm.layer_norm_fwd(x, residual, *rest)
    same, narrow, _, _ = layer_norm.layer_norm_fwd(x, residual, *rest, torch.float8_e4m3fn, 4.0)
    assert none is None
    assert torch.allclose(same.double(), usual.double(), rtol=2**-7, atol=2**-10)
    assert narrow is not None
    _assert_rounded(narrow, 4.0, usual)
    assert torch.equal(to_e4m3(x, 4.0).double() / 4, in_e4m3(x, 4.0))
