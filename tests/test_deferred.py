"""Checks that are put off, fixed budgets, and scored rows: what graph capture needs, here on a CPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from conftest import make_pair, ragged, worst

import fastbert
from fastbert import graphs, packing
from fastbert.errors import BackendError, InputError
from fastbert.packing import PackedBatch, deferred, fixed_budget
from fastbert.packing.batching import pack_rows
from fastbert.packing.inputs import Limits
from fastbert.text.framing import Framed

LIMITS = Limits(vocab_size=101, type_vocab_size=2, max_position_embeddings=40)


@pytest.fixture(autouse=True)
def nothing_pending() -> Any:
    deferred._pending.checks.clear()
    yield
    deferred._pending.checks.clear()


def bad_batch() -> PackedBatch:
    batch = fastbert.pack(**ragged([4, 6]))
    batch.input_ids[7] = 500
    return batch


def test_a_check_that_is_put_off_raises_at_the_next_call() -> None:
    model, _ = make_pair("BertModel")
    packing.check_packed(bad_batch(), LIMITS, wait=False)
    with pytest.raises(InputError, match=r"input_ids\[1, 3\] = 500 is outside the vocabulary \(0..100\)"):
        model(torch.ones(1, 3, dtype=torch.long))
    model(torch.ones(1, 3, dtype=torch.long))


def test_check_raises_for_what_is_pending_and_forgets_it() -> None:
    fastbert.pack(torch.full((2, 3), 300), limits=LIMITS, wait=False)
    with pytest.raises(InputError, match=r"input_ids\[0, 0\] = 300"):
        fastbert.check()
    fastbert.check()


@pytest.mark.parametrize(
    ("starts", "longest", "message"),
    [
        ([0, 4, 11], 6, "rise from 0 to the 10 tokens; it goes from 0 to 11"),
        ([0, 8, 4], 6, "it goes from 0 to 4"),
        ([0, 4, 10], 5, "max_seqlen = 5 is below the longest sequence, 6"),
    ],
)
def test_bounds_that_do_not_fit_are_found_late_too(starts: list[int], longest: int, message: str) -> None:
    for wait in (True, False):
        batch = fastbert.pack(**ragged([4, 6]))
        batch.cu_seqlens, batch.max_seqlen = torch.tensor(starts, dtype=torch.int32), longest
        with pytest.raises(InputError, match=message):
            _checked(batch, wait)


def _checked(batch: PackedBatch, wait: bool) -> None:
    packing.check_packed(batch, LIMITS, wait=wait)
    fastbert.check()


def test_good_batches_leave_nothing_behind() -> None:
    packing.check_packed(fastbert.pack(**ragged([4, 6])), LIMITS, wait=False)
    assert deferred._pending.checks
    deferred.poll()
    assert not deferred._pending.checks


def test_a_fixed_budget_changes_no_result() -> None:
    model, _ = make_pair("BertModel")
    batch = fastbert.pack(**ragged([9, 4, 6]))
    filled = fixed_budget(batch, tokens=32, sequences=8, max_seqlen=16)
    assert (filled.num_tokens, filled.batch_size, filled.max_seqlen, filled.tail) == (32, 8, 16, 13)
    for backend in ("reference", "auto"):
        with torch.no_grad(), fastbert.backend(backend):
            expected, found = model(batch), model(filled)
        assert worst(found.last_hidden_state[:19], expected.last_hidden_state) < 1e-5
        assert worst(found.pooler_output[:3], expected.pooler_output) < 1e-5
        assert not found.pooler_output[3:].any()
        assert found.last_hidden_state.isfinite().all()
    assert batch.unpack(expected.last_hidden_state).shape == (3, 9, 48)


@pytest.mark.parametrize("lengths", [[9, 4], [5, 5]], ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_fixed_budget_unpacks_to_a_fixed_padded_form(lengths: list[int], side: str) -> None:
    batch = fastbert.pack(**ragged(lengths, side=side))
    filled = fixed_budget(fixed_budget(batch, 16, 3, 12), 20, 4, 16)
    values = torch.arange(1.0, 21.0)
    found, expected = filled.unpack(values), batch.unpack(values[: sum(lengths)])
    assert found.shape == (4, 16)
    assert torch.equal(found[:2, : max(lengths)], expected)
    assert float(found.sum()) == float(expected.sum())
    assert torch.equal(filled.pack(found), torch.cat([values[: sum(lengths)], torch.zeros(20 - sum(lengths))]))


def test_a_filled_batch_answers_questions() -> None:
    model, _ = make_pair("BertForQuestionAnswering")
    batch = fastbert.pack(**ragged([5, 5]))
    filled = fixed_budget(batch, 16, 4, 8)
    starts, ends = torch.tensor([1, 3]), torch.tensor([4, 4])
    nothing = torch.tensor([100, 100])
    expected = model(batch, start_positions=starts, end_positions=ends).loss
    found = model(filled, start_positions=torch.cat([starts, nothing]), end_positions=torch.cat([ends, nothing])).loss
    torch.testing.assert_close(found, expected)


def test_a_tail_takes_no_part_in_training() -> None:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, _ = make_pair("BertForMaskedLM", **off, hidden_size=64)
    model.train()
    batch = fastbert.pack(**ragged([9, 4, 6]))
    labels = batch.input_ids.masked_fill(torch.arange(19) % 3 == 0, -100)
    gradients = []
    for backend in ("auto", "triton"):
        for given, wanted in (
            (batch, labels),
            (fixed_budget(batch, 30, 5, 12), torch.cat([labels, labels.new_full((11,), -100)])),
        ):
            model.zero_grad()
            with fastbert.backend(backend):
                model(given, labels=wanted).loss.backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
    for other in gradients[1:]:
        assert max(worst(a, b) for a, b in zip(gradients[0], other, strict=True)) < 1e-5


def test_a_budget_that_is_too_small_is_named() -> None:
    batch = fastbert.pack(**ragged([9, 4]))
    for budget, message in (((12, 4, 16), "tokens = 13"), ((20, 1, 16), "sequences = 2"), ((20, 4, 8), "max_seqlen = 9")):
        with pytest.raises(InputError, match=message):
            fixed_budget(batch, *budget)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_scored_rows_give_the_loss_of_the_labels(name: str) -> None:
    model, _ = make_pair(name)
    batch = fastbert.pack(**ragged([9, 4]))
    labels = batch.input_ids.masked_fill(torch.arange(13) % 4 != 0, -100)
    rows = torch.tensor([0, 4, 8, 12, 0, 0])
    wanted = torch.cat([labels[rows[:4]], torch.tensor([-100, -100])])
    for training in (False, True):
        model.train(training)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        expected, found = model(batch, labels=labels), model(batch, labels=wanted, scored_rows=rows)
        assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-5)
        assert int(found.num_mlm_labels) == int(expected.num_mlm_labels) == 4
    for wrong, message in (([0, 4, 8, 12, 13, 0], r"scored_rows\[4\] = 13 is not in 0..12"),):
        with pytest.raises(InputError, match=message):
            model(batch, labels=wanted, scored_rows=torch.tensor(wrong))
    with pytest.raises(InputError, match=r"labels\[1\] = 101 is neither"):
        model(batch, labels=torch.tensor([5, 101]), scored_rows=rows[:2])
    with pytest.raises(InputError, match="one label a row"):
        model(batch, labels=labels, scored_rows=rows)


def test_graphs_need_a_gpu() -> None:
    model, _ = make_pair("BertModel")
    with pytest.raises(BackendError, match="need a CUDA device; the model is on cpu"):
        graphs.CapturedModel(model)
    with pytest.raises(BackendError, match="need a CUDA device"):
        graphs.CapturedStep(lambda **_: None, {"x": torch.zeros(1)})


class Replay:
    """Stands for a CUDA graph where there is none: runs again, into the same addresses."""

    def __init__(self, run: Any) -> None:
        self.run, self.result = run, run()

    def replay(self) -> None:
        for kept, value in zip(tensors(self.result), tensors(self.run()), strict=True):
            kept.copy_(value)


def tensors(result: Any) -> list[torch.Tensor]:
    return [value for value in (result.to_tuple() if hasattr(result, "to_tuple") else (result,)) if value is not None]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """All of graphs.py but the graph itself, on a CPU; the captures that were made."""
    made: list[Replay] = []

    def capture(run: Any, pool: Any, device: torch.device) -> tuple[Replay, Any]:
        made.append(Replay(run))
        return made[-1], made[-1].result

    monkeypatch.setattr(graphs, "_capture", capture)
    monkeypatch.setattr(graphs, "_need_cuda", lambda devices, what: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(deferred, "capturing", lambda: bool(made))  # a replay runs no checks
    return made


def test_a_captured_model_equals_the_model_for_every_batch_of_its_bucket(replayed: list[Replay]) -> None:
    model, _ = make_pair("BertModel")
    captured = graphs.CapturedModel(model)
    for seed, lengths in enumerate(([9, 4], [5, 5, 3], [16], [1], [9, 4], [2, 2, 2, 2])):
        batch = fastbert.pack(**ragged(lengths, seed=seed))
        with torch.no_grad():
            expected = model(batch)
        found = captured(batch)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output)
    narrow = pack_rows(Framed.of_rows([[5, 6, 7], [8, 9]]), [0, 1])  # ids of 32 bits, into buffers of 64
    with torch.no_grad():
        torch.testing.assert_close(captured(narrow).last_hidden_state, model(narrow).last_hidden_state)
    assert len(replayed) == 3, "16 tokens; 1, 2 and 4 sequences"


def test_a_captured_model_follows_its_weights(replayed: list[Replay]) -> None:
    model, _ = make_pair("BertModel")
    captured = graphs.CapturedModel(model)
    batch = fastbert.pack(**ragged([9, 4]))
    layer = model.encoder.layer[1]

    def in_place() -> None:
        layer.output.dense.weight.data.mul_(1.5)

    def replaced() -> None:
        layer.output.dense.weight = torch.nn.Parameter(layer.output.dense.weight * 2)

    def new_module() -> None:
        layer.intermediate.dense = torch.nn.Linear(*reversed(layer.intermediate.dense.weight.shape))

    def moved() -> None:
        layer.attention.self.query.weight.data = layer.attention.self.query.weight.data.clone()

    captured(batch)
    for change, captures in ((in_place, 0), (replaced, 1), (new_module, 1), (moved, 1), (model.double, 1)):
        before = len(replayed)
        change()
        with torch.no_grad():
            expected = model(batch).last_hidden_state
        torch.testing.assert_close(captured(batch).last_hidden_state, expected)
        assert len(replayed) - before == captures, change.__name__


def test_threads_share_captured_models_and_steps(replayed: list[Replay], monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are filled, replayed and read by one thread at a time: a switch in between would mix two texts."""
    model, _ = make_pair("BertModel")
    batches = [fastbert.pack(**ragged([9, 4], seed=seed), limits=model.limits) for seed in range(8)]
    with torch.no_grad():
        expected = [model(batch).last_hidden_state for batch in batches]
    captured = graphs.CapturedModel(model)
    step = graphs.CapturedStep(lambda batch: model(batch).last_hidden_state.detach(), {"batch": batches[0]})
    captured(batches[0])
    real = Replay.replay

    def slow(self: Replay) -> None:
        time.sleep(0.01)
        real(self)

    monkeypatch.setattr(Replay, "replay", slow)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda batch: captured(batch).last_hidden_state, batches))
        steps = list(pool.map(lambda batch: step(batch=batch), batches))
    for found in (models, steps):
        for one, right in zip(found, expected, strict=True):
            torch.testing.assert_close(one, right)


def test_a_stream_waits_for_the_call_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside a call does not keep the others waiting."""
    seen: list[tuple[str, str]] = []
    now = ["first"]

    class Event:
        def record(self, stream: Any) -> None:
            seen.append(("record", stream.name))

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_event(self, event: Event) -> None:
            seen.append(("wait", self.name))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(now[0]))
    turns = graphs._Turns(torch.device("cuda"))
    for name in ("first", "second"):
        now[0] = name
        with suppress(ZeroDivisionError), turns.turn():
            seen.append(("work", name))
            raise ZeroDivisionError
    assert seen == [(what, name) for name in ("first", "second") for what in ("wait", "work", "record")]


def test_a_captured_step_runs_on_copies_of_its_inputs(replayed: list[Replay]) -> None:
    """The example was checked, and so is its copy: a check cannot be captured."""
    model, _ = make_pair("BertModel")
    limits = model.limits

    def batch(seed: int) -> Any:
        return fixed_budget(fastbert.pack(**ragged([9, 4], seed=seed), limits=limits), 20, 3, 16)

    checked = []

    def step(batch: Any, scale: torch.Tensor) -> torch.Tensor:
        checked.append(batch.is_checked(limits))
        return model(batch).last_hidden_state.sum() * scale

    first = batch(0)
    run = graphs.CapturedStep(step, {"batch": first, "scale": torch.tensor(2.0)})
    assert checked == [True]
    for seed, scale in ((1, 3.0), (0, 2.0)):
        expected = step(batch(seed), torch.tensor(scale)).detach()  # by the products of a step, which records gradients
        torch.testing.assert_close(run(batch=batch(seed), scale=torch.tensor(scale)).detach(), expected)
    assert torch.equal(first.input_ids, batch(0).input_ids)
    with pytest.raises(InputError, match="pack the example batch with limits="):
        graphs.CapturedStep(step, {"batch": fastbert.pack(**ragged([9, 4])), "scale": torch.tensor(2.0)})


def test_batches_of_one_bucket_have_one_shape() -> None:
    """However they were padded, the addresses of one can be filled with the other."""
    batches = [
        fastbert.pack(**ragged([9, 4], side="left")),
        fastbert.pack([[5] * 9, [6] * 7]),
        fastbert.pack(torch.ones(2, 8).long()),
    ]
    batches.append(
        PackedBatch(*(getattr(batches[0], f) for f in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens")), 9, 99)
    )
    bucket = graphs.Bucket((16, 4, 32))
    static = graphs._in_bucket(batches[0], bucket).clone()
    for batch in batches:
        graphs._fill(static, graphs._in_bucket(batch, bucket))
        assert torch.equal(static.input_ids[: batch.num_tokens], batch.input_ids)
        assert torch.equal(static.cu_seqlens[:3], batch.cu_seqlens)
    with pytest.raises(InputError, match="it was captured with"):
        graphs._fill(static, graphs._in_bucket(batches[0], graphs.Bucket((32, 4, 32))))


def test_buckets_are_few_and_waste_little() -> None:
    seen = set()
    for tokens in range(1, 20_000, 7):
        batch = PackedBatch(None, torch.empty(0), torch.empty(tokens), torch.zeros(20), 100, 100)
        bucket = graphs.Bucket.of(batch)
        seen.add(bucket)
        assert bucket[0] >= tokens
        assert bucket[0] <= max(tokens * 1.126, tokens + 16)
        assert bucket[1:] == (32, 128)
    assert len(seen) < 100
