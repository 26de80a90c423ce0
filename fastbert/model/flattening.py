"""Forwards that take batches which other libraries flattened: see `fastbert.packing.flattened`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from fastbert.packing.flattened import BOUNDS, is_flattened, read_flattened

_BY_TOKEN = ("last_hidden_state", "prediction_logits", "start_logits", "end_logits")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
P = ParamSpec("P")
R = TypeVar("R")


def takes_flattened(forward: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a model's forward: a flattened batch (1, T) runs as a packed one.

    What is given and returned for each token has the form (1, T, ...); for each sequence, (B, ...): a head of sequences takes
    and gives one row for each of them, where transformers would see one.
    """
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs.get("position_ids") is None and not any(name in kwargs for name in BOUNDS):
            return forward(*args, **kwargs)
        bound = signature.bind_partial(*args, **{name: value for name, value in kwargs.items() if name in signature.parameters})
        given = {**bound.arguments, **kwargs}
        beside = {name: value for name, value in kwargs.items() if name not in BOUNDS}
        if not is_flattened(given):
            return forward(*args, **beside)  # type: ignore[arg-type]
        model: Any = args[0]
        options = {name: value for name, value in given.items() if name not in (*_INPUTS, *BOUNDS, "self")}
        labels = options.get("labels")
        if model.scores_tokens and isinstance(labels, Tensor) and labels.dim() == 2 and labels.shape[0] == 1:
            options["labels"] = labels[0]
        return_dict = options.pop("return_dict", None)
        output: Any = forward(model, read_flattened(given), return_dict=True, **options)  # type: ignore[arg-type]
        for name in (*_BY_TOKEN, *(("logits",) if model.scores_tokens else ())):
            if isinstance(getattr(output, name, None), Tensor):
                output[name] = output[name][None]
        if getattr(output, "hidden_states", None) is not None:
            output["hidden_states"] = tuple(states[None] for states in output.hidden_states)
        as_dict = model.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    return run
