"""[CLS] A [SEP] B [SEP]: cut from the longer text, or in windows that lose nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tokenizers import processors

from fastbert import BertTokenizer
from fastbert.errors import InputError
from fastbert.text import framing
from fastbert.text.framing import Framed, Framer, cut_pair, frame
from fastbert.text.windows import most_context, windows


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


def framed(tokenizer: BertTokenizer, limit: int, first: list[list[int]], second: Any = None, **how: Any) -> Framed:
    framer = Framer(tokenizer, limit, "texts")
    for number, ids in enumerate(first):
        framer.add(ids, None if second is None else second[number], **how)
    return framer.framed()


def test_cutting_is_counted_and_errors_name_the_text(tokenizer: BertTokenizer) -> None:
    found = framed(tokenizer, 10, [[5] * 3, [5] * 12], [[5] * 4, [5] * 2])
    assert found.cut.tolist() == [0, 7]
    assert found.lengths.tolist() == [10, 10]
    assert found.row(1).tolist() == [2, *[5] * 5, 3, 5, 5, 3]
    assert found.segments[10:].tolist() == [0] * 7 + [1] * 3
    with pytest.raises(InputError, match=r"texts\[1\] has 14 tokens, the limit is 10"):
        framed(tokenizer, 10, [[5], [5] * 12], overlong="error")


def test_windows_repeat_the_shorter_text_and_walk_the_longer(tokenizer: BertTokenizer) -> None:
    long = list(range(100, 140))
    found = framed(tokenizer, 20, [long, [7, 8]], [[7, 8], long], overlong="window", overlap=5)
    assert found.num_texts == 2
    for rows in found.rows_of_texts():
        seen: set[int] = set()
        for i in rows:
            column, count, first = int(found.columns[i]), int(found.counts[i]), int(found.firsts[i])
            held = found.row(i)[column : column + count].tolist()
            assert held == long[first : first + count]
            assert len(seen & set(held)) == (0 if i == rows[0] else 5)
            seen |= set(held)
        assert seen == set(long)
    assert found.cut.tolist() == [0, 0]
    with pytest.raises(InputError, match=r"texts\[1\]: its shorter text has 40 tokens, which leaves no room for windows"):
        framed(tokenizer, 20, [long, long], [[7], long], overlong="window")


def test_a_single_text_has_windows_in_the_smallest_row(tokenizer: BertTokenizer) -> None:
    found = framed(tokenizer, 5, [list(range(10))], overlong="window", overlap=0)
    assert [found.row(i)[1:-1].tolist() for i in range(len(found))] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_rows_have_the_special_tokens_that_the_tokenizer_puts_there(tokenizer: BertTokenizer) -> None:
    """Another tokenizer's template, with two tokens between the texts, and segments of its own."""
    other = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    for one in (tokenizer, other):
        found = frame(one, ["a a", "a"], ["a", "a a a a a a"], max_length=8, overlong="truncate")
        expected = one(["a a", "a"], ["a", "a a a a a a"], truncation=True, max_length=8, return_token_type_ids=True)
        assert [found.row(i).tolist() for i in range(2)] == expected["input_ids"]
        assert found.segments.tolist() == [segment for row in expected["token_type_ids"] for segment in row]


def test_a_template_with_the_second_text_first_is_refused(tokenizer: BertTokenizer) -> None:
    other = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $B:0 [SEP]:0 $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    assert frame(other, ["a"], max_length=8).row(0).tolist() == [2, 5, 3]
    with pytest.raises(InputError, match="puts the second text of a pair before the first"):
        frame(other, ["a"], ["a a"], max_length=8)


def test_places_are_of_the_whole_input_not_of_the_part_being_read(
    tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "TEXTS_AT_ONCE", 2)
    with pytest.raises(InputError, match=r"^file, line 5 has 9 tokens, the limit is 6$"):
        frame(tokenizer, [*["a"] * 5, "a " * 7], max_length=6, overlong="error", place=lambda i: f"file, line {i}")
    with pytest.raises(InputError, match=r"^texts\[3\] holds half a surrogate pair"):
        frame(tokenizer, ["a", "a", "a", "\ud800"], max_length=6, place="texts")
