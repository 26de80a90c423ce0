"""[CLS] A [SEP] B [SEP]: cut from the longer text, or in windows that lose nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fastbert import BertTokenizer
from fastbert.data.framing import Framed, Framer, cut_pair, most_context, windows
from fastbert.errors import InputError


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])


def pop_longest(a: int, b: int, room: int) -> tuple[int, int]:
    """The released code's rule, step by step."""
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


def test_pairs_are_cut_longest_first_and_ties_from_b() -> None:
    for a in range(12):
        for b in range(12):
            for room in range(1, 16):
                assert cut_pair(a, b, room) == pop_longest(a, b, room), (a, b, room)


def test_windows_cover_every_token_once_or_more() -> None:
    for count in range(40):
        for room in range(1, 12):
            for step in range(1, room + 1):
                found = windows(count, room, step)
                assert {at for start, end in found for at in range(start, end)} == set(range(count))
                assert all(end - start <= room for start, end in found)
                assert all(b[0] - a[0] == step for a, b in pairwise(found))


def test_a_token_is_judged_where_it_has_most_context() -> None:
    assert most_context([(0, 10), (5, 15), (10, 20)], 20) == [0, 8, 13, 20]
    for count in range(1, 40):
        for room in range(1, 12):
            for step in range(1, room + 1):
                spans = windows(count, room, step)
                begins = most_context(spans, count)
                for token in range(count):  # every window that holds the token, by the rule itself
                    context = {at: (min(token - a, b - 1 - token), b - a) for at, (a, b) in enumerate(spans) if a <= token < b}
                    best = max(context, key=context.__getitem__)
                    assert begins[best] <= token < begins[best + 1], (count, room, step, token)


def test_cutting_is_counted_and_errors_name_the_text(tokenizer: BertTokenizer) -> None:
    framer = Framer(tokenizer, 10)
    framed = framer.frame([[5] * 3, [5] * 12], [[5] * 4, [5] * 2])
    assert framed.cut == [0, 7]
    assert framed.lengths == [10, 10]
    assert framed.ids[1] == [2, *[5] * 5, 3, 5, 5, 3]
    assert framed.types[1] == [0] * 7 + [1] * 3
    with pytest.raises(InputError, match=r"texts\[1\] has 14 tokens, the limit is 10"):
        framer.frame([[5], [5] * 12], None, "error")


def test_windows_repeat_the_shorter_text_and_walk_the_longer(tokenizer: BertTokenizer) -> None:
    framer = Framer(tokenizer, 20)
    long = list(range(100, 140))
    framed = framer.frame([long, [7, 8]], [[7, 8], long], "window", overlap=5)
    assert set(framed.owners) == {0, 1}
    for owner in (0, 1):
        rows = [i for i, o in enumerate(framed.owners) if o == owner]
        seen = [
            framed.ids[i][framed.columns[i] + at]
            for i in rows
            for at in range(framed.counts[i])
            if i == rows[0] or at >= framed.counts[rows[0]] - (framed.starts[i] - framed.starts[i - 1])
        ]
        assert set(seen) == set(long)
        for i in rows:
            assert framed.ids[i][framed.columns[i]] == long[framed.starts[i]]
    assert framed.cut == [0, 0]
    with pytest.raises(InputError, match="leaves no room for windows"):
        framer.walk(Framed(), 0, long, long, True, overlap=0, place="texts[0]")
