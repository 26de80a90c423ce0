"""Single ops: fastbert's, the plain PyTorch reference (eager and compiled), and library kernels for the same formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.jobs import Inputs, Job, Work
from benchmarks.speed.op_cases import OP_CASES, TOKENS, upstream_gradient


class Operator(Work):
    """A call with cold caches, including its backward pass if the case has one."""

    cold = True

    def __init__(self, job: Job, function: Callable[..., Tensor] | None = None) -> None:
        self.case, self.device = OP_CASES[job.task], job.device
        self.arguments = self.case.arguments(job.device, getattr(torch, job.dtype))
        self.function = function
        self.leaves = [value for value in self.arguments.values() if torch.is_tensor(value) and value.requires_grad]
        self.upstream: Tensor | None = None

    def cost(self) -> tuple[int, int]:
        """The cost of a call as (FLOPs, bytes)."""
        return self.case.cost(self.arguments, TOKENS[torch.device(self.device).type])

    def call(self) -> Tensor:
        """Calls the op with its arguments."""
        assert self.function is not None
        return self.function(**self.arguments)

    def take(self, inputs: Inputs) -> None:
        """Does nothing: the arguments come from the case."""

    def outputs(self) -> list[Any]:
        """The result and the gradients."""
        with torch.set_grad_enabled(self.case.backward):
            result = self.call()
        gradients = torch.autograd.grad(result, self.leaves, upstream_gradient(result)) if self.case.backward else ()
        return [one.detach().float().flatten().cpu().numpy() for one in (result, *gradients)]

    def run(self, setting: int | None) -> None:
        """See `Work.run`."""
        if not self.case.backward:
            with torch.no_grad():
                self.call()
            return
        result = self.call()
        if self.upstream is None:
            self.upstream = upstream_gradient(result)
        torch.autograd.grad(result, self.leaves, self.upstream)


class Fastbert(Operator):
    """fastbert.ops: kernels on CUDA, cpu.py on a CPU."""

    def __init__(self, job: Job) -> None:
        import fastbert.ops

        super().__init__(job)
        self.function = getattr(fastbert.ops, self.case.op)


class Eager(Operator):
    """fastbert.ops.reference: the formula in plain PyTorch."""

    def __init__(self, job: Job) -> None:
        from fastbert.ops import reference

        super().__init__(job)
        self.function = getattr(reference, self.case.op)


class Compiled(Eager):
    """The plain PyTorch formula, compiled."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        assert self.function is not None
        self.function = torch.compile(self.function)


class Oracle(Eager):
    """The formula in float64, on inputs rounded to the requested type; all candidates are checked against it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        for name, value in self.arguments.items():
            if torch.is_tensor(value) and value.is_floating_point():
                self.arguments[name] = value.detach().double().requires_grad_(self.case.backward)
        self.leaves = [value for value in self.arguments.values() if torch.is_tensor(value) and value.requires_grad]


class Sdpa(Operator):
    """scaled_dot_product_attention on sequences of equal length, with a given kernel or PyTorch's choice."""

    def __init__(self, job: Job, kernel: str | None = None) -> None:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        super().__init__(job)
        backends = [getattr(SDPBackend, kernel)] if kernel else None

        def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
            q, k, v = qkv.view(-1, max_seqlen, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
            if backends is None:
                context = F.scaled_dot_product_attention(q, k, v)
            else:
                with sdpa_kernel(backends):
                    context = F.scaled_dot_product_attention(q, k, v)
            return context.transpose(1, 2).reshape(qkv.shape[0], *qkv.shape[2:])

        self.function = attend


class Varlen(Operator):
    """torch.nn.attention.varlen: FlashAttention on packed sequences, without dropout."""

    def __init__(self, job: Job) -> None:
        from torch.nn.attention.varlen import varlen_attn

        super().__init__(job)

        def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
            q, k, v = qkv.unbind(1)
            return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)

        self.function = attend


class LigerLayerNorm(Operator):
    """Liger's LayerNorm kernel, after the additions in plain PyTorch."""

    def __init__(self, job: Job) -> None:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction

        super().__init__(job)

        def join(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, x_bias: Tensor) -> Tensor:
            return LigerLayerNormFunction.apply(x + x_bias + residual, weight, bias, eps)

        self.function = join
