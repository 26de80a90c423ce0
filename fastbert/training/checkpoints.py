"""Checkpoints of a run: written atomically; the last few are kept and damaged ones are skipped.

    step-00001200/            config.json, model.safetensors and the tokenizer's files: loads like any model
        training.pt           optimiser, loss scaler, position in the data, running sums, recipe
        checkpoint.json       the step, and the size and SHA-256 of every other file; written last

A folder is written under a temporary name, flushed to disk and then renamed.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastbert import files
from fastbert.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8})")
_PART = ".part"
STATE = "training.pt"
MANIFEST = "checkpoint.json"


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: created when the first checkpoint is written.
        keep: number of checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any], write_model: Callable[[Path], None]) -> Path:
        """Writes a checkpoint, then removes the oldest beyond `keep` and damaged ones of later steps.

        Args:
            step: steps done.
            state: state for `torch.save`; only values that `torch.load(weights_only=True)` can read.
            write_model: writes the model's files into the given folder.

        Raises:
            CheckpointError: it cannot be written (the disk is full, ...); no part of it is left behind, and earlier checkpoints
                are kept.
        """
        target = self.folder / f"step-{step:08d}"
        part = self.folder / f".{target.name}{_PART}"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write_model(part)
            torch.save(state, part / STATE)
            written = {path.name: _about(path) for path in sorted(part.iterdir())}
            (part / MANIFEST).write_text(json.dumps({"step": step, "files": written}, indent=1) + "\n", encoding="utf-8")
            for path in part.iterdir():
                files.flush(path)
            files.flush(part)
            if target.exists():  # a damaged checkpoint that was skipped
                shutil.rmtree(target)
            part.rename(target)
            files.flush(self.folder)
        except (OSError, RuntimeError, CheckpointError) as error:  # torch.save reports a full disk as a RuntimeError
            shutil.rmtree(part, ignore_errors=True)
            last = self.newest()
            kept = f"the last good one is {last[0]}" if last else "there is none before it"
            raise CheckpointError(f"cannot write the checkpoint {target}: {_reason(error)}; {kept}") from error
        newer = [path for path in self._found() if path.name > target.name]  # damaged, or they would have been resumed from
        for path in [*newer, *[path for path in self._found() if path.name <= target.name][self.keep :]]:
            shutil.rmtree(path)
        return target

    def check_room(self, model: torch.nn.Module) -> None:
        """Checks that the disk has room for one more checkpoint: the parameters, and AdamW's two moments of those trained.

        Raises:
            CheckpointError: it has not; the message says how much is needed and free.
        """
        size = sum(p.numel() * 4 * (3 if p.requires_grad else 1) for p in model.parameters())
        files.check_room(self.folder, size, "a checkpoint")

    def any(self) -> bool:
        """Whether there is any checkpoint, intact or damaged."""
        return next(self._found(), None) is not None

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest intact checkpoint and its state; None if there is none. Damaged ones are skipped with a warning."""
        for path in self._found():
            try:
                check(path)
                return path, torch.load(path / STATE, map_location="cpu", weights_only=True)
            except (CheckpointError, OSError, ValueError, KeyError, RuntimeError) as error:
                warnings.warn(f"the checkpoint {path.name} is skipped: {error}", stacklevel=2)
        return None

    def clean(self) -> None:
        """Removes partial checkpoints left by an interrupted write."""
        for path in self.folder.glob(f".step-*{_PART}"):
            shutil.rmtree(path)

    def _found(self) -> Iterator[Path]:
        """Checkpoint folders, newest first."""
        if self.folder.is_dir():
            yield from sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def check(folder: Path) -> int:
    """Checks all files of a checkpoint against their recorded sizes and hashes; returns its step.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    about = files.read_json(folder / MANIFEST)
    for name, (size, digest) in about["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path.name} is missing")
        if _about(path) != [size, digest]:
            raise CheckpointError(f"{path.name} is damaged")
    return int(about["step"])


def _about(path: Path) -> list[Any]:
    """Size and hash of a file."""
    return [path.stat().st_size, files.sha256(path)]


def _reason(error: Exception) -> str:
    """Why a file could not be written; the operating system's message if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
