"""The model as users handle it: modes, types, dropout, gradients, hooks, compilation, copies, the causal switch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import CLASSES, make_pair, ragged, worst
from torch import nn

import fastbert
from fastbert.model.lm_heads import BertLMPredictionHead

LENGTHS = [11, 5, 8, 1]


# -- one direction and two ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("causal", [True, False])
def test_causal_switch_hides_what_follows(backend: str, causal: bool) -> None:
    model, _ = make_pair("BertModel", is_decoder=causal)
    ids = ragged([9])["input_ids"]
    changed = ids.clone()
    changed[0, 5] = ids[0, 5] % 100 + 1
    with torch.no_grad(), fastbert.backend(backend):
        a, b = model(ids).last_hidden_state, model(changed).last_hidden_state
    assert not torch.equal(a[0, 5:], b[0, 5:])
    assert torch.equal(a[0, :5], b[0, :5]) == causal


def test_causal_switch_uses_the_same_weights() -> None:
    two, _ = make_pair("BertModel")
    one = fastbert.BertModel(fastbert.BertConfig(**{**two.config.to_dict(), "is_decoder": True})).eval()
    one.load_state_dict(two.state_dict(), strict=True)
    batch = ragged(LENGTHS)
    with torch.no_grad():
        asked = one(**batch, output_attentions=True)
        assert worst(asked.last_hidden_state, one(**batch).last_hidden_state) < 1e-5
    above = torch.ones(11, 11, dtype=torch.bool).triu(1)
    assert not asked.attentions[0][:, :, above].any()


# -- types -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_has_transformers_types(name: str, dtype: torch.dtype) -> None:
    ours, theirs = make_pair(name)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    batch = ragged([6, 6])
    if name == "BertForMultipleChoice":
        batch = {key: value[:, None] for key, value in batch.items()}
    labels: dict[str, Any] = {}
    if name in ("BertForMaskedLM", "BertLMHeadModel", "BertForTokenClassification"):
        labels = {"labels": torch.ones(2, 6, dtype=torch.long)}
    elif name in ("BertForSequenceClassification", "BertForNextSentencePrediction", "BertForMultipleChoice"):
        labels = {"labels": torch.zeros(2, dtype=torch.long)}
    with torch.no_grad():
        a, b = ours(**batch, **labels), theirs(**batch, **labels)
    assert {key: a[key].dtype for key in a.keys()} == {key: b[key].dtype for key in a.keys()}
    for key in a.keys():
        assert worst(a[key].float(), b[key].float()) < (0.02 if dtype == torch.float16 else 0.15)


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_autocast_has_transformers_types(name: str) -> None:
    ours, theirs = make_pair(name)
    batch = ragged([6, 6])
    labels = {} if name == "BertModel" else {"labels": torch.ones(2, 6, dtype=torch.long)}
    if name == "BertForSequenceClassification":
        labels = {"labels": torch.ones(2, dtype=torch.long)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = ours(**batch, **labels), theirs(**batch, **labels)
    assert {key: a[key].dtype for key in a.keys()} == {key: b[key].dtype for key in a.keys()}
    if labels:
        a.loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in ours.parameters() if p.grad is not None)


def test_float64_runs() -> None:
    model, _ = make_pair("BertModel")
    assert model.double()(**ragged(LENGTHS)).last_hidden_state.dtype == torch.float64


# -- dropout and activation checkpointing ------------------------------------------------------------------------------------


def gradients(model: nn.Module, seed: int) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    batch = ragged(LENGTHS)
    loss = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss
    loss.backward()
    return float(loss), [p.grad.clone() for p in model.parameters()]


def test_dropout_follows_the_seed_and_stops_in_evaluation() -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.train()
    (a, da), (b, db), (c, _) = gradients(model, 1), gradients(model, 1), gradients(model, 2)
    assert a == b
    assert all(torch.equal(x, y) for x, y in zip(da, db, strict=True))
    assert a != c
    model.eval()
    assert gradients(model, 1)[0] == gradients(model, 2)[0]


def test_dropout_differs_at_each_site_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from fastbert.ops import reference

    real = reference.dropout_mask
    monkeypatch.setattr(reference, "dropout_mask", lambda seed, *a: seen.append(int(seed)) or real(seed, *a))
    model, _ = make_pair("BertModel")
    model.train()
    with fastbert.backend("reference"):
        model(**ragged(LENGTHS))
    assert len(seen) == len(set(seen)) == 1 + 3 * 3


def test_gradient_checkpointing_has_equal_gradients_with_dropout() -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.train()
    plain = gradients(model, 3)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    calls = []
    handle = model.bert.encoder.layer[1].intermediate.dense.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, 3)
    assert len(calls) == 2, "the layer was not computed again in backward"
    handle.remove()
    again = gradients(model, 3)
    assert plain[0] == again[0]
    assert all(torch.equal(x, y) for x, y in zip(plain[1], again[1], strict=True))
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


class LowRank(nn.Module):
    """A linear with a low-rank addition and a dropout of its own, as adapters have."""

    def __init__(self, base: nn.Linear, p: float = 0.0) -> None:
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(p)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(self.dropout(x)))


def test_gradient_checkpointing_replays_the_dropout_of_adapters() -> None:
    model, _ = make_pair("BertForMaskedLM")
    for layer in model.bert.encoder.layer:
        layer.attention.self.query = LowRank(layer.attention.self.query, 0.3)
    model.train()
    plain = gradients(model, 3)
    model.gradient_checkpointing_enable()
    again = gradients(model, 3)
    assert plain[0] == again[0]
    assert all(torch.equal(x, y) for x, y in zip(plain[1], again[1], strict=True))


# -- modules that are not plain ----------------------------------------------------------------------------------------------

PLACES = [
    "embeddings.word_embeddings",
    "embeddings.LayerNorm",
    "embeddings.dropout",
    "encoder.layer.1.attention.self.key",
    "encoder.layer.1.attention.output.dense",
    "encoder.layer.1.attention.output.LayerNorm",
    "encoder.layer.1.attention.output.dropout",
    "encoder.layer.1.intermediate",
    "encoder.layer.1.intermediate.dense",
    "encoder.layer.1.output",
    "encoder.layer.1.output.dense",
    "encoder.layer.1.output.LayerNorm",
    "encoder.layer.1",
    "pooler.dense",
]


@pytest.mark.parametrize("place", PLACES)
def test_hooked_modules_are_called_and_change_nothing(place: str) -> None:
    model, _ = make_pair("BertModel")
    batch = ragged(LENGTHS)
    with torch.no_grad():
        plain = model(**batch)
        calls = []
        model.get_submodule(place).register_forward_hook(lambda *_: calls.append(1))
        hooked = model(**batch)
    assert len(calls) == 1
    assert worst(hooked.last_hidden_state, plain.last_hidden_state) < 1e-5
    assert worst(hooked.pooler_output, plain.pooler_output) < 1e-5


@pytest.mark.parametrize("place", [p for p in PLACES if p.endswith(("dense", "key"))])
def test_replaced_linears_are_called(place: str) -> None:
    model, _ = make_pair("BertModel")
    parent, _, child = place.rpartition(".")
    adapter = LowRank(model.get_submodule(place))
    setattr(model.get_submodule(parent), child, adapter)
    model(**ragged(LENGTHS)).pooler_output.sum().backward()
    assert adapter.up.weight.grad.any()


def test_parametrised_linear_is_honoured() -> None:
    model, _ = make_pair("BertModel")
    before = model(**ragged(LENGTHS)).last_hidden_state
    nn.utils.parametrizations.weight_norm(model.encoder.layer[0].output.dense)
    assert worst(model(**ragged(LENGTHS)).last_hidden_state, before) < 1e-5
    model.encoder.layer[0].output.dense.parametrizations.weight.original0.data.mul_(2)
    assert worst(model(**ragged(LENGTHS)).last_hidden_state, before) > 1e-3


@pytest.mark.parametrize("edit", ["fused AdamW", "data", "state dict"])
def test_weights_changed_between_evaluations_are_seen(edit: str) -> None:
    """Nothing derived from the weights may outlive them: fused AdamW and .data edits leave a parameter's version alone."""
    model, plain = make_pair("BertModel")
    exact = copy.deepcopy(plain).double()
    batch = ragged([40, 40, 31])  # more tokens than the width: the joined QKV product
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    for _ in range(3):
        with torch.no_grad():
            model(**batch)
        if edit == "fused AdamW":
            model(**batch).last_hidden_state.square().mean().backward()
            optimiser.step()
        elif edit == "data":
            for parameter in model.parameters():
                parameter.data.mul_(1.1)
        else:
            model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()})
        plain.load_state_dict(model.state_dict())
        exact.load_state_dict(model.state_dict())
        with torch.no_grad():
            expected = exact(**batch).pooler_output
            rounding = worst(plain(**batch).pooler_output, expected)
            assert worst(model(**batch).pooler_output, expected) <= 2 * rounding + 1e-6


# -- frozen encoder, layers ---------------------------------------------------------------------------------------------------


def test_frozen_encoder_stays_bit_equal_while_the_head_learns() -> None:
    model, _ = make_pair("BertForSequenceClassification", num_labels=2)
    model.bert.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(**ragged(LENGTHS), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimiser.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("bert."), key


def test_fine_tuning_moves_every_tensor() -> None:
    model, _ = make_pair("BertForPreTraining")
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = ragged(LENGTHS)
    model(**batch, labels=batch["input_ids"], next_sentence_label=torch.tensor([0, 1, 1, 0])).loss.backward()
    optimiser.step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


def test_hidden_states_serve_every_layer_choice() -> None:
    """Paper, table 7: embeddings, second-to-last, last, sum and concatenation of the last four, sum of all twelve."""
    model, theirs = make_pair("BertModel", num_hidden_layers=5)
    batch = ragged([7, 7])
    with torch.no_grad():
        a = model(**batch, output_hidden_states=True).hidden_states
        b = theirs(**batch, output_hidden_states=True).hidden_states
    for choose in (
        lambda h: h[0],
        lambda h: h[-2],
        lambda h: h[-1],
        lambda h: sum(h[-4:]),
        lambda h: torch.cat(h[-4:], -1),
        lambda h: sum(h[1:]),
    ):
        assert worst(choose(a), choose(b)) < 1e-5


# -- padding row, tying, resizing ---------------------------------------------------------------------------------------------


def test_padding_row_learns_through_the_decoder_only() -> None:
    encoder, _ = make_pair("BertModel")
    ids = torch.tensor([[5, 0, 7]])  # the padding id as an ordinary token
    encoder(ids).last_hidden_state.square().sum().backward()
    assert not encoder.embeddings.word_embeddings.weight.grad[0].any()
    masked, _ = make_pair("BertForMaskedLM")
    masked(ids, labels=torch.tensor([[5, -100, 7]])).loss.backward()
    assert masked.bert.embeddings.word_embeddings.weight.grad[0].any()


@pytest.mark.parametrize("size", [110, 90])
def test_resizing_keeps_rows_tying_and_bias(size: int) -> None:
    model, _ = make_pair("BertForMaskedLM")
    words, bias = model.get_input_embeddings().weight.detach().clone(), model.cls.predictions.bias.detach().clone()
    model.resize_token_embeddings(size)
    head: BertLMPredictionHead = model.cls.predictions
    assert head.decoder.weight is model.get_input_embeddings().weight
    assert head.decoder.bias is head.bias
    assert model.config.vocab_size == head.decoder.out_features == head.bias.shape[0] == size
    kept = min(size, 101)
    assert torch.equal(head.decoder.weight[:kept], words[:kept])
    assert torch.equal(head.bias[:kept], bias[:kept])
    output = model(torch.tensor([[size - 1, 3]]), labels=torch.tensor([[size - 1, 3]]))
    assert output.logits.shape == (1, 2, size)
    assert torch.isfinite(output.loss)


def test_untied_embeddings_stay_apart() -> None:
    ours, theirs = make_pair("BertForMaskedLM", tie_word_embeddings=False)
    assert ours.cls.predictions.decoder.weight is not ours.get_input_embeddings().weight
    batch = ragged([6, 6])
    with torch.no_grad():
        assert worst(ours(**batch).logits, theirs(**batch).logits) < 1e-5


# -- copies and graphs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_deepcopy_and_pickle_give_equal_models(name: str) -> None:
    model, _ = make_pair(name)
    batch = ragged([6, 6])
    if name == "BertForMultipleChoice":
        batch = {key: value[:, None] for key, value in batch.items()}
    with torch.no_grad():
        expected = model(**batch)[0]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(**batch)[0], expected)
            assert len(list(twin.parameters())) == len(list(model.parameters())), "tying was lost"


def test_outputs_give_fields_by_attribute_name_and_index() -> None:
    model, _ = make_pair("BertModel")
    out = model(**ragged([3, 3]))
    assert out[0] is out["last_hidden_state"] is out.last_hidden_state
    assert out.to_tuple()[1] is out.pooler_output
    assert list(out) == list(out.keys()) == ["last_hidden_state", "pooler_output"]
    assert "hidden_states" not in out
    assert out.get("attentions") is None
    assert len(out[:2]) == len(out) == 2
    assert dict(out.items()).keys() == {"last_hidden_state", "pooler_output"}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("BertModel", "eager"),
        pytest.param("BertForSequenceClassification", "aot_eager", marks=pytest.mark.thorough),
        pytest.param("BertForTokenClassification", "eager", marks=pytest.mark.thorough),
    ],
)
def test_compiles_to_a_full_graph(name: str, backend: str) -> None:
    """aot_eager also traces the operators of a graph: once, for a head that reads all rows in one layer, some in the last."""
    model, _ = make_pair(name, num_hidden_layers=2)  # one with all rows, and one with those that are read
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for batch in (ragged(LENGTHS), {"input_ids": ragged([7, 7])["input_ids"]}):
        with torch.no_grad():
            assert worst(compiled(**batch)[0], model(**batch)[0]) < 1e-5


def test_exports_the_dense_masked_form() -> None:
    model, _ = make_pair("BertModel")
    batch = ragged(LENGTHS)
    with torch.no_grad():
        program = torch.export.export(model, (), batch)
        out = program.module()(**batch)
    assert worst(out.last_hidden_state, model(**batch).last_hidden_state) < 1e-5
    assert worst(out.pooler_output, model(**batch).pooler_output) < 1e-5


def test_data_parallel_step_equals_the_plain_one(tmp_path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model, _ = make_pair("BertForPreTraining")
        twin = copy.deepcopy(model)
        batch = ragged(LENGTHS)
        labels = {"labels": batch["input_ids"], "next_sentence_label": torch.tensor([0, 1, 1, 0])}
        nn.parallel.DistributedDataParallel(model)(**batch, **labels).loss.backward()
        twin(**batch, **labels).loss.backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    finally:
        dist.destroy_process_group()


def test_transformers_trainer_trains_and_evaluates_the_models(tmp_path) -> None:
    import transformers
    from transformers.utils.generic import find_labels

    model = fastbert.BertForSequenceClassification(fastbert.BertConfig.of_size("tiny"))
    rows = [{**{k: v[0].tolist() for k, v in ragged([7], seed=i).items()}, "label": i % 2} for i in range(16)]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    before = copy.deepcopy(model.state_dict())
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    assert trainer.train().training_loss > 0
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape == (16, 2)
    with torch.no_grad():
        expected = model(torch.tensor([rows[0]["input_ids"]]), token_type_ids=torch.tensor([rows[0]["token_type_ids"]])).logits
    assert worst(torch.tensor(predicted.predictions[:1]), expected) < 1e-5
    assert find_labels(fastbert.BertForQuestionAnswering) == ["start_positions", "end_positions"]
    assert find_labels(fastbert.BertForPreTraining) == ["labels", "next_sentence_label"]


def test_replaced_tables_set_the_limits() -> None:
    model, _ = make_pair("BertModel")
    model.set_input_embeddings(nn.Embedding(150, 48))
    assert model(torch.full((1, 3), 149)).last_hidden_state.isfinite().all()
    masked, _ = make_pair("BertForMaskedLM")
    masked.set_output_embeddings(nn.Linear(48, 101))
    assert masked.cls.predictions.bias is masked.cls.predictions.decoder.bias


def test_resizing_takes_transformers_arguments() -> None:
    model, _ = make_pair("BertForMaskedLM")
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.resize_token_embeddings(102, pad_to_multiple_of=8).num_embeddings == 104
    old = model.get_input_embeddings().weight[:104].clone()
    grown = model.resize_token_embeddings(120, mean_resizing=False).weight
    assert torch.equal(grown[:104], old)
    assert float(grown[104:].std()) > 0.05


def test_inputs_can_require_gradients_for_adapters() -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.requires_grad_(False)
    adapter = LowRank(model.bert.encoder.layer[0].attention.self.query)
    model.bert.encoder.layer[0].attention.self.query = adapter
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    model(**ragged(LENGTHS), labels=ragged(LENGTHS)["input_ids"]).loss.backward()
    assert adapter.up.weight.grad.any()
