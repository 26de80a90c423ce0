"""Weights that are contiguous in memory, so that several linears of one input are one product without a copy.

Parameters keep their identity: state dicts, optimisers and adapters see no change. Those that are moved, replaced or copied are
separate again, and the linears run as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from fastbert.ops.recorded import records


def place_side_by_side(parameters: Sequence[Tensor]) -> None:
    """Moves parameters of one type and device into one storage, in their order. Parts of a larger storage stay where they are.

    Other tensors with the old memory, such as those of a state dict or of another model, do not follow.
    """
    values = [parameter.data for parameter in parameters]
    first = values[0]
    kinds = {(type(v), v.dtype, v.device, v.shape[1:]) for v in values}
    if len(kinds) > 1 or type(first) is not Tensor:
        return
    if not all(v.is_contiguous() and v.untyped_storage().nbytes() == v.nbytes for v in values):
        return
    with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be trained
        places = torch.cat(values).split([len(v) for v in values])
        for parameter, place in zip(parameters, places, strict=True):
            parameter.data = place


def as_one(tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensors, joined along the first axis, as a view of their memory; None where they do not stand side by side.

    None as well where a gradient is recorded, backward or forward, which must reach each of them, and while PyTorch traces.
    """
    if torch.compiler.is_compiling() or records(*tensors) or any(unpack_dual(t).tangent is not None for t in tensors):
        return None
    return joined_view(tensors)


def joined_view(tensors: Sequence[Tensor]) -> Tensor | None:
    """`as_one` where it is known that nothing is recorded or traced."""
    first = tensors[0]
    end = first.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != end or tensor.dtype != first.dtype or not tensor.is_contiguous():
            return None
        end += tensor.nbytes
    if tensors[-1].untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
        return None
    return first.as_strided((sum(len(t) for t in tensors), *first.shape[1:]), first.stride())
