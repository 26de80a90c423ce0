"""The products of a model: query, key and value of one input are one product, every other linear is one of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from fastbert import ops

# Linears of one input: in BERT, RoBERTa and ELECTRA, and in DistilBERT.
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))


def product_groups(model: nn.Module) -> Iterator[tuple[str, list[nn.Linear]]]:
    """The linears of each product, with the name of the module that holds them, or of the linear; none below an adapter."""
    joined: set[nn.Module] = set()
    for name, module in model.named_modules():
        for names in _PROJECTIONS:
            linears: list[Any] = [module._modules.get(part) for part in names]
            if all(type(linear) is nn.Linear and linear.bias is not None for linear in linears):
                joined.update(linears)
                yield name, linears
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module not in joined and not name.endswith("base_layer"):
            yield name, [module]


def prepack_group(linears: Sequence[nn.Linear]) -> None:
    """Lays the weights of a product out for the device, in their own type."""
    ops.prepack([linear.weight for linear in linears], [linear.bias for linear in linears] if len(linears) > 1 else [])


def quantize_group(linears: Sequence[nn.Linear]) -> None:
    """Keeps int8 copies of the weights of a product, in the place of those in their own type."""
    ops.quantize([linear.weight for linear in linears], [linear.bias for linear in linears])
