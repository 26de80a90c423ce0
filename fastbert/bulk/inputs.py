"""The files that a bulk job reads: from names and patterns to paths, and how a file is told from a changed one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastbert import files
from fastbert.data.lines import ending
from fastbert.errors import InputError


def find_inputs(given: Iterable[str], output: Path | None) -> list[Path]:
    """The files that names and patterns stand for, each once: patterns in the order of their matches' names.

    Args:
        given: names, or patterns such as data/*.jsonl and data/**/*.txt, which match no folders and nothing in `output`.
        output: the folder that is written, if it is one.

    Raises:
        InputError: a pattern that matches no file, a folder, a file that does not exist, or one whose form cannot be read in
            bulk.
    """
    found: dict[Path, Path] = {}
    for name in given:
        path = Path(name).expanduser()
        if str(path) == "-":
            raise InputError(
                "standard input goes with no other input, and into no folder, as it cannot be read twice: name files"
            )
        matches = files.matches_of(str(path))
        paths = [path]
        if matches is not None:
            paths = [one for one in map(Path, matches) if output is None or not _is_inside(one, output)]
            if not paths:
                raise InputError(f"no file matches {name}")
        for one in paths:
            _check(one, twice=output is not None)
            found.setdefault(one.resolve(), one)
    return list(found.values())


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _check(path: Path, twice: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name its files, such as {path / '*.jsonl'}")
    if not path.exists():
        raise InputError(f"cannot read {path}: No such file or directory")
    if twice and not path.is_file():
        raise InputError(f"{path} is not a regular file: a bulk job reads its inputs twice")
    if ending(path) == ".json":
        raise InputError(f"{path} is JSON, whose lines are no texts; JSON lines, an object a line, end in .jsonl")


def state_of(path: Path) -> tuple[int, int]:
    """The size in bytes, and the time of the last change in nanoseconds."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
