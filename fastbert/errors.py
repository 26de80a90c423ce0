"""The errors that fastbert raises. Each derives from the matching Python error, so `except ValueError` works as usual.

Messages contain values from callers and files, so every message is limited to `LIMIT` characters and contains no control
characters that a terminal would interpret.
"""

from __future__ import annotations

import importlib.util
import re

LIMIT = 480  # maximum characters of a message
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\n]")


def printable(text: str) -> str:
    """The text with control characters, including terminal escapes, replaced by escape sequences such as \\x1b."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str, limit: int = LIMIT) -> str:
    """The text, with its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 5]} ... {text[len(text) - tail :]}"


def check_package(what: str, package: str, extra: str) -> None:
    """Raises InputError where a package is not installed that something needs; an extra of fastbert installs it."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{what} needs the package {package} (pip install 'fastbert-triton[{extra}]')")


class FastbertError(Exception):
    """Base class of all errors that fastbert raises deliberately."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(_BREAKS.sub(" ", printable(shortened(str(message))))))


class InputError(FastbertError, ValueError):
    """A value that the model, the tokenizer or a file reader cannot accept; the message names it, its place and the limit."""


class TooLongError(InputError):
    """A text with more tokens than the model reads, where such texts are not cut."""


class ArgumentError(FastbertError, TypeError):
    """A keyword argument that does not exist or does not apply to BERT."""


class ConfigError(FastbertError, ValueError):
    """A configuration that does not describe a BERT."""


class BackendError(FastbertError, RuntimeError):
    """The requested backend cannot run an op; the message says why."""


class TrainingError(FastbertError, RuntimeError):
    """A training run that cannot continue; the message names the step and the last good checkpoint."""


class HubError(FastbertError, RuntimeError):
    """The Hugging Face hub cannot be reached, or refuses what was asked."""


class StoppedError(TrainingError):
    """A run of several parts was stopped by a signal; its progress is saved.

    Attributes:
        signal: name of the signal, such as "SIGTERM".
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"stopped by {name}; saved, the same command resumes the run")
        self.signal = name


class CheckpointError(FastbertError, ValueError):
    """A checkpoint whose content is damaged or does not fit the model."""


class SizeMismatchError(CheckpointError, RuntimeError):
    """Weights whose shapes differ from the model's."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint, or a part of one, at the given path or hub id."""

    def __str__(self) -> str:  # OSError would print its errno form
        return str(self.args[0]) if self.args else ""
