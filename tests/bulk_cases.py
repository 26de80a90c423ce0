"""Processes that work on a folder, and die. Imports little: a forked process imports this file anew."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from fastbert import cli
from fastbert.files import writing


def everything(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def die_at(given: list[str], place: str, count: int) -> None:
    """Runs a command that kills itself when something is written for the nth time, halfway through it."""
    torch.set_num_threads(1)
    left = [count]

    def counted(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if place == "disk":
        writing.flush = counted  # type: ignore[assignment]
    else:
        replace = Path.replace

        def replacing(self: Path, target: Path) -> Path:
            if place == "before":
                counted()
            found = replace(self, target)
            if place == "after":
                counted()
            return found

        Path.replace = replacing  # type: ignore[method-assign,assignment]
    raise SystemExit(cli.main(given))


def run_alone(given: list[str]) -> None:
    torch.set_num_threads(1)
    raise SystemExit(cli.main(given))
