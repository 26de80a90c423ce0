"""Keywords that a forward accepts, and clear errors for those it refuses."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, TypeVar

from torch import nn

from fastbert.errors import ArgumentError

# What transformers' BERT takes and an encoder has no use for: fine when None or False, refused by name otherwise.
REFUSED = {
    "encoder_hidden_states": "fastbert is an encoder and has no cross-attention",
    "encoder_attention_mask": "fastbert is an encoder and has no cross-attention",
    "past_key_values": "fastbert keeps no key-value cache",
    "use_cache": "fastbert keeps no key-value cache",
    "cache_position": "fastbert keeps no key-value cache",
    "head_mask": "head masks are not supported; attention can be masked by a 4-D attention_mask",
    "cross_attn_head_mask": "fastbert is an encoder and has no cross-attention",
}
F = TypeVar("F")


def named(forward: F) -> F:
    """Decorator of a forward with `**refused`: whoever reads its signature finds only the keywords that it takes.

    Libraries read `**kwargs` as "takes everything", and pass on what they have.
    """
    signature = inspect.signature(forward)  # type: ignore[arg-type]
    taken = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=taken)  # type: ignore[attr-defined]
    return forward


def refuse(model: nn.Module, keywords: dict[str, Any]) -> None:
    """Raises for an unknown keyword, naming the nearest known one, and for keywords that make no sense for an encoder."""
    for name, value in keywords.items():
        if name not in REFUSED:
            known = list(inspect.signature(model.forward).parameters)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known)}"
            raise ArgumentError(f"{type(model).__name__} got an unknown keyword {name!r}{hint}")
        if value is not None and value is not False:
            raise ArgumentError(f"{name} is not supported: {REFUSED[name]}")
