"""Folders of tokenizers: declared tokens and settings are read as transformers reads them, and written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from fastbert import BertTokenizer
from fastbert.errors import CheckpointError, InputError

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "e", "##1", "[", "]", "e1", "foo", "##bar", "Ä", "a"]
TEXTS = ["the [E1] cat Foo [e1] foobar", "[E1]cat Ä [MASK] the", "Foo [E1] , the . Cat"]
TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def folder_with(folder: Path, vocab: list[str] = VOCAB, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def same_as_transformers(folder: Path) -> BertTokenizer:
    ours, theirs = BertTokenizer.from_pretrained(folder), transformers.BertTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert len(ours) == len(theirs)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    assert ours.model_input_names == list(theirs.model_input_names)
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1], "max_length": 9, "truncation": True, "padding": "max_length"}
    assert dict(ours(**pair)) == dict(theirs(**pair))
    return ours


DECLARED: dict[str, dict[str, Any]] = {
    "added": {"added_tokens": {"[E1]": len(VOCAB)}},
    "added and lower-cased": {"added_tokens": {"[E1]": len(VOCAB), "Foo": len(VOCAB) + 1}},
    "added as special": {
        "added_tokens": {"[E1]": len(VOCAB)},
        "special_tokens_map": {"extra_special_tokens": ["[E1]"]},
    },
    "mapped": {"special_tokens_map": {"extra_special_tokens": [{"content": "[E1]", "lstrip": True}]}},
    "in the settings": {"tokenizer_config": {"additional_special_tokens": ["[E1]"]}},
    "in the settings, newer": {"tokenizer_config": {"extra_special_tokens": ["[E1]"]}},
    "in the settings, by name": {"tokenizer_config": {"extra_special_tokens": {"entity_token": "[E1]"}}},
    "as an attribute": {"tokenizer_config": {"entity_token": "[E1]"}},
    "as objects": {"tokenizer_config": {"extra_special_tokens": [{"__type": "AddedToken", "content": "[E1]", **TOKEN}]}},
    "as the decoder": {"tokenizer_config": {"added_tokens_decoder": {str(len(VOCAB)): {"content": "[E1]", **TOKEN}}}},
    "as the decoder, stripping": {
        "tokenizer_config": {"added_tokens_decoder": {str(len(VOCAB)): {**TOKEN, "content": "[E1]", "lstrip": True}}}
    },
    "as the decoder, normalised": {
        "tokenizer_config": {
            "added_tokens_decoder": {str(len(VOCAB)): {**TOKEN, "content": "[E1]", "normalized": True, "special": False}}
        }
    },
    "a decoder hides the older files": {
        "tokenizer_config": {"added_tokens_decoder": {}},
        "added_tokens": {"[E1]": len(VOCAB)},
    },
    "as [CLS]": {"tokenizer_config": {"cls_token": "[E1]"}},
    "as a beginning": {"tokenizer_config": {"bos_token": "[E1]"}},
    "cased": {"tokenizer_config": {"do_lower_case": False, "strip_accents": True}},
    "left": {"tokenizer_config": {"truncation_side": "left", "padding_side": "left"}},
    "without segments": {"tokenizer_config": {"model_input_names": ["input_ids", "attention_mask"]}},
    "special tokens read literally": {"tokenizer_config": {"split_special_tokens": True, "extra_special_tokens": ["[E1]"]}},
    "cleaned up": {"tokenizer_config": {"clean_up_tokenization_spaces": True}},
}


@pytest.mark.parametrize("files", DECLARED.values(), ids=DECLARED)
def test_what_a_folder_declares_is_read_and_written_as_in_transformers(files: dict[str, Any], tmp_path: Path) -> None:
    ours = same_as_transformers(folder_with(tmp_path / "read", config={"model_type": "bert"}, **files))
    ours.save_pretrained(tmp_path / "written")
    (tmp_path / "written" / "config.json").write_text('{"model_type": "bert"}')
    again = same_as_transformers(tmp_path / "written")
    (tmp_path / "written" / "tokenizer.json").unlink()  # what only reads vocab.txt gets the same
    without = BertTokenizer.from_pretrained(tmp_path / "written")
    for text in TEXTS:
        assert ours(text)["input_ids"] == again(text)["input_ids"] == without(text)["input_ids"]


# Both by the older name of the list: transformers 5 renumbers here, and lower-cases the special one.
@pytest.mark.parametrize("special", [False, True])
def test_declared_ids_are_kept_where_they_leave_a_gap(special: bool, tmp_path: Path) -> None:
    mapped = {"special_tokens_map": {"additional_special_tokens": ["[E1]"]}} if special else {}
    tokenizer = BertTokenizer.from_pretrained(folder_with(tmp_path / "a", added_tokens={"[E1]": 40, "[E2]": 30}, **mapped))
    for _ in range(2):
        assert tokenizer("the [E1] cat")["input_ids"] == [2, 5, 40, 6, 3]
        assert tokenizer("[E2]")["input_ids"] == [2, 30, 3]
        assert len(tokenizer) == 41
        kept = "the cat" if special else "the [e1] cat" if tokenizer.decode([40]) == "[e1]" else "the [E1] cat"
        assert tokenizer.decode([2, 5, 40, 6, 3], skip_special_tokens=True) == kept
        assert tokenizer.add_tokens("[E3]") == 1
        assert tokenizer.convert_tokens_to_ids("[E3]") == 41
        tokenizer = BertTokenizer.from_pretrained(tmp_path / "a")
        tokenizer.save_pretrained(tmp_path / "b")
        tokenizer = BertTokenizer.from_pretrained(tmp_path / "b")


def test_declared_ids_are_kept_beside_one_that_leaves_a_gap(tmp_path: Path) -> None:
    declared = {"16": {"content": "BBB", **TOKEN}, "90": {"content": "AAA", **TOKEN}, "17": {"content": "CCC", **TOKEN}}
    folder = folder_with(tmp_path / "a", tokenizer_config={"added_tokens_decoder": declared})
    for place in ("a", "b"):
        tokenizer = BertTokenizer.from_pretrained(tmp_path / place)
        assert [tokenizer.convert_tokens_to_ids(token) for token in ("BBB", "CCC", "AAA")] == [16, 17, 90]
        assert tokenizer("AAA BBB CCC")["input_ids"] == [2, 90, 16, 17, 3]
        assert tokenizer.add_tokens(["DDD", "EEE"]) == 2
        assert tokenizer.convert_tokens_to_ids(["DDD", "EEE"]) == [91, 92]
        BertTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")


def test_a_gap_moves_no_token_that_was_added_before(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(VOCAB)
    tokenizer.add_tokens(["BBB", "CCC"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["added_tokens_decoder"]["90"] = {"content": "AAA", **TOKEN}
    path.write_text(json.dumps(settings))
    again = BertTokenizer.from_pretrained(tmp_path)
    assert again.convert_tokens_to_ids(["BBB", "CCC", "AAA"]) == [16, 17, 90]
    assert again("BBB AAA CCC")["input_ids"] == [2, 16, 90, 17, 3]


def test_ids_survive_a_repeated_line(tmp_path: Path) -> None:
    lines = [*VOCAB[:5], "a", "b", "a", "c", "c", "d"]
    tokenizer = BertTokenizer.from_pretrained(folder_with(tmp_path / "a", lines))
    theirs = transformers.BertTokenizer.from_pretrained(str(tmp_path / "a"))
    assert tokenizer.get_vocab() == theirs.get_vocab()
    assert [tokenizer.convert_tokens_to_ids(t) for t in "abcd"] == [7, 6, 9, 10]
    assert len(tokenizer) == 11
    tokenizer.add_tokens(["zebra"])  # not at the number of entries, which "d" has
    assert tokenizer("d zebra")["input_ids"] == [2, 10, 11, 3]
    tokenizer.save_pretrained(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert BertTokenizer.from_pretrained(tmp_path / "b")("d zebra a c")["input_ids"] == [2, 10, 11, 7, 9, 3]
        (tmp_path / "b" / name).unlink()
    again = BertTokenizer(tmp_path / "b" / "vocab.txt")
    assert [again.convert_tokens_to_ids(t) for t in "abcd"] == [7, 6, 9, 10]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", tokenizer_config={"do_lower_case": False})
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert BertTokenizer.from_pretrained(folder).get_vocab() == {token: i for i, token in enumerate(VOCAB)}


def test_a_vocabulary_that_no_line_can_hold_is_not_saved(tmp_path: Path) -> None:
    tokenizer = BertTokenizer([*VOCAB, "two\nlines"])
    with pytest.raises(InputError, match=r"token 16, 'two\\nlines', cannot stand in a vocab.txt"):
        tokenizer.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_settings_that_are_not_understood_are_written_back(tmp_path: Path) -> None:
    settings = {"name_of_mine": [1, {"x": None}], "chat_template": "{{ text }}", "max_length": 128}
    folder = folder_with(tmp_path / "a", tokenizer_config={**settings, "model_max_length": 77, "truncation_side": "left"})
    BertTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert {name: written[name] for name in settings} == settings
    assert (written["model_max_length"], written["truncation_side"]) == (77, "left")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "'BertJapaneseTokenizer' is not implemented: it needs words cut by MeCab",
        ),
        (
            {"tokenizer_class": "XLMRobertaTokenizer"},
            "'XLMRobertaTokenizer' is not implemented: without a tokenizer.json only BERT's",
        ),
        ({"do_basic_tokenize": False}, "do_basic_tokenize = False is not implemented"),
        ({"never_split": ["x"]}, r"never_split = \['x'\] is not implemented"),
        ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type = 'character' is not implemented"),
        ({"padding_side": "middle"}, "padding_side = 'middle' must be one of 'right', 'left'"),
        ({"do_lower_case": "yes"}, "do_lower_case = 'yes' must be true or false"),
        ({"model_max_length": -3}, "model_max_length = -3 must be a number from 1"),
        ({"cls_token": 7}, "cls_token = 7 must be a token"),
        ({"added_tokens_decoder": {"x": "[E1]"}}, "added_tokens_decoder has the key 'x'"),
        ({"extra_special_tokens": [None]}, r"extra_special_tokens = \[None\] must be a list"),
        ({"model_input_names": "input_ids"}, "model_input_names = 'input_ids' must be a list"),
    ],
)
def test_settings_that_would_change_results_are_refused_by_name(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        BertTokenizer.from_pretrained(folder_with(tmp_path / "a", tokenizer_config=settings))


def test_the_class_may_stand_in_the_model_configuration(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", config={"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(CheckpointError, match="BertJapaneseTokenizer"):
        BertTokenizer.from_pretrained(folder)
