"""Faster inference: weights kept as the device's matrix product wants them."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from fastbert.errors import InputError
from fastbert.model.products import prepack_group, product_groups
from fastbert.model.quantizing import quantize
from fastbert.terminal import show_status

Model = TypeVar("Model", bound=nn.Module)


def prepack(model: Model, dtype: str | None = None, sample: Any = None) -> Model:
    """Keeps weights as the device's matrix product wants them.

    On a CPU in float32, and in bfloat16 where the processor multiplies it, a copy of every linear's weights, query, key and
    value joined, in oneDNN's layout. In float32 batches of some 2,000 tokens run a few per cent faster, single short texts up
    to half as fast again. The copies take the memory of the linears once more.
    On a GPU the weights of query, key and value are moved side by side, so that their product needs no copy: no memory, and the
    parameters stay the objects they are. What else looks at their memory does not follow: prepack before a CUDA graph of a
    training step is captured, and before weights are shared with other processes; safetensors' `save_model` refuses such
    weights, `save_pretrained` and `save_file` take them. Elsewhere it does nothing. Nothing in this package calls it unasked,
    except the commands, in whose process nobody edits a model.

    On a CPU `train()`, a forward that records gradients, in-place edits, `load_state_dict` and `.to` drop the copies they
    touch, so training goes on as ever; call `prepack` again afterwards. Linears under an adapter are left alone, and a forward
    through one drops their copies, as merging edits them through `weight.data`, which cannot be seen: prepack after merging an
    adapter that was put on a prepacked model and never ran.

    Args:
        model: any model of this package, or one that `fastbert.patch` was given; it is returned.
        dtype: "int8" also runs products of the layers in int8 on a CPU, "fp8" those of a model in 16 bit in fp8 (e4m3) on a GPU
            of compute capability 8.9 or newer; each where it is faster and as good on `sample`: what was measured is printed on
            stderr, see `model.quantizing`. Weights and training stay in their own type; whatever drops the copies drops these
            too. fp8 takes the memory of half of the layers' weights once more. None: the model's own type.
        sample: for int8 and fp8, what a tokenizer's call returns for some of your texts, or its input_ids; padding is left out,
            and what is longer than the model's positions is cut.

    Raises:
        BackendError: int8 or fp8 is slower or less accurate, and refused, or cannot run here; the model stays prepacked in its
            own type.
        InputError: another dtype, or int8 or fp8 without a sample or for a model that it is not for.
    """
    if dtype not in (None, "int8", "fp8"):
        raise InputError(f"dtype = {dtype!r} is not 'int8', 'fp8' or None")
    for _, linears in product_groups(model):
        prepack_group(linears)
    if dtype is not None:
        quantize(model, dtype, [] if sample is None else sample, show_status)  # type: ignore[arg-type]
    return model
