"""Adapters that peft put into a model by `add_adapter` (a method of transformers' base): saving them alone, and loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fastbert import files, interop
from fastbert.errors import CheckpointError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PATTERNS = [CONFIG, "adapter_model.*"]
_PREFIX = "base_model.model."  # before the names in peft's own files


def are_on(model: Any) -> bool:
    """Whether the model has adapters that `add_adapter` or `load_adapter` put in."""
    return bool(getattr(model, "_hf_peft_config_loaded", False)) and hasattr(model, "peft_config")


def base_folder(folder: Path, patterns: list[str], hub: Mapping[str, Any]) -> Path:
    """The folder of an adapter's base weights: the adapter's own, or the folder or repository that it names.

    Raises:
        CheckpointError: it names none.
    """
    if (folder / "config.json").is_file() or not (folder / CONFIG).is_file():
        return folder
    base = files.read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / CONFIG} names no base_model_name_or_path, and {folder} has no config.json")
    options = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
    return files.locate(base, patterns, **options)


def load(model: Any, folder: Path) -> None:
    """Loads the adapter of a folder into a model, if there is one.

    Raises:
        CheckpointError: peft or transformers, which it takes, are not installed.
    """
    if not (folder / CONFIG).is_file():
        return
    try:
        import peft  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"{folder} holds an adapter: loading it takes peft and transformers ({error})") from None
    interop.join(*type(model).__mro__)  # transformers' base brings `load_adapter`
    model.load_adapter(str(folder))


def save(model: Any, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Writes the active adapter's weights and adapter_config.json, as peft and `load_adapter` read them.

    Raises:
        CheckpointError: several adapters are active, and one file has room for one.
    """
    active = model.active_adapters()
    if len(active) != 1:
        raise CheckpointError(f"the adapters {', '.join(active)} are active; set_adapter chooses the one to save")
    weights = model.get_adapter_state_dict(active[0], state_dict=None if state_dict is None else dict(state_dict))
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with files.updating_folder(folder) as place:
        with files.replacing(place / WEIGHTS) as part:
            safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
        model.peft_config[active[0]].save_pretrained(place)
