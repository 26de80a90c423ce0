"""oneDNN's matrix product on a CPU: forward, backward, and with weights kept in its own layout.

PyTorch's own linear calls MKL in float32, which runs at half of that speed on many machines. In bfloat16 the product runs where
the processor multiplies that type (AMX, AVX-512 BF16), several times as fast as in float32. Sizes: T rows, N and F columns.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastbert.ops import int8
from fastbert.ops.kept import Kept
from fastbert.ops.recorded import records

_PRODUCT = torch.ops.mkldnn._linear_pointwise if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None
AVAILABLE = torch.backends.mkldnn.is_available() and _PRODUCT is not None


def _multiplies_bfloat16() -> bool:
    """Whether the processor has products in bfloat16; on others oneDNN emulates them, or refuses."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # every processor with AMX has AVX-512 BF16 as well
    return supported is not None and bool(supported())


TYPES = (torch.float32, torch.bfloat16) if _multiplies_bfloat16() else (torch.float32,)

# oneDNN keeps what it compiled for a shape, 1,024 times over, and large batches of real lengths rarely have the same shape
# twice: a service would grow by some hundred MB. Of the other products `round_up` makes few shapes. One takes 0.6 MB,
# or up to 3 in bfloat16. oneDNN and PyTorch read these when they first compute; values that are set already are kept.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "128")


def _is_intel() -> bool:
    """Whether the processor is Intel's."""
    info = Path("/proc/cpuinfo")
    name = info.read_text(errors="replace")[:1000] if info.is_file() else platform.processor()
    return "GenuineIntel" in name


# Where gradients are recorded: on Intel's processors PyTorch's own linear, by MKL, is as fast forward and faster backward:
# it transposes nothing there. On others MKL runs at half of oneDNN's speed.
MKL_TRAINS_FASTER = torch.backends.mkl.is_available() and _is_intel()


# On AVX2 oneDNN's GELU in the epilogue takes longer than PyTorch's own in another pass, but for a few rows.
GELU_IN_PRODUCT = torch.backends.cpu.get_cpu_capability() != "AVX2"
_ROWS_FOR_GELU = 64
_FEW_ROWS = 512  # up to which float32 has few sizes too


class _Prepacked(NamedTuple):
    """Weights in oneDNN's layout."""

    weight: Tensor
    bias: Tensor | None


_prepacked: Kept[_Prepacked] = Kept()


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the product runs here."""
    return (
        AVAILABLE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in TYPES
        and x.dim() == 2
        and x.shape[0] > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def round_up(rows: int, dtype: torch.dtype) -> int:
    """The rows that a product computes for `rows` of them, so that texts of many lengths make few sizes.

    oneDNN compiles a product for its number of rows. In float32 that takes half a millisecond or more, longer than the product
    of a short text: up to 512 rows, sizes are multiples of 8. In bfloat16 with AMX it takes ten times as long as the product,
    40 ms for 2,048 rows, 1,536 columns and GELU: up to 2,048 rows there are 64 sizes, and a size is at most 15 rows or a
    sixteenth above `rows`.
    """
    if dtype == torch.float32:
        return -(-rows // 8) * 8 if rows <= _FEW_ROWS else rows
    step = max(16, 1 << (rows - 1).bit_length() >> 5)
    return -(-rows // step) * step


def with_spare_rows(x: Tensor) -> Tensor:
    """x (T, N) with rows of zeros behind it, up to `round_up`."""
    spare = round_up(x.shape[0], x.dtype) - x.shape[0]
    return F.pad(x, (0, 0, 0, spare)) if spare else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: (T, N) -> (T, F)."""
    if records(x, weight, bias):
        by_pytorch = MKL_TRAINS_FASTER or x.dtype != torch.float32  # whose linear is oneDNN's in other types
        return F.linear(x, weight, bias) if by_pytorch else _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str = "none", algorithm: str = "") -> Tensor:
    """`linear` where no gradient is recorded, by the copy of the weight where there is one; "gelu" for GELU of it."""
    quantized = int8.product(x, (weight,), (bias,))
    if quantized is not None:
        return torch.ops.aten.gelu_(quantized, approximate=algorithm) if epilogue == "gelu" else quantized
    kept = _prepacked.find((weight,))
    packed = weight if kept is None else kept.weight
    if epilogue == "gelu" and not GELU_IN_PRODUCT and x.shape[0] >= _ROWS_FOR_GELU:
        return torch.ops.aten.gelu_(_round_product(x, packed, bias), approximate=algorithm)
    return _round_product(x, packed, bias, epilogue, algorithm)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU(x weight^T + bias): (T, N) -> (T, F). In the product's epilogue where no gradient is recorded."""
    if records(x, weight, bias):
        return F.gelu(linear(x, weight, bias), approximate=approximate)
    return product(x, weight, bias, "gelu", approximate)


def joined_linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor | None:
    """x [w1; w2; ...]^T + [b1; b2; ...] by joined weights that were prepacked; None where there are none."""
    return None if records(x, *weights, *biases) else joined_product(x, weights, biases)


def joined_product(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor | None:
    """`joined_linear` where no gradient is recorded."""
    quantized = int8.product(x, weights, biases)
    if quantized is not None:
        return quantized
    kept = _prepacked.find((*weights, *biases))
    return None if kept is None else _round_product(x, kept.weight, kept.bias)


def prepack(weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> None:
    """Keeps a copy of the weights, joined along F, in oneDNN's own layout, for products that record no gradient.

    All are of one of `TYPES`.

    With biases it serves `joined_linear`, else `linear` and `linear_gelu`. The copy is dropped when a weight gets another
    storage or another version, which in-place operations raise, and by `forget`.
    """
    with torch.no_grad():
        joined = torch.cat([w.detach() for w in weights]) if len(weights) > 1 else weights[0].detach()
        packed = torch.ops.mkldnn._reorder_linear_weight(joined.contiguous(), None)
        bias = torch.cat([b.detach() for b in biases]) if biases else None
    _prepacked.put((*weights, *biases), _Prepacked(packed, bias))


def forget(*weights: Tensor) -> None:
    """Drops the copies of weights, in int8 as well, where there are any."""
    _prepacked.forget(*weights)
    int8.forget(*weights)


def _round_product(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str = "none", algorithm: str = "") -> Tensor:
    """`_product` with the rows of `round_up`."""
    y = _product(with_spare_rows(x), weight, bias, epilogue, algorithm)
    return y if y.shape[0] == x.shape[0] else y[: x.shape[0]]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str = "none", algorithm: str = "") -> Tensor:
    assert _PRODUCT is not None
    return _PRODUCT(x, weight, bias, epilogue, [], algorithm)


class _Linear(torch.autograd.Function):
    """The product with its gradients, dx = dy W and dW = dy^T x, by the same product."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradient of the gradient is wanted: operations that have one
            dx, dweight = dy @ weight if wants_x else None, dy.t() @ x if wants_weight else None
        else:
            dy = dy.contiguous()
            dx = _product(dy, weight.t(), None) if wants_x else None
            dweight = _product(dy.t(), x.t(), None) if wants_weight else None
        return dx, dweight, dy.sum(0) if wants_bias else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return torch.vmap(F.linear, in_dims=in_dims)(*inputs), 0


if AVAILABLE:

    @register_flop_formula(_PRODUCT)
    def _onednn_flops(x_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
        """For torch.utils.flop_counter, which does not know this product."""
        return 2 * math.prod(x_shape) * weight_shape[0]
