"""What follows pooling, as in sentence-transformers: dense layers, fewer dimensions, unit length, fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fastbert import files, schema
from fastbert.choices import PRECISIONS
from fastbert.errors import CheckpointError, InputError

_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU)}
_TEXT = schema.text(null=False)
_DENSE_FIELDS = {
    "in_features": schema.integer(1, null=False),
    "out_features": schema.integer(1, null=False),
    "bias": schema.flag(),
    "activation_function": _TEXT,
    "module_input_name": schema.text(),
    "module_output_name": schema.text(),
    "use_residual": schema.flag(),
}


class Dense(nn.Module):
    """activation(x W + b), and x, or x V, on top where it is residual: a layer behind pooling."""

    def __init__(self, width: int, out: int, bias: bool = True, activation: str = "Tanh", residual: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias)
        self.activation = _ACTIVATIONS[activation]()
        self.is_residual = residual
        if residual and width != out:
            self.residual = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D of the layer)."""
        y: Tensor = self.activation(self.linear(x))
        if not self.is_residual:
            return y
        return y + (self.residual(x) if hasattr(self, "residual") else x)

    @classmethod
    def from_folder(cls, folder: Path) -> Dense:
        """Loads sentence-transformers' Dense.

        Raises:
            CheckpointError: a setting that is not supported, or weights that do not fit.
        """
        path = folder / "config.json"
        config = schema.check(files.read_json(path), _DENSE_FIELDS, path)
        whole = ("sentence_embedding", None)
        if config.get("module_input_name") not in whole or config.get("module_output_name") not in whole:
            raise CheckpointError(f"{path} is not for vectors of texts, but for {config['module_input_name']}: not supported")
        module, _, name = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
        if not module.startswith("torch.nn") or name not in _ACTIVATIONS:
            raise CheckpointError(f"{path}: activation_function is {module}.{name}; fastbert knows {', '.join(_ACTIVATIONS)}")
        layer = cls(
            config["in_features"], config["out_features"], config.get("bias", True), name, bool(config.get("use_residual"))
        )
        try:
            layer.load_state_dict(_weights(folder))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: {' '.join(str(error).split())}") from None
        return layer.eval()


class Normalize(nn.Module):
    """Unit length, where another layer follows."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        return nn.functional.normalize(x, dim=-1)


def _weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return safetensors.torch.load_file(safe)
    if not pickled.is_file():
        raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin")
    found: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each vector scaled to length 1; zeros stay zeros."""
    return nn.functional.normalize(torch.from_numpy(vectors), dim=-1).numpy()


def cut(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first dimensions of each vector; None means all.

    Raises:
        InputError: fewer than one, or more than there are.
    """
    if dimensions is None:
        return vectors
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= vectors.shape[-1]:
        raise InputError(f"truncate_dim = {dimensions!r} must be a whole number from 1 to {vectors.shape[-1]}")
    return vectors[..., :dimensions]


def quantize(vectors: np.ndarray, precision: str, ranges: Any = None) -> np.ndarray:
    """Vectors in fewer bits, as sentence-transformers' `quantize_embeddings` gives them.

    Args:
        vectors: float32 (n, D).
        precision: "float32", "float16"; "int8", "uint8": each dimension in 255 steps of its range; "ubinary", "binary": one bit
            a dimension, whether it is positive, packed in D / 8 bytes, the latter shifted by 128.
        ranges: (2, D), the lowest and highest value of each dimension, for int8 and uint8; None takes those of `vectors`.

    Raises:
        InputError: an unknown precision, or int8 of one vector without ranges.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision.startswith("float"):
        return vectors.astype(precision, copy=False)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        if len(vectors) < 2:
            raise InputError(f"precision = {precision!r} of {len(vectors)} vectors needs ranges: (2, D), lowest and highest")
        ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    bounds = np.asarray(ranges, dtype=np.float32)
    if bounds.shape != (2, vectors.shape[-1]):
        raise InputError(f"ranges has shape {bounds.shape}; expected (2, {vectors.shape[-1]}): lowest and highest")
    low, high = bounds
    steps = (high - low) / 255
    levels = np.clip(np.floor((vectors - low) / np.where(steps == 0, 1, steps)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
