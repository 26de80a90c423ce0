"""A vocabulary is the same bytes every time, covers its alphabet, and its report counts right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import unknown_share

from fastbert import BertTokenizer
from fastbert.text.vocabulary import vocabulary_report

TRAIN = """
import sys
from fastbert import BertTokenizer
from fastbert.data.documents import Sentences
BertTokenizer.train(Sentences(["python:pydoc_data.topics"]), 3000).save_pretrained(sys.argv[1])
"""


@pytest.mark.thorough
def test_two_trainings_in_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    """The library's own trainer does not: its ties go by the order of a hash table, which each process seeds anew."""
    runs = [subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path / name)]) for name in "abc"]
    assert [run.wait() for run in runs] == [0, 0, 0]
    for name in ("vocab.txt", "tokenizer.json"):
        assert len({(tmp_path / run / name).read_bytes() for run in "abc"}) == 1


def test_ties_go_by_the_alphabet() -> None:
    """Every pair occurs equally often: only the order of ties decides."""
    texts = ["xa xb xc xd xe ya yb yc yd ye"] * 3
    vocab = list(BertTokenizer.train(texts, 25).get_vocab())
    for _ in range(5):
        assert sorted(BertTokenizer.train(texts, 25).get_vocab()) == sorted(vocab)


@pytest.mark.parametrize("once", [False, True])
def test_texts_may_be_an_iterator_that_can_be_read_once(once: bool) -> None:
    texts = ["the cat sat on the mat", "über den Fluß, 漢字"] * 5
    made = BertTokenizer.train(iter(texts) if once else texts, 80)
    assert made.get_vocab() == BertTokenizer.train(texts, 80).get_vocab()
    assert unknown_share(made, texts) == 0
    assert made.tokenize("tacs") == ["t", "##a", "##c", "##s"] or made.unk_token not in made.tokenize("tacs")


def test_characters_that_never_stand_inside_a_word_have_no_such_entry() -> None:
    vocab = BertTokenizer.train(["abc 漢字 a.b"] * 3, 60).get_vocab()
    assert {"漢", "字", ".", "a", "##a"} <= vocab.keys()
    assert not {"##漢", "##字", "##."} & vocab.keys()


def test_the_report_counts_words_pieces_and_unknowns() -> None:
    tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##like", "##ly", "cat", "."])
    report = vocabulary_report(tokenizer, ["unlikely cat.", "Cat dog unlike"])
    assert (report.words, report.whole, report.pieces, report.unknown) == (6, 3, 9, 1)
    assert str(report) == "50.00% of 6 words are one entry, 1.500 pieces a word, 16.6667% [UNK]"
