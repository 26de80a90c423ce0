"""Faster inference: weights kept as the device's matrix product wants them."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from fastbert import ops

Model = TypeVar("Model", bound=nn.Module)

# Linears of one input, which are one product: in BERT, RoBERTa and ELECTRA, and in DistilBERT.
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))


def prepack(model: Model) -> Model:
    """Keeps weights as the device's matrix product wants them.

    On a CPU in float32 a copy of every linear's weights, query, key and value joined, in oneDNN's layout: batches of some 2,000
    tokens run a few per cent faster, single short texts up to half as fast again, for the memory of the linears once more.
    On a GPU the weights of query, key and value are moved side by side, so that their product needs no copy: no memory, and the
    parameters stay the objects they are. What else looks at their memory does not follow: prepack before a CUDA graph of a
    training step is captured, and before weights are shared with other processes; safetensors' `save_model` refuses such
    weights, `save_pretrained` and `save_file` take them. Elsewhere it does nothing. Nothing in this package calls it unasked,
    except the commands, in whose process nobody edits a model.

    On a CPU `train()`, a forward that records gradients, in-place edits, `load_state_dict` and `.to` drop the copies they
    touch, so training goes on as ever; call `prepack` again afterwards. Edits through `weight.data`, as merged adapters make
    them, cannot be seen: prepack after them, not before.

    Args:
        model: any model of this package, or one that `fastbert.patch` was given; it is returned.
    """
    joined: set[nn.Module] = set()
    for module in model.modules():
        parts = module._modules
        found = [names for names in _PROJECTIONS if all(type(parts.get(name)) is nn.Linear for name in names)]
        linears: list[Any] = [parts[name] for names in found for name in names]
        if linears and all(linear.bias is not None for linear in linears):
            joined.update(linears)
            ops.prepack([linear.weight for linear in linears], [linear.bias for linear in linears])
    for module in model.modules():
        if type(module) is nn.Linear and module not in joined:
            ops.prepack([module.weight])
    return model
