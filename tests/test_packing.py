"""Packing: shapes, order, what is refused; and that no padding token is ever computed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from conftest import make_pair, ragged, worst
from torch.utils.flop_counter import FlopCounterMode

import fastbert
from fastbert.diagnostics import encoder_flops
from fastbert.errors import InputError
from fastbert.ops import cpu, onednn
from fastbert.packing import PackedBatch, token_budget_batches

LENGTHS = [11, 5, 8, 1]


def test_pack_and_unpack_are_inverse_with_zeros_at_padding() -> None:
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    packed = fastbert.pack(**batch)
    assert packed.input_ids.tolist() == batch["input_ids"][mask].tolist()
    assert packed.token_type_ids.tolist() == batch["token_type_ids"][mask].tolist()
    assert packed.position_ids.tolist() == [i for n in LENGTHS for i in range(n)]
    assert packed.cu_seqlens.tolist() == [0, 11, 16, 24, 25]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.max_seqlen == 11
    assert packed.lengths.tolist() == LENGTHS
    values = torch.randn(25, 3)
    padded = packed.unpack(values)
    assert padded.shape == (4, 11, 3)
    assert torch.equal(padded[mask], values)
    assert not padded[~mask].any()
    assert torch.equal(packed.pack(padded), values)


def test_pack_without_mask_copies_nothing() -> None:
    ids = ragged([6, 6])["input_ids"]
    for mask in (None, torch.ones_like(ids)):
        packed = fastbert.pack(ids, mask)
        assert packed.indices is None
        assert packed.input_ids.data_ptr() == ids.data_ptr()


def test_pack_takes_ragged_lists_and_tokenizer_output() -> None:
    packed = fastbert.pack([[1, 2, 3], [4]], token_type_ids=[[0, 0, 1], [0]])
    assert packed.input_ids.tolist() == [1, 2, 3, 4]
    assert packed.token_type_ids.tolist() == [0, 0, 1, 0]
    assert packed.unpack(packed.input_ids[:, None]).squeeze(-1).tolist() == [[1, 2, 3], [4, 0, 0]]
    same = fastbert.pack(
        {"input_ids": [[1, 2, 3], [4]], "token_type_ids": [[0, 0, 1], [0]], "attention_mask": [[1, 1, 1], [1]]}
    )
    assert torch.equal(same.input_ids, packed.input_ids)


def test_pack_honours_the_mask_of_padded_lists() -> None:
    padded = fastbert.pack({"input_ids": [[1, 2, 3], [4, 0, 0]], "attention_mask": [[1, 1, 1], [1, 0, 0]]})
    assert padded.input_ids.tolist() == [1, 2, 3, 4]
    assert padded.lengths.tolist() == [3, 1]
    with pytest.raises(InputError, match="lists of different lengths take neither"):
        fastbert.pack([[1, 2], [3]], attention_mask=[[1, 0], [1]])
    with pytest.raises(InputError, match="token_type_ids must have as many entries"):
        fastbert.pack([[1, 2], [3]], token_type_ids=[[1], [1]])


def test_positions_are_columns_or_counted_from_the_mask() -> None:
    batch = ragged([3, 2], side="left")
    assert fastbert.pack(**batch).position_ids.tolist() == [0, 1, 2, 1, 2]
    assert fastbert.pack(**batch, position_ids="from_mask").position_ids.tolist() == [0, 1, 2, 0, 1]


def test_packed_batch_equals_its_sequences_run_one_by_one() -> None:
    model, _ = make_pair("BertModel")
    batch = ragged(LENGTHS)
    with torch.no_grad():
        packed = fastbert.pack(**batch)
        together = model(packed)
        assert together.last_hidden_state.shape == (25, 48)
        for i, (start, n) in enumerate(zip([0, 11, 16, 24], LENGTHS, strict=True)):
            alone = model(batch["input_ids"][i : i + 1, :n], token_type_ids=batch["token_type_ids"][i : i + 1, :n])
            assert worst(together.last_hidden_state[start : start + n], alone.last_hidden_state[0]) < 1e-5
            assert worst(together.pooler_output[i], alone.pooler_output[0]) < 1e-5


def test_padded_and_packed_forms_agree_in_every_head() -> None:
    labels = torch.where(torch.rand(4, 11, generator=torch.Generator().manual_seed(2)) < 0.5, 7, -100)
    batch = ragged(LENGTHS)
    packed = fastbert.pack(**batch)
    starts = torch.tensor([2, 4, 7, 0])
    for name, padded_labels, packed_labels in (
        ("BertForMaskedLM", {"labels": labels}, {"labels": packed.pack(labels)}),
        ("BertLMHeadModel", {"labels": labels}, {"labels": packed.pack(labels)}),
        ("BertForQuestionAnswering", *[{"start_positions": starts, "end_positions": starts}] * 2),
        ("BertForNextSentencePrediction", *[{"labels": torch.tensor([0, 1, 1, 0])}] * 2),
    ):
        model, _ = make_pair(name)
        a, b = model(**batch, **padded_labels), model(packed, **packed_labels)
        assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-6), name
        for key in list(a)[1:]:
            if a[key].shape[:2] == (4, 11):
                assert worst(packed.pack(a[key]), b[key]) < 1e-5


def test_ids_under_mask_0_change_nothing() -> None:
    model, _ = make_pair("BertModel")
    batch = ragged(LENGTHS)
    with torch.no_grad():
        before = model(**batch)
        padding = batch["attention_mask"] == 0
        batch["input_ids"][padding] = 10**9  # would be out of range if anyone looked
        batch["token_type_ids"][padding] = -5
        after = model(**batch)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert torch.equal(before.pooler_output, after.pooler_output)


def test_matrix_products_are_exactly_those_of_the_real_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linears by the FLOP counter, on the reference path, whose products it knows; attention by the shapes it gets."""
    model, _ = make_pair("BertModel")
    n, f, layers, tokens = 48, 80, 3, sum(LENGTHS)
    lengths = []
    real = cpu.reference.attend

    def watching(qkv, *args):
        lengths.append(tuple(qkv.shape[:2]))
        return real(qkv, *args)

    monkeypatch.setattr(cpu.reference, "attend", watching)
    with torch.no_grad(), fastbert.backend("reference"), FlopCounterMode(display=False) as counter:
        model(**ragged(LENGTHS))
    pooler = 2 * n * n * len(LENGTHS)
    linears = layers * tokens * (8 * n * n + 4 * n * f)
    attention = sum(layers * 4 * length * length * n for length in LENGTHS)
    assert counter.get_total_flops() == linears + attention + pooler
    assert linears + attention == encoder_flops(model.config, LENGTHS)
    assert lengths == [(1, length) for _ in range(layers) for length in LENGTHS]


def test_default_path_attends_over_real_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make_pair("BertModel")
    shapes = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watching(q, k, v, **options):
        shapes.append((q.shape[0], q.shape[2], k.shape[2]))
        assert options.get("attn_mask") is None
        return real(q, k, v, **options)

    def watching_short(q, k):
        shapes.append((q.shape[0], q.shape[2], k.shape[2]))

    short = cpu._short
    monkeypatch.setattr(cpu.F, "scaled_dot_product_attention", watching)
    monkeypatch.setattr(cpu, "_short", lambda q, k, v, scale: watching_short(q, k) or short(q, k, v, scale))
    with torch.no_grad(), FlopCounterMode(display=False):
        model(**ragged([11, 5, 8, 5]))
        assert shapes == [(1, 11, 11), (1, 8, 8), (2, 5, 5)] * 3
        shapes.clear()
        monkeypatch.setattr(cpu, "_SHORT", 8)  # one of them by PyTorch's fused form
        model(**ragged([11, 5, 8, 5]))
    assert shapes == [(1, 11, 11), (1, 8, 8), (2, 5, 5)] * 3


@pytest.mark.parametrize("gradients", [False, True])
def test_default_path_multiplies_real_tokens_only(gradients: bool) -> None:
    """The linears of the default path; oneDNN's fill small batches up. torch counts no fused attention on a CPU."""
    model, _ = make_pair("BertModel")
    n, f, layers = 48, 80, 3
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
        model(**ragged(LENGTHS))
    real = (sum(LENGTHS), len(LENGTHS))
    tokens, texts = real if gradients else (onednn.round_up(rows, torch.float32) for rows in real)
    assert tokens - sum(LENGTHS) < 8
    linears = layers * tokens * (8 * n * n + 4 * n * f) + 2 * n * n * texts
    operators = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    assert sum(count for op, count in operators.items() if "attention" not in op and "bmm" not in op) == linears


@pytest.mark.parametrize(("name", "rows"), [("BertForSequenceClassification", 4), ("BertForMaskedLM", 6)])
def test_heads_compute_only_the_rows_that_they_read_in_the_last_layer(name: str, rows: int) -> None:
    model, _ = make_pair(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train()
    labels = torch.zeros(4, dtype=torch.long)
    if name == "BertForMaskedLM":
        labels = torch.full((4, 11), -100)
        labels[0, :4] = labels[2, 5:7] = 3
    n, f, layers, tokens = 48, 80, 3, sum(LENGTHS)
    with torch.no_grad(), fastbert.backend("reference"), FlopCounterMode(display=False) as counter:
        model(**ragged(LENGTHS), labels=labels)
    whole = (layers - 1) * tokens * (8 * n * n + 4 * n * f)
    last = tokens * 4 * n * n + rows * (4 * n * n + 4 * n * f)  # keys and values of all; queries and the rest of the rows
    attention = sum(layers * 4 * length * length * n for length in LENGTHS)
    head = rows * 2 * n * n + rows * 2 * n * 101 if name == "BertForMaskedLM" else rows * 2 * n * n + rows * 2 * n * 2
    assert counter.get_total_flops() == whole + last + attention + head


def test_fully_masked_row_gives_zeros() -> None:
    batch = ragged([4, 4])
    batch["attention_mask"][1] = 0
    for asked in ({}, {"output_attentions": True}):
        model, _ = make_pair("BertModel")
        out = model(**batch, **asked)
        assert torch.isfinite(out.last_hidden_state).all()
        assert not out.last_hidden_state[1].any()
        assert not out.pooler_output[1].any()
        assert out.pooler_output[0].any()
    batch["attention_mask"][:] = 0
    out = model(**batch)
    assert not out.last_hidden_state.any()
    assert not out.pooler_output.any()


def test_empty_sequence_leaves_the_gradients_of_the_others_alone() -> None:
    """An empty row's [CLS] stands in for some other row, which must not get that row's gradient twice."""
    model, _ = make_pair("BertForSequenceClassification", num_labels=2)
    model = model.double()  # products of other sizes round otherwise
    batch = ragged([6, 6, 4])
    gradients = []
    for keep in ([0, 2], [0, 1, 2]):
        model.zero_grad()
        part = {key: value[keep].clone() for key, value in batch.items()}
        if len(keep) == 3:
            part["attention_mask"][1] = 0
        labels = torch.tensor([1, 0]) if len(keep) == 2 else torch.tensor([1, -100, 0])
        model(**part, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert max(worst(a, b) for a, b in zip(*gradients, strict=True)) < 1e-12


def test_token_budget_batches_are_bounded_longest_first_and_complete() -> None:
    lengths = torch.randint(1, 300, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    lengths[7] = 5000
    batches = token_budget_batches(lengths, 1024)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert batches[0] == [7], "longer than the budget: alone"
    assert all(sum(lengths[i] for i in batch) <= 1024 for batch in batches[1:])
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(order, reverse=True)
    with pytest.raises(InputError, match="batch_tokens = 0"):
        token_budget_batches(lengths, 0)


def test_a_batch_that_was_checked_stays_so_wherever_it_goes() -> None:
    """Elsewhere nobody may ask again: not in a captured step, and on a GPU not without waiting."""
    limits = fastbert.packing.inputs.Limits(101, 2, 40)
    batch = fastbert.pack(**ragged([5, 9]), limits=limits)
    pickled = pickle.loads(pickle.dumps(batch))
    for other in (batch.clone(), batch.to("cpu"), copy.deepcopy(batch), pickled):
        assert other.is_checked(limits)
        assert torch.equal(other.input_ids, batch.input_ids)
    batch.input_ids[3] = 500
    for other in (batch.clone(), batch.to("cpu"), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert not other.is_checked(limits)


def test_lists_are_packed_on_the_default_device() -> None:
    with torch.device("meta"):
        batch = fastbert.pack([[5, 6], [7, 8]])
        assert {batch.input_ids.device.type, batch.position_ids.device.type, batch.cu_seqlens.device.type} == {"meta"}


def test_packed_batch_moves_whole() -> None:
    packed = fastbert.pack(**ragged(LENGTHS)).to("meta")
    assert isinstance(packed, PackedBatch)
    assert {packed.input_ids.device.type, packed.cu_seqlens.device.type, packed.indices.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens has shape .* int32"),
        ({"cu_seqlens": torch.tensor([0, 2, 3]).int()}, "rise from 0 to the 4 tokens"),
        ({"max_seqlen": 1}, "max_seqlen = 1 is below"),
        ({"token_type_ids": torch.zeros(2, dtype=torch.long)}, "token_type_ids has 2 rows, position_ids has 4"),
        ({"input_ids": torch.tensor([1, 2, 101, 4])}, r"input_ids\[0, 2\] = 101 is outside the vocabulary \(0..100\)"),
    ],
)
def test_inconsistent_packed_batches_are_refused(change: dict, message: str) -> None:
    model, _ = make_pair("BertModel")
    batch = fastbert.pack([[1, 2, 3], [4]])
    for key, value in change.items():
        setattr(batch, key, value)
    with pytest.raises(InputError, match=message):
        model(batch)


def test_strided_and_broadcast_masks_are_taken() -> None:
    model, _ = make_pair("BertModel")
    batch = ragged([5, 3, 5])
    strided = batch["attention_mask"].t().contiguous().t()
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
        assert torch.equal(model(**{**batch, "attention_mask": strided}).last_hidden_state, expected)
        row = torch.tensor([[1, 1, 1, 0, 1]])
        broadcast = model(**{**batch, "attention_mask": row}).last_hidden_state
        assert torch.equal(broadcast, model(**{**batch, "attention_mask": row.expand(3, 5)}).last_hidden_state)


def test_one_sequence_and_small_integer_types_are_taken() -> None:
    model, _ = make_pair("BertModel")
    assert fastbert.pack([1, 2, 3]).lengths.tolist() == [3]
    assert fastbert.pack({"input_ids": [1, 2], "attention_mask": [1, 1]}).lengths.tolist() == [2]
    ids = torch.tensor([[3, 9, 100]])
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        for dtype in (torch.uint8, torch.int16, torch.int32):
            assert torch.equal(model(ids.to(dtype)).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[1.5, 2]]}, "input_ids has type torch.float32; expected integers"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 2], [1, 1]]}, r"attention_mask\[0, 1\] = 2"),
        ({"input_ids": [[1, 2], 3]}, "input_ids mixes ids and lists"),
    ],
)
def test_lists_are_checked_like_tensors(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fastbert.pack(**arguments)
