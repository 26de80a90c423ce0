"""Names and files of a checkpoint: reading state dicts, old names to today's, and writing them atomically.

Knows tensors and files, never modules. Reads model.safetensors and pytorch_model.bin, whole or in shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fastbert import files
from fastbert.config import BertConfig
from fastbert.errors import CheckpointError, CheckpointNotFoundError

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PATTERNS = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
]

# Parts of a name that older files spell differently.
_OLD_SPELLINGS = ((".gamma", ".weight"), (".beta", ".bias"))
# Buffers that older files carry and that hold nothing but 0, 1, 2, ...
_OLD_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Second names of a tensor, with the first: heads tie them, and files hold one of the two.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass
class LoadReport:
    """What loading a checkpoint found.

    Attributes:
        missing: parameters that the file lacks and that were newly initialised.
        unexpected: tensors of the file that the model has no place for.
        mismatched: names with the file's shape and the model's.
        renamed: old names that were read, with today's.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


def read_state_dict(folder: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint in `folder`, on the CPU.

    Raises:
        CheckpointNotFoundError: no weights there. CheckpointError: a damaged file.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return _read_file(path)
        shards = files.read_json(path).get("weight_map")
        if not isinstance(shards, dict):
            raise CheckpointError(f"{path} has no weight_map")
        state: dict[str, Tensor] = {}
        for shard in sorted(set(shards.values())):
            state.update(_read_file(folder / shard))
        return state
    raise CheckpointNotFoundError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}")


def match_names(
    state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], ignore_mismatched_sizes: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """A file's tensors under the names of a model.

    Args:
        state: tensors as they stand in the file.
        expected: shape of each parameter of the model.
        ignore_mismatched_sizes: leave out tensors of another shape instead of refusing them.

    Raises:
        CheckpointError: shapes that do not fit, or no tensor in common at all; the message names them.
    """
    report = LoadReport()
    matched: dict[str, Tensor] = {}
    for name, tensor in state.items():
        today = _todays_name(name, expected)
        if today is None:
            if not name.endswith(_OLD_BUFFERS):
                report.unexpected.append(name)
            continue
        if today != name:
            report.renamed[name] = today
        matched[today] = tensor
    if expected and not matched:
        raise CheckpointError(
            f"none of the checkpoint's {len(state)} tensors belongs to this model; it holds {_some(state)}, "
            f"the model {_some(expected)}"
        )
    _fill_tied(matched, expected)
    for name, shape in expected.items():
        if name in matched and matched[name].shape != shape:
            report.mismatched.append((name, tuple(matched.pop(name).shape), tuple(shape)))
        elif name not in matched and TIED.get(name) not in expected:
            report.missing.append(name)
    if report.mismatched and not ignore_mismatched_sizes:
        lines = "; ".join(f"{name}: {a} in the file, {b} in the model" for name, a, b in report.mismatched)
        raise CheckpointError(f"shapes differ (ignore_mismatched_sizes=True would start these anew): {lines}")
    return matched, report


def save(state: Mapping[str, Tensor], config: BertConfig, folder: str | Path) -> None:
    """Writes config.json and model.safetensors, each complete or not at all. Tensors that share memory are written once."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot save to {folder}: it is a file")
    folder.mkdir(parents=True, exist_ok=True)
    unique: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name in sorted(state, key=lambda name: (name in TIED, name)):
        tensor = state[name].detach()
        if tensor.device.type == "meta":
            raise CheckpointError(f"cannot save {name}: it is on the meta device and holds no values")
        key = (tensor.data_ptr(), tensor.shape)
        if name in TIED and tensor.numel() and key in seen:
            continue
        seen.add(key)
        unique[name] = tensor.cpu().contiguous()
    with files.replacing(folder / "model.safetensors") as part:
        try:
            safetensors.torch.save_file(unique, part, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:  # how a full disk arrives
            raise CheckpointError(f"cannot write {folder / 'model.safetensors'}: {error}") from error
    files.write_text(folder / "config.json", config.to_json_string())


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path.parent} has no {path.name}, which its index names")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # safetensors and torch.load report damage by many kinds of exception, from EOFError to UnpicklingError.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors")
    return state


def _todays_name(name: str, expected: Iterable[str]) -> str | None:
    for old, new in _OLD_SPELLINGS:
        if name.endswith(old):
            name = name.removesuffix(old) + new
    for candidate in (name, f"bert.{name}", name.removeprefix("bert.")):
        if candidate in expected:
            return candidate
    return None


def _fill_tied(matched: dict[str, Tensor], expected: Iterable[str]) -> None:
    for second, first in TIED.items():
        for here, there in ((second, first), (first, second)):
            if here in expected and here not in matched and there in matched:
                matched[here] = matched[there]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return json.dumps(listed[:3])[1:-1] + (", ..." if len(listed) > 3 else "")
