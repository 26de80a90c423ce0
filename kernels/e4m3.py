"""Conversion to e4m3, the 8-bit float of Ada, Hopper and newer GPUs: y = x * scale, rounded to nearest.

    x any shape, 16 bit or float32; y the same shape; values beyond +-448 become +-448

One program converts a block of elements. Where another kernel writes a tensor, it writes e4m3 itself (layer_norm.py,
attention.py, ffn.py).
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.common import in_type
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv


@direct
@triton.jit
def _to_e4m3_kernel(x_ptr, y_ptr, n, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, in_type(x * scale, y_ptr.dtype.element_ty), mask=at < n)


def to_e4m3(x: torch.Tensor, scale: float) -> torch.Tensor:
    """x of any shape -> x * scale in e4m3."""
    x = x.contiguous()
    y = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    if x.numel():
        row = tuning.row("to_e4m3", x.device)
        _to_e4m3_kernel[(cdiv(x.numel(), row["BLOCK"]),)](x, y, x.numel(), scale, **row)
    return y
