"""Calls that people make of a tokenizer, each with transformers' answer beside it."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken

from fastbert import BertTokenizer
from fastbert.errors import InputError
from fastbert.text.encoding import BatchEncoding

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "sat",
    "on",
    "un",
    "##believ",
    "##able",
    "a",
    "##b",
    ".",
    ",",
]


@pytest.fixture
def ours() -> BertTokenizer:
    return BertTokenizer(WORDS, model_max_length=12)


@pytest.fixture
def theirs(tmp_path: Path) -> Any:
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"), model_max_length=12)


def plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


# -- types of what is padded -----------------------------------------------------------------------------------------------

KEPT = {
    "a float": [3.8, -0.6],
    "a bool": [True, False],
    "a whole number": [3, 4],
    "nested floats": [[0.5, 1.0], [2.0, 3.5]],
    "deeper": [[[1, 2]], [[3, 4]]],
    "tensors": [torch.tensor(0.25), torch.tensor(0.5)],
    "arrays": [np.array([1.5, 2.5], dtype=np.float64), np.array([0.0, 1.0], dtype=np.float64)],
}


@pytest.mark.parametrize("values", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("kind", ["pt", "np"])
def test_pad_keeps_the_type_of_what_a_caller_brings(ours: BertTokenizer, theirs: Any, values: list[Any], kind: str) -> None:
    examples = [{"input_ids": ids, "labels": value} for ids, value in zip([[2, 3], [2, 5, 3]], values, strict=True)]
    if kind == "np" and isinstance(values[0], torch.Tensor):
        values = [float(v) for v in values]
    found, wanted = ours.pad(examples, return_tensors=kind), theirs.pad(copy.deepcopy(examples), return_tensors=kind)
    assert plain(found["labels"]) == plain(wanted["labels"])
    if kind == "pt":
        assert found["labels"].dtype == wanted["labels"].dtype
    assert plain(found["input_ids"]) == plain(wanted["input_ids"])
    assert plain(found["attention_mask"]) == plain(wanted["attention_mask"])
    assert str(found["input_ids"].dtype).endswith("int64")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids": [2.5, 3.0]}, "input_ids holds torch.float32 values; ids are whole numbers"),
        ({"input_ids": [2, 3], "token_type_ids": [0.0, 1.0]}, "token_type_ids holds torch.float32 values"),
        ({"input_ids": [2, 3], "labels": "good"}, "labels has values that no tensor can hold"),
        ({"input_ids": [2, 3], "labels": None}, "labels has values that no tensor can hold"),
        ({"input_ids": [2, 3], "token_type_ids": [0]}, "token_type_ids and input_ids have rows of different lengths"),
    ],
)
def test_pad_names_what_it_cannot_take(ours: BertTokenizer, example: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours.pad([example], return_tensors="pt")
    with pytest.raises(InputError, match=message):
        ours.pad(example, return_tensors="pt")  # the same as one example, not a list of them
    with pytest.raises(InputError, match="labels has rows of different lengths"):
        ours.pad([{"input_ids": [2], "labels": [1]}, {"input_ids": [2], "labels": [1, 2]}], return_tensors="pt")
    with pytest.raises(InputError, match=r"encoded_inputs\[1\] and encoded_inputs\[0\] differ in their keys: labels"):
        ours.pad([{"input_ids": [2], "labels": 1}, {"input_ids": [2]}])


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple, list])
def test_pad_takes_rows_of_any_kind(ours: BertTokenizer, kind: Any) -> None:
    """Data sets give tensors or arrays, row by row."""
    found = ours.pad(
        [{"input_ids": kind([2, 5, 3]), "labels": 0.5}, {"input_ids": kind([2, 3]), "labels": 1.5}], return_tensors="pt"
    )
    assert found["input_ids"].tolist() == [[2, 5, 3], [2, 3, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert found["labels"].tolist() == [0.5, 1.5]


def test_pad_takes_one_example(ours: BertTokenizer, theirs: Any) -> None:
    example = {"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": 0.5}
    found = ours.pad(example, padding="max_length", max_length=5)
    assert dict(found) == dict(theirs.pad(dict(example), padding="max_length", max_length=5))
    assert ours.pad({"input_ids": [2, 3]}, return_tensors="pt")["input_ids"].shape == (1, 2)


@pytest.mark.parametrize("padded", [True, False])
def test_a_regression_learns_from_floats_through_transformers_collator(ours: BertTokenizer, padded: bool) -> None:
    collate = transformers.DataCollatorWithPadding(ours)
    batch = collate([{"input_ids": [2, 5, 3][: 3 - padded], "label": 3.8}, {"input_ids": [2, 5, 3], "label": -0.6}])
    assert batch["labels"].tolist() == pytest.approx([3.8, -0.6])
    assert batch["input_ids"].dtype == torch.int64


# -- BatchEncoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cut", ["left", "right"])
def test_words_and_texts_of_tokens_cover_padding(ours: BertTokenizer, theirs: Any, side: str, cut: str) -> None:
    first, second = ["unbelievable cat", "the cat sat on the cat"], ["a", "the unbelievable cat , on a . the"]
    ours.truncation_side = theirs.truncation_side = cut
    options = {"padding": "max_length", "truncation": True, "padding_side": side}
    found, wanted = ours(first, second, **options), theirs(first, second, **options)
    assert dict(found) == dict(wanted)
    for row in range(2):
        assert found.tokens(batch_index=row) == wanted.tokens(row)
        assert found.word_ids(batch_index=row) == wanted.word_ids(row)
        assert found.sequence_ids(batch_index=row) == wanted.sequence_ids(row)
        assert len(found.word_ids(row)) == len(found["input_ids"][row]) == 12
        for at in range(12):
            assert found.token_to_word(row, at) == wanted.token_to_word(row, at)
            assert found.token_to_sequence(row, at) == wanted.token_to_sequence(row, at)
        for at in range(4):
            for text in (0, 1):
                assert found.char_to_token(row, at, sequence_index=text) == wanted.char_to_token(row, at, sequence_index=text)
                assert found.char_to_word(row, at, sequence_index=text) == wanted.char_to_word(row, at, sequence_index=text)
        assert found.word_to_tokens(row, 0) == (lambda span: span and (span.start, span.end))(wanted.word_to_tokens(row, 0))


def test_batch_encoding_is_rebuilt_moved_and_copied(ours: BertTokenizer) -> None:
    batch = ours(["the cat", "a"], padding=True, return_tensors="pt")
    rebuilt = type(batch)({name: value + 0 for name, value in batch.items()})  # as accelerate and Trainer do
    assert isinstance(rebuilt, BatchEncoding)
    moved = rebuilt.to("cpu", non_blocking=True)
    assert torch.equal(moved["input_ids"], batch["input_ids"])
    assert BatchEncoding({"input_ids": [[2, 3]]}, tensor_type="pt")["input_ids"].tolist() == [[2, 3]]
    for copied in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch)), copy.copy(batch)):
        assert torch.equal(copied.input_ids, batch.input_ids)
        assert copied.tokens(1) == batch.tokens(1)
    with pytest.raises(InputError, match="came without encodings"):
        rebuilt.tokens()
    with pytest.raises(InputError, match=r"batch_index = 7 is not in 0..1"):
        batch.word_ids(7)
    with pytest.raises(AttributeError):
        _ = batch.labels


# -- cutting ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("stride", [0, 1])
def test_windows_are_transformers(ours: BertTokenizer, theirs: Any, strategy: str, side: str, stride: int) -> None:
    ours.truncation_side = theirs.truncation_side = side
    text = ["the", "cat", "sat", "on", "a", "unbelievable", "cat", ".", "the", "cat", ",", "a", "cat"]
    for a in range(1, 13):
        for b in range(1, 13):
            pair = {"text": " ".join(text[:a]), "text_pair": " ".join(text[-b:])}
            options = {"truncation": strategy, "max_length": 12, "stride": stride, "return_overflowing_tokens": True}
            try:
                found = ours(**pair, **options)
            except InputError:
                over = {"only_first": b, "only_second": a}.get(strategy, 0)
                assert over > 12 - 3 - 1 - stride - 3, (a, b)  # a word has up to three pieces
                continue
            wanted = theirs(**pair, **options)
            assert found["input_ids"] == wanted["input_ids"], (a, b)
            assert found["token_type_ids"] == wanted["token_type_ids"]


def test_a_stride_without_room_beside_a_long_question_is_refused(ours: BertTokenizer) -> None:
    question, context = "the cat sat on a cat", "the cat " * 20
    options = {"truncation": "only_second", "max_length": 12, "return_overflowing_tokens": True}
    with pytest.raises(
        InputError, match=r"text\[1\]: .* leaves 3 of the 40 tokens of its second text, not more than stride = 4"
    ):
        ours(["the", question], [context, context], stride=4, **options)
    assert len(ours(question, context, stride=2, **options)["input_ids"]) > 10
    with pytest.raises(InputError, match="leaves 0 of the 40 tokens"):
        ours("the cat sat on the cat on the cat", context, **options)


def test_many_limits_cost_no_memory_and_are_not_pickled() -> None:
    tokenizer = BertTokenizer([*WORDS, *(f"word{i}" for i in range(20_000))], model_max_length=512)
    size = len(pickle.dumps(tokenizer))
    text = "the cat sat on the cat " * 30
    tokenizer(text, truncation=True, max_length=100)
    tracemalloc.start()
    for limit in range(10, 110):
        assert len(tokenizer(text, truncation=True, max_length=limit)["input_ids"]) == limit
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    tokenizer.encode_ids(["the"], split_special_tokens=True)
    assert len(pickle.dumps(tokenizer)) == size
    assert not [name for name, value in vars(tokenizer).items() if isinstance(value, dict) and len(value) > 20]
    assert pickle.loads(pickle.dumps(tokenizer))(text)["input_ids"] == tokenizer(text)["input_ids"]


# -- the calls ---------------------------------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "decode an id": lambda t: t.decode(6),
    "decode ids": lambda t: t.decode([2, 9, 10, 11, 3]),
    "decode a tensor": lambda t: t.decode(torch.tensor([2, 9, 10, 11, 3]), skip_special_tokens=True),
    "decode rows": lambda t: t.decode([[5, 6], [12]]),
    "decode and clean up": lambda t: t.decode([5, 6, 14, 12, 15], clean_up_tokenization_spaces=True),
    "batch_decode": lambda t: t.batch_decode([[2, 5, 6, 3], [12]], skip_special_tokens=True),
    "an id's token": lambda t: t.convert_ids_to_tokens(9),
    "ids' tokens": lambda t: t.convert_ids_to_tokens([2, 9, 3], skip_special_tokens=True),
    "tokens' ids": lambda t: t.convert_tokens_to_ids(["the", "zebra"]),
    "tokens' text": lambda t: t.convert_tokens_to_string(["un", "##believ", "##able", "cat"]),
    "pairs as lists": lambda t: dict(t([["the", "cat"], ["a", "a cat"]])),
    "pairs as tuples": lambda t: dict(t([("the", "cat"), ("a", "a cat")])),
    "no words": lambda t: dict(t([], is_split_into_words=True)),
    "words": lambda t: dict(t(["unbelievable", "cat"], is_split_into_words=True)),
    "pairs of words": lambda t: dict(t([(["the", "cat"], ["a"])], is_split_into_words=True)),
    "encode": lambda t: t.encode("the cat sat on the cat", max_length=5, truncation=True, padding="max_length"),
    "encode to tensors": lambda t: t.encode("the cat", return_tensors="pt").tolist(),
    "tokenize": lambda t: t.tokenize("unbelievable cat"),
    "length": lambda t: t("the cat", return_length=True)["length"],
    "no segments": lambda t: dict(t("the cat", "a", return_token_type_ids=False)),
    "no mask": lambda t: dict(t("the cat", return_attention_mask=False)),
    "special tokens": lambda t: (t.all_special_tokens, t.all_special_ids, t.special_tokens_map),
    "vocabulary": lambda t: (t.vocab, t.get_vocab(), t.vocab_size, len(t)),
    "a word added": lambda t: (t.add_tokens("zebra"), t("the zebra cat")["input_ids"], len(t)),
    "a word added twice": lambda t: (t.add_tokens(["zebra", "zebra"]), t.add_tokens("zebra"), t.get_added_vocab()["zebra"]),
    "a known word added": lambda t: (t.add_tokens(["cat"]), t("cats")["input_ids"]),
    "an AddedToken": lambda t: (t.add_tokens(AddedToken("<x>", lstrip=True)), t.tokenize("the <x>cat")),
    "a special word": lambda t: (t.add_tokens(["<X>"], special_tokens=True), t.tokenize("a <X> <x>"), t.decode([16], True)),
    "special tokens named": lambda t: (
        t.add_special_tokens({"mask_token": "<mask>", "extra_special_tokens": ["<e>"]}),
        t.mask_token_id,
        t.tokenize("<mask> <e> [MASK]"),
        t.all_special_tokens,
    ),
    "special counts": lambda t: (t.num_special_tokens_to_add(), t.num_special_tokens_to_add(pair=True)),
    "special mask": lambda t: t.get_special_tokens_mask([2, 5, 4, 3, 0], already_has_special_tokens=True),
    "is fast": lambda t: t.is_fast,
    "input names": lambda t: t.model_input_names,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_give_transformers_answers(ours: BertTokenizer, theirs: Any, call: Any) -> None:
    found, wanted = call(ours), call(theirs)
    if isinstance(wanted, int) and not isinstance(wanted, bool) and isinstance(found, list):
        wanted = [wanted]
    assert found == wanted


def test_bad_calls_are_one_sentence(ours: BertTokenizer) -> None:
    for call, message in (
        (lambda: ours.decode([-1]), "token_ids holds -1, which is no id"),
        (lambda: ours.add_tokens([3]), r"new_tokens\[0\] is a int; expected text or an AddedToken"),
        (lambda: ours.add_special_tokens({"entity": "x"}), "special_tokens_dict has the key 'entity'"),
        (lambda: ours.decode(["x"]), "token_ids is no sequence of ids"),
        (lambda: ours.decode(None), "token_ids is no sequence of ids"),
        (lambda: ours.convert_ids_to_tokens(-1), "ids holds -1, which is no id"),
        (lambda: ours("a", truncation=True, max_length="5"), "max_length = '5' must be a whole number from 1"),
        (lambda: ours("a", padding=True, pad_to_multiple_of=-3), "pad_to_multiple_of = -3 must be a whole number from 1"),
        (lambda: BertTokenizer(WORDS, model_max_length="5"), "model_max_length = '5' must be a whole number from 1"),
        (lambda: ours([["a", "b", "c"]]), r"text\[0\] is a list; expected text"),
        (lambda: ours({"a": 1}), "text is a dict; expected text"),
    ):
        with pytest.raises(InputError, match=message):
            call()


# -- very long texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "the unbelievable cat sat on a cat, " * 4000,
        "the cat " + "x" * 200_000 + " sat on " * 20_000,
        " " * 200_000 + "the cat " * 20_000,
        "the\u200b\u0301 cat" * 30_000,
        "[MASK]the[MASK] new york " * 9000,
        "x" * 300_000,
        "猫" * 150_000,
    ],
    ids=["words", "an endless word", "blanks", "marks", "special tokens", "one word", "characters"],
)
def test_the_end_of_a_long_text_is_not_read_where_it_cannot_matter(text: str) -> None:
    tokenizer = BertTokenizer([*WORDS, "猫"])
    tokenizer.add_tokens(["new york", "york the"])
    whole = tokenizer.encode_ids([text])[0]
    for limit in (8, 100):
        read = tokenizer.encode_ids([text], max_tokens=limit)[0]
        assert read[:-1][: limit - 1] == whole[:-1][: limit - 1]
        assert (len(read) > limit) == (len(whole) > limit)
        cut = tokenizer(text, truncation=True, max_length=limit)
        wanted = [*whole[:-1][: limit - 1], tokenizer.sep_token_id]
        assert cut["input_ids"] == wanted
        assert 0 <= cut.num_truncated[0] <= max(0, len(whole) - limit)


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_a_pair_of_long_texts_is_cut_as_the_library_cuts_it(strategy: str) -> None:
    tokenizer = BertTokenizer(WORDS)
    pair = ("on " + " " * 70 + "the cat ") * 700, "a , cat . " * 2000
    if strategy == "only_first":
        pair = (pair[0], "a cat")
    elif strategy == "only_second":
        pair = ("a cat", pair[1])
    cutting = copy.deepcopy(tokenizer._tokenizer)
    cutting.enable_truncation(128, strategy=strategy)
    assert tokenizer(*pair, truncation=strategy, max_length=128)["input_ids"] == cutting.encode(*pair).ids


def test_a_line_of_many_characters_is_cut_before_it_is_read() -> None:
    tokenizer = BertTokenizer(WORDS)
    seen = []
    encode = tokenizer._tokenizer.encode

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(BertTokenizer(WORDS)._tokenizer, name)

        def encode(self, text: str, **options: Any) -> Any:
            seen.append(len(text))
            return encode(text, **options)

        def encode_batch(self, texts: list[str], **options: Any) -> Any:
            seen.extend(map(len, texts))
            return [encode(text) for text in texts]

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            return self.encode_batch(texts)

    tokenizer._tokenizer = Counting()  # type: ignore[assignment]
    tokenizer.encode_ids(["the cat sat on a cat " * 1_000_000], max_tokens=512)
    assert max(seen) < 200_000
