"""From token ids of texts to the sequences that a BERT reads: [CLS] A [SEP] B [SEP], cut or in windows where they are too long.

Nothing is lost without a count. Cutting takes from the longer text first, and from B where both are equally long, as the
released code of BERT does. Windows walk along one text and repeat the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fastbert.errors import InputError
from fastbert.tokenizer import BertTokenizer

ON_LONG = ("truncate", "error", "window")


@dataclass
class Framed:
    """Sequences made of texts, each at most so long.

    Attributes:
        ids, types: of each sequence.
        owners: the text, by its number, that each sequence belongs to; ascending.
        starts: for each sequence, the first token of the walked text that it holds, counted within that text.
        columns: for each sequence, the column at which that token stands.
        counts: for each sequence, how many tokens of the walked text it holds.
        cut: for each text, how many of its tokens are in no sequence.
    """

    ids: list[list[int]] = field(default_factory=list)
    types: list[list[int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(row) for row in self.ids]


class Framer:
    """Frames texts for a model.

    Args:
        tokenizer: gives the special tokens.
        max_length: tokens of a sequence, special ones included.
    """

    def __init__(self, tokenizer: BertTokenizer, max_length: int) -> None:
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.max_length = max_length
        self.cuts_left = tokenizer.truncation_side == "left"
        self.second_segment = int(tokenizer.segments_pairs)
        if max_length < 5:
            raise InputError(f"max_length = {max_length} leaves no room for text beside the special tokens")

    def frame(
        self,
        first: Sequence[list[int]],
        second: Sequence[list[int]] | None = None,
        on_long: str = "truncate",
        overlap: int = 64,
        name: str = "texts",
    ) -> Framed:
        """Frames single texts, or pairs.

        Args:
            first, second: token ids without special tokens.
            on_long: "truncate", "error", or "window": the longer text of a pair is walked along.
            overlap: tokens that neighbouring windows share, at most half of their room.
            name: of the texts, for messages.

        Raises:
            InputError: a text that is too long where that is an error, or a pair whose shorter text leaves no room.
        """
        if on_long not in ON_LONG:
            raise InputError(f"on_long = {on_long!r} is not one of {', '.join(ON_LONG)}")
        framed = Framed()
        for owner, a in enumerate(first):
            b = None if second is None else second[owner]
            length = len(a) + (2 if b is None else len(b) + 3)
            if length > self.max_length and on_long == "error":
                raise InputError(
                    f"{name}[{owner}] has {length} tokens, the limit is {self.max_length}: shorten it, or truncate or window"
                )
            if length > self.max_length and on_long == "window":
                walks_first = b is None or len(a) > len(b)
                self.walk(framed, owner, a, b, walks_first, overlap=overlap, place=f"{name}[{owner}]")
                continue
            room = self.max_length - (2 if b is None else 3)
            keep = (min(len(a), room), 0) if b is None else cut_pair(len(a), len(b), room)
            framed.cut.append(len(a) + (0 if b is None else len(b)) - sum(keep))
            begin = len(a) - keep[0] if self.cuts_left else 0
            kept = None if b is None else b[len(b) - keep[1] :] if self.cuts_left else b[: keep[1]]
            self._add(framed, owner, a[begin : begin + keep[0]], kept, begin, True)
        return framed

    def walk(
        self,
        framed: Framed,
        owner: int,
        a: list[int],
        b: list[int] | None,
        walks_first: bool,
        *,
        overlap: int | None = None,
        step: int | None = None,
        place: str,
    ) -> None:
        """Adds windows over one text of a pair, or over a single one; the other text is whole in each.

        Args:
            walks_first: whether A is walked along, or else B.
            overlap, step: tokens that neighbours share, or from the start of one to that of the next: one of both.
            place: of the pair, for messages.
        """
        walked, other = (a, b) if walks_first else (b or [], a)
        room = self.max_length - (2 if other is None else len(other) + 3)
        if room < min(8, len(walked)):
            raise InputError(
                f"{place}: its shorter text has {len(other or [])} tokens, which leaves no room for windows of "
                f"{self.max_length} tokens (max_length)"
            )
        step = max(1, room - min(overlap or 0, room // 2)) if step is None else min(step, room)
        framed.cut.append(0)
        for start, end in windows(len(walked), room, step):
            part = walked[start:end]
            self._add(framed, owner, part if walks_first else a, b if walks_first else part, start, walks_first)

    def _add(self, framed: Framed, owner: int, a: list[int], b: list[int] | None, start: int, walks_first: bool) -> None:
        ids, types = [self.cls, *a, self.sep], [0] * (len(a) + 2)
        if b is not None:
            ids, types = [*ids, *b, self.sep], [*types, *[self.second_segment] * (len(b) + 1)]
        framed.ids.append(ids)
        framed.types.append(types)
        framed.owners.append(owner)
        framed.starts.append(start)
        framed.columns.append(1 if walks_first else len(a) + 2)
        framed.counts.append(len(a) if walks_first else len(b or ()))


def cut_pair(a: int, b: int, room: int) -> tuple[int, int]:
    """Lengths to which a pair is cut: a token at a time from the longer text, from B where both are equally long."""
    if a + b <= room:
        return a, b
    a = min(a, max(room - b, (room + 1) // 2))
    return a, room - a


def windows(count: int, room: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of windows of at most `room` tokens, each `step` behind the one before it, that cover `count` tokens."""
    found = [(0, min(room, count))]
    while found[-1][1] < count:
        start = found[-1][0] + step
        found.append((start, min(start + room, count)))
    return found


def most_context(spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Where the part of each window begins in which its tokens have most context, and `count` behind: (windows + 1,).

    A token has most context in the window with most tokens at the side of it where there are fewer, then at both sides, then
    in the first of them. Of two neighbours the later one is better from their overlap's middle on, so that each window has one
    stretch of tokens.

    Args:
        spans: (first token, last token + 1) of windows in order, each beginning and ending behind the one before it.
        count: tokens that they cover.
    """
    begins = [0]
    for (first, end), (later, later_end) in pairwise(spans):
        low, high = max(later, begins[-1]), end
        while low < high:
            middle = (low + high) // 2
            if _context((later, later_end), middle) > _context((first, end), middle):
                high = middle
            else:
                low = middle + 1
        begins.append(low)
    return [*begins, count]


def _context(span: tuple[int, int], token: int) -> tuple[int, int]:
    left, right = token - span[0], span[1] - 1 - token
    return min(left, right), left + right
