"""A layer of BERT in training under autocast, as one autograd function.

    context = attention(x W_qkv + b_qkv)
    z = LayerNorm(dropout(context W_o + b_o) + x)
    y = LayerNorm(dropout(GELU(z W_1 + b_1) W_2 + b_2) + z)

Op by op a layer is some twenty-five nodes of autograd, and half of its launches are casts: of weights in the forward, of their
gradients in the backward. Here one launch casts all weights, and joins those of query, key and value; products write weight
gradients in the weights' own type. What is kept for the backward is what the single ops keep. `dispatch.for_layers` says when
layers may run so. Sizes: T tokens, H heads, D head size, N hidden, F intermediate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastbert.kernels import attention as attention_kernels
from fastbert.kernels import ffn as ffn_kernels
from fastbert.kernels import layer_norm as layer_norm_kernels
from fastbert.kernels import tuning
from fastbert.ops import fp8, reference
from fastbert.ops.backends import Decision, heard_decisions
from fastbert.ops.custom_ops.attention import attention
from fastbert.ops.custom_ops.ffn import ffn
from fastbert.ops.custom_ops.layer_norm import layer_norm_states
from fastbert.ops.custom_ops.shared import drawn_seed, is_batched, weight_gradient
from fastbert.ops.states import States


class _Settings(NamedTuple):
    """What a layer needs beside its tensors; `dtype` is the type of products."""

    heads: int
    head_size: int
    max_seqlen: int
    causal: bool
    gelu: str
    dropout_p: tuple[float, float, float]  # of attention, and of both joins
    eps: tuple[float, float]
    dtype: torch.dtype
    is_last: bool


class _Parameters(NamedTuple):
    """The parameters of a layer, or their gradients."""

    wq: Any
    wk: Any
    wv: Any
    bq: Any
    bk: Any
    bv: Any
    wo: Any
    bo: Any
    inner_ln_weight: Any
    inner_ln_bias: Any
    w1: Any
    b1: Any
    w2: Any
    b2: Any
    outer_ln_weight: Any
    outer_ln_bias: Any


class _Inputs(NamedTuple):
    """States, the batch's sequences, and the seeds of attention and both joins."""

    residual: Any
    operand: Any
    cu_seqlens: Any
    schedule: Any
    attention_seed: Any
    inner_seed: Any
    outer_seed: Any


_GIVEN = len(_Inputs._fields)


class _Kept(NamedTuple):
    """What the forward keeps: parameters of the joins, weights in the type of products, and what its ops gave."""

    bo: Tensor
    inner_ln_weight: Tensor
    inner_ln_bias: Tensor
    b2: Tensor
    outer_ln_weight: Tensor
    outer_ln_bias: Tensor
    w_qkv: Tensor
    b_qkv: Tensor
    wo: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    x: Tensor
    qkv: Tensor
    context: Tensor
    lse: Tensor
    projected: Tensor
    z: Tensor
    z16: Tensor
    inner_mean: Tensor
    inner_rstd: Tensor
    h: Tensor
    down: Tensor
    outer_mean: Tensor
    outer_rstd: Tensor


def layer(
    x: States, known: Any, cu_seqlens: Tensor, max_seqlen: int, schedule: Tensor | None, seeds: Tensor | None, is_last: bool
) -> States:
    """States (T, N) -> states (T, N). `known` is a `model.plain_layer.PlainLayer`; the rest is as in `plain_layer.run`."""
    inner, outer = known.attention_join, known.output_join
    dropout_p = known.dropout_p, inner.dropout_p, outer.dropout_p
    device = x.residual.device
    given = (None, None, None) if seeds is None else seeds.unbind()
    drawn = [drawn_seed(seed, p, device) for seed, p in zip(given, dropout_p, strict=True)]
    parameters = (*known.qkv_weights, *known.qkv_biases, *inner[:4], known.up_weight, known.up_bias, *outer[:4])
    if fp8.any_kept() and any(parameter.requires_grad for parameter in parameters):
        fp8.forget(*parameters)  # an optimiser may change them unnoticed
    settings = _Settings(
        known.heads,
        known.head_size,
        max_seqlen,
        known.causal,
        known.gelu,
        dropout_p,
        (inner.eps, outer.eps),
        torch.get_autocast_dtype(device.type),
        is_last,
    )
    decisions = heard_decisions.get()
    if decisions is not None:
        shape = tuple(x.residual.shape)
        decisions += [Decision(op, shape, "triton", "") for op in ("attention", "layer_norm", "ffn", "layer_norm")]
    y, y16 = _Layer.apply(settings, *x, cu_seqlens, schedule, *drawn, *parameters)
    return States(y, y if is_last else y16)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: _Settings, *tensors: Any) -> tuple[Tensor, Tensor | None]:
        inputs, parameters = _Inputs._make(tensors[:_GIVEN]), _Parameters._make(tensors[_GIVEN:])
        with torch.cuda.device_of(inputs.residual):
            y, y16, kept = _forward(settings, inputs, parameters)
        ctx.set_materialize_grads(False)
        ctx.settings, ctx.dtypes = settings, _Parameters._make(parameter.dtype for parameter in parameters)
        ctx.save_for_backward(*inputs, *kept)
        return y, y16

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Any, ...]:
        if all(gradient is None for gradient in upstream):
            return (None,) * len(ctx.needs_input_grad)
        saved = ctx.saved_tensors
        inputs, kept = _Inputs._make(saved[:_GIVEN]), _Kept._make(saved[_GIVEN:])
        gradients = _gradients_by_operators if is_batched(*upstream) else _gradients
        wanted = ctx.needs_input_grad[1:]
        with torch.cuda.device_of(inputs.residual):
            return None, *gradients(ctx.settings, inputs, ctx.dtypes, kept, wanted, *upstream)


def _forward(s: _Settings, inputs: _Inputs, p: _Parameters) -> tuple[Tensor, Tensor | None, _Kept]:
    """y (T, N) float32, y rounded to the type of products unless the layer is the last, and what a backward needs."""
    x = inputs.operand.to(s.dtype)
    w_qkv, b_qkv, wo, w1, b1, w2 = weights = _cast(p, s.dtype)
    qkv = F.linear(x, w_qkv, b_qkv).view(-1, 3, s.heads, s.head_size)
    rest = s.max_seqlen, s.dropout_p[0], inputs.attention_seed, s.causal, s.head_size**-0.5, True, inputs.schedule
    context, lse = attention_kernels.attention_fwd(qkv, inputs.cu_seqlens, *rest)
    projected = F.linear(context.flatten(1), wo)
    z, z16, *inner = layer_norm_kernels.layer_norm_fwd(
        projected, inputs.residual, p.inner_ln_weight, p.inner_ln_bias, s.eps[0], p.bo, s.dropout_p[1], inputs.inner_seed,
        torch.float32, True, s.dtype,
    )  # fmt: skip
    assert z16 is not None
    act, h = ffn_kernels.linear_gelu_fwd(z16, w1, b1, s.gelu == "tanh", tuning.ffn_form(x.device, "training"), True)
    down = F.linear(act, w2)
    y, y16, *outer = layer_norm_kernels.layer_norm_fwd(
        down, z, p.outer_ln_weight, p.outer_ln_bias, s.eps[1], p.b2, s.dropout_p[2], inputs.outer_seed,
        torch.float32, True, None if s.is_last else s.dtype,
    )  # fmt: skip
    joins = p.bo, p.inner_ln_weight, p.inner_ln_bias, p.b2, p.outer_ln_weight, p.outer_ln_bias
    return y, y16, _Kept._make([*joins, *weights, x, qkv, context, lse, projected, z, z16, *inner, h, down, *outer])


def _cast(p: _Parameters, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """W_qkv (3N, N), b_qkv (3N,), W_o (N, N), W_1 (F, N), b_1 (F,), W_2 (N, F) in the type of products, by one launch."""
    joined = (3 * len(p.wq), p.wq.shape[1]), (3 * len(p.wq),)
    shapes = (*joined, p.wo.shape, p.w1.shape, p.b1.shape, p.w2.shape)
    w_qkv, b_qkv, *others = made = tuple(torch.empty(shape, dtype=dtype, device=p.wq.device) for shape in shapes)
    places = [*w_qkv.split(len(p.wq)), *b_qkv.split(len(p.wq)), *others]
    torch._foreach_copy_(places, [p.wq, p.wk, p.wv, p.bq, p.bk, p.bv, p.wo, p.w1, p.b1, p.w2])
    return made


def _gradients(
    s: _Settings,
    inputs: _Inputs,
    dtypes: _Parameters,
    k: _Kept,
    wanted: tuple[bool, ...],
    dy: Tensor | None,
    dy16: Tensor | None,
) -> tuple[Any, ...]:
    """Gradients of the inputs and of the parameters; from y's and the rounded y's, of which one may be missing.

    Each weight's gradient is computed as soon as it can be, so that what it needs is freed.
    """
    want, want_parameter = _Inputs._make(wanted[:_GIVEN]), _Parameters._make(wanted[_GIVEN:])
    first, second = (dy16, None) if dy is None else (dy, dy16)
    assert first is not None
    ddown, dz, (douter_weight, douter_bias, db2) = layer_norm_kernels.layer_norm_bwd(
        first, k.down, k.z, k.outer_ln_weight, k.b2, s.dropout_p[2], inputs.outer_seed, k.outer_mean, k.outer_rstd, True, second
    )
    assert dz is not None
    form = tuning.ffn_form(k.h.device, "backward")
    dh, act, db1 = ffn_kernels.linear_gelu_bwd(ddown, k.w2, k.h, s.gelu == "tanh", form)
    dw2 = weight_gradient(ddown, act, dtypes.w2) if want_parameter.w2 else None
    del act, ddown
    dw1 = weight_gradient(dh, k.z16, dtypes.w1) if want_parameter.w1 else None
    dz16 = dh @ k.w1
    del dh
    dprojected, dresidual, (dinner_weight, dinner_bias, dbo) = layer_norm_kernels.layer_norm_bwd(
        dz, k.projected, inputs.residual, k.inner_ln_weight, k.bo, s.dropout_p[1], inputs.inner_seed,
        k.inner_mean, k.inner_rstd, True, dz16,
    )  # fmt: skip
    del dz, dz16
    dwo = weight_gradient(dprojected, k.context.flatten(1), dtypes.wo) if want_parameter.wo else None
    dcontext = (dprojected @ k.wo).view_as(k.context)
    del dprojected
    rest = s.dropout_p[0], inputs.attention_seed, s.causal, s.head_size**-0.5, inputs.schedule
    dqkv = attention_kernels.attention_bwd(dcontext, k.qkv, inputs.cu_seqlens, s.max_seqlen, k.context, k.lse, *rest).flatten(1)
    dw_qkv: tuple[Tensor | None, ...]
    if all(want_parameter[:3]):
        dw_qkv = weight_gradient(dqkv, k.x, dtypes.wq).chunk(3)
    else:
        parts = zip(dqkv.chunk(3, dim=1), want_parameter[:3], strict=True)
        dw_qkv = tuple(weight_gradient(part, k.x, dtypes.wq) if one else None for part, one in parts)
    small = (dbo, dinner_weight, dinner_bias, db1, db2, douter_weight, douter_bias)
    names = ("bo", "inner_ln_weight", "inner_ln_bias", "b1", "b2", "outer_ln_weight", "outer_ln_bias")
    found = {name: gradient.to(getattr(dtypes, name)) for name, gradient in zip(names, small, strict=True)}
    found |= zip(("bq", "bk", "bv"), dqkv.sum(0, dtype=torch.float32).to(dtypes.bq).chunk(3), strict=True)
    found |= zip(("wq", "wk", "wv", "wo", "w1", "w2"), (*dw_qkv, dwo, dw1, dw2), strict=True)
    doperand = (dqkv @ k.w_qkv).to(inputs.operand.dtype) if want.operand else None
    return dresidual, doperand, None, None, None, None, None, *_Parameters(**found)


def _gradients_by_operators(
    s: _Settings, inputs: _Inputs, dtypes: _Parameters, k: _Kept, wanted: tuple[bool, ...], *upstream: Tensor | None
) -> tuple[Any, ...]:
    """As `_gradients`, for batched gradients, which operators alone take: the layer once more, by them."""
    inner, outer = (k.bo, k.inner_ln_weight, k.inner_ln_bias), (k.b2, k.outer_ln_weight, k.outer_ln_bias)
    parameters = (*k.w_qkv.chunk(3), *k.b_qkv.chunk(3), k.wo, *inner, k.w1, k.b1, k.w2, *outer)
    with torch.enable_grad(), torch.autocast(inputs.residual.device.type, s.dtype):
        given = [t.detach().requires_grad_() if want else t for t, want in zip((*inputs, *parameters), wanted, strict=True)]
        states = _by_operators(s, _Inputs._make(given[:_GIVEN]), _Parameters._make(given[_GIVEN:]))
    outputs, gradients = zip(*(pair for pair in zip(states, upstream, strict=True) if pair[1] is not None), strict=True)
    found = iter(torch.autograd.grad(outputs, [t for t, want in zip(given, wanted, strict=True) if want], gradients))
    types = (*(None if t is None else t.dtype for t in inputs), *dtypes)
    return tuple(next(found).to(dtype) if want else None for want, dtype in zip(wanted, types, strict=True))


def _by_operators(s: _Settings, inputs: _Inputs, p: _Parameters) -> tuple[Tensor, Tensor]:
    qkv = reference.joined_linear(inputs.operand, (p.wq, p.wk, p.wv), (p.bq, p.bk, p.bv)).view(-1, 3, s.heads, s.head_size)
    rest = s.max_seqlen, s.dropout_p[0], inputs.attention_seed, s.causal, None, inputs.schedule
    projected = F.linear(attention(qkv, inputs.cu_seqlens, *rest).flatten(1), p.wo)
    inner = p.inner_ln_weight, p.inner_ln_bias, s.eps[0], p.bo, s.dropout_p[1], inputs.inner_seed
    z, z16 = layer_norm_states(projected, inputs.residual, *inner)
    outer = p.outer_ln_weight, p.outer_ln_bias, s.eps[1], p.b2, s.dropout_p[2], inputs.outer_seed
    return layer_norm_states(ffn(z16, p.w1, p.b1, p.w2, None, s.gelu), z, *outer)
