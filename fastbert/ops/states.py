"""The hidden states that a layer passes on, in the type of residual sums and in that of matrix products."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class States(NamedTuple):
    """Hidden states (T, N) in two types. Outside autocast both fields are the same tensor.

    Under autocast LayerNorm's result is float32 for the residual sum, while the products that follow need 16 bit. The kernel
    writes both at once, and its backward adds both upstream gradients in registers. Otherwise each layer would cast its states
    twice, cast their gradients twice, and add float32 gradients in separate passes over memory.

    Attributes:
        residual: the states that are added to the output of the next block.
        operand: the states that the next block multiplies, rounded from `residual`.
    """

    residual: Tensor
    operand: Tensor
