"""Interprets the arguments of `from_pretrained`, and logs its report."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastbert import schema
from fastbert.errors import ConfigError, InputError
from fastbert.model import checkpoint
from fastbert.model.config import BertConfig

logger = logging.getLogger("fastbert")
_PIECE = 1 << 14  # values that torch copies on one thread
_OTHER_PARTS = re.compile(r"(^|\.)(pooler|cls|classifier|qa_outputs)\.")  # leaving out another head's parts is no news


def one_device(device_map: Any) -> torch.device:
    """The device of a `device_map` that has one: a device, its name or number, "auto", or a mapping of "" to it."""
    place: Any = device_map.get("") if isinstance(device_map, Mapping) and len(device_map) == 1 else device_map
    if place in ("auto", "balanced", "balanced_low_0", "sequential"):
        place = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(place)
    except (TypeError, RuntimeError):
        raise InputError(f"device_map = {schema.shown(device_map)} names no single device") from None


def known_fields(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that are fields of a configuration; None and False for anything else mean nothing, other values do."""
    known = {f.name for f in fields(BertConfig)} | {"num_labels"}
    for name, value in overrides.items():
        if name not in known and value is not None and value is not False:
            raise ConfigError(f"from_pretrained got {name} = {value!r}: neither an option nor a field of BertConfig")
    return {name: value for name, value in overrides.items() if name in known}


def resolve_dtype(dtype: torch.dtype | str | None, config: BertConfig, state: dict[str, Tensor]) -> torch.dtype:
    """The type that was asked for, else the configuration's, else that of the weights; "auto" asks for nothing."""
    name = dtype if dtype not in (None, "auto") else config.dtype
    if name is not None:
        found = getattr(torch, str(name).removeprefix("torch."), None)
        if found is None or found not in checkpoint.TYPES:
            raise ConfigError(f"dtype = {schema.shown(name)} is not one of {', '.join(map(str, checkpoint.TYPES))}")
        return found
    return next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another floating type, in pieces too small for torch to start its threads: see forking.py."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    cast = torch.empty(tensor.shape, dtype=dtype)
    for target, source in zip(cast.view(-1).split(_PIECE), tensor.reshape(-1).split(_PIECE), strict=True):
        target.copy_(source)
    return cast


def log_report(report: checkpoint.LoadReport, source: str | Path | None, name: str) -> None:
    """Logs weights that were missing, did not fit, or do not belong to a BERT."""
    if report.missing:
        logger.warning("%s from %s: not in the checkpoint, newly initialised: %s", name, source, ", ".join(report.missing))
    if report.mismatched:
        listed = ", ".join(f"{key} {a} -> {b}" for key, a, b in report.mismatched)
        logger.warning("%s from %s: other shapes, newly initialised: %s", name, source, listed)
    foreign = [key for key in report.unexpected if not _OTHER_PARTS.search(key)]
    if foreign:
        logger.warning("%s from %s: in the checkpoint but not in a BERT: %s", name, source, ", ".join(foreign))
    if len(foreign) < len(report.unexpected):
        logger.info("%s from %s: parts of other heads left out: %s", name, source, ", ".join(report.unexpected))
    if report.untied:
        listed = ", ".join(report.untied)
        logger.warning("%s from %s: not tied, as the checkpoint has other values: %s", name, source, listed)
    if report.not_finite:
        logger.warning("%s from %s: NaN or infinity in %s", name, source, ", ".join(report.not_finite))
    if report.renamed:
        logger.info("%s from %s: %d old names read", name, source, len(report.renamed))
