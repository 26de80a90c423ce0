"""Folders that one process at a time works in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastbert.errors import CheckpointError, InputError
from fastbert.files.writing import lock
from fastbert.stopping import held

CLAIM = ".in-use"  # the file that is locked


@contextmanager
def claimed(folder: str | Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if absent, by a lock that ends with this process in any case.

    Raises:
        InputError: another process works there; the message names it. CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from None
    path, handle = folder / CLAIM, None
    try:
        with held():
            handle = _claim(path)
        yield
    finally:
        with held():
            if handle is not None:
                path.unlink(missing_ok=True)
                os.close(handle)
            if made:
                with suppress(OSError):  # something is in it
                    folder.rmdir()


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, but for a claim."""
    return all(path.name == CLAIM for path in folder.iterdir())


def _claim(path: Path) -> int:
    """The handle of the locked file, which holds the process's number."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CheckpointError(f"cannot write {path.parent}: {error.strerror}") from None
        if lock(handle) is False:
            owner = os.read(handle, 1000).decode("utf-8", "replace").strip()
            os.close(handle)
            who = f"process {owner} works there" if owner else "another process works there"
            raise InputError(f"{path.parent} is in use: {who}; wait for its end, or name another folder")
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)  # the process before removed it meanwhile
