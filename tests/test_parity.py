"""The nine classes against transformers: outputs, losses and every gradient, on the same random weights in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CLASSES, fields_for, labels_for, make_pair, ragged, with_choices, worst

import fastbert

LENGTHS = [11, 5, 8, 1]
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 2e-5


def compare(name: str, ours: Any, theirs: Any, mask: torch.Tensor) -> None:
    for key in ours.keys():
        a, b = ours[key], theirs[key]
        pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
        for x, y in pairs:
            assert x.shape == y.shape, key
            assert x.dtype == y.dtype, key
            if key == "attentions":  # (B, H, S, S): rows of queries that are tokens
                x, y = x.transpose(1, 2)[mask], y.transpose(1, 2)[mask]
            elif x.shape[:2] == mask.shape:
                x, y = x[mask], y[mask]
            assert worst(x, y) < OUTPUT_TOLERANCE, f"{key}: {worst(x, y)}"


def backward(model: Any, output: Any, mask: torch.Tensor) -> None:
    if output.get("loss") is not None:
        output["loss"].backward()
        return
    generator = torch.Generator().manual_seed(9)
    hidden = output["last_hidden_state"][mask]
    upstream = torch.randn(hidden.shape, generator=generator), torch.randn(output["pooler_output"].shape, generator=generator)
    torch.autograd.backward([hidden, output["pooler_output"]], list(upstream))


# Gradients that are zero in exact arithmetic, because a softmax ignores a shift of all its scores: of the keys everywhere, of
# the choices, and of the tokens of a row in question answering (its last LayerNorm's bias shifts them all alike).
ZERO_GRADIENTS = {
    "BertForMultipleChoice": ("classifier.bias",),
    "BertForQuestionAnswering": ("qa_outputs.bias", "layer.2.output.LayerNorm.bias"),
}


def compare_gradients(ours: Any, theirs: Any) -> None:
    zero = ("attention.self.key.bias", *ZERO_GRADIENTS.get(type(ours).__name__, ()))
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    scale = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, parameter in ours.named_parameters():
        a, b = parameter.grad, expected[name]
        if b is None:
            assert a is None or not a.any(), name
            continue
        assert a is not None, name
        if name.endswith(zero):
            assert float(a.abs().max()) < 1e-5 * max(scale, 1.0), name
            continue
        error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-7 * scale))
        assert error < GRADIENT_TOLERANCE, f"{name}: {error}"


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_losses_and_gradients_equal_transformers(name: str) -> None:
    ours, theirs = make_pair(name, **fields_for(name))
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    labels = labels_for(name, batch)
    if name == "BertForQuestionAnswering":  # transformers' softmax covers padding: compare where there is none
        batch = ragged([11, 11, 11, 11])
        mask = batch["attention_mask"].bool()
    inputs = {**with_choices(name, batch), **labels}
    a, b = ours(**inputs), theirs(**inputs)
    assert list(a) == list(b)
    compare(name, a, b, mask)
    if b.get("loss") is not None:
        assert abs(float(a.loss) - float(b.loss)) <= 1e-5 * abs(float(b.loss))
    backward(ours, a, mask)
    backward(theirs, b, mask)
    compare_gradients(ours, theirs)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel", "BertForSequenceClassification"])
def test_pruned_training_forward_has_transformers_loss_and_gradients(name: str) -> None:
    """In training mode heads compute only the rows that they read; with dropout off nothing else may change."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ours, theirs = make_pair(name, **fields_for(name), **off)
    ours.train()
    theirs.train()
    batch = ragged(LENGTHS)
    inputs = {**batch, **labels_for(name, batch)}
    a, b = ours(**inputs), theirs(**inputs)
    if "logits" in a.keys() and name != "BertForSequenceClassification":
        pytest.fail("scores of unlabelled positions were computed in training")
    assert abs(float(a.loss) - float(b.loss)) <= 1e-5 * abs(float(b.loss))
    a.loss.backward()
    b.loss.backward()
    compare_gradients(ours, theirs)


@pytest.mark.thorough
def test_base_size_equals_transformers() -> None:
    name = "BertForPreTraining"  # which reads the states and the pooled rows
    base = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "initializer_range": 0.02,
    }
    ours, theirs = make_pair(name, **base)
    batch = ragged([64, 17, 40], vocab=30522)
    labels = {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
    labels["next_sentence_label"] = torch.tensor([0, 1, 1])
    a, b = ours(**batch, **labels), theirs(**batch, **labels)
    compare(name, a, b, batch["attention_mask"].bool())
    backward(ours, a, batch["attention_mask"].bool())
    backward(theirs, b, batch["attention_mask"].bool())
    compare_gradients(ours, theirs)


def holes() -> torch.Tensor:
    mask = ragged(LENGTHS)["attention_mask"]
    mask[0, 3] = mask[2, 1] = 0
    return mask


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("shape", ["right", "left", "holes"])
def test_two_dimensional_masks_equal_transformers(kind: torch.dtype, shape: str) -> None:
    ours, theirs = make_pair("BertModel", add_pooling_layer=False)
    batch = ragged(LENGTHS, side="left" if shape == "left" else "right")
    if shape == "holes":
        batch["attention_mask"] = holes()
    mask = batch["attention_mask"].bool()
    batch["attention_mask"] = batch["attention_mask"].to(kind)
    with torch.no_grad():
        a, b = ours(**batch).last_hidden_state, theirs(**batch).last_hidden_state
    assert worst(a[mask], b[mask]) < OUTPUT_TOLERANCE
    assert not a[~mask].any(), "rows under mask 0 are zeros"


def test_pooling_of_left_padded_rows_equals_transformers_on_the_unpadded_row() -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged(LENGTHS, side="left")
    with torch.no_grad():
        pooled = ours(**batch, position_ids="from_mask").pooler_output
        for i, length in enumerate(LENGTHS):
            row = {key: value[i : i + 1, -length:] for key, value in batch.items()}
            assert worst(pooled[i], theirs(**row).pooler_output[0]) < OUTPUT_TOLERANCE


def test_qa_softmax_covers_real_tokens_only() -> None:
    """Against transformers on each unpadded row: its softmax over a padded row covers padding too."""
    ours, theirs = make_pair("BertForQuestionAnswering")
    batch = ragged(LENGTHS)
    starts, ends = torch.tensor([3, 1, 0, 0]), torch.tensor([9, 4, 7, 0])
    output = ours(**batch, start_positions=starts, end_positions=ends)
    losses = []
    for i, length in enumerate(LENGTHS):
        row = {key: value[i : i + 1, :length] for key, value in batch.items()}
        expected = theirs(**row, start_positions=starts[i : i + 1], end_positions=ends[i : i + 1])
        losses.append(float(expected.loss))
        assert worst(output.start_logits[i, :length], expected.start_logits[0]) < OUTPUT_TOLERANCE
        assert (output.start_logits[i, length:] == torch.finfo(torch.float32).min).all()
    assert float(output.loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_additive_4d_mask_equals_transformers() -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged([9, 9])
    allowed = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(3)) < 0.7
    allowed |= torch.eye(9, dtype=torch.bool)
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    plain = {"input_ids": batch["input_ids"], "token_type_ids": batch["token_type_ids"]}
    with torch.no_grad():
        expected = theirs(**plain, attention_mask=additive).last_hidden_state
        for mask in (additive, allowed, allowed.long(), allowed[:, 0], allowed[:, 0].float()):
            assert worst(ours(**plain, attention_mask=mask).last_hidden_state, expected) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForMultipleChoice"])
def test_hidden_states_attentions_and_tuples_equal_transformers(name: str) -> None:
    ours, theirs = make_pair(name, **fields_for(name))
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    asked = {**with_choices(name, batch), "output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        a, b = ours(**asked), theirs(**asked)
        as_tuple, expected = ours(**asked, return_dict=False), theirs(**asked, return_dict=False)
    assert len(a.hidden_states) == ours.config.num_hidden_layers + 1
    compare(name, a, b, mask)
    assert isinstance(as_tuple, tuple)
    expected = tuple(value for value in expected if not isinstance(value, tuple) or value)  # drops empty cross-attentions
    assert len(as_tuple) == len(expected)
    assert all(worst(x, y) == 0 for x, y in zip(as_tuple[:1], a.to_tuple()[:1], strict=True))


@pytest.mark.parametrize("shape", ["(S,)", "(1, S)", "(B, S)"])
def test_position_ids_equal_transformers(shape: str) -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    positions = torch.randint(0, 40, (4, 11), generator=torch.Generator().manual_seed(1))
    given = {"(S,)": positions[0], "(1, S)": positions[:1], "(B, S)": positions}[shape]
    expected = positions if shape == "(B, S)" else positions[:1]
    with torch.no_grad():
        a = ours(**batch, position_ids=given).last_hidden_state
        b = theirs(**batch, position_ids=expected.expand(4, 11)).last_hidden_state
    assert worst(a[mask], b[mask]) < OUTPUT_TOLERANCE


def test_inputs_embeds_equal_the_ids_path_and_transformers() -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    words = ours.embeddings.word_embeddings(batch["input_ids"])
    beside = {"attention_mask": batch["attention_mask"], "token_type_ids": batch["token_type_ids"]}
    with torch.no_grad():
        a = ours(inputs_embeds=words, **beside).last_hidden_state
        assert worst(a, ours(**batch).last_hidden_state) < OUTPUT_TOLERANCE
        assert worst(a[mask], theirs(inputs_embeds=words, **beside).last_hidden_state[mask]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"])
def test_activations_equal_transformers(activation: str) -> None:
    ours, theirs = make_pair("BertForMaskedLM", hidden_act=activation)
    batch = ragged(LENGTHS)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        assert worst(ours(**batch).logits[mask], theirs(**batch).logits[mask]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize(
    ("count", "labels", "problem"),
    [
        (1, torch.tensor([0.3, -1.0, 2.0, 0.0]), None),
        (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]), None),
        (3, torch.tensor([0, 2, 1, 1]), None),
        (3, torch.randn(4, 3), "regression"),
        (3, torch.tensor([0, -100, 1, 1]), "single_label_classification"),
    ],
    ids=["regression", "multi-label", "single-label", "wide regression", "ignored label"],
)
def test_sequence_losses_equal_transformers(count: int, labels: torch.Tensor, problem: str | None) -> None:
    ours, theirs = make_pair("BertForSequenceClassification", num_labels=count, problem_type=problem)
    batch = ragged(LENGTHS)
    assert float(ours(**batch, labels=labels).loss) == pytest.approx(float(theirs(**batch, labels=labels).loss), rel=1e-5)


def test_left_to_right_loss_is_the_mean_over_shifted_labels() -> None:
    """Written out: the score at t is of the label at t + 1, and every labelled token counts once."""
    ours, _ = make_pair("BertLMHeadModel")
    batch = ragged(LENGTHS)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = ours(**batch, labels=labels)
    logs = output.logits.log_softmax(-1)
    terms = [-logs[i, t, labels[i, t + 1]] for i, n in enumerate(LENGTHS) for t in range(n - 1)]
    assert float(output.loss) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    assert int(output.num_mlm_labels) == sum(n - 1 for n in LENGTHS)


def test_pretraining_loss_with_one_kind_of_labels_is_that_part() -> None:
    ours, _ = make_pair("BertForPreTraining")
    batch = ragged(LENGTHS)
    labels = labels_for("BertForPreTraining", batch)
    both = ours(**batch, **labels)
    assert float(both.loss) == pytest.approx(float(both.mlm_loss) + float(both.nsp_loss), rel=1e-6)
    mlm, nsp = ({k: v} for k, v in labels.items())
    assert float(ours(**batch, **mlm).loss) == pytest.approx(float(both.mlm_loss), rel=1e-6)
    assert float(ours(**batch, **nsp).loss) == pytest.approx(float(both.nsp_loss), rel=1e-6)
    assert int(both.num_nsp_labels) == 4


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining", "BertForTokenClassification", "BertLMHeadModel"])
def test_no_label_gives_loss_zero_attached_to_the_graph(name: str, training: bool) -> None:
    ours, _ = make_pair(name)
    ours.train(training)
    batch = ragged(LENGTHS)
    output = ours(**batch, labels=torch.full((4, 11), -100))
    assert float(output.loss) == 0.0
    output.loss.backward()
    gradients = [p.grad for p in ours.bert.embeddings.parameters()]
    assert all(g is not None and not g.any() for g in gradients)
    if name != "BertForTokenClassification":
        assert int(output.num_mlm_labels) == 0


def test_labels_under_mask_0_do_not_count() -> None:
    ours, _ = make_pair("BertForMaskedLM")
    batch = ragged(LENGTHS)
    labels = batch["input_ids"].clone()
    clean = labels.masked_fill(batch["attention_mask"] == 0, -100)
    assert float(ours(**batch, labels=labels).loss) == float(ours(**batch, labels=clean).loss)


def test_training_mode_scores_labelled_positions_only_unless_asked() -> None:
    ours, _ = make_pair("BertForMaskedLM")
    batch = ragged(LENGTHS)
    labels = labels_for("BertForMaskedLM", batch)["labels"]
    ours.train()
    assert ours(**batch, labels=labels).logits is None
    assert ours(**batch, labels=labels, return_logits=True).logits.shape == (4, 11, 101)
    assert ours(**batch).logits.shape == (4, 11, 101)
    ours.eval()
    assert ours(**batch, labels=labels).logits.shape == (4, 11, 101)
    assert ours(**batch, labels=labels, return_logits=False).logits is None


def test_same_seed_draws_the_weights_of_transformers() -> None:
    import transformers

    for name in CLASSES:
        values = {
            "vocab_size": 60,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        torch.manual_seed(3)
        ours = getattr(fastbert, name)(fastbert.BertConfig(**values)).state_dict()
        torch.manual_seed(3)
        theirs = getattr(transformers, name)(transformers.BertConfig(**values)).state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
