"""Inputs and outputs of the tokenizer: checks of texts, `BatchEncoding`, padding, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Encoding

from fastbert.errors import InputError

_STRATEGIES = ("longest_first", "only_first", "only_second")
SIDES = ("right", "left")
PADDED = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask", "position_ids")  # what `pad` fills up
_IDS = ("input_ids", "token_type_ids", "position_ids", "overflow_to_sample_mapping")  # whole numbers, whatever else


class BatchEncoding(dict[str, Any]):
    """Output of the tokenizer: model inputs by name, and their alignment with the text.

    Attributes:
        encodings: one `tokenizers.Encoding` a row, padding included; empty where the values came from elsewhere.
        num_truncated: for each input, how many of its tokens were cut off (0 with overflow windows: nothing is lost). Of a text
            that is many times longer than the limit it is a lower bound, as the rest is never read.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] = (),
        num_truncated: Sequence[int] = (),
        tensor_type: str | None = None,
    ) -> None:
        values = {} if values is None else values
        if tensor_type is not None:
            values = {name: as_array(value, name, tensor_type) for name, value in values.items()}
        super().__init__(values)
        self.encodings = list(encodings)
        self.num_truncated = list(num_truncated)

    @property
    def data(self) -> dict[str, Any]:
        """The values as a plain dict."""
        return dict(self)

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs; None where nothing is known."""
        return self.encodings[0].n_sequences if self.encodings else None

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"encodings": self.encodings, "num_truncated": self.num_truncated}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _row(self, batch_index: int) -> Encoding:
        if not self.encodings:
            raise InputError("these values came without encodings: only what a tokenizer's call returns has tokens and words")
        if not -len(self.encodings) <= batch_index < len(self.encodings):
            raise InputError(f"batch_index = {batch_index} is not in 0..{len(self.encodings) - 1}")
        return self.encodings[batch_index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as text."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, the word it belongs to within its text; None for special tokens and padding."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, 0 or 1 for the text it comes from; None for special tokens and padding."""
        return self._row(batch_index).sequence_ids

    # In these the row may be left out where there is one: (index) or (row, index), as in transformers.

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The token that holds a character of a text; None where none does."""
        row, index = _row_and_index(batch_or_char_index, char_index)
        return self._row(row).char_to_token(index, sequence_index)

    def char_to_word(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The word that holds a character of a text; None where none does."""
        row, index = _row_and_index(batch_or_char_index, char_index)
        return self._row(row).char_to_word(index, sequence_index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> tuple[int, int] | None:
        """(start, end) of a token's characters in its text; None for special tokens."""
        row, index = _row_and_index(batch_or_token_index, token_index)
        found = self._row(row).token_to_chars(_from_end(index, self._row(row)))
        return None if found is None else (found[0], found[1])

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word of a token; None for special tokens."""
        row, index = _row_and_index(batch_or_token_index, token_index)
        return self._row(row).token_to_word(_from_end(index, self._row(row)))

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1 for the text of a token; None for special tokens."""
        row, index = _row_and_index(batch_or_token_index, token_index)
        return self._row(row).token_to_sequence(_from_end(index, self._row(row)))

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> tuple[int, int] | None:
        """(first, last + 1) of a word's tokens; None where it has none."""
        row, index = _row_and_index(batch_or_word_index, word_index)
        return self._row(row).word_to_tokens(index, sequence_index)

    def word_to_chars(self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0) -> Any:
        """(start, end) of a word's characters in its text."""
        row, index = _row_and_index(batch_or_word_index, word_index)
        return self._row(row).word_to_chars(index, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None) -> BatchEncoding:
        """Turns the values into arrays of a kind, "pt" or "np", in place."""
        if tensor_type is not None:
            self.update({name: as_array(value, name, tensor_type) for name, value in self.items()})
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """The same with its tensors on another device."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value

        return BatchEncoding({name: moved(value) for name, value in self.items()}, self.encodings, self.num_truncated)


def _row_and_index(first: int, second: int | None) -> tuple[int, int]:
    return (0, first) if second is None else (first, second)


def _from_end(index: int, encoding: Encoding) -> int:
    return index if index >= 0 else len(encoding.ids) + index


def check_texts(text: Any, pair: Any, split: bool) -> tuple[bool, list[Any]]:
    """Whether one text was given, and the inputs as the library takes them: texts, or tuples of two."""
    if pair is None and isinstance(text, list) and text and all(_is_pair(entry, split) for entry in text):
        return check_texts([a for a, _ in text], [b for _, b in text], split)
    single = isinstance(text, str) or (split and isinstance(text, list | tuple) and all(isinstance(word, str) for word in text))
    first = _texts([text] if single else text, "text", split)
    if pair is None:
        return single, first
    second = _texts([pair] if single else pair, "text_pair", split)
    if len(first) != len(second):
        raise InputError(f"text has {len(first)} entries, text_pair has {len(second)}")
    return single, list(zip(first, second, strict=True))


def _texts(values: Any, name: str, split: bool) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{name} is a {type(values).__name__}; expected text or a list of texts")
    values = list(values)
    for i, value in enumerate(values):
        good = (
            isinstance(value, str) if not split else isinstance(value, list | tuple) and all(isinstance(w, str) for w in value)
        )
        if not good:
            raise InputError(f"{name}[{i}] is a {type(value).__name__}; expected {'a list of words' if split else 'text'}")
        for part in value if split else (value,):
            check_text(part, f"{name}[{i}]")
    return values


def check_text(text: str, place: str) -> None:
    """Raises InputError for text that no file could hold: half of a surrogate pair."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{place} holds half a surrogate pair at character {error.start}: not valid text") from None


def _is_pair(entry: Any, split: bool) -> bool:
    """Whether an entry is two texts; of texts in words only a tuple is, as a list of lists is a batch."""
    if not isinstance(entry, tuple if split else (tuple, list)) or len(entry) != 2:
        return False
    return all(isinstance(part, list) if split else isinstance(part, str) for part in entry)


def cutting_strategy(truncation: bool | str | None) -> str | None:
    """The library's name of a truncation, None where nothing is cut."""
    if truncation in (None, False, "do_not_truncate"):
        return None
    if truncation is True:
        return "longest_first"
    if truncation not in _STRATEGIES:
        raise InputError(f"truncation = {truncation!r} is not True, False or one of {', '.join(_STRATEGIES)}")
    return str(truncation)


def pair_lengths(first: int, second: int, room: int, strategy: str) -> tuple[int, int]:
    """Tokens that are kept of a pair, both together at most `room`, as the `tokenizers` library counts them.

    "longest_first" takes from the longer text; where both are longer than half of the room, each keeps half, and the longer
    one (the second, if they are equal) the odd token. The other strategies take from one text alone; what is below 1 there
    cannot be brought to that length.
    """
    over = first + second - room
    if over <= 0:
        return first, second
    if strategy == "only_first":
        return first - over, second
    if strategy == "only_second":
        return first, second - over
    short, long = min(first, second), max(first, second)
    long = long if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def pads(padding: bool | str | None) -> bool:
    """Whether a `padding` asks for any."""
    return padding not in (None, False, "do_not_pad")


def padded_width(
    rows: Sequence[Sequence[Any]], padding: bool | str | None, limit: int | None, multiple: int | None
) -> int | None:
    """Length to pad rows to, None for no padding."""
    if not pads(padding):
        return None
    if padding not in (True, "longest", "max_length"):
        raise InputError(f"padding = {padding!r} is not True, False, 'longest' or 'max_length'")
    width = max(map(len, rows), default=0)
    if padding == "max_length":
        if limit is None:
            raise InputError("padding = 'max_length' needs max_length: this tokenizer has no model_max_length")
        width = max(width, limit)
    return -(-width // multiple) * multiple if multiple else width


def pad(row: list[Any], width: int, fill: Any, side: str) -> list[Any]:
    """A row filled up to `width` at one side."""
    extra = [fill] * (width - len(row))
    return [*row, *extra] if side == "right" else [*extra, *row]


def check_counts(**counts: Any) -> None:
    """Checks that values are whole numbers from 0, or None; InputError names the argument."""
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < (name != "stride")):
            raise InputError(f"{name} = {value!r} must be a whole number from {int(name != 'stride')}")


def check_side(side: str, name: str = "padding_side") -> str:
    """The side, if it is one."""
    if side not in SIDES:
        raise InputError(f"{name} = {side!r} is neither 'right' nor 'left'")
    return side


def as_array(values: Any, name: str, kind: str) -> Any:
    """Values as a tensor ("pt") or an array ("np"): ids as int64, everything else in its own type.

    Raises:
        InputError: another kind, rows of different lengths, ids that are no whole numbers, or what no array can hold.
    """
    if kind not in ("pt", "np"):
        raise InputError(f"return_tensors = {kind!r} is not 'pt', 'np' or None")
    import numpy
    import torch

    if isinstance(values, torch.Tensor):
        array: Any = values
    elif isinstance(values, list | tuple) and values and all(isinstance(row, torch.Tensor) for row in values):
        array = _joined(list(values), name, torch.stack)
    elif isinstance(values, numpy.ndarray):
        array = values
    elif isinstance(values, list | tuple) and values and all(isinstance(row, numpy.ndarray) for row in values):
        array = _joined(list(values), name, numpy.stack)
    else:
        try:
            array = torch.tensor(values) if kind == "pt" else _numbers(values)
        except (TypeError, ValueError, RuntimeError) as error:
            ragged = isinstance(error, ValueError) and ("length" in str(error) or "inhomogeneous" in str(error))
            why = (
                "rows of different lengths: pass padding=True for tensors, or pack the lists"
                if ragged
                else (f"values that no tensor can hold ({str(error).splitlines()[0]})")
            )
            raise InputError(f"{name} has {why}") from None
    if name in _IDS:
        array = _whole(array, name)
    if kind == "np":
        return array.numpy() if isinstance(array, torch.Tensor) else array
    return torch.from_numpy(array) if isinstance(array, numpy.ndarray) else array


def _numbers(values: Any) -> Any:
    import numpy

    array = numpy.array(values)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"they are {array.dtype}")
    return array


def _joined(rows: list[Any], name: str, stack: Callable[[list[Any]], Any]) -> Any:
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise InputError(f"{name} has rows of different lengths: pass padding=True for tensors, or pack the lists")
    return stack(rows)


def _whole(array: Any, name: str) -> Any:
    """int64 from integers; an empty list has no type of its own."""
    import numpy
    import torch

    if isinstance(array, torch.Tensor):
        if array.numel() and (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool):
            raise InputError(f"{name} holds {array.dtype} values; ids are whole numbers")
        return array.long()
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} holds {array.dtype} values; ids are whole numbers")
    return array.astype(numpy.int64)
