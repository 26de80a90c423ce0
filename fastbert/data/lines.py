"""The lines of a text file, plain or gzipped, or of standard input: bytes to text, with errors that name the line."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastbert.errors import InputError

_PACKED = ".gz"
_AT_ONCE = 1 << 16  # bytes of standard input that are taken at a time: what a pipe holds


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        encoding: of its bytes, any that Python knows. A byte-order mark is no text.
        delimiter: between the columns of a table; None means what the file's ending says: a comma for .csv, else a tab.
    """

    encoding: str = "utf-8"
    delimiter: str | None = None

    def __post_init__(self) -> None:
        """Checks both."""
        try:
            name = codecs.lookup(self.encoding).name
            "\n".encode(name)  # a text encoding: rot13 and base64 are none
        except (LookupError, UnicodeError):
            raise InputError(
                f"encoding = {self.encoding!r} is none that Python knows, such as utf-8, latin-1, cp1252"
            ) from None
        object.__setattr__(self, "encoding", "utf-8" if name == "utf-8-sig" else name)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise InputError(f"delimiter = {self.delimiter!r} must be one character, neither a quote nor the end of a line")

    def between(self, path: str | Path) -> str:
        """The sign between the columns of a file."""
        return self.delimiter or ("," if ending(path) == ".csv" else "\t")


PLAIN = Form()


def ending(path: str | Path) -> str:
    """The ending that says what a file holds, in lower case: ".csv" of both a.csv and a.CSV.gz."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == _PACKED else path.name).suffix.lower()


def lines(
    path: Path,
    errors: str = "strict",
    at_most: int | None = None,
    advance: Callable[[int], object] | None = None,
    encoding: str = "utf-8",
    keep_ends: bool = False,
) -> Iterator[str]:
    """The lines of a file, or of standard input ("-"), without their line ends unless `keep_ends`.

    Args:
        path: the file; one that ends in .gz is unpacked.
        errors: "strict" raises at bytes that are not text; "replace" reads them as U+FFFD and warns at the end.
        at_most: longer lines are yielded in pieces of about this many bytes, cut at a space if there is one.
        advance: called with the number of bytes of each piece, once unpacked.
        encoding: of the bytes.

    Raises:
        InputError: a file that cannot be read, or a line that is not text in this encoding, with its number (of UTF-16 and
            UTF-32 without).
    """
    number, offset, damaged = 1, 0, 0
    rest = b""
    with opened(path) as packed:
        wide = "\n".encode(encoding) != b"\n"  # UTF-16, UTF-32, and those of mainframes
        stream, name = (_Recoded(packed, encoding), "utf-8") if wide else (packed, encoding)
        while raw := rest + read_line(stream, -1 if at_most is None else at_most, path):
            rest = b""
            ended = raw.endswith(b"\n")
            if not ended and at_most is not None and len(raw) >= at_most:
                raw, rest = _split(raw)
            if advance is not None:
                advance(len(raw))
            try:
                text = raw.decode("utf-8-sig" if name == "utf-8" and number == 1 and not offset else name)
            except UnicodeDecodeError as error:
                if errors == "strict":
                    raise not_text(path, number, raw, name, offset + error.start) from None
                text, damaged = raw.decode(name, "replace"), damaged + 1
            yield text if keep_ends else text.rstrip("\r\n")
            number, offset = (number + 1, 0) if ended else (number, offset + len(raw))
    if damaged:
        warnings.warn(
            f"{path}: {damaged} lines were not {encoding.upper()}; invalid bytes were replaced by U+FFFD", stacklevel=2
        )


def not_text(path: Path, number: int, raw: bytes, encoding: str, at: int) -> InputError:
    """The error for a line that is not text in an encoding from a byte on, counted from 0."""
    advice = _other_encoding(raw) if encoding == "utf-8" else ""
    return InputError(f"{path}, line {number}: not {encoding.upper()} text (byte {at + 1} of the line){advice}")


def _other_encoding(raw: bytes) -> str:
    """Advice for a line that is not UTF-8."""
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "; it begins as UTF-16 does: encoding = 'utf-16'" if marked else "; if it is Latin-1, name it: encoding = 'latin-1'"


def arriving_lines(encoding: str = "utf-8") -> Iterator[list[str]]:
    """The lines of standard input, those that have arrived at a time, so that each can be answered before the next is written.

    Raises:
        InputError: standard input is closed, or holds bytes that are not text.
    """
    stream = opened(Path("-"))
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    number, rest = 1, ""
    while True:
        raw = stream.read1(_AT_ONCE)  # type: ignore[attr-defined]
        try:
            text = rest + decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise InputError(f"standard input, after line {number - 1}: not {encoding.upper()} text ({error.reason})") from None
        *found, rest = text.split("\n")
        if not raw and rest:
            found.append(rest)
        if found:
            yield [line.removesuffix("\r") for line in found]
            number += len(found)
        if not raw:
            return


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked, or of standard input.

    Raises:
        InputError: it cannot be read.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise InputError("cannot read standard input: it is closed")
        return sys.stdin.buffer
    try:
        return gzip.open(path) if path.suffix.lower() == _PACKED else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


class _Recoded:
    """Lines of a stream whose line ends are not the byte 10, as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding, newline="\n")

    def readline(self, at_most: int) -> bytes:
        return self._text.readline(at_most).encode("utf-8")


def read_line(stream: BinaryIO | _Recoded, at_most: int, path: Path) -> bytes:
    """The next line of a stream with its end, or a piece of so many bytes; empty behind the last one.

    Raises:
        InputError: the file is damaged, or can no longer be read.
    """
    try:
        return stream.readline(at_most)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Splits off a piece of a long line, between words or at least between characters; returns it and the rest."""
    at = raw.rfind(b" ") + 1
    if not at:
        at = len(raw)
        while at > max(len(raw) - 4, 1) and raw[at - 1] & 0xC0 == 0x80:  # back to the start of the last character
            at -= 1
        at = at - 1 if at > 1 and raw[at - 1] & 0xC0 == 0xC0 else len(raw)
    return raw[:at], raw[at:]
