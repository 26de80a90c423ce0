"""Whether a disk has room for what is to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastbert.errors import CheckpointError


def check_room(folder: str | Path, size: int, what: str) -> None:
    """Checks that a disk has room.

    Args:
        folder: where it is to be written; need not exist yet.
        size: bytes.
        what: that is to be written, for the message.

    Raises:
        CheckpointError: less is free.
    """
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise CheckpointError(f"{what} needs {_amount(size)} in {folder}, and {_amount(free)} are free")


def _amount(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
