"""Batches of one fixed shape, the same ones for any number of workers and processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pretraining_cases import make_corpus
from torch.utils.data import DataLoader

from fastbert.data.batches import Budget, EpochBatches, PreTrainingBatch, collate
from fastbert.data.corpus import Corpus
from fastbert.data.examples import CorpusExamples, Example, ExampleOptions
from fastbert.data.masking import MaskingOptions
from fastbert.data.static import StaticExamples, write_static
from fastbert.errors import CheckpointError, InputError
from fastbert.packing import check_packed
from fastbert.packing.inputs import Limits
from fastbert.training.stream import PhaseBatches, Position, stream
from fastbert.training.world import World


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("batches") / "c", 80, 0.0)


def tensors(batch: PreTrainingBatch) -> list[torch.Tensor]:
    packed = batch.packed
    found = [packed.input_ids, packed.token_type_ids, packed.position_ids, packed.cu_seqlens, batch.scored_rows, batch.labels]
    return [*found, torch.zeros(0) if batch.next_sentence_label is None else batch.next_sentence_label]


def same(a: PreTrainingBatch, b: PreTrainingBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop", "mlm", "ltr"])
def test_batches_hold_every_example_once_in_one_shape(corpus: Corpus, objective: str) -> None:
    source = CorpusExamples(corpus, ExampleOptions(objective, 48), 0)
    batches = EpochBatches(source, Budget.of(source, 256), 0, 0)
    examples = {tuple(batches.source[i].input_ids.tolist()) for i in range(len(batches.source.lengths))}
    seen, shapes = set(), set()
    for batch in (batches[i] for i in range(len(batches))):
        shapes.add(tuple(t.shape for t in tensors(batch)))
        check_packed(batch.packed, Limits(90, 2, 48))
        starts = batch.packed.cu_seqlens.tolist()
        lengths = [b - a for a, b in itertools.pairwise(starts)]
        assert lengths == sorted(lengths, reverse=True)  # attention on a CPU then takes them as they lie
        assert batch.packed.host_starts() == starts
        for a, b in itertools.pairwise(starts):
            seen.add(tuple(batch.packed.input_ids[a:b].tolist()))
            assert batch.packed.position_ids[a:b].tolist() == list(range(b - a))
        labelled = batch.labels != -100
        assert int(labelled.sum()) == batch.num_mlm_labels
        assert batch.packed.tail == 256 - batch.num_tokens
        rows = batch.scored_rows[labelled]
        assert int(rows.max()) < batch.num_tokens
        if objective == "ltr":
            assert torch.equal(batch.packed.input_ids[rows + 1], batch.labels[labelled])
    assert seen - {()} == examples
    assert len(shapes) == 1
    assert 0 <= batches.tail_share < 0.2


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_checked_vocabulary_stay_checked_on_their_way_to_the_device(corpus: Corpus, workers: int) -> None:
    examples = CorpusExamples(corpus, ExampleOptions("mlm+nsp", 32), 0)
    limits = Limits(1000, 2, 40)
    source = EpochBatches(examples, Budget.of(examples, 128), seed=0, epoch=0, limits=limits)
    batch = next(iter(DataLoader(source, batch_size=None, num_workers=workers)))
    assert batch.packed.is_checked(limits)
    assert batch.to("cpu").packed.is_checked(limits)


def test_segments_are_those_of_the_examples(corpus: Corpus) -> None:
    source = CorpusExamples(corpus, ExampleOptions("mlm+nsp", 48), 0)
    batches = EpochBatches(source, Budget.of(source, 256), 0, 0, shuffle=False)
    batch = batches[0]
    examples = [batches.source[i] for i in range(batch.num_sequences)]
    examples.sort(key=lambda one: -len(one.input_ids))
    starts = batch.packed.cu_seqlens.tolist()
    for one, start, follows in zip(examples, starts, batch.next_sentence_label.tolist(), strict=False):
        length = len(one.input_ids)
        segments = batch.packed.token_type_ids[start : start + length].tolist()
        assert segments == [0] * one.second + [1] * (length - one.second)
        assert follows == one.next_sentence_label


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_workers_gives_the_same_batches(corpus: Corpus, workers: int) -> None:
    """From the middle of an epoch over its end, twice in each step."""
    source = CorpusExamples(corpus, ExampleOptions("mlm+nsp", 48), 5)
    epochs = PhaseBatches(lambda epoch: EpochBatches(source, Budget.of(source, 512), 5, epoch))
    start = Position(3, 0, len(epochs.epoch(0)) - 3)
    world = World(0, 1, torch.device("cpu"))
    steps = list(stream(epochs, start, 7, 2, world, workers))
    assert [after for _, after in steps] == [Position(4, 0, start.batch + 2), *(Position(s, 1, 2 * s - 9) for s in (5, 6, 7))]
    keys = [(0, start.batch), (0, start.batch + 1), (0, start.batch + 2), *((1, i) for i in range(5))]
    for batch, key in zip((b for batches, _ in steps for b in batches), keys, strict=True):
        assert same(batch, epochs[key])


@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_out_the_batches_of_a_step(corpus: Corpus, size: int) -> None:
    source = CorpusExamples(corpus, ExampleOptions("mlm+nsp", 48), 5)

    def steps(rank: int, count: int) -> list[list[PreTrainingBatch]]:
        epochs = PhaseBatches(lambda epoch: EpochBatches(source, Budget.of(source, 512), 5, epoch))
        world = World(rank, count, torch.device("cpu"))
        return [batches for batches, _ in stream(epochs, Position(), 3, 4, world, 0)]

    alone, shared = steps(0, 1), [steps(rank, size) for rank in range(size)]
    for step in range(3):
        dealt = [shared[j % size][step][j // size] for j in range(4)]
        assert all(same(a, b) for a, b in zip(alone[step], dealt, strict=True))


def test_epochs_differ_in_order_and_masks(corpus: Corpus) -> None:
    source = CorpusExamples(corpus, ExampleOptions("mlm", 48), 0)
    first, second = (EpochBatches(source, Budget.of(source, 256), 0, epoch) for epoch in (0, 1))
    assert not same(first[0], second[0])
    assert same(first[0], EpochBatches(source, Budget.of(source, 256), 0, 0)[0])


def test_predictions_without_room_are_left_out_of_the_last_examples_drawn() -> None:
    """And not of the shortest, which stand last in the batch."""
    short, long = (Example(np.arange(n), n, np.arange(4), np.arange(4) + n, -100) for n in (6, 9))
    batch = collate([short, long], Budget(32, 4, 6, 16), pairs=False)
    assert batch.packed.cu_seqlens.tolist() == [0, 9, 15, 15, 15]
    assert batch.scored_rows.tolist() == [0, 1, 9, 10, 11, 12]
    assert batch.labels.tolist() == [9, 10, 6, 7, 8, 9]
    assert (batch.num_mlm_labels, batch.num_sequences) == (6, 2)


def test_bernoulli_fills_the_same_shape(corpus: Corpus) -> None:
    source = CorpusExamples(corpus, ExampleOptions("mlm", 48, masking=MaskingOptions(selection="bernoulli")), 0)
    batches = EpochBatches(source, Budget.of(source, 256), 0, 0)
    assert {len(batches[i].labels) for i in range(len(batches))} == {Budget.of(source, 256).predictions}


def test_a_budget_below_the_longest_example_is_refused(corpus: Corpus) -> None:
    source = CorpusExamples(corpus, ExampleOptions("mlm", 48), 0)
    with pytest.raises(InputError, match="batch_tokens = 40 is below max_length = 48"):
        Budget.of(source, 40)


def test_static_examples_are_those_of_the_first_epochs(corpus: Corpus, tmp_path: Path) -> None:
    options = ExampleOptions("mlm+nsp", 48)
    count = write_static(corpus, options, 3, 2, tmp_path / "s")
    static, source = StaticExamples.open(tmp_path / "s"), CorpusExamples(corpus, options, 3)
    epochs = [source.epoch(0), source.epoch(1)]
    assert count == len(static.lengths) == sum(len(epoch.lengths) for epoch in epochs)
    for index in (0, 5, len(epochs[0].lengths) + 7):
        number, at = divmod(index, len(epochs[0].lengths))
        ours, theirs = static[index], epochs[number][at]
        for name in ("input_ids", "rows", "labels"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
        assert (ours.second, ours.next_sentence_label) == (theirs.second, theirs.next_sentence_label)
    with pytest.raises(InputError, match="phases.0 wants max_length = 32; .* was written with 48"):
        static.check(ExampleOptions("mlm+nsp", 32), "phases.0")
    (tmp_path / "s" / "rows.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"rows\.bin is damaged"):
        StaticExamples.open(tmp_path / "s")
