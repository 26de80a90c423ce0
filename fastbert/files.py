"""Finding and writing the files of a model: a local directory or a hub id, JSON with clear errors, atomic replacement."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastbert.errors import CheckpointError, CheckpointNotFoundError

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
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
) -> Path:
    """The local folder of a model. A hub id is downloaded (only the files that match `patterns`) or found in the cache.

    Raises:
        CheckpointNotFoundError: neither a directory nor an id that the hub or the cache knows.
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    if folder.exists():
        raise CheckpointNotFoundError(f"{name} is a file; expected a directory that holds config.json")
    if isinstance(path_or_hub_id, Path) or not _HUB_ID.fullmatch(name):
        raise CheckpointNotFoundError(f"there is no directory {name}")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name,
            allow_patterns=patterns,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
    # The hub's client lets through connection errors of whichever HTTP library it uses beside its own kinds.
    except Exception as error:
        why = (
            "local_files_only is set, and the local cache does not hold it"
            if local_files_only
            else f"the hub did not give it and the local cache does not hold it ({type(error).__name__})"
        )
        raise CheckpointNotFoundError(f"there is no directory {name}, and as a hub id: {why}") from error
    return Path(found)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointNotFoundError: no such file. CheckpointError: not valid JSON, or not an object.
    """
    return _read_json(path, dict)


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects from a file; raises as `read_json`."""
    return _read_json(path, list)


def _read_json(path: Path, kind: type) -> Any:
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected a {kind.__name__}")
    return value


def read_json_if_present(path: Path) -> dict[str, Any]:
    """As `read_json`, and an empty object where there is no such file."""
    return read_json(path) if path.is_file() else {}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well and removed when it does not.

    A reader sees the old file or the new one, never a part. Opening it early also proves that `path` can be written. A
    symbolic link stays, and what it points to is replaced.

    Raises:
        CheckpointError: the folder does not exist or cannot be written, or `path` is a directory or a device.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise CheckpointError(f"cannot write {path}: it is {'a directory' if path.is_dir() else 'not a regular file'}")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and is removed when it does not.

    Raises:
        CheckpointError: `folder` holds something already or is a file; it cannot be written; or the disk is full.
    """
    folder = Path(folder).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise CheckpointError(f"cannot write {folder}: {'it is a file' if folder.is_file() else 'the folder is not empty'}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        if folder.is_dir():
            folder.rmdir()
        part.replace(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(f"cannot write {folder}: {error.strerror}; nothing of it was kept") from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder with all in it, where there is one."""
    if folder.is_dir():
        shutil.rmtree(folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a UTF-8 text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
