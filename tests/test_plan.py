"""Pairs of an epoch: every token once, random pairs never from one's own document, labels in balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pretraining_cases import documents, flat, make_corpus, make_tokenizer

from fastbert.data.corpus import Corpus, build_corpus
from fastbert.data.plan import BALANCES, PAIR_TASKS, Plan, PlanOptions, plan_epoch
from fastbert.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    texts = documents(200)
    texts[7] = [" ".join(["cat dog bird"] * 100)]  # a document of one sentence, longer than any example
    texts[9] = ["a cat"]
    folder = tmp_path_factory.mktemp("plan") / "c"
    build_corpus(flat(texts), make_tokenizer(), folder, shard_tokens=3000)
    assert len(Corpus.open(folder).shards) > 2
    return Corpus.open(folder)


def document_of(corpus: Corpus, tokens: np.ndarray) -> np.ndarray:
    starts = corpus.sentence_starts()[corpus.document_starts()]
    return np.searchsorted(starts, tokens, "right") - 1


def covered(corpus: Corpus, plan: Plan) -> np.ndarray:
    """How often each token is in an example, random segments B left out."""
    counts = np.zeros(corpus.num_tokens + 1, dtype=int)
    own = (plan.label != 1) if (plan.label == 1).any() and (plan.b_start < plan.b_end).any() else np.ones(len(plan), bool)
    for start, end, keep in ((plan.a_start, plan.a_end, np.ones(len(plan), bool)), (plan.b_start, plan.b_end, own)):
        np.add.at(counts, start[keep], 1)
        np.add.at(counts, end[keep], -1)
    return counts.cumsum()[:-1]


@pytest.mark.parametrize("max_length", [16, 48, 128])
@pytest.mark.parametrize("balance", BALANCES)
def test_every_token_is_in_exactly_one_example(corpus: Corpus, max_length: int, balance: str) -> None:
    plan = plan_epoch(corpus, PlanOptions(max_length, "nsp", balance=balance), 0, 0)
    assert (covered(corpus, plan) == 1).all()
    assert plan.lengths.max() <= max_length
    assert (plan.b_end > plan.b_start).all()


@pytest.mark.parametrize("pairs", ["sop", "none"])
def test_the_other_tasks_use_every_token_once_too(corpus: Corpus, pairs: str) -> None:
    plan = plan_epoch(corpus, PlanOptions(48, pairs), 0, 0)
    spans = np.concatenate([np.arange(a, b) for a, b in zip(plan.a_start, plan.a_end, strict=True)])
    spans = np.concatenate([spans, *(np.arange(a, b) for a, b in zip(plan.b_start, plan.b_end, strict=True))])
    assert np.array_equal(np.sort(spans), np.arange(corpus.num_tokens))
    assert plan.lengths.max() <= 48


def test_random_pairs_come_from_another_document_and_the_others_go_on_in_their_own(corpus: Corpus) -> None:
    for epoch in range(5):
        plan = plan_epoch(corpus, PlanOptions(48), 3, epoch)
        a, b = document_of(corpus, plan.a_start), document_of(corpus, plan.b_start)
        assert (a[plan.label == 1] != b[plan.label == 1]).all()
        assert (document_of(corpus, plan.b_end - 1) == b).all()
        assert (plan.b_start == plan.a_end)[plan.label == 0].all()


def test_two_documents_are_enough_for_right_labels(tmp_path: Path) -> None:
    """google's code draws ten times and then takes what it has: with two documents, labels of one's own text as random."""
    corpus = make_corpus(tmp_path / "c", 2, 0.0, sentences=(40, 60))
    plan = plan_epoch(corpus, PlanOptions(48), 0, 0)
    random = plan.label == 1
    assert 0.4 < plan.random_share < 0.6
    assert (document_of(corpus, plan.a_start)[random] != document_of(corpus, plan.b_start)[random]).all()


def test_one_document_is_an_error_with_advice(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 1, 0.0)
    with pytest.raises(
        InputError, match=r"holds 1 document: .* Separate documents by blank lines, add files, or train with .* mlm"
    ):
        plan_epoch(corpus, PlanOptions(48), 0, 0)
    for pairs in ("sop", "none"):
        assert len(plan_epoch(corpus, PlanOptions(48, pairs), 0, 0))


def test_exact_balance_is_even_where_googles_drifts(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 1500, 0.0, sentences=(2, 6))
    shares = {name: plan_epoch(corpus, PlanOptions(32, balance=name), 0, 0).random_share for name in BALANCES}
    assert abs(shares["exact"] - 0.5) < 0.01
    assert shares["google"] > 0.53  # single sentences at the ends of documents: the drift is real


def test_documents_of_one_sentence_are_balanced_by_pairs_of_halves(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 1000, 0.0, sentences=(1, 1))
    plan = plan_epoch(corpus, PlanOptions(128), 0, 0)
    assert abs(plan.random_share - 0.5) < 0.01
    assert (covered(corpus, plan) == 1).all()
    assert plan_epoch(corpus, PlanOptions(128, balance="google"), 0, 0).random_share == 1


def test_a_balance_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    build_corpus(["cat", None, "dog", None] * 50, make_tokenizer(), tmp_path / "c")
    with pytest.warns(UserWarning, match=r"100\.0% of the pairs of .* are random: single words cannot be split into a pair"):
        assert plan_epoch(Corpus.open(tmp_path / "c"), PlanOptions(128), 0, 0).random_share == 1


def test_a_plan_is_a_function_of_seed_and_epoch(corpus: Corpus) -> None:
    def spans(seed: int, epoch: int) -> bytes:
        plan = plan_epoch(corpus, PlanOptions(48), seed, epoch)
        return b"".join(getattr(plan, name).tobytes() for name in ("a_start", "a_end", "b_start", "b_end", "label"))

    assert spans(0, 0) == spans(0, 0)
    assert len({spans(0, 0), spans(0, 1), spans(1, 0)}) == 3


def test_short_sequences_are_their_share(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", 300, 0.0, sentences=(40, 60))
    lengths = [plan_epoch(corpus, PlanOptions(128, "none", short_share=share), 0, 0).lengths for share in (0.0, 0.1)]
    below = [float((one < 64).mean()) for one in lengths]
    assert below[0] < 0.08  # ends of documents
    assert 0.03 < below[1] - below[0] < 0.08  # half of the short ones are shorter than half


def test_swapped_pairs_are_half(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, PlanOptions(48, "sop"), 0, 0)
    swapped = plan.label == 1
    assert (plan.b_end == plan.a_start)[swapped].all()
    assert (plan.a_end == plan.b_start)[plan.label == 0].all()
    assert 0.4 < plan.random_share < 0.6


def test_wrong_options_of_a_plan_are_refused() -> None:
    assert len(PAIR_TASKS) == 3
    for options, text in (((48, "next"), "pairs = 'next'"), ((4,), "max_length = 4"), ((48, "nsp", 2.0), "short_share = 2")):
        with pytest.raises(InputError, match=text):
            PlanOptions(*options)
    with pytest.raises(InputError, match="balance = 'even'"):
        PlanOptions(48, balance="even")
