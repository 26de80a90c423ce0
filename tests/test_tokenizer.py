"""The tokenizer against Hugging Face's, on real text and on awkward text; training, files, truncation and padding."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from conftest import unknown_share

import fastbert
from fastbert import BertTokenizer
from fastbert.data import read_texts
from fastbert.errors import CheckpointError, InputError

AWKWARD = [
    "",
    " ",
    "\t\n\r",
    "Hello, World! unaffable naïve café Ångström",
    "ÀÉÎÕÜ ß ﬁ Ⅻ İstanbul ǅ",
    "日本語のテキスト、中文文本 한국어 텍스트",
    "русский текст العربية עברית हिन्दी ไทย ελληνικά",
    "👍🏽 👨‍👩‍👧 🇫🇷 emoji🙂inside",
    "a\x00b\x01c\x7fd\ufffde\u200bf\u00adg\ufeffh",
    "tabs\tand\nnewlines\r\nand\u2028separators\u00a0here",
    "x" * 100 + " " + "x" * 101,
    "y" * 10_000,
    "[CLS] [MASK] [SEP] [PAD] [UNK] [mask]",
    "$1,234.56 + 7% = (a_b)*c^d/e\\f|g~h`i'j\"k",
    "e\u0301 e\u0301\u0302 \u0301 lone",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎𠜱 ﷽ \U0010ffff",
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "the", "##s", "a", "b", ",", "##b"]


@pytest.fixture(scope="module")
def pair(minilm: Path) -> tuple[BertTokenizer, transformers.PreTrainedTokenizerBase]:
    return BertTokenizer.from_pretrained(minilm), transformers.AutoTokenizer.from_pretrained(minilm)


def assert_equal(ours: BertTokenizer, theirs: transformers.PreTrainedTokenizerBase, texts: list[str]) -> None:
    a = ours(texts, return_offsets_mapping=True)
    b = theirs(texts, return_offsets_mapping=True, truncation=False, padding=False)
    for key in ("input_ids", "token_type_ids", "offset_mapping"):
        for text, x, y in zip(texts, a[key], b[key], strict=True):
            assert [tuple(v) if isinstance(v, (list, tuple)) else v for v in x] == y, (key, text[:80])


def test_awkward_text_equals_hugging_face(pair) -> None:
    assert_equal(*pair, AWKWARD)


def test_pairs_equal_hugging_face(pair) -> None:
    ours, theirs = pair
    a, b = ours(AWKWARD, AWKWARD[::-1]), theirs(AWKWARD, AWKWARD[::-1])
    assert a["input_ids"] == b["input_ids"]
    assert a["token_type_ids"] == b["token_type_ids"]


def sample(lines: list[str], count: int = 4000) -> list[str]:
    """Lines from all over, the longest, and some with each character that not every text has."""
    chosen = set(range(0, len(lines), max(1, len(lines) // count)))
    chosen |= {*sorted(range(len(lines)), key=lambda i: len(lines[i]))[-20:]}
    seen: Counter[str] = Counter()
    for i, line in enumerate(lines):
        rare = {c for c in line if not (c.isascii() and c.isalnum()) and seen[c] < 20}
        seen.update(rare)
        if rare:
            chosen.add(i)
    return [lines[i] for i in sorted(chosen)]


@pytest.mark.parametrize("folder", ["sst2", "mrpc", "stsb", "cad-nli", "wnut17", "squad", "books"])
def test_real_text_equals_hugging_face(pair, test_data: Path, folder: str) -> None:
    lines = []
    for path in sorted((test_data / folder).rglob("*")):
        if path.is_file() and path.suffix != ".json":
            lines += path.read_text(encoding="utf-8").splitlines()
        elif path.is_file():
            articles = json.loads(path.read_text(encoding="utf-8"))["data"]
            lines += [p["context"] for article in articles for p in article["paragraphs"]]
            lines += [q["question"] for article in articles for p in article["paragraphs"] for q in p["qas"]]
    lines = sample(list(dict.fromkeys(lines)))
    assert len(lines) > 1000
    for start in range(0, len(lines), 10_000):
        assert_equal(*pair, lines[start : start + 10_000])


def test_real_tokenizer_neither_pads_nor_cuts(pair) -> None:
    """Its tokenizer.json carries fixed padding and truncation to 128."""
    ours, _ = pair
    assert len(ours("short")["input_ids"]) == 3
    assert len(ours("word " * 300)["input_ids"]) == 302
    assert len(ours.encode_ids(["word " * 300])[0]) == 302
    assert ours.model_max_length == 512


def test_greedy_longest_match() -> None:
    tokenizer = BertTokenizer(PIECES)
    assert tokenizer.tokenize("unbelievable") == ["un", "##believ", "##able"]
    assert tokenizer.tokenize("Unbelievables, ab") == ["un", "##believ", "##able", "##s", ",", "a", "##b"]
    assert tokenizer.tokenize("unbelievq") == ["[UNK]"]


def test_long_words_are_unknown_at_a_set_length() -> None:
    assert BertTokenizer(PIECES).tokenize("a" + "b" * 100) == ["[UNK]"]
    assert len(BertTokenizer(PIECES, max_input_chars_per_word=200).tokenize("a" + "b" * 100)) == 101


def test_segments_and_frame() -> None:
    tokenizer = BertTokenizer(PIECES)
    one, two = tokenizer("the"), tokenizer("the a", "b")
    assert one["input_ids"] == [2, 8, 3]
    assert two["input_ids"] == [2, 8, 10, 3, 11, 3]
    assert two["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert two.sequence_ids() == [None, 0, 0, None, 1, None]


def test_special_ids_are_the_vocabularys_own() -> None:
    moved = BertTokenizer(["the", "[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]"])
    assert (moved.pad_token_id, moved.mask_token_id, moved.cls_token_id) == (5, 1, 3)
    assert moved(["the", "the the"], padding=True)["input_ids"] == [[3, 0, 2, 5], [3, 0, 0, 2]]


def test_truncation_is_counted_and_windows_lose_nothing(pair) -> None:
    ours, theirs = pair
    text = " ".join(f"word{i}" for i in range(400))
    full = ours(text)["input_ids"]
    cut = ours([text, "short"], truncation=True, max_length=128)
    assert cut["input_ids"][0] == theirs(text, truncation=True, max_length=128)["input_ids"]
    assert cut.num_truncated == [len(full) - 128, 0]
    options = {
        "truncation": True,
        "max_length": 128,
        "stride": 32,
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
    }
    windows, expected = ours([text, "short"], **options), theirs([text, "short"], **options)
    assert windows["input_ids"] == expected["input_ids"]
    assert windows["overflow_to_sample_mapping"] == expected["overflow_to_sample_mapping"]
    assert windows.num_truncated == [0, 0]
    covered = {
        o
        for row, s in zip(windows["offset_mapping"], windows["overflow_to_sample_mapping"], strict=True)
        if s == 0
        for o in row
    }
    assert covered >= {o for o in ours(text, return_offsets_mapping=True)["offset_mapping"] if o != (0, 0)}


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_pair_truncation_equals_hugging_face(pair, strategy: str) -> None:
    ours, theirs = pair
    a, b = "one two three four five " * 8, "six seven eight nine " * 9
    options = {"truncation": strategy, "max_length": 50}
    assert ours(a, b, **options)["input_ids"] == theirs(a, b, **options)["input_ids"]


def test_nothing_is_cut_unless_asked(pair) -> None:
    assert len(pair[0]("word " * 600)["input_ids"]) == 602


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("padding", [True, "max_length"])
def test_padding_equals_hugging_face(minilm: Path, side: str, padding: bool | str) -> None:
    ours = BertTokenizer.from_pretrained(minilm)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm, padding_side=side)
    options = {"padding": padding, "max_length": 20, "return_tensors": "pt", "truncation": True}
    a, b = ours(["a b c", "a"], padding_side=side, **options), theirs(["a b c", "a"], **options)
    assert all(torch.equal(a[key], b[key]) for key in ("input_ids", "token_type_ids", "attention_mask"))


def test_words_in_words_out(pair) -> None:
    ours, theirs = pair
    words = [["EU", "rejects", "unbelievably"], ["Ünïcode", "", "x"]]
    a, b = ours(words, is_split_into_words=True), theirs(words, is_split_into_words=True)
    assert a["input_ids"] == b["input_ids"]
    assert [a.word_ids(i) for i in range(2)] == [b.word_ids(i) for i in range(2)]
    assert ours(words[0], is_split_into_words=True)["input_ids"] == a["input_ids"][0]


def test_packed_output_has_no_padding(pair) -> None:
    encoded = pair[0](["a b c", "a", "a longer text"], ["x", "y z", ""])
    batch = fastbert.pack(encoded)
    assert batch.input_ids.tolist() == [i for row in encoded["input_ids"] for i in row]
    assert batch.token_type_ids.tolist() == [i for row in encoded["token_type_ids"] for i in row]


def test_decode_equals_hugging_face(pair) -> None:
    ours, theirs = pair
    ids = ours("Hello, unaffable world! It's [MASK].")["input_ids"]
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.batch_decode([ids, ids]) == theirs.batch_decode([ids, ids])
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_ids(["the", "nonexistentword"]) == theirs.convert_tokens_to_ids(["the", "nonexistentword"])


CORPUS = [
    f"The {noun} number {i} was unbelievably {adjective}."
    for i in range(200)
    for noun in ("cat", "dog")
    for adjective in ("big", "slow")
]


def test_train_save_and_load_in_both_directions(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.train(iter(CORPUS), vocab_size=200)
    assert len(tokenizer) <= 200
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert unknown_share(tokenizer, CORPUS) == 0.0
    assert tokenizer.tokenize("catdog")[0].startswith("c"), "unseen words decompose"
    assert "[UNK]" not in tokenizer.tokenize("catdog")
    assert unknown_share(tokenizer, ["日本 cat"]) == pytest.approx(2 / 3)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    again = BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    from_vocab = BertTokenizer.from_pretrained(tmp_path)
    for text in [*CORPUS[:20], *AWKWARD]:
        ids = tokenizer(text)["input_ids"]
        assert ids == theirs(text)["input_ids"] == again(text)["input_ids"] == from_vocab(text)["input_ids"]
    assert again.model_max_length == theirs.model_max_length == 512
    theirs.save_pretrained(tmp_path / "theirs")
    assert BertTokenizer.from_pretrained(tmp_path / "theirs").get_vocab() == tokenizer.get_vocab()


def test_cased_settings_survive_files(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.train(["Großes Haus, kleines Haus"] * 3, vocab_size=100, do_lower_case=False)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        BertTokenizer.from_pretrained(tmp_path).tokenize("Haus haus")
        == tokenizer.tokenize("Haus haus")
        == theirs.tokenize("Haus haus")
    )
    assert tokenizer.tokenize("Haus") != tokenizer.tokenize("haus")


def test_training_needs_text_and_room_for_the_alphabet() -> None:
    with pytest.raises(InputError, match="there is no text"):
        BertTokenizer.train([])
    with pytest.raises(InputError, match=r"vocab_size = 10 is below the \d+ entries"):
        BertTokenizer.train(CORPUS, vocab_size=10)


def test_added_tokens_work_with_a_resized_model(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(PIECES)
    tokenizer("the " * 20, truncation=True, max_length=8)  # a cached truncating copy must learn the words as well
    assert tokenizer.add_tokens(["covfefe", "the"]) == 2
    assert tokenizer.add_tokens(["[NEW]"], special_tokens=True) == 1
    assert len(tokenizer) == len(PIECES) + 2
    assert tokenizer.tokenize("the covfefe") == ["the", "covfefe"]
    assert tokenizer("covfefe " * 20, truncation=True, max_length=8)["input_ids"][1] == len(PIECES)
    tokenizer.save_pretrained(tmp_path)
    assert BertTokenizer.from_pretrained(tmp_path).tokenize("covfefe [NEW]") == ["covfefe", "[NEW]"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).tokenize("covfefe [NEW]") == ["covfefe", "[NEW]"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t(["a", None]), r"text\[1\] is a NoneType; expected text"),
        (lambda t: t(5), "text is a int; expected text or a list"),
        (lambda t: t(["a"], ["b", "c"]), "text has 1 entries, text_pair has 2"),
        (lambda t: t("a\ud800"), r"text\[0\] holds half a surrogate pair at character 1"),
        (lambda t: t("a", truncation="head"), "truncation = 'head' is not"),
        (lambda t: t("a", truncation=True), "has no model_max_length: pass max_length"),
        (lambda t: t("a b a b", truncation=True, max_length=2), "max_length = 2 with stride = 0 leaves no room"),
        (lambda t: t("a b a b", truncation=True, max_length=5, stride=3), "stride = 3 leaves no room"),
        (lambda t: t(["a", "a b"], return_tensors="pt"), "input_ids has rows of different lengths"),
        (lambda t: t("a", return_tensors="tf"), "return_tensors = 'tf'"),
        (lambda t: t("a", padding="right"), "padding = 'right' is not"),
        (lambda t: t("a", padding=True, padding_side="up"), "padding_side = 'up' is neither"),
        (
            lambda t: t(["a b"], is_split_into_words=False, truncation="only_second", max_length=3),
            r"cannot shorten text\[0\]: it is a single text",
        ),
        (lambda t: BertTokenizer(["a", "b"]), r"the vocabulary of 2 entries has no \[PAD\], \[UNK\]"),
        (lambda t: BertTokenizer(PIECES, lower=True), "unknown keyword 'lower'"),
    ],
)
def test_bad_calls_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(BertTokenizer(PIECES))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has neither tokenizer.json nor vocab.txt"):
        BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\n".join(PIECES).encode() + b"\nbad\xff\n")
    with pytest.raises(CheckpointError, match=r"vocab.txt, line 15: not UTF-8"):
        BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer.json is damaged"):
        BertTokenizer.from_pretrained(tmp_path)


def test_vocabulary_files_with_any_line_ends_and_separators(tmp_path: Path) -> None:
    """Lines end with LF or CRLF alone: U+2028 and U+0085 are ordinary entries, as in Hugging Face's reader."""
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*PIECES, "\u2028x"]).encode())
    assert BertTokenizer(tmp_path / "vocab.txt").get_vocab()["\u2028x"] == len(PIECES)


def test_truncation_is_safe_across_threads(pair) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ours, _ = pair
    text = "word " * 100
    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(lambda n: len(ours(text, truncation=True, max_length=n)["input_ids"]), [10, 20, 30, 40] * 10))
    assert lengths == [10, 20, 30, 40] * 10


def test_read_texts_is_used_for_training(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS), encoding="utf-8")
    assert unknown_share(BertTokenizer.train(read_texts(path), vocab_size=150), CORPUS) == 0.0


def test_transformers_collators_take_the_tokenizer(pair) -> None:
    ours, theirs = pair
    features = [{**ours("a b c"), "label": 1}, {**ours("a"), "label": 0}]
    collated = [transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)(features) for tokenizer in (ours, theirs)]
    assert collated[0].keys() == collated[1].keys()
    assert all(torch.equal(collated[0][key], collated[1][key]) for key in collated[0])
    with pytest.raises(InputError, match="pad needs input_ids; it got label"):
        ours.pad([{"label": 1}])


def test_a_list_of_pairs_is_a_batch_of_pairs(pair) -> None:
    ours, theirs = pair
    texts = [("a", "b c"), ("d e", "f")]
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"] == ours(["a", "d e"], ["b c", "f"])["input_ids"]
