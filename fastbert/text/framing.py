"""From texts to the rows that a BERT reads: [CLS] A [SEP] B [SEP], cut or in windows where they are too long.

    texts -> token ids -> Framed: all rows in one flat array, and for each row the text it came from and what it holds of it

Nothing is lost without a count. Cutting takes from the longer text first, and from B where both are equally long, as the
released code of BERT does. Windows walk along one text and repeat the other. No model is needed: only its limits.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbert.choices import OVERLONG
from fastbert.errors import InputError, TooLongError
from fastbert.progress import Show, progress
from fastbert.text.encoding import check_text
from fastbert.text.template import Template
from fastbert.text.tokenizer import Tokenizer
from fastbert.text.windows import windows

TEXTS_AT_ONCE = 2048  # tokenised between two steps of the bar

Ints = NDArray[np.int64]
Place = Callable[[int], str]  # from the number of a text to what messages call it
Cut = Callable[[int, int, int], tuple[int, int]]  # lengths of A and B, and the room for both -> how much of each is kept


@dataclass(frozen=True, eq=False)
class Framed:
    """Rows made of texts, one behind the other, each at most so long. R rows of n texts, T tokens.

    Attributes:
        ids: (T,) int32 token ids.
        segments: (T,) int8.
        starts: (R + 1,) where each row starts in `ids`, and T.
        owners: (R,) the text, by its number, that each row belongs to; ascending.
        firsts: (R,) the first token of the walked text that the row holds, counted within that text: where its window starts.
        columns: (R,) the column of the row at which that token stands.
        counts: (R,) how many tokens of the walked text the row holds.
        cut: (n,) how many tokens of each text are in no row.
        place: what messages call a text: "inputs[3]", or a file and a line.
    """

    ids: NDArray[np.int32]
    segments: NDArray[np.int8]
    starts: Ints
    owners: Ints
    firsts: Ints
    columns: Ints
    counts: Ints
    cut: Ints
    place: Place

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]], place: Place | str = "input_ids") -> Framed:
        """Rows of ids that have their special tokens already, of segment 0: one a text, all of it."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        starts = np.concatenate([[0], lengths.cumsum()])
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(starts[-1]))
        none = np.zeros_like(lengths)
        owners = np.arange(len(rows))
        return cls(ids, np.zeros(len(ids), np.int8), starts, owners, none, none, lengths, none, place_of(place))

    @classmethod
    def merged(cls, parts: Sequence[tuple[Framed, Ints]]) -> Framed:
        """Rows taken from several of these, each for itself: a text of its own, whatever it was part of."""
        lengths = np.concatenate([framed.lengths[rows] for framed, rows in parts])
        starts = np.concatenate([[0], lengths.cumsum()])
        spans = [(framed, slice(framed.starts[row], framed.starts[row + 1])) for framed, rows in parts for row in rows]
        ids = np.concatenate([framed.ids[span] for framed, span in spans])
        segments = np.concatenate([framed.segments[span] for framed, span in spans])
        none = np.zeros_like(lengths)
        return cls(ids, segments, starts, np.arange(len(lengths)), none, none, lengths, none, place_of("rows"))

    def __len__(self) -> int:
        """R."""
        return len(self.owners)

    @cached_property
    def lengths(self) -> Ints:
        """(R,) tokens of each row."""
        return np.diff(self.starts)

    @property
    def num_texts(self) -> int:
        """How many texts there were, n."""
        return len(self.cut)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.ids)

    def row(self, number: int) -> NDArray[np.int32]:
        """The token ids of a row."""
        return self.ids[self.starts[number] : self.starts[number + 1]]

    def rows_of_texts(self) -> list[range]:
        """For each text, the numbers of its rows."""
        bounds = np.searchsorted(self.owners, np.arange(self.num_texts + 1)).tolist()
        return [range(*pair) for pair in pairwise(bounds)]


class Framer:
    """Collects the rows of texts, one text after the other.

    Args:
        tokenizer: gives the special tokens.
        max_length: tokens of a row, special ones included.
        place: what messages call a text, or the name of the argument that holds them.
        cut: how a pair is cut that is too long.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, place: Place | str = "inputs", cut: Cut | None = None) -> None:
        self.max_length, self.place = max_length, place_of(place)
        self._tokenizer = tokenizer
        self._templates: dict[bool, Template] = {}
        self._cuts_left = tokenizer.truncation_side == "left"
        self._cut_pair = cut_pair if cut is None else cut
        self._ids, self._segments = array("i"), array("b")
        self._starts, self._cut = array("q", [0]), array("q")
        self._owners, self._firsts, self._columns, self._counts = (array("q") for _ in range(4))

    def add(self, a: Sequence[int], b: Sequence[int] | None = None, overlong: str = "truncate", overlap: int = 64) -> None:
        """Frames the next text, or pair.

        Args:
            a, b: token ids without special tokens.
            overlong: where it is too long: "truncate", "error", or "window": the longer text of a pair is walked along.
            overlap: tokens that neighbouring windows share, at most half of their room.

        Raises:
            InputError: a text that is too long where that is an error, or a pair whose shorter text leaves no room.
        """
        room = self.max_length - self._template(b is not None).size
        total = len(a) + len(b or ())
        if total > room and overlong == "error":
            raise TooLongError(
                f"{self.place(len(self._cut))} has {total + self.max_length - room} tokens, the limit is {self.max_length}"
            )
        if total > room and overlong == "window":
            self.walk(a, b, b is None or len(a) > len(b), overlap=overlap)
            return
        if room < 1:
            raise InputError(f"max_length = {self.max_length} leaves no room for text beside the special tokens")
        keep = (min(len(a), room), 0) if b is None else self._cut_pair(len(a), len(b), room)
        if (a and not keep[0]) or (b and not keep[1]):
            raise InputError(f"{self.place(len(self._cut))}: max_length = {self.max_length} leaves nothing of one of its texts")
        begin = len(a) - keep[0] if self._cuts_left else 0
        kept = None if b is None else b[len(b) - keep[1] :] if self._cuts_left else b[: keep[1]]
        self._row(a[begin : begin + keep[0]], kept, begin, True)
        self._cut.append(total - sum(keep))

    def walk(
        self,
        a: Sequence[int],
        b: Sequence[int] | None,
        walks_first: bool,
        *,
        overlap: int | None = None,
        step: int | None = None,
        cut: int = 0,
    ) -> None:
        """Frames the next text in windows over one text of a pair, or over a single one; the other text is whole in each.

        Args:
            a, b: as of `add`.
            walks_first: whether A is walked along, or else B.
            overlap, step: tokens that neighbours share, or from the start of one to that of the next: one of both.
            cut: tokens that were cut before.
        """
        walked, other = (a, b) if walks_first else (b or (), a)
        room = self.max_length - self._template(b is not None).size - len(other or ())
        if room < (1 if other is None else min(8, len(walked))):
            raise InputError(
                f"{self.place(len(self._cut))}: its shorter text has {len(other or ())} tokens, which leaves no room for "
                f"windows of {self.max_length} tokens (max_length)"
            )
        step = max(1, room - min(overlap or 0, room // 2)) if step is None else min(step, room)
        for start, end in windows(len(walked), room, step):
            part = walked[start:end]
            self._row(part if walks_first else a, b if walks_first else part, start, walks_first)
        self._cut.append(cut)

    def _template(self, pair: bool) -> Template:
        if pair not in self._templates:
            self._templates[pair] = self._tokenizer.template(pair)
        return self._templates[pair]

    def _row(self, a: Sequence[int], b: Sequence[int] | None, first: int, walks_first: bool) -> None:
        template = self._template(b is not None)
        front, between, behind = template.parts
        ids, segments = self._ids, self._segments
        ids.extend(front)
        ids.extend(a)
        segments.frombytes(template.segments[0] + bytes([template.a]) * len(a))
        if b is not None:
            ids.extend(between)
            ids.extend(b)
            segments.frombytes(template.segments[1] + bytes([template.b]) * len(b))
        ids.extend(behind)
        segments.frombytes(template.segments[2])
        self._starts.append(len(ids))
        self._owners.append(len(self._cut))
        self._firsts.append(first)
        self._columns.append(len(front) if walks_first else len(front) + len(a) + len(between))
        self._counts.append(len(a) if walks_first else len(b or ()))

    def framed(self) -> Framed:
        """The rows of all texts so far."""
        starts, owners, firsts, columns, counts, cut = (
            np.array(one, dtype=np.int64)
            for one in (self._starts, self._owners, self._firsts, self._columns, self._counts, self._cut)
        )
        ids, segments = np.array(self._ids, dtype=np.int32), np.array(self._segments, dtype=np.int8)
        return Framed(ids, segments, starts, owners, firsts, columns, counts, cut, self.place)


def frame(
    tokenizer: Tokenizer,
    first: Sequence[str],
    second: Sequence[str] | None = None,
    *,
    max_length: int,
    overlong: str = "truncate",
    overlap: int = 64,
    place: Place | str = "inputs",
    cut: Cut | None = None,
    show: Show = False,
) -> Framed:
    """The rows of single texts, or of pairs.

    Args:
        tokenizer: of the model.
        first, second: texts.
        max_length, place, cut: as of `Framer`.
        overlong, overlap: as of `Framer.add`.
        show: a bar on stderr, where there are many texts.

    Raises:
        InputError: see `Framer.add`; or something that is not a text.
    """
    check_overlong(overlong)
    framer = Framer(tokenizer, max_length, place, cut)
    # Of a text that is cut at its end only a beginning is read; another rule for pairs may ask which text is longer.
    partly = overlong == "truncate" and tokenizer.truncation_side == "right" and (second is None or cut is None)
    bound = max_length if partly else None

    def encode(texts: Sequence[str], start: int) -> list[list[int]]:
        for number, text in enumerate(texts, start):
            check_text(text, framer.place(number))
        return tokenizer.encode_ids(texts, add_special_tokens=False, max_tokens=bound)

    with progress(len(first), "text", "tokenize", show if len(first) > TEXTS_AT_ONCE else False) as bar:
        for start in range(0, len(first), TEXTS_AT_ONCE):
            a = encode(first[start : start + TEXTS_AT_ONCE], start)
            b: Sequence[Any] = [None] * len(a) if second is None else encode(second[start : start + len(a)], start)
            for pair in zip(a, b, strict=True):
                framer.add(*pair, overlong, overlap)
            bar.update(len(a))
    return framer.framed()


def check_overlong(overlong: str) -> None:
    """Raises InputError unless it is one of `OVERLONG`."""
    if overlong not in OVERLONG:
        raise InputError(f"overlong = {overlong!r} is not one of {', '.join(OVERLONG)}")


@dataclass(frozen=True)
class _Entries:
    """Places of the entries of an argument; a function would keep what holds it from being pickled."""

    name: str

    def __call__(self, number: int) -> str:
        return f"{self.name}[{number}]"


def place_of(place: Place | str) -> Place:
    """From the name of an argument to the places of its entries."""
    return _Entries(place) if isinstance(place, str) else place


def cut_pair(a: int, b: int, room: int) -> tuple[int, int]:
    """Lengths to which a pair is cut: a token at a time from the longer text, from B where both are equally long."""
    if a + b <= room:
        return a, b
    a = min(a, max(room - b, (room + 1) // 2))
    return a, room - a
