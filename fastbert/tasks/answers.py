"""Selects answer spans from start and end scores by the paper's rules (section 4.2), over the windows of one context.

A span's score is its start score plus its end score. A span does not end before it starts, has at most `max_tokens` tokens and
lies in the context (only scores of context tokens are passed in). In each window, only tokens that have their most context in
that window are considered as starts.
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
        start, end: a score for each token of the context in this window.
        null: score of "no answer": start and end at [CLS].
        offsets: for each token, its character span in the context.
        first: index of the window's first token in the whole context.
    """

    start: Sequence[float]
    end: Sequence[float]
    null: float
    offsets: Sequence[tuple[int, int]]
    first: int = 0


class Found(NamedTuple):
    """An answer: its text, its character span in the context (0 to 0 for "no answer"), and its score."""

    text: str
    start: int
    end: int
    score: float


def best_answers(windows: Sequence[ScoredWindow], context: str, n_best: int = 20, max_tokens: int = 30) -> list[Found]:
    """The best answers over all windows, best first, without duplicate spans; empty if there is no context.

    Args:
        windows: the windows of one context, in order.
        context: the text that contains the answers.
        n_best: number of best starts and ends considered in each window, and most answers returned.
        max_tokens: most tokens of an answer.
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
    """The score of "no answer" for the whole context: the lowest over all windows."""
    return min(window.null for window in windows)


def _largest(scores: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]
