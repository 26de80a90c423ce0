"""Names and files of a checkpoint: reading state dicts, old names to today's, and writing them atomically.

Knows tensors and files, never modules. Reads model.safetensors and pytorch_model.bin, whole or in shards.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fastbert import files, schema
from fastbert.errors import CheckpointError, CheckpointNotFoundError, InputError, SizeMismatchError
from fastbert.model.config import BertConfig

INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PATTERNS = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
]

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of parameters
_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d{1,6})\.")
_LAYERS = 1000  # that are built before it is known that the file is of another model
_NEW_VALUES = 1 << 26  # that a checkpoint may lack, whatever it has
# Parts of a name that older files spell differently.
_OLD_SPELLINGS = ((".gamma", ".weight"), (".beta", ".bias"))
# Buffers that older files carry and that hold nothing but 0, 1, 2, ...
_OLD_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Second names of a tensor, with the first: heads tie them, and files hold one of the two.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}


@dataclass
class LoadReport:
    """What loading a checkpoint found.

    Attributes:
        missing: parameters that the file lacks and that were newly initialised.
        unexpected: tensors of the file that the model has no place for.
        mismatched: names with the file's shape and the model's.
        renamed: old names that were read, with today's.
        untied: second names of tensors whose values differ from the first's, so that they stay tensors of their own.
        not_finite: tensors of the file that hold NaN or infinity.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    untied: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def by_transformers_keys(self) -> dict[str, Any]:
        """The same as transformers' `output_loading_info` names it."""
        return {
            "missing_keys": set(self.missing),
            "unexpected_keys": set(self.unexpected),
            "mismatched_keys": set(self.mismatched),
            "error_msgs": [],
        }


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
            return read_tensors(path)
        return _read_shards(path)
    raise CheckpointNotFoundError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, each in the shard where the index has it."""
    shards = files.read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} has no weight_map")
    for name, shard in shards.items():
        if not isinstance(shard, str) or not _is_beside(index.parent, shard):
            raise CheckpointError(f"{index} has {schema.shown(name)} in {schema.shown(shard)}, which is no file of its folder")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        part = read_tensors(index.parent / shard)
        absent = [name for name, where in shards.items() if where == shard and name not in part]
        if absent:
            raise CheckpointError(f"{index.parent / shard} lacks what its index names: {_some(absent)}")
        state.update(part)
    return state


def _is_beside(folder: Path, name: str) -> bool:
    """Whether a name is that of a file in the folder itself, or of a link that the hub's cache put there."""
    if not 0 < len(name) < 256 or not schema.is_text(name) or name != Path(name).name or "\\" in name or "\0" in name:
        return False
    place, target = folder.resolve(), (folder / name).resolve()
    cached = place.parent.name == "snapshots" and target.parent == place.parent.parent / "blobs"
    return target.parent == place or cached


def match_names(
    state: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    ignore_mismatched_sizes: bool = False,
    integers: Collection[str] = (),
    prefix: str = "bert",
) -> tuple[dict[str, Tensor], LoadReport]:
    """A file's tensors under the names of a model.

    Args:
        state: tensors as they stand in the file.
        expected: shape of each parameter of the model.
        ignore_mismatched_sizes: leave out tensors of another shape instead of refusing them.
        integers: names of the model's tensors that are not floating, such as counts in buffers.
        prefix: what the encoder is called in a model with a head.

    Raises:
        SizeMismatchError: shapes that do not fit. CheckpointError: no tensor in common at all. The message names them.
    """
    report = LoadReport()
    matched: dict[str, Tensor] = {}
    for name, tensor in state.items():
        today = _todays_name(name, expected, prefix)
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
    for name, tensor in matched.items():
        why = "" if name in integers and not tensor.is_meta and not tensor.is_floating_point() else _unusable(tensor)
        if why:
            raise CheckpointError(f"{name} is {why}: no forward can use it")
    _fill_tied(matched, expected)
    for second, first in TIED.items():
        if second in matched and first in matched and matched[second] is not matched[first]:
            a, b = matched[second], matched[first]
            if a.shape != b.shape or not _equal(a, b):
                report.untied.append(second)
    for name, shape in expected.items():
        if name in matched and matched[name].shape != shape:
            report.mismatched.append((name, tuple(matched.pop(name).shape), tuple(shape)))
        elif name not in matched and TIED.get(name) not in expected:
            report.missing.append(name)
    if report.mismatched and not ignore_mismatched_sizes:
        lines = "; ".join(f"{name}: {a} in the file, {b} in the model" for name, a, b in report.mismatched)
        raise SizeMismatchError(f"shapes differ (ignore_mismatched_sizes=True would start these anew): {lines}")
    return matched, report


def save(state: Mapping[str, Tensor], config: BertConfig, folder: str | Path, max_shard_size: int | str | None = None) -> None:
    """Writes config.json and model.safetensors, complete or not at all. Tensors that share memory are written once.

    With `max_shard_size` (bytes, or "500MB") what is larger becomes several files and an index. Files of weights that would
    stand beside the new ones, and be read in their place, are removed.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot save to {folder}: it is a file")
    unique: dict[str, Tensor] = {}
    for name in sorted(state, key=lambda name: (name in TIED, name)):
        tensor = state[name].detach()
        if tensor.device.type == "meta":
            raise CheckpointError(f"cannot save {name}: it is on the meta device and holds no values")
        tensor = tensor.cpu().contiguous()
        first = unique.get(TIED.get(name, "")) if config.tie_word_embeddings else None
        if first is not None and first.shape == tensor.shape and _equal(first, tensor):
            continue
        unique[name] = tensor
    shards, index = _shards(unique, max_shard_size)
    for name, tensors in shards.items():
        files.check_room(folder, sum(tensor.nbytes for tensor in tensors.values()), name)
    with files.updating_folder(folder) as place:
        for name, tensors in shards.items():
            with files.replacing(place / name) as part:
                try:
                    safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
                except safetensors.SafetensorError as error:  # how a full disk arrives
                    raise CheckpointError(f"cannot write {folder / name}: {error}") from error
        if index is not None:
            files.write_text(place / INDEX, json.dumps(index, indent=2) + "\n")
        files.write_text(place / "config.json", config.to_json_string())
        written = {*shards, *([] if index is None else [INDEX])}
        for old in place.glob("model*.safetensors*"):
            if old.name not in written and _WEIGHTS.fullmatch(old.name):
                old.unlink()


def _shards(
    state: dict[str, Tensor], max_shard_size: int | str | None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any] | None]:
    """Tensors by the file that holds them, and the index where there is more than one."""
    if max_shard_size is None:
        return {"model.safetensors": state}, None
    import huggingface_hub

    try:
        split = huggingface_hub.split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    except (ValueError, TypeError) as error:
        raise InputError(f"max_shard_size = {schema.shown(max_shard_size)}: {error}") from None
    shards = {name: {key: state[key] for key in keys} for name, keys in split.filename_to_tensors.items()}
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename} if split.is_sharded else None
    return shards, index


def check_sizes(state: Mapping[str, Tensor], config: BertConfig, source: Path, ours: Iterable[str] = ()) -> None:
    """Checks that the weights have the configured layers, before a model of that size is built.

    Args:
        state: tensors as they stand in the file.
        config: of the model that is to be built.
        source: the folder, for messages.
        ours: fields that the caller chose, which may ask for more than the file has.
    """
    found = [_LAYER.search(name) for name in state]
    layers = max((int(match[1]) + 1 for match in found if match), default=0)
    if config.num_hidden_layers > (layers or _LAYERS) and "num_hidden_layers" not in ours:
        raise CheckpointError(
            f"{source / 'config.json'} says num_hidden_layers = {config.num_hidden_layers}, the weights have {layers} layers"
        )


def check_new(missing: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Checks that newly initialised weights are not out of proportion to those in the file."""
    new, there = sum(map(math.prod, missing.values())), sum(tensor.numel() for tensor in state.values())
    if new > max(_NEW_VALUES, there):
        raise CheckpointError(
            f"the checkpoint has {there:,} values and lacks {new:,}, of {_some(missing)}: it belongs to another model"
        )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in state.items() if not _is_finite(tensor)]


# Both by numpy: torch would start its threads, and a process that forks after loading could not compute any more.


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype:
        return False
    if a.dtype == torch.bfloat16:
        a, b = a.contiguous().view(torch.int16), b.contiguous().view(torch.int16)
    return bool(np.array_equal(a.numpy(), b.numpy()))


def _is_finite(tensor: Tensor) -> bool:
    if tensor.dtype == torch.bfloat16:
        return not bool(((tensor.contiguous().view(torch.int16).numpy() & 0x7F80) == 0x7F80).any())
    values = tensor.numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float64))) or bool(np.isfinite(values).all())


def _unusable(tensor: Tensor) -> str:
    """Why a tensor cannot be a parameter; "" where it can."""
    if tensor.device.type == "meta":
        return "a meta tensor without values"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return f"quantised or of layout {tensor.layout}"
    return "" if tensor.dtype in TYPES else f"of type {tensor.dtype}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, on the CPU.

    Raises:
        CheckpointNotFoundError: no such file. CheckpointError: it is damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path.parent} has no {path.name}, which its index names")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # safetensors and torch.load report damage by many kinds of exception, from EOFError to UnpicklingError.
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            why = "it is no plain state dict: files that would run code when they are read are not opened"
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {why}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors")
    return {str(name): value.detach() for name, value in state.items()}


def _todays_name(name: str, expected: Iterable[str], prefix: str) -> str | None:
    for old, new in _OLD_SPELLINGS:
        if name.endswith(old):
            name = name.removesuffix(old) + new
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
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
