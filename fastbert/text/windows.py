"""Windows of a row that is too long: where they begin, and which of them knows most of a token's surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def windows(count: int, room: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of windows of at most `room` tokens, each `step` behind the one before it, that cover `count` tokens."""
    found = [(0, min(room, count))]
    while found[-1][1] < count:
        start = found[-1][0] + step
        found.append((start, min(start + room, count)))
    return found


def most_context(spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Start of the part of each window whose tokens have the most context there, then `count`: (windows + 1,).

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
