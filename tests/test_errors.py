"""Bad input: each one clear sentence that names the argument, the value, its place and the limit; and no damage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import make_pair, ragged

import fastbert
from fastbert.errors import ArgumentError, ConfigError, FastbertError, InputError

IDS = torch.ones(2, 5, dtype=torch.long)


def ids_with(value: int) -> torch.Tensor:
    ids = IDS.clone()
    ids[1, 3] = value
    return ids


MODEL_CASES: dict[str, tuple[dict[str, Any], str]] = {
    "id too large": ({"input_ids": ids_with(101)}, r"input_ids\[1, 3\] = 101 is outside the vocabulary \(0..100\)"),
    "id negative": ({"input_ids": ids_with(-1)}, r"input_ids\[1, 3\] = -1 is outside the vocabulary"),
    "id too large, masked batch": (
        {"input_ids": ids_with(101), "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])},
        r"input_ids\[1, 3\] = 101",
    ),
    "1-D ids": ({"input_ids": IDS[0]}, r"input_ids has shape \(5,\); expected \(batch, sequence\)"),
    "float ids": ({"input_ids": IDS.float()}, "input_ids has type torch.float32; expected integers"),
    "no sequence": ({"input_ids": IDS[:0]}, r"input_ids has shape \(0, 5\): the batch is empty"),
    "no token": ({"input_ids": IDS[:, :0]}, r"input_ids has shape \(2, 0\): the batch is empty"),
    "too long": (
        {"input_ids": torch.ones(1, 41, dtype=torch.long)},
        r"longer than the position table: position_ids\[0, 40\] = 40, and max_position_embeddings = 40",
    ),
    "position": ({"input_ids": IDS, "position_ids": ids_with(77)}, r"position_ids\[1, 3\] = 77 is outside the position table"),
    "position word": ({"input_ids": IDS, "position_ids": "mask"}, "the only word it takes is 'from_mask'"),
    "type 2": (
        {"input_ids": IDS, "token_type_ids": ids_with(2)},
        r"token_type_ids\[1, 3\] = 2 is outside the token types \(0..1\)",
    ),
    "type shape": ({"input_ids": IDS, "token_type_ids": IDS[:, :3]}, r"token_type_ids has shape \(2, 3\); expected \(2, 5\)"),
    "mask shape": ({"input_ids": IDS, "attention_mask": IDS[:, :4]}, r"attention_mask has shape \(2, 4\); expected \(2, 5\)"),
    "mask batch": (
        {"input_ids": IDS, "attention_mask": torch.ones(3, 5)},
        r"attention_mask has shape \(3, 5\); expected \(2, 5\)",
    ),
    "4-D mask shape": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 5, 4)},
        r"attention_mask has shape \(2, 1, 5, 4\)",
    ),
    "additive mask": (
        {"input_ids": IDS, "attention_mask": torch.tensor([[0.0, 0, 0, 0, 0], [0, 0, -10000.0, 0, 0]])},
        r"attention_mask\[1, 2\] = -10000.0; a 2-D mask holds 1 at tokens and 0 at padding",
    ),
    "list of masks": ({"input_ids": IDS, "attention_mask": [[1] * 5] * 2}, "attention_mask is a list; expected a tensor"),
    "neither": ({}, "exactly one of input_ids and inputs_embeds; got neither"),
    "both": ({"input_ids": IDS, "inputs_embeds": torch.ones(2, 5, 48)}, "exactly one of input_ids and inputs_embeds; got both"),
    "width": ({"inputs_embeds": torch.ones(2, 5, 47)}, "inputs_embeds has width 47; the model's hidden_size is 48"),
    "embeds shape": ({"inputs_embeds": torch.ones(5, 48)}, r"inputs_embeds has shape \(5, 48\)"),
    "device": ({"input_ids": IDS.to("meta")}, "the inputs are on meta, the model is on cpu"),
}


@pytest.mark.parametrize("case", MODEL_CASES)
def test_model_refuses(case: str) -> None:
    inputs, message = MODEL_CASES[case]
    model, _ = make_pair("BertModel")
    with pytest.raises(InputError, match=message):
        model(**inputs)
    assert model(IDS).last_hidden_state.shape == (2, 5, 48), "the model is damaged"


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("BertForMaskedLM", {"labels": ids_with(101)}, r"labels\[1, 3\] = 101 is neither -100 nor in 0..100"),
        ("BertForTokenClassification", {"labels": ids_with(-1)}, r"labels\[1, 3\] = -1 is neither -100 nor in 0..1"),
        ("BertForTokenClassification", {"labels": IDS[:, :4]}, r"labels has shape \(2, 4\).*expected \(2, 5\)"),
        ("BertForSequenceClassification", {"labels": torch.tensor([0, 2])}, r"labels\[1\] = 2 is neither -100 nor in 0..1"),
        ("BertForSequenceClassification", {"labels": torch.tensor([0])}, r"labels has shape \(1,\).*expected \(2,\)"),
        ("BertForSequenceClassification", {"labels": torch.ones(2, 3)}, r"multi_label_classification expects \(2, 2\)"),
        ("BertForNextSentencePrediction", {"labels": torch.tensor([0, 5])}, r"labels\[1\] = 5"),
        ("BertForPreTraining", {"next_sentence_label": torch.tensor([3, 0])}, r"next_sentence_label\[0\] = 3"),
        (
            "BertForQuestionAnswering",
            {"start_positions": torch.ones(3).long(), "end_positions": IDS[:, 0]},
            "start_positions has shape",
        ),
    ],
)
def test_heads_refuse_labels(name: str, labels: dict[str, Any], message: str) -> None:
    model, _ = make_pair(name)
    with pytest.raises(InputError, match=message):
        model(IDS, **labels)


def test_multiple_choice_names_its_form() -> None:
    model, _ = make_pair("BertForMultipleChoice")
    with pytest.raises(InputError, match=r"shape \(2, 5\); expected \(batch, choices, sequence\)"):
        model(IDS)


def test_unknown_keywords_name_the_nearest() -> None:
    model, _ = make_pair("BertForMaskedLM")
    with pytest.raises(TypeError, match="BertForMaskedLM got an unknown keyword 'lables'; did you mean 'labels'?"):
        model(IDS, lables=IDS)
    with pytest.raises(ArgumentError, match="unknown keyword 'token_type_id'; did you mean 'token_type_ids'?"):
        model(IDS, token_type_id=IDS)
    encoder, _ = make_pair("BertModel")
    with pytest.raises(ArgumentError, match="BertModel got an unknown keyword 'labels'"):
        encoder(IDS, labels=IDS)


def test_what_an_encoder_lacks_is_refused_by_name_and_none_is_fine() -> None:
    model, _ = make_pair("BertModel")
    model(IDS, past_key_values=None, use_cache=False, encoder_hidden_states=None, head_mask=None)
    for name, value in (("use_cache", True), ("encoder_hidden_states", torch.ones(1)), ("head_mask", torch.ones(3))):
        with pytest.raises(ArgumentError, match=f"{name} is not supported: "):
            model(IDS, **{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu9"}, "hidden_act = 'gelu9' must be one of 'gelu',"),
        ({"vocab_size": 0}, "vocab_size = 0 must be a positive integer"),
        ({"vocab_size": "many"}, "vocab_size = 'many' must be a positive integer"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob = 1.5 must be a probability in \[0, 1\)"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps = 0.0 must be above 0"),
        ({"pad_token_id": 30522}, r"pad_token_id = 30522 must be inside the vocabulary \(0..30521\)"),
        ({"problem_type": "ranking"}, "problem_type = 'ranking' must be one of 'regression',"),
        ({"num_labels": 0}, "num_labels = 0 must be a positive integer"),
        ({"id2label": {-1: "a", 2: "b"}}, "must name one label or more, by numbers from 0"),
        ({"is_decoder": 1}, "is_decoder = 1 must be true or false"),
        ({"return_dict": None}, "return_dict = None must be true or false"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000 must be an integer of 0 or more, at most 10000"),
        ({"num_labels": 10**9}, "num_labels = 1000000000 must be a positive integer, at most 1048576"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key' is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention = True is not supported"),
    ],
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fastbert.BertConfig(**fields)


def test_question_answering_has_two_labels() -> None:
    with pytest.raises(ConfigError, match="num_labels = 3: question answering has two"):
        fastbert.BertForQuestionAnswering(fastbert.BertConfig.of_size("tiny", num_labels=3))


def test_errors_have_pythons_kinds() -> None:
    assert issubclass(InputError, (FastbertError, ValueError))
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ArgumentError, TypeError)


def test_a_packed_batch_stands_alone() -> None:
    model, _ = make_pair("BertModel")
    batch = fastbert.pack(**ragged([3, 2]))
    with pytest.raises(InputError, match="a PackedBatch carries its own mask"):
        model(batch, attention_mask=IDS)
