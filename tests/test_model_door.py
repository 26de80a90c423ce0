"""What reaches a model: tracing, replicas, hooks, masks, types of ids, edited batches give the right result or a sentence."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import pytest
import torch
from conftest import CLASSES, make_pair, ragged, worst
from torch import nn

import fastbert
from fastbert import packing
from fastbert.errors import BackendError, InputError
from fastbert.model import pooling
from fastbert.packing import deferred


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", CLASSES)
def test_tracing_is_refused_with_what_to_use(name: str, backend: str) -> None:
    model, _ = make_pair(name)
    ids = torch.ones(1, 2, 5, dtype=torch.long) if "Choice" in name else torch.ones(2, 5, dtype=torch.long)
    with (
        fastbert.backend(backend),
        pytest.raises(BackendError, match=r"torch.jit.trace .* use torch.export, and torch.onnx.export"),
    ):
        torch.jit.trace(model, (ids,), strict=False)


def replica_of(module: nn.Module) -> Any:
    """As `torch.nn.parallel.replicate` makes them: parameters are attributes, and no module lists any."""
    copied = {old: old._replicate_for_data_parallel() for old in module.modules()}
    for old, new in copied.items():
        for key, child in old._modules.items():
            setattr(new, key, copied[child] if child is not None else None)
        for key, parameter in old._parameters.items():
            setattr(new, key, parameter.view_as(parameter) if parameter is not None else None)
    return copied[module]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_replicas_run_and_send_gradients_home(name: str, training: bool) -> None:
    model, _ = make_pair(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train(training)
    replica = replica_of(model)
    assert not list(replica.parameters())
    assert (replica.device, replica.dtype) == (model.device, model.dtype)
    batch = ragged([7, 4])
    found, wanted = replica(**batch), model(**batch)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    found[0].pow(2).sum().backward()
    assert model.base_model.embeddings.word_embeddings.weight.grad is not None


# -- word embeddings that are not plain ---------------------------------------------------------------------------------------


def test_a_hook_on_the_word_embeddings_sees_padded_rows() -> None:
    """NEFTune reads `output.size(2)` and adds noise by the padded length."""
    ours, theirs = make_pair("BertModel")
    shapes = []

    def double(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(output.shape))
        return output * 2

    for model in (ours, theirs):
        model.get_input_embeddings().register_forward_hook(double)
    batch = ragged([7, 4])
    found, wanted = ours(**batch).last_hidden_state, theirs(**batch).last_hidden_state
    assert shapes == [(2, 7, 48)] * 2
    assert worst(found[1, :4], wanted[1, :4]) < 1e-5


class Prompt(nn.Module):
    """Prompt tuning by a module in the place of the word embeddings: two learned tokens before each row."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words, self.prompt = words, nn.Parameter(torch.zeros(2, words.embedding_dim))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.prompt.expand(len(ids), -1, -1), self.words(ids)], dim=1)


def test_embeddings_that_change_the_number_of_tokens_are_refused() -> None:
    model, _ = make_pair("BertModel")
    model.set_input_embeddings(Prompt(model.get_input_embeddings()))
    with pytest.raises(InputError, match=r"\(Prompt\) gave \(2, 9, 48\) for ids of shape \(2, 7\).*inputs_embeds"):
        model(**ragged([7, 4]))


def test_embeddings_of_ones_own_run() -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 3

    ours, theirs = make_pair("BertModel")
    for model in (ours, theirs):
        scaled = Scaled(101, 48)
        scaled.load_state_dict(model.get_input_embeddings().state_dict())
        model.set_input_embeddings(scaled)
    batch = ragged([7, 4])
    assert worst(ours(**batch).last_hidden_state[0], theirs(**batch).last_hidden_state[0]) < 1e-5


@pytest.mark.parametrize("rows", [90, 101, 150])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_tying_follows_other_embeddings(name: str, rows: int) -> None:
    ours, theirs = make_pair(name)
    table = torch.randn(rows, 48)
    for model in (ours, theirs):
        words = nn.Embedding(rows, 48)
        words.load_state_dict({"weight": table.clone()})
        model.set_input_embeddings(words)
        model.tie_weights()
    head = ours.cls.predictions
    assert head.decoder.weight is ours.get_input_embeddings().weight
    assert head.decoder.bias is head.bias
    assert (head.decoder.out_features, head.bias.shape[0], ours.config.vocab_size) == (rows, rows, rows)
    assert torch.equal(head.bias[:90], theirs.cls.predictions.decoder.bias[:90])
    batch = ragged([7, 4], vocab=80)
    assert worst(ours(**batch)[0][0], theirs(**batch)[0][0]) < 1e-5


def test_embeddings_that_no_decoder_can_be_tied_to_are_refused() -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.set_input_embeddings(Prompt(model.get_input_embeddings()))
    with pytest.raises(InputError, match="the word embeddings are a Prompt without a weight of width 48"):
        model.tie_weights()
    model.set_input_embeddings(nn.Embedding(101, 24))
    with pytest.raises(InputError, match="without a weight of width 48"):
        model.tie_weights()


# -- masks, ids, batches ------------------------------------------------------------------------------------------------------

SHAPES = [(2, 6), (1, 6), (6, 6), (2, 5), (2, 5, 6), (1, 6, 6), (2, 1, 6), (2, 6, 1), (3, 6, 6), (2, 6, 6, 1), (1, 1, 6, 6)]
SHAPES += [
    (2, 2, 6, 6),
    (2, 8, 6, 6),
    (2, 1, 1, 6),
    (2, 4, 6, 5),
    (2, 4, 1, 6),
    (1, 4, 6, 6),
    (6,),
    (2, 1, 1, 6, 6),
    (0, 6),
    (2, 0),
]
GOOD = {(2, 6), (1, 6), (2, 6, 6), *itertools.product((1, 2), (1, 4), (1, 6), (6,))}


@pytest.mark.parametrize("name", ["BertModel", "BertLMHeadModel"])
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.float32])
def test_masks_of_another_shape_are_refused(name: str, layers: int, kind: torch.dtype) -> None:
    model, _ = make_pair(name, num_hidden_layers=layers)
    ids = torch.randint(1, 101, (2, 6))
    for shape in {*SHAPES, *GOOD}:
        mask = torch.ones(shape, dtype=kind)
        if shape in GOOD:
            assert torch.isfinite(model(ids, mask)[0]).all()
        else:
            with pytest.raises(InputError, match=r"attention_mask has shape \(.*\); expected"):
                model(ids, mask)


@pytest.mark.parametrize("mask", [torch.full((2, 1, 6, 6), -10_000), torch.full((2, 6, 6), 0.5), torch.full((2, 6, 6), 2)])
def test_masks_that_are_neither_0_nor_1_nor_floats_to_add_are_refused(mask: torch.Tensor) -> None:
    model, _ = make_pair("BertModel")
    with pytest.raises(InputError, match="holds values other than 1, where a token may attend, and 0"):
        model(torch.ones(2, 6, dtype=torch.long), mask)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_narrow_ids_meet_a_large_vocabulary(kind: torch.dtype) -> None:
    model, _ = make_pair("BertModel", vocab_size=30522)
    ids = torch.tensor([[2, 100, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    wanted = model(ids, mask).last_hidden_state
    assert torch.equal(model(ids.to(kind), mask.to(kind)).last_hidden_state, wanted)
    assert torch.equal(model(ids.to(kind)).last_hidden_state, model(ids).last_hidden_state)
    with pytest.raises(InputError, match=r"token_type_ids\[0, 0\] = 2 is outside"):
        model(ids, mask, ids.to(kind))


def test_lists_of_something_else_than_integers_are_refused() -> None:
    for kind, rows in (("input_ids", [[2.5, 3]]), ("input_ids", [[True, False]]), ("input_ids", [["a"]])):
        with pytest.raises(InputError, match=kind):
            fastbert.pack(rows)
    with pytest.raises(InputError, match="token_type_ids has type torch.float32"):
        fastbert.pack([[2, 3]], token_type_ids=[[0.0, 0.9]])


EDITS = {
    "an id in place": lambda b: b.input_ids.fill_(500),
    "ids replaced": lambda b: setattr(b, "input_ids", torch.full_like(b.input_ids, 500)),
    "positions": lambda b: b.position_ids.add_(1000),
    "segments": lambda b: setattr(b, "token_type_ids", b.token_type_ids + 7),
    "bounds": lambda b: b.cu_seqlens.__setitem__(1, 99),
    "too few rows": lambda b: setattr(b, "input_ids", b.input_ids[:3]),
    "the longest length": lambda b: setattr(b, "max_seqlen", 1),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_packed_batch_that_was_edited_is_checked_again(edit: Any) -> None:
    model, _ = make_pair("BertModel")
    batch = fastbert.pack([[2, 7, 8, 3], [2, 9, 3]])
    model(batch)
    checks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing.checks, "check_limits", lambda *a, **k: checks.append(a))
        model(batch)
    assert not checks  # as long as it stays as it is, it is checked once
    edit(batch)
    with pytest.raises(InputError):
        model(batch)
    with pytest.raises(InputError):
        model(batch.to("cpu"))


@pytest.mark.parametrize("modes", [["mean"], list(pooling.MODES)])
def test_pooling_leaves_a_tail_out_and_takes_no_tokens(modes: list[str]) -> None:
    hidden = torch.randn(7, 3)
    starts = torch.tensor([0, 2, 2, 5], dtype=torch.int32)
    wanted = pooling.pool(hidden[:5], starts, modes)
    assert torch.equal(pooling.pool(hidden, starts, modes), wanted)
    assert torch.equal(pooling.pool(hidden[:0], torch.zeros(3, dtype=torch.int32), modes), torch.zeros(2, 3 * len(modes)))
    model, _ = make_pair("BertModel")
    batch = packing.fixed_budget(fastbert.pack([[2, 7, 8, 3], [2, 9, 3]]), 16, 4, 8)
    with torch.no_grad():
        padded = pooling.pool(model(batch).last_hidden_state, batch.cu_seqlens, modes)[:2]
        plain = fastbert.pack([[2, 7, 8, 3], [2, 9, 3]])
        assert torch.allclose(padded, pooling.pool(model(plain).last_hidden_state, plain.cu_seqlens, modes), atol=1e-5)


def test_a_check_is_raised_in_the_thread_that_made_it() -> None:
    raised: dict[str, str] = {}
    put_off, polled = threading.Event(), threading.Event()

    def report(_: list[bool]) -> None:
        raise InputError("a bad id")

    def bad() -> None:
        deferred.defer(torch.tensor([True]), report)
        put_off.set()
        polled.wait(10)
        try:
            deferred.check()
        except InputError as error:
            raised["bad"] = str(error)

    thread = threading.Thread(target=bad)
    thread.start()
    assert put_off.wait(10)
    deferred.poll()  # nothing of the other thread's
    deferred.check()
    polled.set()
    thread.join()
    assert raised == {"bad": "a bad id"}


def test_a_service_keeps_few_compiled_shapes() -> None:
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == os.environ["LRU_CACHE_CAPACITY"] == "128"


def test_a_mask_of_four_dimensions_on_a_decoder_is_used_as_it_stands() -> None:
    """It has to hide what comes later itself, as in transformers."""
    ours, theirs = make_pair("BertLMHeadModel")
    batch = ragged([6, 6])
    nothing = torch.zeros(2, 1, 6, 6)
    for mask in (nothing, nothing.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), float("-inf"))):
        inputs = {**batch, "attention_mask": mask}
        assert worst(ours(**inputs).logits, theirs(**inputs).logits) < 1e-5


def test_a_weighted_mean_of_a_very_long_text_is_exact() -> None:
    """The square of its length needs more than 32 bits."""
    tokens = 70_000
    pooled = pooling.pool(torch.ones(tokens, 2), torch.tensor([0, tokens], dtype=torch.int32), "weightedmean")
    torch.testing.assert_close(pooled, torch.ones(1, 2), atol=1e-3, rtol=0)
