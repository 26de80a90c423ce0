"""Adapters that peft put into a model by `add_adapter` (a method of transformers' base): saving them alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fastbert import files
from fastbert.errors import CheckpointError

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # before the names in peft's own files


def are_on(model: Any) -> bool:
    """Whether the model has adapters that `add_adapter` or `load_adapter` put in."""
    return bool(getattr(model, "_hf_peft_config_loaded", False)) and hasattr(model, "peft_config")


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
