"""Masks: exact counts, 80/10/10 by chi-square, special tokens never, whole words whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pretraining_cases import make_corpus, make_tokenizer
from scipy import stats

from fastbert import BertTokenizer
from fastbert.data.examples import CorpusExamples, ExampleOptions, describe, generator
from fastbert.data.masking import Masker, MaskingOptions
from fastbert.errors import InputError


def draws(masker: Masker, count: int, length: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Original ids, ids after masking and chosen rows of many examples of random regular words."""
    originals, masked, chosen = [], [], []
    for i in range(count):
        rng = generator(0, 0, i)
        ids = masker.random_ids[rng.integers(len(masker.random_ids), size=length)]
        ids[0], ids[60], ids[-1] = 2, 3, 3
        rows = np.concatenate([np.arange(1, 60), np.arange(61, length - 1)])
        after, where, truth = masker.mask(ids, rows, masker.options.limit(length), rng)
        assert (truth == ids[where]).all()
        assert (np.diff(where) > 0).all()
        originals.append(ids)
        masked.append(after)
        chosen.append(np.isin(np.arange(length), where))
    return np.stack(originals), np.stack(masked), np.stack(chosen)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return make_tokenizer()


def test_fates_and_places_follow_the_paper_by_chi_square(tokenizer: BertTokenizer) -> None:
    masker = Masker(tokenizer, MaskingOptions())
    before, after, chosen = draws(masker, 6000)
    count = int(chosen.sum())
    assert count > 1e5
    hidden, same = (after == tokenizer.mask_token_id) & chosen, (after == before) & chosen
    words = len(masker.random_ids)
    expected = np.array([0.8, 0.1 + 0.1 / words, 0.1 - 0.1 / words]) * count  # a random word may be the word itself
    seen = [hidden.sum(), same.sum(), count - hidden.sum() - same.sum()]
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    places = chosen.sum(0)[np.r_[1:60, 61:127]]
    assert stats.chisquare(places).pvalue > 1e-3  # no place is preferred
    drawn = after[chosen & ~hidden & (after != before)]
    assert stats.chisquare(np.bincount(drawn, minlength=len(tokenizer))[masker.random_ids]).pvalue > 1e-3
    assert (after == before)[~chosen].all()
    assert not chosen[:, [0, 60, 127]].any()


@pytest.mark.parametrize(
    ("length", "limit", "expected"), [(128, None, 19), (128, 10, 10), (20, None, 3), (10, None, 2), (4, None, 1)]
)
def test_exact_selection_has_googles_count(tokenizer: BertTokenizer, length: int, limit: int | None, expected: int) -> None:
    masker = Masker(tokenizer, MaskingOptions(max_predictions=limit))
    ids = np.full(length, 10)
    for i in range(50):
        rows = masker.mask(ids, np.arange(1, length - 1), masker.options.limit(length), generator(0, 0, i))[1]
        assert len(rows) == expected


def test_bernoulli_selection_is_binomial(tokenizer: BertTokenizer) -> None:
    _, _, chosen = draws(Masker(tokenizer, MaskingOptions(selection="bernoulli")), 2000)
    counts = chosen.sum(1)
    assert counts.mean() == pytest.approx(125 * 0.15, rel=0.02)
    assert counts.var() == pytest.approx(125 * 0.15 * 0.85, rel=0.15)


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (1, 0, 0), (0.8, 0.2, 0), (0.8, 0, 0.2), (0, 0.8, 0.2), (0, 1, 0)])
def test_the_rows_of_table_8_are_possible(tokenizer: BertTokenizer, shares: tuple[float, float, float]) -> None:
    mask, random, keep = shares
    before, after, chosen = draws(Masker(tokenizer, MaskingOptions(mask=mask, random=random, keep=keep)), 300)
    assert ((after == tokenizer.mask_token_id) & chosen).sum() / chosen.sum() == pytest.approx(mask, abs=0.03)
    assert ((after == before) & chosen).sum() / chosen.sum() == pytest.approx(keep, abs=0.05)


def test_whole_words_are_masked_whole_and_never_across_segments() -> None:
    tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "the"])
    masker = Masker(tokenizer, MaskingOptions(whole_words=True, probability=0.4, mask=1, random=0, keep=0))
    ids = np.array([2, 8, 5, 6, 7, 3, 6, 7, 8, 5, 6, 3])  # segment B starts inside a word
    words = [{1}, {2, 3, 4}, {6, 7}, {8}, {9, 10}]
    seen = set()
    for i in range(300):
        rows = set(masker.mask(ids, np.array([1, 2, 3, 4, 6, 7, 8, 9, 10]), 99, generator(0, 0, i))[1].tolist())
        assert all(word <= rows or not word & rows for word in words)
        assert len(rows) <= 5
        seen |= rows
    assert seen == set().union(*words)


def test_random_words_are_regular_entries_unless_all_are_wanted() -> None:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "a", "##b", "c"]
    tokenizer = BertTokenizer(entries)
    assert Masker(tokenizer, MaskingOptions()).random_ids.tolist() == [6, 7, 8]
    assert Masker(tokenizer, MaskingOptions(random_words="all")).random_ids.tolist() == list(range(9))


def test_examples_have_no_label_on_special_tokens(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 60, 0.0)
    for objective in ("mlm+nsp", "mlm+sop", "mlm"):
        for whole in (False, True):
            options = ExampleOptions(objective, 48, masking=MaskingOptions(whole_words=whole))
            epoch = CorpusExamples(corpus, options, 0).epoch(0)
            for i in range(len(epoch.lengths)):
                one = epoch[i]
                special = {0, one.second - 1, len(one.input_ids) - 1}
                assert not special & set(one.rows.tolist())
                assert one.input_ids[0] == 2
                assert one.input_ids[-1] == one.input_ids[one.second - 1] == 3
                assert not set(one.labels.tolist()) & {0, 2, 3, 4}
                assert len(one.input_ids) == epoch.lengths[i]


def test_left_to_right_examples_predict_the_next_token(tmp_path: Path) -> None:
    epoch = CorpusExamples(make_corpus(tmp_path / "c", 20, 0.0), ExampleOptions("ltr", 48), 0).epoch(0)
    one = epoch[3]
    assert one.rows.tolist() == list(range(len(one.input_ids) - 1))
    assert one.labels.tolist() == one.input_ids[1:].tolist()


def test_describe_shows_masks_and_true_words(tmp_path: Path) -> None:
    source = CorpusExamples(make_corpus(tmp_path / "c", 20, 0.0), ExampleOptions("mlm+nsp", 48), 0)
    text = describe(source.epoch(0)[0], source.tokenizer)
    assert "[MASK]<=" in text
    assert "  B: " in text
    assert "pair label" in text


def test_wrong_options_are_refused() -> None:
    for options, text in (
        ({"mask": 0.9}, "must be shares that sum to 1"),
        ({"probability": 0.0}, "probability = 0.0"),
        ({"selection": "some"}, "selection = 'some'"),
        ({"random_words": "few"}, "random_words = 'few'"),
        ({"max_predictions": 0}, "max_predictions = 0"),
    ):
        with pytest.raises(InputError, match=text):
            MaskingOptions(**options)
    with pytest.raises(InputError, match="objective = 'nsp' is not one of"):
        ExampleOptions("nsp")
