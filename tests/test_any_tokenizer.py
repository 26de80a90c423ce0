"""`fastbert.Tokenizer`: what a tokenizer.json of any kind holds gives transformers' ids, in calls, files and rows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import transformers
from any_tokenizer import KINDS, TEXTS, folder_of
from test_tokenizer import AWKWARD, sample
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, pre_tokenizers, processors

import fastbert
from fastbert import BertTokenizer, Tokenizer
from fastbert.data import read_texts
from fastbert.errors import CheckpointError, CheckpointNotFoundError
from fastbert.text.framing import frame

WINDOWS = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
WORDS = [["Hello", ",", "World", "!"], ["naïve", "café"], ["日本語", "x" * 40], []]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(request.param, tmp_path_factory.mktemp("any"), [*TEXTS, *AWKWARD[:9]])


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def assert_equal(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    a, b = ours(texts, return_offsets_mapping=True), theirs(texts, return_offsets_mapping=True)
    assert set(a) == set(b)
    for key in b:
        for text, x, y in zip(texts, a[key], b[key], strict=True):
            assert [tuple(v) if isinstance(v, list | tuple) else v for v in x] == y, (key, text[:80])


def test_awkward_texts_pairs_and_limits_equal_transformers(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    assert type(ours) is Tokenizer
    assert_equal(ours, theirs, AWKWARD)
    shown = [*AWKWARD[3:11], "<s> a <mask> b </s><pad> <unk>", "of the <mask>."]
    for options in (
        {},
        {"padding": True},
        {"truncation": True, "max_length": 9, "return_offsets_mapping": True},
        {"truncation": "only_first", "max_length": 12, "stride": 2, **WINDOWS},
        {"padding": "max_length", "max_length": 40, "truncation": True, "padding_side": "left"},
    ):
        a, b = ours(shown, **options), theirs(shown, **options)
        assert dict(a) == dict(b), options
    assert dict(ours(shown, shown[::-1])) == dict(theirs(shown, shown[::-1]))
    cut = {"truncation": True, "max_length": 20, "padding": True, "return_offsets_mapping": True}
    assert dict(ours(shown, shown[::-1], **cut)) == dict(theirs(shown, shown[::-1], **cut))


def test_special_tokens_and_decoding_equal_transformers(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert (len(ours), ours.vocab_size, ours.model_max_length) == (len(theirs), theirs.vocab_size, 64)
    for text in AWKWARD[3:10]:
        ids = theirs(text)["input_ids"]
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        a, b = ours.encode(text, add_special_tokens=False), ours.encode(text[::-1], add_special_tokens=False)
        assert ours.build_inputs_with_special_tokens(a) == theirs(text)["input_ids"]
        assert ours.build_inputs_with_special_tokens(a, b) == theirs(text, text[::-1])["input_ids"]
        mask = theirs(text, text[::-1], return_special_tokens_mask=True)["special_tokens_mask"]
        assert ours.get_special_tokens_mask(a, b) == mask
        assert set(ours.create_token_type_ids_from_sequences(a, b)) == {0}


def test_words_are_read_with_the_space_before_them(folder: Path, pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    step = theirs.backend_tokenizer.pre_tokenizer
    if hasattr(step, "add_prefix_space"):  # what transformers' add_prefix_space=True does to it
        step.add_prefix_space = True
        theirs.backend_tokenizer.pre_tokenizer = step
        ends = theirs.backend_tokenizer.post_processor
        ends.add_prefix_space = True
        theirs.backend_tokenizer.post_processor = ends
    a = ours(WORDS, is_split_into_words=True, padding=True, return_offsets_mapping=True)
    b = theirs(WORDS, is_split_into_words=True, padding=True, return_offsets_mapping=True)
    assert dict(a) == dict(b)
    short = {"is_split_into_words": True, "truncation": True, "max_length": 6, "return_offsets_mapping": True}
    assert dict(ours(WORDS, **short)) == dict(theirs(WORDS, **short))
    assert [a.word_ids(i) for i in range(len(WORDS))] == [b.word_ids(i) for i in range(len(WORDS))]


def test_rows_are_what_a_call_gives(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    assert ours.encode_ids(AWKWARD) == ours(AWKWARD)["input_ids"]
    texts = [text for text in AWKWARD if ours.encode(text, add_special_tokens=False)]
    framed = frame(ours, texts, max_length=5000, overlong="truncate")
    assert [framed.row(i).tolist() for i in range(len(framed))] == [
        ours(t, truncation=True, max_length=5000)["input_ids"] for t in texts
    ]
    both = frame(ours, texts, texts[::-1], max_length=50_000)
    assert [both.row(i).tolist() for i in range(len(both))] == ours(texts, texts[::-1])["input_ids"]
    assert not both.segments.any()


def test_the_beginning_of_an_endless_text_is_read_as_the_whole(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for text in ("so many words, " * 4000, "word" * 12_000, " " * 9000 + "a b c " * 2000, "日本語のテキスト " * 3000):
        wanted = theirs(text, truncation=True, max_length=20)["input_ids"]
        assert ours(text, truncation=True, max_length=20)["input_ids"] == wanted
        assert ours.encode_ids([text], max_tokens=18)[0][:17] == theirs(text)["input_ids"][:17]


def test_what_is_saved_reads_the_same(pair: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = pair
    names = [Path(name).name for name in ours.save_pretrained(tmp_path)]
    assert sorted(names) == ["tokenizer.json", "tokenizer_config.json"]
    again, other = Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for one in (again, other, pickle.loads(pickle.dumps(ours))):
        assert one(AWKWARD)["input_ids"] == theirs(AWKWARD)["input_ids"]
        assert one.all_special_tokens == theirs.all_special_tokens
    added = ours.lower_casing()
    added.add_tokens(["brandnew"])
    assert added.encode("a brandnew b", add_special_tokens=False).count(len(added) - 1) == 1


def test_real_text_equals_transformers(test_data: Path, tmp_path: Path) -> None:
    lines = [line for path in sorted((test_data / "books").rglob("*.md")) for line in read_texts(path)]
    chosen = sample(lines, 1500)
    for kind in KINDS[:3]:
        where = folder_of(kind, tmp_path / kind, lines[::40], 3000)
        assert_equal(Tokenizer.from_pretrained(where), transformers.AutoTokenizer.from_pretrained(where), chosen)


def test_wordpiece_is_berts_and_bert_is_wordpiece(minilm: Path, tmp_path: Path) -> None:
    assert type(Tokenizer.from_pretrained(minilm)) is BertTokenizer
    folder_of("unigram", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds a 'Unigram' tokenizer; BertTokenizer is WordPiece, fastbert.Tokenizer reads"
    ):
        BertTokenizer.from_pretrained(tmp_path)


def rewritten(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content.update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_tokenizer_json_alone_has_its_usual_special_tokens(tmp_path: Path) -> None:
    folder_of("unigram", tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    ours = Tokenizer.from_pretrained(tmp_path)
    assert (ours.cls_token, ours.sep_token, ours.pad_token_id, ours.mask_token) == ("<s>", "</s>", 1, "<mask>")
    assert ours.model_max_length is None


def test_a_space_before_the_first_word_is_put_where_the_settings_say(tmp_path: Path) -> None:
    folder_of("byte-level bpe", tmp_path)
    rewritten(tmp_path, "tokenizer_config.json", tokenizer_class="RobertaTokenizer", add_prefix_space=True)
    ours, theirs = Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for one in (ours, Tokenizer.from_pretrained(tmp_path, add_prefix_space=True)):
        assert one("Hello World")["input_ids"] == theirs("Hello World")["input_ids"]
    plain = Tokenizer.from_pretrained(tmp_path, add_prefix_space=False)
    assert plain("Hello World")["input_ids"] != theirs("Hello World")["input_ids"]
    ours.save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again")("Hello")["input_ids"] == ours("Hello")["input_ids"]


def test_offsets_of_cut_texts_are_those_of_whole_ones(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    text = "Masked words are guessed from what stands on either side of them."
    whole = ours(text, return_offsets_mapping=True)["offset_mapping"]
    cut = ours(text, truncation=True, max_length=12, return_offsets_mapping=True)["offset_mapping"]
    assert cut[:11] == whole[:11]


def test_a_tokenizer_json_without_a_post_processor_has_one_segment(tmp_path: Path) -> None:
    folder_of("unigram", tmp_path)
    rewritten(tmp_path, "tokenizer.json", post_processor=None)
    assert set(Tokenizer.from_pretrained(tmp_path)("a", "b")) == {"input_ids", "attention_mask"}


def test_wordpiece_with_other_special_tokens_is_read(tmp_path: Path) -> None:
    pieces = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "hello": 5, "a": 6, "##b": 7}
    made = LibraryTokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(tmp_path)
    ours, theirs = Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert dict(ours(["hello ab", "b"], ["a", "hello"])) == dict(theirs(["hello ab", "b"], ["a", "hello"]))


def test_limits_leave_room_for_the_positions_before_the_first(tmp_path: Path) -> None:
    folder_of("byte-level bpe", tmp_path, model_max_length=10**30)
    rewritten(tmp_path, "config.json", model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    assert Tokenizer.from_pretrained(tmp_path).model_max_length == 512
    rewritten(tmp_path, "config.json", model_type="bert", max_position_embeddings=512, pad_token_id=0)
    assert Tokenizer.from_pretrained(tmp_path).model_max_length == 512


def test_models_of_one_segment_return_none(tmp_path: Path) -> None:
    folder_of("unigram", tmp_path)
    rewritten(tmp_path, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    assert set(Tokenizer.from_pretrained(tmp_path)("a")) == {"input_ids", "attention_mask"}
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"]["pair"][-2]["Sequence"]["type_id"] = 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    two = Tokenizer.from_pretrained(tmp_path)  # a BERT's with another vocabulary
    assert set(two("a", "a")["token_type_ids"]) == {0, 1}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            r"'BertJapaneseTokenizer' is not implemented: it needs words cut by MeCab",
        ),
        ({"tokenizer_class": "BertweetTokenizer"}, r"'BertweetTokenizer' is not implemented: it needs its normalisation"),
    ],
)
def test_what_a_tokenizer_json_cannot_hold_is_refused_by_name(settings: dict[str, Any], why: str, tmp_path: Path) -> None:
    folder_of("bpe", tmp_path)
    rewritten(tmp_path, "tokenizer_config.json", **settings)
    with pytest.raises(CheckpointError, match=why):
        Tokenizer.from_pretrained(tmp_path)


def test_folders_of_slow_tokenizers_say_how_to_get_a_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\0")
    rewritten(tmp_path, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    with pytest.raises(CheckpointError, match=r"AutoTokenizer reads such a folder, and its save_pretrained writes a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
    rewritten(tmp_path, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    with pytest.raises(CheckpointNotFoundError, match=r"neither tokenizer.json nor vocab.txt"):
        Tokenizer.from_pretrained(tmp_path)
    assert fastbert.Tokenizer is Tokenizer
