"""The names of transformers' tokenizers: settings by keyword, special tokens that are set, older methods, limits."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken

import fastbert
from fastbert.errors import CheckpointError, InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "Cat", "sat", "##s", "on", "a", "mat", ".", ",", "é", "e"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def both(folder: Path, **settings: Any) -> tuple[fastbert.BertTokenizer, Any]:
    return (
        fastbert.BertTokenizer.from_pretrained(folder, **settings),
        transformers.BertTokenizer.from_pretrained(folder, **settings),
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "cased": {"do_lower_case": False},
    "accents stay": {"strip_accents": False},
    "chinese is not cut": {"tokenize_chinese_chars": False},
    "left": {"padding_side": "left", "truncation_side": "left"},
    "limit": {"model_max_length": 5},
    "inputs": {"model_input_names": ["input_ids", "attention_mask"]},
    "other names": {"pad_token": "a", "unk_token": "mat"},
    "a new token": {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": AddedToken("</s>", lstrip=True)},
    "extra": {"extra_special_tokens": ["<one>", "<two>"]},
    "cleaned": {"clean_up_tokenization_spaces": True},
    "harmless": {"use_fast": True, "trust_remote_code": False, "add_bos_token": False},
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_by_keyword_do_what_they_do_in_transformers(name: str, saved: bool, folder: Path) -> None:
    ours, theirs = both(folder, **SETTINGS[name])
    if saved:
        ours.save_pretrained(folder / "again")
        ours = fastbert.BertTokenizer.from_pretrained(folder / "again")
    texts = ["The cats sat on a mat.", "é Cat 的mat <one> </s> <s>", ""]
    options = {"padding": True, "truncation": True, "max_length": 9}
    a, b = ours(texts, **options), theirs(texts, **options)
    assert dict(a) == dict(b)
    assert [ours.decode(row, skip_special_tokens=True) for row in a.input_ids] == [
        theirs.decode(row, skip_special_tokens=True) for row in b.input_ids
    ]
    assert ours.special_tokens_map == {key: str(value) for key, value in theirs.special_tokens_map.items()}
    assert set(ours.all_special_tokens) == set(map(str, theirs.all_special_tokens))
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    if "model_max_length" in SETTINGS[name]:
        assert ours.model_max_length == theirs.model_max_length == 5


def test_the_constructor_takes_the_same_settings() -> None:
    made = fastbert.BertTokenizer(WORDS, eos_token="</s>", padding_side="left", model_input_names=["input_ids"])
    assert (made.eos_token_id, made.padding_side) == (len(WORDS), "left")
    assert list(made("the cat")) == ["input_ids"]
    assert made.init_kwargs["eos_token"] == "</s>"
    again = fastbert.BertTokenizer(WORDS, **made.init_kwargs)
    assert again("the cat </s>") == made("the cat </s>")
    assert fastbert.BertTokenizer(vocab_file=None, vocab=WORDS).vocab_size == len(WORDS)
    for keywords, message in (
        ({"lower": True}, "unknown keyword 'lower'"),
        ({"do_lower_case": "yes"}, "do_lower_case = 'yes' must be"),
        ({"pad_token": 3}, "pad_token = 3 must be"),
        ({"padding_side": "middle"}, "padding_side = 'middle'"),
        ({"model_input_names": "input_ids"}, "model_input_names = 'input_ids' must be"),
    ):
        with pytest.raises(InputError, match=message):
            fastbert.BertTokenizer(WORDS, **keywords)
    with pytest.raises(InputError, match="needs vocab"):
        fastbert.BertTokenizer()
    with pytest.raises(CheckpointError, match="is not implemented"):
        fastbert.BertTokenizer.from_pretrained(Path(__file__).parent, never_split=["x"])


def test_special_tokens_are_set_and_taken_away() -> None:
    made = fastbert.BertTokenizer(WORDS)
    assert (made.bos_token, made.bos_token_id) == (None, None)
    made.pad_token = made.sep_token
    assert made.pad_token_id == 3
    made.eos_token_id = 6
    assert (made.eos_token, made.special_tokens_map["eos_token"]) == ("cat", "cat")
    assert made.decode([6, 5], skip_special_tokens=True) == "the"
    made.pad_token = None
    assert made.pad_token_id is None
    assert "pad_token" not in made.special_tokens_map
    for call in (lambda: made(["a", "the cat"], padding=True), lambda: made.pad([{"input_ids": [5]}, {"input_ids": [5, 6]}])):
        with pytest.raises(InputError, match="padding needs a padding token, and this tokenizer has none"):
            call()
    assert made(["a", "the cat"]).input_ids == [[2, 11, 3], [2, 5, 6, 3]]
    for value in (99, -1):
        with pytest.raises(InputError, match=r"is no id of the vocabulary|which is no id"):
            made.mask_token_id = value
    made.extra_special_tokens = ["<x>"]
    assert made.extra_special_tokens_ids == made.additional_special_tokens_ids == [len(WORDS)]
    made.extra_special_tokens_ids = []
    assert made.extra_special_tokens == made.additional_special_tokens == []
    assert pickle.loads(pickle.dumps(made)).eos_token == "cat"


@pytest.mark.parametrize("truncation", [None, True, False, "only_first", "do_not_truncate"])
@pytest.mark.parametrize("padding", [False, True, "max_length"])
@pytest.mark.parametrize("max_length", [None, 4, 9])
def test_what_a_limit_alone_does_is_what_it_does_in_transformers(
    truncation: Any, padding: Any, max_length: int | None, folder: Path
) -> None:
    ours, theirs = both(folder, model_max_length=6)
    options = {"padding": padding, "max_length": max_length, "truncation": truncation}
    texts = ["the cat sat on a mat", "a"]
    if padding != "max_length" or truncation in (True, "only_first"):  # a row beyond the limit widens ours: see the page
        assert dict(ours(texts, **options)) == dict(theirs(texts, **options))
    assert ours.encode(texts[0], **options) == theirs.encode(texts[0], **options)


def test_older_methods_and_what_libraries_read(folder: Path) -> None:
    ours, theirs = both(folder)
    assert ours.encode_plus("the cat", "a mat") == ours("the cat", "a mat")
    assert ours.batch_encode_plus([("the cat", "a mat")]) == ours([("the cat", "a mat")])
    assert ours.build_inputs_with_special_tokens([5], [6, 7]) == [*ours("the", "cat cat").input_ids[:2], 3, 6, 7, 3]
    assert ours.create_token_type_ids_from_sequences([5], [6, 7]) == [0, 0, 0, 1, 1, 1]
    assert ours.encode("the cat", return_tensors="pt").tolist() == theirs.encode("the cat", return_tensors="pt").tolist()
    assert ours.decode(5) == theirs.decode(5) == "the"
    assert ours.decode([[5, 6], [11]]) == theirs.decode([[5, 6], [11]])
    assert ours.convert_ids_to_tokens(2, skip_special_tokens=True) == theirs.convert_ids_to_tokens(2, skip_special_tokens=True)
    assert ours.convert_tokens_to_string(["cat", "##s"]) == theirs.convert_tokens_to_string(["cat", "##s"]) == "cats"
    assert ours.tokenize("cats", add_special_tokens=True) == ["[CLS]", "cat", "##s", "[SEP]"]
    assert (ours.backend, ours.is_fast, ours.chat_template) == ("tokenizers", True, None)
    assert ours.name_or_path == str(folder)
    assert ours.do_lower_case
    assert ours.backend_tokenizer.token_to_id("cat") == 6
    assert "vocab_size=17" in repr(ours)
    assert isinstance(ours, transformers.PreTrainedTokenizerBase)
    assert not hasattr(ours, "no_such_name")
    with pytest.raises(InputError, match="max_length = 12 is no multiple of pad_to_multiple_of = 8"):
        ours("the", padding=True, truncation=True, max_length=12, pad_to_multiple_of=8)
    batch = ours(["the cat", "a"], padding=True, return_tensors="pt")
    assert isinstance(batch["input_ids"], torch.Tensor)


@pytest.mark.parametrize("extra", ["extra_special_tokens", "additional_special_tokens"])
def test_added_tokens_given_as_objects_are_special_and_have_transformers_ids(extra: str, folder: Path) -> None:
    ours, theirs = both(folder)
    given = {extra: ["<e1>"], "bos_token": "<bos>", "mask_token": AddedToken("<M>", lstrip=True)}
    assert ours.add_special_tokens(given) == theirs.add_special_tokens(given) == 3
    assert ours.add_tokens([AddedToken("<X>")], special_tokens=True) == theirs.add_tokens(
        [AddedToken("<X>")], special_tokens=True
    )
    text = "the <M> cat <X> <e1> <bos> <m>"
    assert ours(text).input_ids == theirs(text).input_ids
    for one in (ours, fastbert.BertTokenizer.from_pretrained(saved(ours, folder))):
        assert one.decode(one(text).input_ids, skip_special_tokens=True) == theirs.decode(
            theirs(text).input_ids, skip_special_tokens=True
        )


def saved(tokenizer: fastbert.BertTokenizer, folder: Path) -> Path:
    tokenizer.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy, copy.copy])
def test_copies_read_special_tokens_as_the_original_does(copied: Any, folder: Path) -> None:
    literal = fastbert.BertTokenizer.from_pretrained(folder, split_special_tokens=True)
    ids = literal("a [MASK] mat").input_ids
    assert literal.mask_token_id not in ids
    assert copied(literal)("a [MASK] mat").input_ids == ids
    assert literal("a [MASK] mat").input_ids == ids


def test_a_token_that_was_taken_away_stays_away(folder: Path) -> None:
    made = fastbert.BertTokenizer.from_pretrained(folder)
    made.pad_token = None
    again = fastbert.BertTokenizer.from_pretrained(saved(made, folder))
    assert again.pad_token is None
    assert again.cls_token == "[CLS]"
    assert fastbert.BertTokenizer.from_pretrained(folder / "saved", pad_token="a").pad_token_id == 11
