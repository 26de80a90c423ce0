"""From scores of starts and ends to answers: the paper's rules (section 4.2), over windows of one context.

A span's score is start + end. It ends where it starts or behind, is at most so many tokens long, lies in the context (only the
context's scores come here), and starts at a token only in the window in which that token has most context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastbert.text.windows import most_context


@dataclass(frozen=True)
class ScoredWindow:
    """The scores of a window's context.

    Attributes:
        start, end: a score for each token of the context.
        null: score of "no answer": start and end at [CLS].
        offsets: for each token, its characters in the context.
        first: the first token's number in the whole context.
    """

    start: Sequence[float]
    end: Sequence[float]
    null: float
    offsets: Sequence[tuple[int, int]]
    first: int = 0


class Found(NamedTuple):
    """An answer: its text, its characters in the context (0 to 0 for none), and its score."""

    text: str
    start: int
    end: int
    score: float


def best_answers(windows: Sequence[ScoredWindow], context: str, n_best: int = 20, max_tokens: int = 30) -> list[Found]:
    """The best answers of all windows, best first; no two with the same characters. Empty where there is no context.

    Args:
        windows: of one context, in order.
        context: the text that answers are cut from.
        n_best: starts and ends looked at in each window, and answers returned.
        max_tokens: of an answer.
    """
    bounds = [(window.first, window.first + len(window.start)) for window in windows]
    best_read = most_context(bounds, bounds[-1][1]) if bounds else []
    found: dict[tuple[int, int], float] = {}
    for number, window in enumerate(windows):
        starts, ends = (_largest(scores, n_best) for scores in (window.start, window.end))
        for s in starts:
            if not best_read[number] <= window.first + s < best_read[number + 1]:
                continue
            for e in ends:
                if s <= e < s + max_tokens:
                    place = (window.offsets[s][0], window.offsets[e][1])
                    found[place] = max(found.get(place, -math.inf), window.start[s] + window.end[e])
    ranked = sorted(found.items(), key=lambda item: -item[1])[:n_best]
    return [Found(context[start:end], start, end, score) for (start, end), score in ranked]


def null_score(windows: Sequence[ScoredWindow]) -> float:
    """The score of "no answer" for the whole context: the lowest of all windows."""
    return min(window.null for window in windows)


def _largest(scores: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]
