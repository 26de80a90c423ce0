"""Hidden states as a layer hands them on: for its residual sums, and for its products."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class States(NamedTuple):
    """One tensor (T, N) in two types. Outside autocast both are the same tensor.

    Under autocast LayerNorm gives float32 for the residual sum, while the products that follow take 16 bit: the kernel writes
    both at once, and its backward adds both upstream gradients in registers. In place of that, each layer would cast its states
    twice, its gradients twice, and add float32 gradients in passes of their own.

    Attributes:
        residual: what is added to the next block's result.
        operand: what the next block multiplies, rounded from `residual`.
    """

    residual: Tensor
    operand: Tensor
