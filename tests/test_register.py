"""`fastbert.register`: attention by a name in transformers 5, with the mask that belongs to it."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, worst
from torch import Tensor

import fastbert
from fastbert.errors import InputError

OLD = int(transformers.__version__.split(".")[0]) < 5
SIZES = {**SMALL, "initializer_range": 0.2}
LLAMA = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80, "vocab_size": 101}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", SIZES),
    "a decoder": ("Bert", {**SIZES, "is_decoder": True}),
    "XLM-RoBERTa": ("XLMRoberta", {**SIZES, "pad_token_id": 1}),
    "DistilBERT": ("DistilBert", {"vocab_size": 101, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}),
    "a model of sliding windows": (
        "ModernBert",
        {**LLAMA, "num_hidden_layers": 4, "local_attention": 4, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "grouped keys": ("Llama", {**LLAMA, "num_key_value_heads": 2}),
    "as many keys": ("Llama", LLAMA),
}
pytestmark = pytest.mark.skipif(OLD, reason="transformers 4 has no such interface for BERT")


def batch(side: str = "right") -> dict[str, Tensor]:
    mask = (torch.arange(12) < torch.tensor([[12], [7], [1], [4]])).long()
    mask = mask if side == "right" else mask.flip(1)
    ids = torch.randint(5, 101, (4, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask}


def pair_of(name: str) -> tuple[Any, Any]:
    """A model with transformers' attention and the same with ours."""
    family, fields = MODELS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**fields)).eval()
    ours = copy.deepcopy(theirs)
    ours.set_attn_implementation(fastbert.register())
    return ours, theirs


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_same_by_name(name: str, side: str) -> None:
    ours, theirs = pair_of(name)
    inputs = batch(side)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        assert worst(ours(**inputs)[0][real], theirs(**inputs)[0][real]) < 1e-5
        ids = inputs["input_ids"]  # nothing masked
        assert worst(ours(ids)[0], theirs(ids)[0]) < 1e-5


@pytest.mark.parametrize("name", ["BERT", "as many keys"])
def test_gradients_are_the_same(name: str) -> None:
    found = []
    for model in pair_of(name):
        inputs = batch()
        states = model(**inputs)[0] * inputs["attention_mask"][..., None]
        (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert worst(*found) < 1e-4


def test_attention_is_ours_and_padding_is_left_out() -> None:
    ours, _ = pair_of("BERT")
    inputs = batch()
    with fastbert.ops.recording() as decisions, torch.no_grad():
        ours(**inputs)
    assert {(one.op, one.shape[0]) for one in decisions} == {("attention", int(inputs["attention_mask"].sum()))}
    grouped, _ = pair_of("grouped keys")
    with fastbert.ops.recording() as decisions, torch.no_grad():
        grouped(**inputs)
    assert not decisions


def test_dropout_repeats_from_a_seed() -> None:
    ours, _ = pair_of("BERT")
    ours.train()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(ours(**batch())[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_generation_with_a_cache() -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    inputs = batch("left")
    asked = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(**inputs, **asked)
    model.set_attn_implementation(fastbert.register())
    assert torch.equal(model.generate(**inputs, **asked), wanted)


def test_a_compiled_model_is_the_same() -> None:
    ours, theirs = pair_of("BERT")
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    real = batch()["attention_mask"].bool()
    with torch.no_grad():
        assert worst(compiled(**batch())[0][real], theirs(**batch())[0][real]) < 1e-5


def test_cross_attention_to_as_many_tokens_is_left_to_pytorch() -> None:
    """The mask is of the tokens that are attended to, not of those that attend."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    theirs = transformers.BertModel(config).eval()
    ours = copy.deepcopy(theirs)
    ours.set_attn_implementation(fastbert.register())
    states = torch.randn(4, 12, 48, generator=torch.Generator().manual_seed(3))
    given = {"input_ids": batch()["input_ids"], "encoder_hidden_states": states, "use_cache": False}
    given["encoder_attention_mask"] = batch()["attention_mask"]
    with torch.no_grad():
        assert worst(ours(**given)[0], theirs(**given)[0]) < 1e-5


def test_a_registered_model_can_be_patched() -> None:
    ours, theirs = pair_of("BERT")
    real = batch()["attention_mask"].bool()
    with torch.no_grad():
        assert worst(fastbert.patch(ours)(**batch())[0][real], theirs(**batch())[0][real]) < 1e-5
    assert fastbert.explain(ours, **batch()).tokens == int(real.sum())


@pytest.mark.parametrize("name", ["flash_fastbert", "my/attention", "sdpa", "eager", ""])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"name = '{name}'"):
        fastbert.register(name)


def test_a_mask_that_is_changed_later_is_read_again() -> None:
    ours, theirs = pair_of("BERT")
    inputs = batch()
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        ours(inputs["input_ids"], mask)
        mask[0, 5:] = False
        assert worst(ours(inputs["input_ids"], mask)[0][mask], theirs(inputs["input_ids"], mask)[0][mask]) < 1e-5


def test_transformers_4_is_pointed_to_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.6")
    with pytest.raises(InputError, match=r"transformers 4.57.6 .* use fastbert.patch"):
        fastbert.register()
