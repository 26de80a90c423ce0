"""How alike two vectors are, by sentence-transformers' four measures; larger is more alike in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastbert.errors import InputError

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: normalize(a, dim=-1) @ normalize(b, dim=-1).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1),
}


def similarity(a: Any, b: Any, measure: str = "cosine") -> Tensor:
    """The similarity of every vector of `a` to every vector of `b`: (n, D) and (m, D), or (D,) -> (n, m) float32.

    Raises:
        InputError: vectors of different widths, or an unknown measure.
    """
    if measure not in MEASURES:
        raise InputError(f"measure = {measure!r} is not one of {', '.join(MEASURES)}")
    left, right = (torch.atleast_2d(_tensor(vectors)).float() for vectors in (a, b))
    if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[1]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise InputError(f"vectors of shapes {shapes} cannot be compared: they need (n, D) and (m, D)")
    return MEASURES[measure](left, right.to(left.device))


def _tensor(vectors: Any) -> Tensor:
    several = isinstance(vectors, list | tuple) and len(vectors) > 0 and isinstance(vectors[0], Tensor)
    return torch.stack(list(vectors)) if several else torch.as_tensor(vectors)
