"""Every op of BERT as the model calls it; paths.py chooses what runs it.

All ops work on packed tokens. Sizes: B sequences, T packed tokens, H heads, D head size, N hidden, F intermediate,
V vocabulary, M scored positions; each op's docstring stands at its twin in reference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastbert.errors import BackendError
from fastbert.ops import cpu, cpu_inference, fp8, int8, onednn, reference
from fastbert.ops.backends import current_backend, heard_calls, heard_decisions
from fastbert.ops.cpu import Plan
from fastbert.ops.paths import capability, choose, fall_back, is_kernel, library, record, runs_kernel, width_obstacle
from fastbert.ops.recorded import records
from fastbert.ops.reference import Seed
from fastbert.ops.side_by_side import place_side_by_side
from fastbert.ops.states import States

_HEAD_SIZES = (16, 32, 64, 128)
_FP8 = (8, 9)  # compute capability
_IN_LAYERS = ("attention", "layer_norm", "ffn")


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
    return choose("embedding", word_weight, input_ids.shape, width_obstacle(word_weight))(
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
    schedule: Tensor | None = None,
) -> Tensor:
    """Softmax attention inside each sequence: (T, 3, H, D) -> (T, H, D). See `reference.attention`.

    `plan` gives what `plan_attention` made of the batch, once for all layers; only a CPU asks. `schedule` is what
    `attention_schedule` made of it for the kernels. Without them each call makes its own.
    """
    obstacle = ""
    if qkv.shape[-1] not in _HEAD_SIZES:
        obstacle = f"head size {qkv.shape[-1]} is not one of {', '.join(map(str, _HEAD_SIZES))}"
    elif scale is not None and scale <= 0:
        obstacle = f"scale = {scale} is not positive"
    run = choose("attention", qkv, qkv.shape, obstacle, plan=plan)
    known = (schedule,) if schedule is not None and is_kernel(run) else ()
    return run(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, *known)


def attention_schedule(x: Tensor, cu_seqlens: Tensor, max_seqlen: int, heads: int) -> Tensor | None:
    """Which blocks of a batch's sequences the kernel's programs take, once for all layers of states x (T, N).

    None where no kernel runs, or where every program has work anyway.
    """
    if not runs_kernel("attention", x):
        return None
    made: Tensor | None = library().attention_schedule(cu_seqlens, max_seqlen, x.shape[0], heads)
    return made


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
    fall_back("attention", qkv, qkv.shape, "reference", reason)
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
    return choose("layer_norm", x, x.shape, width_obstacle(x))(x, residual, weight, bias, eps, x_bias, dropout_p, seed)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: (T, N) -> (T, F). cuBLAS runs it on a GPU; there is no kernel of ours."""
    _forget_trained(weight)
    return _linear_backend(x).linear(x, weight, bias)


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Several linears of one input in one product: (T, N) -> (T, F of all). See `reference.joined_linear`."""
    _forget_trained(*weights, *biases)
    return _linear_backend(x).joined_linear(x, weights, biases)


def quantize(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Keeps int8 copies of weights and their biases for the products on a CPU, in the place of others: see `int8`."""
    onednn.forget(*weights)
    int8.keep(weights, biases)


def fp8_obstacle(like: Tensor) -> str:
    """Why layers with weights like this one cannot run in fp8; "" where they can."""
    if like.dtype not in (torch.float16, torch.bfloat16):
        return f"the weights are {like.dtype}; fp8 is for float16 and bfloat16"
    if torch.is_autocast_enabled(like.device.type):
        return "autocast is on, under which layers do not run in fp8"
    if not hasattr(torch, "_scaled_mm"):
        return "this PyTorch has no product in fp8"
    if not (runs_kernel("attention", like) and runs_kernel("layer_norm", like)):
        return f"no kernels run on {like.device}"
    if not like.is_cuda:
        return ""
    if like.device.index != torch.cuda.current_device():
        return f"the model is on {like.device}; torch.cuda.set_device({like.device.index}) makes that the current device"
    if torch.version.hip:
        return "fp8 is for NVIDIA GPUs"
    if capability(like.device) < _FP8:
        return f"the GPU is older than compute capability {'.'.join(map(str, _FP8))}"
    return ""


def keep_fp8(layer: Any) -> None:
    """Keeps copies of a `model.plain_layer.PlainLayer` in fp8, by which it runs where a GPU has nothing to record."""
    library().fp8.keep(layer)


def forget_copies(*weights: Tensor) -> None:
    """Drops the copies that were made of weights, in whatever form."""
    onednn.forget(*weights)
    fp8.forget(*weights)


def prepack(weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> None:
    """Lays weights out for the device's matrix product: a copy by `onednn.prepack` on a CPU, side by side on a GPU."""
    fp8.forget(*weights)
    kinds, types = {t.device.type for t in (*weights, *biases)}, {t.dtype for t in (*weights, *biases)}
    if kinds == {"cuda"} and len(weights) > 1:
        place_side_by_side(weights)
        place_side_by_side(biases)
    elif onednn.AVAILABLE and kinds == {"cpu"} and len(types) == 1 and types <= {*onednn.TYPES}:
        int8.forget(*weights)
        onednn.prepack(weights, biases)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """GELU(x weight^T + bias): (T, N) -> (T, F). See `reference.linear_gelu`."""
    _forget_trained(weight)
    return choose("linear_gelu", x, x.shape)(x, weight, bias, approximate)


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """GELU(x w1^T + b1) w2^T + b2: (T, N) -> (T, N). See `reference.ffn`."""
    _forget_trained(w1, w2)
    return choose("ffn", x, x.shape)(x, w1, b1, w2, b2, approximate)


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cross entropy of hidden weight^T + bias: (M, N), (V, N), (V,), (M,) -> loss. See `reference.cross_entropy`."""
    _forget_trained(weight)
    return choose("cross_entropy", hidden, hidden.shape)(hidden, weight, bias, labels, ignore_index, reduction)


def dropout_mask(seed: Seed, shape: tuple[int, ...], p: float, device: torch.device | str | None = None) -> Tensor:
    """The bool keep-mask that a seed gives: (T, N) for the joins, (H, T, max_seqlen) for attention.

    It is the mask of the path that runs on that device: a function of seed, row, column and head where kernels run, and what
    torch's own generator gives elsewhere.
    """
    where = torch.device(device or (seed.device if isinstance(seed, Tensor) else "cpu"))
    if runs_kernel("layer_norm", torch.empty(0, device=where)):
        return library().dropout_mask(seed, shape, p, where)
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
    narrow: bool = True,
) -> States:
    """LayerNorm(dropout(x weight^T + bias) + residual): (T, F), (T, N) -> (T, N). `linear`, then `layer_norm`.

    Without `narrow` the states have one type: for callers that do not multiply them.
    """
    early, late = _placed_bias(x, bias)
    return _normalised_states(narrow, linear(x, weight, early), residual, ln_weight, ln_bias, eps, late, dropout_p, seed)


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
    narrow: bool = True,
) -> States:
    """LayerNorm(dropout(GELU(x w1^T + b1) w2^T + b2) + x): (T, N) -> (T, N). `ffn`, then `layer_norm`. See `linear_join`."""
    early, late = _placed_bias(x.operand, b2)
    y = ffn(x.operand, w1, b1, w2, early, approximate)
    return _normalised_states(narrow, y, x.residual, ln_weight, ln_bias, eps, late, dropout_p, seed)


def for_layers(x: Tensor, head_size: int) -> Any:
    """The module that may run the layers of states x (T, N), by kernels or on a CPU, and ask no questions.

    In inference it has the ops, in training under autocast `layer`, and both where layers have copies in fp8. None where
    `fastbert.ops` has to run them: in other training, and where something listens to paths or calls, for example.
    """
    kind, trains = x.device.type, torch.is_grad_enabled() or records()
    if _is_observed(x) or (heard_decisions.get() is not None and not trains):  # a whole layer says which path its ops take
        return None
    if kind == "cpu" and current_backend() == "auto":
        return cpu_inference if not trains and onednn.fits(x, x) else None
    if head_size not in _HEAD_SIZES or width_obstacle(x) or not all(runs_kernel(op, x) for op in _IN_LAYERS):
        return None
    in_autocast = torch.is_autocast_enabled(kind)
    if trains:
        return library().training if in_autocast else None
    is_here = kind != "cuda" or x.device.index == torch.cuda.current_device()  # where launchers start kernels
    if in_autocast or not is_here:
        return None
    return library().fp8 if fp8.any_kept() else library().inference


def with_spare_rows(x: Tensor) -> Tensor:
    """States (T, N) for the layers of `for_layers`, with rows behind them where products want few sizes: `onednn.round_up`.

    Such rows belong to no sequence. There are none beside weights in int8, since products there have one scale for all rows.
    """
    if x.device.type != "cpu" or current_backend() != "auto" or int8.any_kept():
        return x
    return onednn.with_spare_rows(x)


def _is_observed(x: Tensor) -> bool:
    """Whether something traces or observes the ops on x, so that each has to be called as such."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
        return True
    return type(x) is not Tensor or forward_ad._current_level >= 0 or heard_calls.get() is not None


def _normalised_states(narrow: bool, x: Tensor, residual: Tensor, *rest: Any) -> States:
    """`layer_norm`, also in the type of products if the kernel runs under autocast (and calls are not being recorded)."""
    run = choose("layer_norm", x, x.shape, width_obstacle(x))
    if narrow and is_kernel(run) and torch.is_autocast_enabled(x.device.type):
        return States(*library().layer_norm_states(x, residual, *rest))
    y = run(x, residual, *rest)
    return States(y, y)


def _placed_bias(x: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The bias of a product before `layer_norm`, as (added in the product, added in the kernel, where it costs nothing)."""
    return (None, bias) if runs_kernel("layer_norm", x) else (bias, None)


def clamps_ids(table: Tensor) -> bool:
    """Whether `embedding` clamps ids into its tables, so that a bad id may be reported later."""
    return runs_kernel("embedding", table)


def _forget_trained(*parameters: Tensor) -> None:
    """Drops prepacked copies of weights that are being trained: an optimiser may change them unnoticed."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and any(p.requires_grad for p in parameters):
        forget_copies(*parameters)


def _linear_backend(x: Tensor) -> Any:
    """The module that runs matrix products of `x`."""
    path = "cpu" if x.device.type == "cpu" and current_backend() != "reference" else "reference"
    record("linear", x.shape, path, "a plain matrix product belongs to the vendor's library")
    return cpu if path == "cpu" else reference
