"""Where the files of a model are, on this machine or on the hub, and what identifies them."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fastbert.errors import CheckpointNotFoundError

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def split_hub_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords for the hub (`HUB_OPTIONS`), and the others."""
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    return hub, {name: value for name, value in options.items() if name not in HUB_OPTIONS}


def locate(
    path_or_hub_id: str | Path,
    patterns: list[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """The local folder of a model. A hub id is downloaded (only the files that match `patterns`) or found in the cache.

    Args:
        path_or_hub_id: a directory, or an id on the hub.
        patterns: names of the files that are needed.
        revision, cache_dir, token, local_files_only, force_download: for `huggingface_hub.snapshot_download`.
        subfolder: the part of the directory or repository that holds the files.

    Raises:
        CheckpointNotFoundError: neither a directory nor an id that the hub or the cache knows.
    """
    inside = PurePosixPath(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts:
        raise CheckpointNotFoundError(f"subfolder = {subfolder!r} is not inside {path_or_hub_id}")
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        if not (folder / inside).is_dir():
            raise CheckpointNotFoundError(f"{folder} has no folder {subfolder}")
        return folder / inside
    name = str(path_or_hub_id)
    if folder.exists():
        raise CheckpointNotFoundError(f"{name} is a file; expected a directory that holds config.json")
    if isinstance(path_or_hub_id, Path) or not _HUB_ID.fullmatch(name):
        raise CheckpointNotFoundError(f"there is no directory {name}")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name,
            allow_patterns=[str(inside / pattern) for pattern in patterns],
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    # The hub's client lets through connection errors of whichever HTTP library it uses beside its own kinds.
    except Exception as error:
        why = (
            "local_files_only is set, and the local cache does not hold it"
            if local_files_only
            else f"the hub did not provide it and the local cache does not hold it ({type(error).__name__})"
        )
        raise CheckpointNotFoundError(f"there is no directory {name}, and as a hub id: {why}") from error
    return Path(found) / inside


def matches_of(pattern: str) -> list[str] | None:
    """The files that a pattern such as books/*.txt or books/**/*.md matches, in alphabetical order; None for a plain name."""
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return None
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207 - "~/*", "/*"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(folder: Path, patterns: Iterable[str]) -> str:
    """A hash of the names and contents of the files of a folder that match patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name} {sha256(path)} ".encode())
    return digest.hexdigest()
