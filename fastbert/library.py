"""The ops that kernels run, as PyTorch operators: shapes for tracing, gradients, autocast.

Each function here has the signature of its twin in ops.py. Where nothing needs a gradient and nothing is traced it calls the
launcher at once; otherwise it goes through `torch.ops.fastbert.<op>`, which torch.compile and torch.export see as one node.
Operators return what their backward saves beside the result; `<op>_backward` are operators too. Types: under autocast the
products run in its type and LayerNorm gives float32, as PyTorch's own do; the casts stand here, as an operator's own autocast
registration knows one type only. Sizes as in ops.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.kernels import attention as attention_kernels
from fastbert.kernels import common, tuning
from fastbert.kernels import cross_entropy as cross_entropy_kernels
from fastbert.kernels import embedding as embedding_kernels
from fastbert.kernels import ffn as ffn_kernels
from fastbert.kernels import layer_norm as layer_norm_kernels

Seed = Tensor | int | None


def _direct(*tensors: Tensor | None) -> bool:
    """Whether the launcher may be called at once: no gradient is recorded, and these are tensors with memory of their own."""
    if torch.compiler.is_compiling():
        return False
    recording = torch.is_grad_enabled()
    return all(t is None or (type(t) in (Tensor, torch.nn.Parameter) and not (recording and t.requires_grad)) for t in tensors)


def _autocast(device: torch.device) -> torch.dtype | None:
    """The type of products under autocast, None outside it."""
    if device.type in ("cuda", "cpu") and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def _operands(*tensors: Tensor | None) -> list[Any]:
    dtype = next((_autocast(t.device) for t in tensors if t is not None), None)
    return [t if t is None or dtype is None else t.to(dtype) for t in tensors]


def _seed(seed: Seed, p: float, device: torch.device) -> Tensor | None:
    """One int64 on the device, drawn from torch's generator where there is none; None without dropout."""
    if p == 0:
        return None
    if seed is None:
        return torch.randint(2**62, (1,), device=device)
    return seed if isinstance(seed, Tensor) else torch.tensor([seed], dtype=torch.int64, device=device)


def _absent(like: Tensor) -> Tensor:
    """Stands for an output that is not wanted: operators return tensors only."""
    return like.new_empty(0)


# -- layer_norm --------------------------------------------------------------------------------------------------------------


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
    """See `reference.layer_norm`. x and residual may have different types."""
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    dtype = torch.float32 if _autocast(x.device) else dtype
    seed = _seed(seed, dropout_p, x.device)
    if _direct(x, residual, weight, bias, x_bias):
        return layer_norm_kernels.layer_norm_fwd(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, False)[0]
    return torch.ops.fastbert.layer_norm(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype)[0]


@torch.library.custom_op("fastbert::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = layer_norm_kernels.layer_norm_fwd(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype, True)
    assert mean is not None
    assert rstd is not None
    return y, mean, rstd


@_layer_norm.register_fake
def _(x, residual, weight, bias, eps, x_bias, dropout_p, seed, dtype):
    per_row = x.new_empty(x.shape[0], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=dtype), per_row, torch.empty_like(per_row)


@torch.library.custom_op("fastbert::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    x_bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    separate_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dresidual, sums = layer_norm_kernels.layer_norm_bwd(
        dy, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual
    )
    return dx, _absent(dx) if dresidual is None else dresidual, sums


@_layer_norm_backward.register_fake
def _(dy, x, residual, weight, x_bias, dropout_p, seed, mean, rstd, separate_residual):
    written = separate_residual and residual is not None
    dresidual = residual.new_empty(x.shape) if written else _absent(x)
    return x.new_empty(x.shape), dresidual, x.new_empty((3, x.shape[1]), dtype=torch.float32)


def _layer_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, bias, _, x_bias, ctx.dropout_p, seed, _ = inputs
    ctx.save_for_backward(x, residual, weight, x_bias, seed, *output[1:])
    ctx.bias_dtype = bias.dtype


def _layer_norm_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, residual, weight, x_bias, seed, mean, rstd = ctx.saved_tensors
    separate = residual is not None and (seed is not None or residual.dtype != x.dtype)
    dx, dresidual, sums = torch.ops.fastbert.layer_norm_backward(
        dy, x, residual, weight, x_bias, ctx.dropout_p, seed, mean, rstd, separate
    )
    if residual is None:
        dresidual = None
    elif not separate:
        dresidual = dx  # without dropout both are the gradient of the sum
    dx_bias = None if x_bias is None else sums[2].to(x_bias.dtype)
    return dx, dresidual, sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype), None, dx_bias, None, None, None


_layer_norm.register_autograd(_layer_norm_gradients, setup_context=_layer_norm_setup)


# -- embedding ---------------------------------------------------------------------------------------------------------------


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
    """See `reference.embedding`. Ids outside a table are clamped into it."""
    seed = _seed(seed, dropout_p, word_weight.device)
    ids = (input_ids, token_type_ids, position_ids)
    tables = (word_weight, position_weight, token_type_weight)
    if _direct(*tables, ln_weight, ln_bias, input_ids):
        y = embedding_kernels.embedding_fwd(*ids, *tables, ln_weight, ln_bias, eps, dropout_p, seed, False)[0]
    else:
        y = torch.ops.fastbert.embedding(*ids, *tables, ln_weight, ln_bias, eps, dropout_p, seed, padding_idx)[0]
    return y.float() if _autocast(y.device) else y


@torch.library.custom_op("fastbert::embedding", mutates_args=())
def _embedding(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = embedding_kernels.embedding_fwd(
        input_ids, token_type_ids, position_ids, word_weight, position_weight, token_type_weight, ln_weight, ln_bias, eps,
        dropout_p, seed, True,
    )  # fmt: skip
    assert mean is not None
    assert rstd is not None
    return y, mean, rstd


@_embedding.register_fake
def _(ids, types, positions, word, position, token_type, ln_weight, ln_bias, eps, dropout_p, seed, padding_idx):
    per_row = word.new_empty(ids.shape[0], dtype=torch.float32)
    return word.new_empty(ids.shape[0], word.shape[1]), per_row, torch.empty_like(per_row)


@torch.library.custom_op("fastbert::embedding_backward", mutates_args=())
def _embedding_backward(
    dy: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    word_weight: Tensor,
    position_weight: Tensor,
    token_type_weight: Tensor,
    ln_weight: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    return embedding_kernels.embedding_bwd(
        dy, input_ids, token_type_ids, position_ids, word_weight, position_weight, token_type_weight, ln_weight, dropout_p,
        seed, mean, rstd,
    )  # fmt: skip


@_embedding_backward.register_fake
def _(dy, ids, types, positions, word, position, token_type, ln_weight, dropout_p, seed, mean, rstd):
    return word.new_empty(dy.shape), word.new_empty((2, dy.shape[1]), dtype=torch.float32)


@torch.library.custom_op("fastbert::table_backward", mutates_args=())
def _table_backward(dz: Tensor, index: Tensor, table: Tensor, padding_idx: int | None) -> Tensor:
    return embedding_kernels.table_bwd(dz, index, table.shape[0], table.dtype, padding_idx)


@_table_backward.register_fake
def _(dz, index, table, padding_idx):
    return torch.empty_like(table, memory_format=torch.contiguous_format)


def _embedding_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ids, types, positions, word, position, token_type, ln_weight, ln_bias, _, ctx.dropout_p, seed, ctx.padding_idx = inputs
    ctx.save_for_backward(ids, types, positions, word, position, token_type, ln_weight, seed, *output[1:])
    ctx.bias_dtype = ln_bias.dtype


def _embedding_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    *ids, word, position, token_type, ln_weight, seed, mean, rstd = ctx.saved_tensors
    dz, sums = torch.ops.fastbert.embedding_backward(
        dy, *ids, word, position, token_type, ln_weight, ctx.dropout_p, seed, mean, rstd
    )
    tables = ((3, ids[0], word, ctx.padding_idx), (4, ids[2], position, None), (5, ids[1], token_type, None))
    gradients = [
        torch.ops.fastbert.table_backward(dz, index, table, padding) if ctx.needs_input_grad[place] else None
        for place, index, table, padding in tables
    ]
    return None, None, None, *gradients, sums[0].to(ln_weight.dtype), sums[1].to(ctx.bias_dtype), None, None, None, None


_embedding.register_autograd(_embedding_gradients, setup_context=_embedding_setup)


# -- attention ---------------------------------------------------------------------------------------------------------------


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    seed: Seed = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """See `reference.attention`."""
    (qkv,) = _operands(qkv)
    seed = _seed(seed, dropout_p, qkv.device)
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    if _direct(qkv, cu_seqlens):
        return attention_kernels.attention_fwd(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, False)[0]
    return torch.ops.fastbert.attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale)[0]


@torch.library.custom_op("fastbert::attention", mutates_args=())
def _attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, seed: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = attention_kernels.attention_fwd(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale, True)
    assert lse is not None
    return out, lse


@_attention.register_fake
def _(qkv, cu_seqlens, max_seqlen, dropout_p, seed, causal, scale):
    tokens, _, heads, width = qkv.shape
    return qkv.new_empty(tokens, heads, width), qkv.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op("fastbert::attention_backward", mutates_args=())
def _attention_backward(
    dout: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    out: Tensor,
    lse: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    return attention_kernels.attention_bwd(dout, qkv, cu_seqlens, max_seqlen, out, lse, dropout_p, seed, causal, scale)


@_attention_backward.register_fake
def _(dout, qkv, cu_seqlens, max_seqlen, out, lse, dropout_p, seed, causal, scale):
    return qkv.new_empty(qkv.shape)


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, cu_seqlens, ctx.max_seqlen, ctx.dropout_p, seed, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(qkv, cu_seqlens, seed, *output)


def _attention_gradients(ctx: Any, dout: Tensor, *_: Any) -> tuple[Any, ...]:
    qkv, cu_seqlens, seed, out, lse = ctx.saved_tensors
    dqkv = torch.ops.fastbert.attention_backward(
        dout, qkv, cu_seqlens, ctx.max_seqlen, out, lse, ctx.dropout_p, seed, ctx.causal, ctx.scale
    )
    return dqkv, None, None, None, None, None, None


_attention.register_autograd(_attention_gradients, setup_context=_attention_setup)


# -- linear_gelu and ffn -----------------------------------------------------------------------------------------------------


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """See `reference.linear_gelu`."""
    x, weight, bias = _operands(x, weight, bias)
    tanh = approximate == "tanh"
    if _direct(x, weight, bias):
        return ffn_kernels.linear_gelu_fwd(x, weight, bias, tanh, tuning.ffn_form(x.device, "inference"), False)[0]
    return torch.ops.fastbert.linear_gelu(x, weight, bias, tanh)[0]


def ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, approximate: str = "none") -> Tensor:
    """See `reference.ffn`."""
    x, w1, b1, w2, b2 = _operands(x, w1, b1, w2, b2)
    tanh = approximate == "tanh"
    if _direct(x, w1, b1, w2, b2):
        act, _ = ffn_kernels.linear_gelu_fwd(x, w1, b1, tanh, tuning.ffn_form(x.device, "inference"), False)
        return F.linear(act, w2, b2)
    return torch.ops.fastbert.ffn(x, w1, b1, w2, b2, tanh)[0]


@torch.library.custom_op("fastbert::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    act, h = ffn_kernels.linear_gelu_fwd(x, weight, bias, tanh, tuning.ffn_form(x.device, "training"), True)
    assert h is not None
    return act, h


@_linear_gelu.register_fake
def _(x, weight, bias, tanh):
    act = x.new_empty(x.shape[0], weight.shape[0])
    return act, torch.empty_like(act)


@torch.library.custom_op("fastbert::bias_gelu_backward", mutates_args=())
def _bias_gelu_backward(dact: Tensor, h: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    dh, _, dbias = ffn_kernels.bias_gelu_bwd(dact, h, bias, tanh, want_act=False)
    return dh, dbias


@_bias_gelu_backward.register_fake
def _(dact, h, bias, tanh):
    return torch.empty_like(h), h.new_empty(h.shape[1], dtype=torch.float32)


def _linear_gelu_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, ctx.tanh = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.bias_dtype = bias.dtype


def _linear_gelu_gradients(ctx: Any, dact: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight, h = ctx.saved_tensors
    dh, dbias = torch.ops.fastbert.bias_gelu_backward(dact, h, None, ctx.tanh)
    wanted = ctx.needs_input_grad
    return dh @ weight if wanted[0] else None, dh.T @ x if wanted[1] else None, dbias.to(ctx.bias_dtype), None


_linear_gelu.register_autograd(_linear_gelu_gradients, setup_context=_linear_gelu_setup)


@torch.library.custom_op("fastbert::ffn", mutates_args=())
def _ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    keep = tuning.keeps_preactivation(x.device)
    act, h = ffn_kernels.linear_gelu_fwd(x, w1, b1, tanh, tuning.ffn_form(x.device, "training"), keep)
    return F.linear(act, w2, b2), _absent(x) if h is None else h


@_ffn.register_fake
def _(x, w1, b1, w2, b2, tanh):
    h = x.new_empty(x.shape[0], w1.shape[0]) if tuning.keeps_preactivation(x.device) else _absent(x)
    return x.new_empty(x.shape[0], w2.shape[0]), h


@torch.library.custom_op("fastbert::ffn_backward", mutates_args=())
def _ffn_backward(dy: Tensor, w2: Tensor, h: Tensor, tanh: bool) -> tuple[Tensor, Tensor, Tensor]:
    return ffn_kernels.linear_gelu_bwd(dy, w2, h, tanh, tuning.ffn_form(dy.device, "backward"))


@_ffn_backward.register_fake
def _(dy, w2, h, tanh):
    return torch.empty_like(h), torch.empty_like(h), h.new_empty(h.shape[1], dtype=torch.float32)


def _ffn_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w1, b1, w2, b2, ctx.tanh = inputs
    ctx.save_for_backward(x, w1, b1, w2, output[1])
    ctx.b2_dtype = None if b2 is None else b2.dtype


def _ffn_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, w1, b1, w2, h = ctx.saved_tensors
    if h.dim() == 1:  # not kept: the product is made again
        h = F.linear(x, w1, b1)
    dh, act, db1 = torch.ops.fastbert.ffn_backward(dy, w2, h, ctx.tanh)
    wanted = ctx.needs_input_grad
    dx = dh @ w1 if wanted[0] else None
    dw1 = dh.T @ x if wanted[1] else None
    dw2 = dy.T @ act if wanted[3] else None
    db2 = None if ctx.b2_dtype is None else dy.sum(0, dtype=torch.float32).to(ctx.b2_dtype)
    return dx, dw1, db1.to(b1.dtype), dw2, db2, None


_ffn.register_autograd(_ffn_gradients, setup_context=_ffn_setup)


# -- cross_entropy -----------------------------------------------------------------------------------------------------------


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """See `reference.cross_entropy`. The loss has the type of `hidden`, float32 under autocast."""
    dtype = torch.float32 if _autocast(hidden.device) else hidden.dtype
    hidden, weight, bias = _operands(hidden, weight, bias)
    if _direct(hidden, weight, bias, labels):
        losses = cross_entropy_kernels.cross_entropy_fwd(hidden, weight, bias, labels, ignore_index, False)[0]
    else:
        losses = torch.ops.fastbert.cross_entropy(hidden, weight, bias, labels, ignore_index)[0]
    if reduction == "mean":
        losses = losses.sum() / (labels != ignore_index).sum().clamp(min=1)
    elif reduction == "sum":
        losses = losses.sum()
    return losses.to(dtype)


@torch.library.custom_op("fastbert::cross_entropy", mutates_args=())
def _cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    return cross_entropy_kernels.cross_entropy_fwd(hidden, weight, bias, labels, ignore_index, True)


@_cross_entropy.register_fake
def _(hidden, weight, bias, labels, ignore_index):
    losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    kept, width = cross_entropy_kernels.kept_rows(hidden, weight), cross_entropy_kernels.padded_width(weight.shape[0])
    return losses, torch.empty_like(losses), hidden.new_empty(kept, width)


@torch.library.custom_op("fastbert::cross_entropy_backward", mutates_args=())
def _cross_entropy_backward(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    lse: Tensor,
    kept: Tensor,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return cross_entropy_kernels.cross_entropy_bwd(upstream, hidden, weight, bias, labels, lse, kept, ignore_index)


@_cross_entropy_backward.register_fake
def _(upstream, hidden, weight, bias, labels, lse, kept, ignore_index):
    return (
        hidden.new_empty(hidden.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0], dtype=torch.float32),
    )


def _cross_entropy_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, labels, ctx.ignore_index = inputs
    ctx.save_for_backward(hidden, weight, bias, labels, *output[1:])


def _cross_entropy_gradients(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias, labels, lse, kept = ctx.saved_tensors
    dhidden, dweight, dbias = torch.ops.fastbert.cross_entropy_backward(
        upstream, hidden, weight, bias, labels, lse, kept, ctx.ignore_index
    )
    return dhidden, dweight, None if bias is None else dbias.to(bias.dtype), None, None


_cross_entropy.register_autograd(_cross_entropy_gradients, setup_context=_cross_entropy_setup)


def dropout_mask(seed: Seed, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """The keep-mask that kernels draw from a seed. See `ops.dropout_mask`."""
    drawn = _seed(seed, p, device)
    if drawn is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return common.dropout_mask(drawn.to(device), shape, p)
