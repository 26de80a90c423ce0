"""Terminal output: tables, notes, and the standard streams of a command.

A broken stream stops no work and hides no failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

from fastbert.errors import printable


class _Steady:
    """A stream that goes silent once it is closed by its reader."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def silent(self) -> bool:
        """Whether nobody reads it any more."""
        return self._stream is None

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError):  # a closed pipe, a closed file
                self._stream = None
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def steady_stderr() -> Iterator[None]:
    """Keeps a command running when stderr is a closed pipe or missing."""
    before = sys.stderr
    sys.stderr = _Steady(before)
    try:
        yield
    finally:
        sys.stderr = before


@contextmanager
def steady_stdout() -> Iterator[None]:
    """The same for stdout, in commands whose result is in a file."""
    before = sys.stdout
    sys.stdout = _Steady(before)
    try:
        yield
        sys.stdout.flush()
        if sys.stdout.silent:
            silence_stdout(before)
    finally:
        sys.stdout = before


def fill_closed_streams() -> None:
    """Opens the null device where a standard stream is closed: no file that is written may get its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def silence_stdout(stream: TextIO | None = None) -> None:
    """Has the interpreter's own last flush of a broken stdout go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


_quiet = False  # set by --quiet


@contextmanager
def quiet(asked: bool) -> Iterator[None]:
    """Leaves out progress, status messages and notes, if asked; warnings and errors stay."""
    global _quiet
    before, _quiet = _quiet, asked
    try:
        yield
    finally:
        _quiet = before


def shows_progress(asked: bool | None) -> bool:
    """Whether to show progress: as asked, or if None, when stderr is a terminal; never under --quiet."""
    return not _quiet and (sys.stderr.isatty() if asked is None else asked)


def show_status(text: str) -> None:
    """Writes a status message to stderr without breaking progress bars, but not under --quiet."""
    if not _quiet:
        tqdm.write(printable(text), file=sys.stderr)


def show_note(text: str) -> None:
    """A line on stderr about what was done, but not under --quiet."""
    if not _quiet:
        show_line(text)


def show_line(text: str) -> None:
    """A line on stderr, without control characters."""
    print(printable(text), file=sys.stderr)


@dataclass(frozen=True)
class Table:
    """Rows of cells as text.

    Attributes:
        rows: of cells; the first is the head, in which "" names the rows.
        note: a paragraph below; "" for none.
    """

    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def __str__(self) -> str:
        """For a terminal: columns are aligned."""
        return self._with_note(align(self.rows))

    def markdown(self) -> str:
        """For a page."""
        return self._with_note(markdown_table(self.rows))

    def records(self) -> list[dict[str, str]]:
        """The rows as mappings from column to cell."""
        head = [name or "row" for name in self.rows[0]]
        return [dict(zip(head, row, strict=True)) for row in self.rows[1:]]

    def _with_note(self, lines: list[str]) -> str:
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table whose columns stand under one another, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [all(row[i].replace(",", "").lstrip("-").isdigit() for row in rows[1:] if row[i]) for i in range(len(widths))]
    return [
        "  ".join(
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown, the first row its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]
