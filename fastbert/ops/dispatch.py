"""Every op of BERT as the model calls it: which path runs it, and why.

Paths, best first: a Triton kernel (`kernels/<op>.py`), `cpu.py` where it has the op, `reference.py`. The backend chooses:
"auto" takes the best that can run, "triton" the kernel or an error with the reason, "reference" the plain form alone.
All ops work on packed tokens. Sizes: B sequences, T packed tokens, H heads, D head size, N hidden, F intermediate,
V vocabulary, M scored positions; each op's docstring stands at its twin in reference.py.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import BackendError
from fastbert.ops import cpu, onednn, reference
from fastbert.ops.backends import Call, Decision, current_backend, heard_calls, heard_decisions
from fastbert.ops.cpu import Plan
from fastbert.ops.reference import Seed
from fastbert.ops.side_by_side import place_side_by_side
from fastbert.ops.states import States

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")  # as Triton reads it
_PRODUCTS = ("attention", "linear_gelu", "ffn")  # whose kernels multiply matrices themselves
_HEAD_SIZES = (16, 32, 64, 128)
_WIDEST = 8192  # hidden size that one program holds
_OLDEST = (8, 0)  # compute capability
_LIBRARY = "fastbert.ops.custom_ops"
_warned: set[str] = set()


def embedding(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    padding_idx: int | None = None,
) -> Tensor:
    """Sum of the three embeddings, LayerNorm, dropout: (T,) x 3 -> (T, N). See `reference.embedding`."""
    tables = (word_weight, position_weight, token_type_weight)
    _forget_trained(word_weight)  # which an MLM head's decoder shares
    return _choose("embedding", word_weight, input_ids.shape, _width_obstacle(word_weight))(
        input_ids, token_type_ids, position_ids, *tables, ln_weight, ln_bias, eps, dropout_p, seed, padding_idx
    )


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    seed: Seed = None,
    causal: bool = False,
    scale: float | None = None,
    plan: Callable[[], Plan] | None = None,
) -> Tensor:
    """Softmax attention inside each sequence: (T, 3, H, D) -> (T, H, D). See `reference.attention`.

    `plan` gives what `plan_attention` made of the batch, once for all layers; only a CPU asks. Without it each call makes one.
    """
    obstacle = ""
    if qkv.shape[-1] not in _HEAD_SIZES:
        obstacle = f"head size {qkv.shape[-1]} is not one of {', '.join(map(str, _HEAD_SIZES))}"
    elif scale is not None and scale <= 0:
        obstacle = f"scale = {scale} is not positive"
    run = _choose("attention", qkv, qkv.shape, obstacle, plan=plan)
    return run(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale)


def masked_attention(
    qkv: Tensor,
    bias: Tensor | None,
    dropout_p: float = 0.0,
    seed: Seed = None,
    scale: float | None = None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention on padded rows with any bias, and its probabilities, always by the reference. See `reference.attend`."""
    reason = "3-D and 4-D masks, output_attentions and traced masks have no kernel"
    if current_backend() == "triton" and not torch.compiler.is_compiling():
        raise BackendError(f"backend 'triton' cannot run attention: {reason}")
    _fall_back("attention", qkv, qkv.shape, "reference", reason)
    return reference.attend(qkv, bias, dropout_p, seed, scale, prefix=prefix)


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Seed = None,
) -> Tensor:
    """LayerNorm(dropout(x + x_bias) + residual): (T, N) -> (T, N). See `reference.layer_norm`."""
    return _choose("layer_norm", x, x.shape, _width_obstacle(x))(x, residual, weight, bias, eps, x_bias, dropout_p, seed)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: (T, N) -> (T, F). cuBLAS runs it on a GPU; there is no kernel of ours."""
    _forget_trained(weight)
    return _linear_backend(x).linear(x, weight, bias)


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Several linears of one input in one product: (T, N) -> (T, F of all). See `reference.joined_linear`."""
    _forget_trained(*weights, *biases)
    return _linear_backend(x).joined_linear(x, weights, biases)


def prepack(weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> None:
    """Lays weights out for the device's matrix product: a copy by `onednn.prepack` on a CPU, side by side on a GPU."""
    kinds = {t.device.type for t in (*weights, *biases)}
    if kinds == {"cuda"} and len(weights) > 1:
        place_side_by_side(weights)
        place_side_by_side(biases)
    elif onednn.AVAILABLE and kinds == {"cpu"} and all(t.dtype == torch.float32 for t in (*weights, *biases)):
        onednn.prepack(weights, biases)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """GELU(x weight^T + bias): (T, N) -> (T, F). See `reference.linear_gelu`."""
    _forget_trained(weight)
    return _choose("linear_gelu", x, x.shape)(x, weight, bias, approximate)


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """GELU(x w1^T + b1) w2^T + b2: (T, N) -> (T, N). See `reference.ffn`."""
    _forget_trained(w1, w2)
    return _choose("ffn", x, x.shape)(x, w1, b1, w2, b2, approximate)


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cross entropy of hidden weight^T + bias: (M, N), (V, N), (V,), (M,) -> loss. See `reference.cross_entropy`."""
    _forget_trained(weight)
    return _choose("cross_entropy", hidden, hidden.shape)(hidden, weight, bias, labels, ignore_index, reduction)


def dropout_mask(seed: Seed, shape: tuple[int, ...], p: float, device: torch.device | str | None = None) -> Tensor:
    """The bool keep-mask that a seed gives: (T, N) for the joins, (H, T, max_seqlen) for attention.

    It is the mask of the path that runs on that device: a function of seed, row, column and head where kernels run, and what
    torch's own generator gives elsewhere.
    """
    where = torch.device(device or (seed.device if isinstance(seed, Tensor) else "cpu"))
    if _runs_kernel("layer_norm", torch.empty(0, device=where)):
        return _library().dropout_mask(seed, shape, p, where)
    return reference.dropout_mask(seed, shape, p, where)


def linear_join(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
) -> States:
    """LayerNorm(dropout(x weight^T + bias) + residual): (T, F), (T, N) -> (T, N). `linear`, then `layer_norm`."""
    early, late = _placed_bias(x, bias)
    return _normalised_states(linear(x, weight, early), residual, ln_weight, ln_bias, eps, late, dropout_p, seed)


def ffn_join(
    x: States,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float = 0.0,
    seed: Seed = None,
    approximate: str = "none",
) -> States:
    """LayerNorm(dropout(GELU(x w1^T + b1) w2^T + b2) + x): (T, N) -> (T, N). `ffn`, then `layer_norm`."""
    early, late = _placed_bias(x.operand, b2)
    y = ffn(x.operand, w1, b1, w2, early, approximate)
    return _normalised_states(y, x.residual, ln_weight, ln_bias, eps, late, dropout_p, seed)


def _normalised_states(x: Tensor, residual: Tensor, *rest: Any) -> States:
    """`layer_norm`, in the type of products as well where the kernel runs under autocast and nobody listens to the calls."""
    run = _choose("layer_norm", x, x.shape, _width_obstacle(x))
    if torch.is_autocast_enabled(x.device.type) and run is getattr(sys.modules.get(_LIBRARY), "layer_norm", None):
        return States(*_library().layer_norm_states(x, residual, *rest))
    y = run(x, residual, *rest)
    return States(y, y)


def _placed_bias(x: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The bias of a product before `layer_norm`: there, or in `layer_norm`, whose kernel adds it for free."""
    return (None, bias) if _runs_kernel("layer_norm", x) else (bias, None)


def clamps_ids(table: Tensor) -> bool:
    """Whether `embedding` clamps ids into its tables, so that a bad id may be reported later."""
    return _runs_kernel("embedding", table)


def _forget_trained(*parameters: Tensor) -> None:
    """Drops prepacked copies of weights that are being trained: an optimiser may change them unnoticed."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and any(p.requires_grad for p in parameters):
        onednn.forget(*parameters)


def _linear_backend(x: Tensor) -> Any:
    """The module that runs matrix products of `x`."""
    path = "cpu" if x.device.type == "cpu" and current_backend() != "reference" else "reference"
    _record("linear", x.shape, path, "a plain matrix product belongs to the vendor's library")
    return cpu if path == "cpu" else reference


def _runs_kernel(op: str, x: Tensor) -> bool:
    chosen = current_backend()
    if chosen == "reference" or (chosen == "auto" and x.device.type == "cpu"):
        return False
    return _obstacle(op, x) == ""


def _choose(op: str, x: Tensor, shape: tuple[int, ...], obstacle: str = "", **on_cpu: Any) -> Callable[..., Any]:
    """The function that runs `op` on `x`; `obstacle` says why this call cannot use the kernel, "" if it can.

    `on_cpu` are keywords that only cpu.py's form takes.
    """
    path = _choose_path(op, x, shape, obstacle)
    chosen = getattr(_library() if path == "triton" else cpu if path == "cpu" else reference, op)
    if on_cpu and path == "cpu":
        chosen = functools.partial(chosen, **on_cpu)
    calls = None if torch.compiler.is_compiling() else heard_calls.get()
    if calls is None:
        return chosen

    def tapped(*arguments: Any) -> Any:
        calls.append(Call(op, path, arguments))
        return chosen(*arguments)

    return tapped


def _choose_path(op: str, x: Tensor, shape: tuple[int, ...], obstacle: str) -> str:
    chosen = current_backend()
    if chosen == "reference":
        _record(op, shape, "reference", "the backend is 'reference'")
        return "reference"
    reason = _obstacle(op, x) or obstacle
    if chosen == "auto" and x.device.type == "cpu":
        reason = "the tensors are on a CPU"
    if not reason:
        _record(op, shape, "triton", "")
        return "triton"
    if chosen == "triton":
        raise BackendError(f"backend 'triton' cannot run {op}: {reason}")
    path = "cpu" if hasattr(cpu, op) else "reference"
    _fall_back(op, x, shape, path, reason)
    return path


def _obstacle(op: str, x: Tensor) -> str:
    """Why no kernel can run `op` on a tensor like `x`; "" where one can."""
    if not _HAS_TRITON:
        return "the package triton is not installed (it exists for Linux only)"
    kind = x.device.type
    if kind == "cpu" and not _INTERPRETED:
        return "the tensors are on a CPU, and Triton's interpreter is off (TRITON_INTERPRET=1 before the start)"
    if kind not in ("cpu", "cuda"):
        return f"there are no kernels for {kind} devices"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"there are no kernels for {x.dtype}"
    if kind == "cpu":
        multiplied = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        wrong = op in _PRODUCTS and multiplied == torch.bfloat16
        return "Triton's interpreter multiplies bfloat16 wrongly; float32 and float16 are right" if wrong else ""
    if _capability() < _OLDEST:
        return f"compute capability {'.'.join(map(str, _capability()))} is below {'.'.join(map(str, _OLDEST))}"
    if op in _PRODUCTS and x.dtype == torch.float32 and not torch.is_autocast_enabled(kind) and not _tf32():
        return "float32 products have a kernel in TF32 only, which torch.backends.cuda.matmul.allow_tf32 does not allow"
    return ""


def _width_obstacle(x: Tensor) -> str:
    return f"hidden size {x.shape[-1]} is above {_WIDEST}" if x.shape[-1] > _WIDEST else ""


def _capability() -> tuple[int, int]:
    return (9, 9) if torch.version.hip else _capability_of(torch.cuda.current_device())


@functools.cache
def _capability_of(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _tf32() -> bool:
    """Whether float32 products may run in TF32, by PyTorch's newer setting if it exists, which includes the older one."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _library() -> Any:
    """fastbert.ops.custom_ops, imported at the first use: it brings Triton with it."""
    _load_library()
    return sys.modules[_LIBRARY]


def _load_library() -> bool:
    import fastbert.ops.custom_ops  # noqa: F401

    return True


for _constant in (_capability, _tf32, _load_library):
    _constant.__dict__["_dynamo_marked_constant"] = True


def _fall_back(op: str, x: Tensor, shape: tuple[int, ...], path: str, reason: str) -> None:
    """Records a path that is not the kernel, and warns of it once for each reason where a kernel was to be expected."""
    if x.device.type != "cpu" and reason not in _warned and not torch.compiler.is_compiling():
        _warned.add(reason)
        warnings.warn(f"fastbert runs {op} without a kernel: {reason}", stacklevel=5)
    _record(op, shape, path, reason)


def _record(op: str, shape: tuple[int, ...], path: str, reason: str) -> None:
    if torch.compiler.is_compiling():
        return
    decisions = heard_decisions.get()
    if decisions is not None:
        decisions.append(Decision(op, tuple(shape), path, reason))
