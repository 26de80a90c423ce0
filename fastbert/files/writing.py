"""Files and folders that are written whole or not at all: beside their place, then moved over it."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from fastbert.errors import CheckpointError
from fastbert.stopping import held

PART = ".part"  # ends the names of what is being written
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # names that tempfile gives
_LONGEST = 200  # characters of a name that a temporary one repeats
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_LINKS = 256  # files of a folder that is exchanged to change some of them


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well and removed when it does not.

    A reader sees the old file or the new one, never a part. Opening it early also proves that `path` can be written. A
    symbolic link stays, and what it points to is replaced. If `durable`, the file is on the disk before it gets its name: it is
    whole whatever happens to the machine.

    Raises:
        CheckpointError: the folder does not exist or cannot be written, `path` is a directory or a device, or the disk is full.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise CheckpointError(f"cannot write {path}: it is {'a directory' if path.is_dir() else 'not a regular file'}")
    with _temporary(path, _new_file) as part:
        try:
            yield part
            if durable:
                flush(part)
        except OSError as error:
            short = error.errno is None and "requested and" in str(error)  # how numpy says that less was written
            if error.errno not in _FULL and not short:
                raise
            written = part.stat().st_size if part.is_file() else 0
            why = error.strerror or os.strerror(errno.ENOSPC)
            raise CheckpointError(f"cannot write {path} after {written:,} bytes of it: {why}") from error
        part.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        part.replace(path)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and is removed when it does not.

    Raises:
        CheckpointError: `folder` holds something already or is a file; it cannot be written; or the disk is full.
    """
    folder = Path(folder).resolve()
    _check_empty(folder)
    with replacing_folder(folder) as part:
        yield part
        if folder.is_dir() and any(folder.iterdir()):
            raise CheckpointError(f"cannot write {folder}: another process has filled it meanwhile")


def _check_empty(folder: Path) -> None:
    """Checks that the place of a new folder is free or an empty folder."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise CheckpointError(f"cannot write {folder}: {'it is a file' if folder.is_file() else 'the folder is not empty'}")


@contextmanager
def scratch_folder(beside: str | Path) -> Iterator[Path]:
    """A folder for intermediate files of `beside`; always removed, by the next start if this process dies.

    Raises:
        CheckpointError: `beside` holds something already, or its folder cannot be written.
    """
    beside = Path(beside).resolve()
    _check_empty(beside)
    with _temporary_folder(beside) as part:
        yield part


@contextmanager
def _temporary_folder(beside: Path) -> Iterator[Path]:
    """A new folder beside a path, which is removed at the end if it is still there."""
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {beside}: {error.strerror or error}") from error
    with _temporary(beside, lambda **names: Path(tempfile.mkdtemp(**names))) as part:
        yield part


def _is_still(part: Path, handle: int) -> bool:
    try:
        return os.path.samestat(part.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _new_file(**names: Any) -> Path:
    handle, name = tempfile.mkstemp(**names)
    os.close(handle)
    return Path(name)


@contextmanager
def _temporary(beside: Path, make: Callable[..., Path]) -> Iterator[Path]:
    """A new file or folder beside a path, locked, which is removed at the end if it is still there."""
    part, handle = None, None
    try:
        with held():
            part, handle = _new_and_locked(beside, make)
        yield part
    finally:
        with held():
            if part is not None and handle is not None:
                os.close(handle)
                shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _new_and_locked(beside: Path, make: Callable[..., Path]) -> tuple[Path, int]:
    """A new file or folder beside a path, and the handle that locks it."""
    while True:
        try:
            clear_leftovers(beside)
            part = make(dir=beside.parent, prefix=f".{beside.name[:_LONGEST]}.", suffix=PART)
            handle = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            if beside.parent.is_dir():  # another process took it for a leftover before it was locked
                continue
            raise CheckpointError(f"cannot write {beside}: {beside.parent} does not exist") from None
        except OSError as error:
            raise CheckpointError(f"cannot write {beside}: {error.strerror or error}") from error
        if lock(handle) is not False and _is_still(part, handle):
            return part, handle
        os.close(handle)


@contextmanager
def replacing_folder(folder: str | Path, known: Mapping[str, int] | None = None) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder`, with all that was in it, when the block ends well.

    Both are exchanged in one step where the system can do that: whenever a process dies, `folder` is the old or the new one.

    Args:
        folder: made if absent.
        known: names and inodes of the files that the new folder was made from: what others wrote into the old one since then
            is brought along. None replaces the folder with all that is in it.

    Raises:
        CheckpointError: `folder` is a file; it cannot be written; or the disk is full. Nothing is changed then.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot write {folder}: it is a file")
    _recover(folder)
    try:
        with _temporary_folder(folder) as part:
            yield part
            part.chmod(stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else 0o777 & ~_umask())
            try:
                _take_place(part, folder)
            except OSError as error:
                raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from error
            if known is not None and part.is_dir():
                _bring_along(part, folder, known)
    except OSError as error:
        if error.errno in _FULL:
            raise CheckpointError(f"cannot write {folder}: {error.strerror}; nothing of it was kept") from error
        raise


@contextmanager
def updating_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write some files of `folder` into; they all appear in it at once, and its other files stay.

    Files must be written by `replacing` or under new names, never opened in place: the others are hard links. A folder that
    cannot be exchanged is written to file by file: one that holds folders or very many files, in which this process works, that
    is a mount point, or beside which nothing may be written.

    Raises:
        CheckpointError: `folder` is a file, or cannot be written.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot write {folder}: it is a file")
    _recover(folder)
    present = list(islice(folder.iterdir(), _MOST_LINKS + 1)) if folder.is_dir() else []
    if folder.is_dir() and not (_may_be_exchanged(folder) and _is_flat(present)):
        yield folder
        return
    kept = [path for path in present if not _TEMPORARY.fullmatch(path.name)]
    known = {path.name: path.stat().st_ino for path in kept}
    with replacing_folder(folder, known) as part:
        for path in kept:
            try:
                os.link(path, part / path.name)
            except OSError:  # a file system without hard links
                shutil.copy2(path, part / path.name)
        yield part


def _bring_along(old: Path, folder: Path, known: Mapping[str, int]) -> None:
    """Moves what other processes wrote into the old folder, while the new one was made, into the new one."""
    for path in old.iterdir():
        here, before = folder / path.name, known.get(path.name)
        changed = path.stat().st_ino != before
        if _TEMPORARY.fullmatch(path.name) or not changed:
            continue
        if not here.exists() or here.stat().st_ino == before:  # not written by this process
            path.replace(here)


def _is_flat(present: Sequence[Path]) -> bool:
    return len(present) <= _MOST_LINKS and all(path.is_file() and not path.is_symlink() for path in present)


def _may_be_exchanged(folder: Path) -> bool:
    """Whether another folder may take the place of this one."""
    here = Path.cwd().resolve()
    works_in_it = here == folder or folder in here.parents
    return not works_in_it and folder.stat().st_dev == folder.parent.stat().st_dev and os.access(folder.parent, os.W_OK)


def clear_leftovers(path: Path) -> None:
    """Removes leftovers of processes that died while writing `path`; files of running processes stay."""
    name = path.name[:_LONGEST]
    for left in path.parent.glob(f".{glob.escape(name)}.????????{PART}"):
        if not _TEMPORARY.fullmatch(left.name):
            continue
        try:
            handle = os.open(left, os.O_RDONLY)
        except OSError:
            continue
        try:
            if lock(handle):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        finally:
            os.close(handle)


def lock(handle: int) -> bool | None:
    """Locks a file for the life of this process; returns whether it was free, None if the system has no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _take_place(part: Path, folder: Path) -> None:
    """Puts `part` at the place of `folder`; what was there is at the place of `part` afterwards, or gone."""
    if not folder.exists():
        part.rename(folder)
    elif not any(folder.iterdir()):
        part.replace(folder)  # rename(2) takes the place of an empty folder
    elif not _exchange(part, folder):
        aside = _aside(folder)
        folder.rename(aside)
        try:
            part.rename(folder)
        except OSError:
            aside.rename(folder)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """A temporary place of the old folder where no atomic exchange exists; never cleared, as it may be the only copy."""
    return folder.with_name(f".{folder.name[:_LONGEST]}.before")


def _recover(folder: Path) -> None:
    """Puts back a folder whose place was empty when a process died, or removes it where the new one had arrived."""
    aside = _aside(folder)
    if aside.is_dir():
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(folder)


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two paths in one step, by Linux's renameat2; whether that was done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return int(rename(at_here, os.fsencode(a), at_here, os.fsencode(b), exchange)) == 0


def remove_folder(folder: Path) -> None:
    """Removes a folder with all in it, where there is one."""
    if folder.is_dir():
        shutil.rmtree(folder)


def flush(path: Path) -> None:
    """Has what was written to a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replaces a UTF-8 text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
