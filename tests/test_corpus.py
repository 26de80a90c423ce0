"""Building a corpus and reading it back."""

from __future__ import annotations

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pretraining_cases import documents, flat, make_corpus, make_tokenizer

from fastbert import BertTokenizer
from fastbert.data.corpus import Corpus, build_corpus
from fastbert.errors import CheckpointError, InputError


def test_a_corpus_holds_every_token_of_every_document_in_order(tmp_path: Path) -> None:
    texts, tokenizer = documents(40), make_tokenizer()
    report = build_corpus(flat(texts), tokenizer, tmp_path / "c", shard_tokens=300)
    corpus = Corpus.open(tmp_path / "c", check=True)
    ids = [tokenizer.encode(line, add_special_tokens=False) for sentences in texts for line in sentences]
    assert len(corpus.shards) > 3
    assert report.documents == corpus.num_documents == 40
    assert corpus.num_tokens == sum(map(len, ids))
    starts = corpus.sentence_starts()
    assert [corpus.tokens(a, b).tolist() for a, b in itertools.pairwise(starts)] == ids
    assert np.diff(corpus.document_starts()).tolist() == [len(sentences) for sentences in texts]
    assert corpus.token_counts().sum() == corpus.num_tokens
    assert corpus.tokenizer().get_vocab() == tokenizer.get_vocab()


def test_held_out_documents_are_spread_evenly_and_in_neither_part_twice(tmp_path: Path) -> None:
    texts, tokenizer = documents(40), make_tokenizer()
    build_corpus(flat(texts), tokenizer, tmp_path / "c", held_out=0.1)
    corpus = Corpus.open(tmp_path / "c")
    kept = corpus.held_out()
    assert kept is not None
    assert (corpus.num_documents, kept.num_documents) == (36, 4)
    first = kept.sentence_starts()[:2]
    assert kept.tokens(*first).tolist() == tokenizer.encode(texts[9][0], add_special_tokens=False)


def test_unigram_entropy_is_that_of_the_token_frequencies(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 10, 0.0)
    ids = corpus.tokens(0, corpus.num_tokens)
    p = np.array([np.mean(ids == i) for i in np.unique(ids)])
    assert corpus.unigram_entropy() == pytest.approx(-(p * np.log(p)).sum())


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        make_corpus(tmp_path / name, 20)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_names_of_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    """Else a book about BERT would hold separators and masks, with labels on them."""
    tokenizer = make_tokenizer([["the [MASK] and [SEP] are [CLS] [PAD] cat"] * 3], 60)
    build_corpus(["the cat [MASK] the", None], tokenizer, tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    ids = corpus.tokens(0, corpus.num_tokens)
    assert not set(ids.tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids).replace(" ", "") == "thecat[mask]the"
    assert tokenizer.encode("[MASK]", add_special_tokens=False) == [tokenizer.mask_token_id]  # as ever


def test_more_entries_than_sixteen_bits_hold_take_wider_ids(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer([*special, "a", *(f"word{i}" for i in range(70_000))])
    build_corpus(["a word69999", None], tokenizer, tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.manifest["dtype"] == "uint32"
    assert corpus.tokens(0, corpus.num_tokens)[-1] == len(tokenizer) - 1


def test_damage_is_named(tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", 10, 0.0)
    path = tmp_path / "c" / "tokens-00000.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(CheckpointError, match=r"tokens-00000\.bin is damaged: \d+ bytes, the manifest says"):
        Corpus.open(tmp_path / "c")
    path.write_bytes(b"\x01" + data[1:])
    Corpus.open(tmp_path / "c")
    with pytest.raises(CheckpointError, match="its hash differs"):
        Corpus.open(tmp_path / "c", check=True)


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "fastbert corpus", "version": 99, "shards": []}))
    with pytest.raises(CheckpointError, match="not a corpus of this version"):
        Corpus.open(tmp_path)


def test_a_corpus_without_text_or_with_nothing_to_hold_out_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no text"):
        build_corpus([None, "", None], make_tokenizer(), tmp_path / "c")
    with pytest.raises(InputError, match=r"held_out = 0\.01 of 40 documents selects none"):
        build_corpus(flat(documents(40)), make_tokenizer(), tmp_path / "c", held_out=0.01)
    with pytest.raises(InputError, match="at most 0.5"):
        build_corpus(flat(documents(4)), make_tokenizer(), tmp_path / "c", held_out=0.9)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", 10, 0.0)
    with pytest.raises(CheckpointError, match="the folder is not empty"):
        make_corpus(tmp_path / "c", 10, 0.0)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastbert.data.corpus.files.write_text", full)
    with pytest.raises(CheckpointError, match="cannot write .*: No space left on device; nothing of it was kept"):
        make_corpus(tmp_path / "c", 10, 0.0)
    assert not list(tmp_path.iterdir())


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 10, 0.0)
    corpus.check_vocabulary(make_tokenizer(), "mine")
    with pytest.raises(InputError, match=r"the vocabulary of mine \(80 entries\) is not the one .* \(90 entries\)"):
        corpus.check_vocabulary(make_tokenizer(vocab_size=80), "mine")
