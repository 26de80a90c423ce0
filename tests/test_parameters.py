"""Parameter counts: the closed form against models built on the meta device, and the paper's and the notes' figures."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import CLASSES

import fastbert
from fastbert.diagnostics import encoder_flops
from fastbert.errors import ConfigError, InputError
from fastbert.model.config import SIZES


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CLASSES)
def test_closed_form_equals_the_built_model(size: str, name: str) -> None:
    labels = 5 if name in ("BertForSequenceClassification", "BertForTokenClassification") else 2
    config = fastbert.BertConfig.of_size(size, num_labels=labels)
    with torch.device("meta"):
        model = getattr(fastbert, name)(config)
    assert fastbert.count_parameters(config, name).total == model.num_parameters()


def test_untied_decoder_is_counted() -> None:
    config = fastbert.BertConfig.of_size("tiny", tie_word_embeddings=False)
    with torch.device("meta"):
        model = fastbert.BertForMaskedLM(config)
    assert fastbert.count_parameters(config, "BertForMaskedLM").total == model.num_parameters()


@pytest.mark.parametrize(
    ("size", "encoder", "pretraining", "notes", "difference"),
    [
        ("base", 109_482_240, 110_106_428, 107_974_656, 1_507_584),
        ("large", 335_141_888, 336_226_108, 332_709_888, 2_432_000),
    ],
)
def test_published_sizes(size: str, encoder: int, pretraining: int, notes: int, difference: int) -> None:
    config = fastbert.BertConfig.of_size(size)
    count = fastbert.count_parameters(config)
    assert count.total == encoder
    assert fastbert.count_parameters(config, "BertForPreTraining").total == pretraining
    assert count.notes_estimate == notes
    assert count.total - notes == difference
    table = count.table()
    assert f"{encoder:,}" in table
    assert f"{difference:,}" in table
    assert "multiplying it by L" in table
    paper = {"base": 110_000_000, "large": 340_000_000}[size]
    assert f"the paper, BERT {size}" in table
    assert f"{paper:,}  {paper / encoder:6.1%}" in table
    assert f"{encoder:,}  100.0%" in table
    assert "the paper" not in fastbert.count_parameters(fastbert.BertConfig.of_size("tiny")).table()


@pytest.mark.parametrize("name", CLASSES)
def test_every_symbol_of_a_formula_is_named(name: str) -> None:
    count = fastbert.count_parameters(fastbert.BertConfig.of_size("tiny"), name)
    symbols = set(re.findall(r"types|[A-Z]", " ".join(formula for _, formula, _ in count.terms)))
    named = count.table().split("\n\n")[1]
    assert all(re.search(rf"\b{symbol} ", named) for symbol in symbols), symbols


def test_embeddings_and_frozen_parameters_can_be_left_out() -> None:
    with torch.device("meta"):
        model = fastbert.BertForMaskedLM(fastbert.BertConfig.of_size("tiny"))
    tables = (30522 + 512 + 2) * 128
    assert model.num_parameters(exclude_embeddings=True) == model.num_parameters() - tables
    model.bert.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == 128 * 128 + 3 * 128 + 30522


def test_unknown_size_and_head_are_named() -> None:
    with pytest.raises(ConfigError, match="size = 'huge' is not one of tiny, mini"):
        fastbert.BertConfig.of_size("huge")
    with pytest.raises(InputError, match="head = 'BertForFun' is not one of BertModel"):
        fastbert.count_parameters(fastbert.BertConfig(), "BertForFun")


def test_flops_of_full_sequences_are_the_textbooks() -> None:
    """22.35 GFLOP for base at 128 tokens: L (24 N^2 + 4 S N) a token."""
    assert encoder_flops(fastbert.BertConfig(), [128]) == pytest.approx(22.35e9, rel=1e-3)
    assert encoder_flops(fastbert.BertConfig(), [128, 0, 128]) == 2 * encoder_flops(fastbert.BertConfig(), [128])
