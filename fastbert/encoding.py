"""What goes into the tokenizer and what comes out of it: checks of texts, `BatchEncoding`, padding, arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Encoding

from fastbert.errors import InputError

_STRATEGIES = ("longest_first", "only_first", "only_second")


class BatchEncoding(dict[str, Any]):
    """What the tokenizer returns: model inputs by name, and what is known of them beside.

    Attributes:
        encodings: one `tokenizers.Encoding` a row, before padding.
        num_truncated: for each input, how many of its tokens were cut off (0 with overflow windows: nothing is lost).
    """

    def __init__(self, values: Mapping[str, Any], encodings: list[Encoding], num_truncated: list[int]) -> None:
        super().__init__(values)
        self.encodings = encodings
        self.num_truncated = num_truncated

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def tokens(self, row: int = 0) -> list[str]:
        """The tokens of a row as text."""
        return self.encodings[row].tokens

    def word_ids(self, row: int = 0) -> list[int | None]:
        """For each token of a row, the word it belongs to within its text; None for special tokens."""
        return self.encodings[row].word_ids

    def sequence_ids(self, row: int = 0) -> list[int | None]:
        """For each token of a row, 0 or 1 for the text it comes from; None for special tokens."""
        return self.encodings[row].sequence_ids

    def to(self, device: Any) -> BatchEncoding:
        """The same with its tensors on another device."""
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in self.items()}
        return BatchEncoding(moved, self.encodings, self.num_truncated)


def check_texts(text: Any, pair: Any, split: bool) -> tuple[bool, list[Any]]:
    """Whether one text was given, and the inputs as the library takes them: texts, or tuples of two."""
    if pair is None and not split and isinstance(text, list) and text and all(_is_pair(entry) for entry in text):
        return check_texts([a for a, _ in text], [b for _, b in text], split)
    single = isinstance(text, str) or (split and bool(text) and all(isinstance(word, str) for word in text))
    first = _texts([text] if single else text, "text", split)
    if pair is None:
        return single, first
    second = _texts([pair] if single else pair, "text_pair", split)
    if len(first) != len(second):
        raise InputError(f"text has {len(first)} entries, text_pair has {len(second)}")
    return single, list(zip(first, second, strict=True))


def _texts(values: Any, name: str, split: bool) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{name} is a {type(values).__name__}; expected text or a list of texts")
    values = list(values)
    for i, value in enumerate(values):
        good = (
            isinstance(value, str) if not split else isinstance(value, list | tuple) and all(isinstance(w, str) for w in value)
        )
        if not good:
            raise InputError(f"{name}[{i}] is a {type(value).__name__}; expected {'a list of words' if split else 'text'}")
        joined = " ".join(value) if split else value
        if not joined.isascii():
            try:
                joined.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{name}[{i}] holds half a surrogate pair at character {error.start}: not valid text"
                ) from None
    return values


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2


def cutting_strategy(truncation: bool | str) -> str | None:
    """The library's name of a truncation, None where nothing is cut."""
    if truncation is False or truncation == "do_not_truncate":
        return None
    if truncation is True:
        return "longest_first"
    if truncation not in _STRATEGIES:
        raise InputError(f"truncation = {truncation!r} is not True, False or one of {', '.join(_STRATEGIES)}")
    return truncation


def padded_width(rows: list[list[int]], padding: bool | str, limit: int | None, multiple: int | None) -> int | None:
    """Length to pad rows to, None for no padding."""
    if padding in (False, "do_not_pad"):
        return None
    if padding not in (True, "longest", "max_length"):
        raise InputError(f"padding = {padding!r} is not True, False, 'longest' or 'max_length'")
    width = max(map(len, rows), default=0)
    if padding == "max_length" and limit is not None:
        width = max(width, limit)
    return -(-width // multiple) * multiple if multiple else width


def pad(row: list[Any], width: int, fill: Any, side: str) -> list[Any]:
    """A row filled up to `width` at one side."""
    extra = [fill] * (width - len(row))
    return [*row, *extra] if side == "right" else [*extra, *row]


def check_side(side: str) -> str:
    """The side, if it is one."""
    if side not in ("right", "left"):
        raise InputError(f"padding_side = {side!r} is neither 'right' nor 'left'")
    return side


def as_array(values: list[Any], name: str, kind: str) -> Any:
    """Rows of equal length as an int64 tensor ("pt") or array ("np")."""
    if kind not in ("pt", "np"):
        raise InputError(f"return_tensors = {kind!r} is not 'pt', 'np' or None")
    if len({len(row) for row in values if isinstance(row, list)}) > 1:
        raise InputError(f"{name} has rows of different lengths: pass padding=True for tensors, or pack the lists")
    if kind == "np":
        import numpy

        return numpy.array(values, dtype=numpy.int64)
    import torch

    return torch.tensor(values, dtype=torch.long)
