"""Adapters of peft, on a whole model and by `add_adapter`, against the same on transformers' model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import make_pair, ragged, worst
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION

import fastbert
from fastbert.errors import CheckpointError

CONFIGS = {
    "lora": peft.LoraConfig(task_type="SEQ_CLS"),
    "ia3": peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key", "intermediate.dense"], feedforward_modules=["intermediate.dense"]
    ),
    "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "p-tuning": peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix": peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "projected prefix": peft.PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=32
    ),
}
# transformers refuses adapters, its own models' too, where peft is older than it asks for, as a new release may for a while.
pytestmark = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers {transformers.__version__} asks for peft {MIN_PEFT_VERSION}; peft {peft.__version__} is installed",
)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_losses_and_gradients_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    made = []
    for model in make_pair("BertForSequenceClassification", num_labels=3, **NO_DROPOUT):
        model.name_or_path = "a/base"
        torch.manual_seed(1)
        made.append(peft.get_peft_model(model, copy.deepcopy(CONFIGS[kind])))
    ours, theirs = made
    ours.load_state_dict(theirs.state_dict())
    batch, labels = ragged([9, 4, 6]), torch.tensor([0, 2, 1])
    assert worst(ours.eval()(**batch).logits, theirs.eval()(**batch).logits) < 1e-5
    found: list[dict[str, Any]] = []
    for model in made:
        loss = model.train()(**batch, labels=labels).loss
        loss.backward()
        found.append({"loss": loss, **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}})
    assert found[0].keys() == found[1].keys()
    assert all(worst(found[0][name], found[1][name]) < 1e-5 for name in found[0])
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "a/base"
    base, _ = make_pair("BertForSequenceClassification", num_labels=3, **NO_DROPOUT)
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    assert worst(again.eval()(**batch).logits, ours.eval()(**batch).logits) < 1e-6


def test_a_prefix_meets_masks_padding_and_attentions() -> None:
    ours, theirs = make_pair("BertModel")
    keys = [(torch.randn(3, 4, 5, 12), torch.randn(3, 4, 5, 12)) for _ in range(3)]
    cache = make_cache(keys)
    batch = ragged([9, 4, 6])
    mask = torch.cat([torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]), batch["attention_mask"]], dim=1)
    rows = batch["attention_mask"].bool()
    asked = {"token_type_ids": batch["token_type_ids"], "attention_mask": mask, "output_attentions": True}
    wanted = theirs(batch["input_ids"], **asked, past_key_values=make_cache(keys))
    for given in (keys, tuple(keys), cache):
        out = ours(batch["input_ids"], **asked, past_key_values=given)
        assert worst(out.last_hidden_state[rows], wanted.last_hidden_state[rows]) < 1e-5
        assert worst(out.pooler_output, wanted.pooler_output) < 1e-5
        assert out.attentions[0].shape == wanted.attentions[0].shape == (3, 4, 9, 14)
    for bad, message in (
        (batch["attention_mask"], r"beside past_key_values of 5 places it is \(batch, 5 \+ sequence\)|expected \(3, 9\)"),
        (mask[:, None].expand(-1, 9, -1), r"beside past_key_values of 5 places"),
    ):
        with pytest.raises(fastbert.FastbertError, match=message):
            ours(batch["input_ids"], attention_mask=bad, past_key_values=keys)
    with pytest.raises(fastbert.FastbertError, match="past_key_values has 3 rows; the batch has 2"):
        ours(batch["input_ids"][:2], past_key_values=keys)


def make_cache(keys: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (key, value) in enumerate(keys):
        cache.update(key, value, layer)
    return cache


def test_an_adapter_is_added_saved_alone_and_loaded(tmp_path: Path) -> None:
    batch = ragged([9, 4, 6])
    model, theirs = make_pair("BertModel")
    plain = model(**batch).last_hidden_state
    for one in (model, theirs):
        one.add_adapter(peft.LoraConfig(r=4))
        torch.manual_seed(2)
        for name, parameter in one.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
            if "lora_A" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    rows = batch["attention_mask"].bool()
    adapted = model(**batch).last_hidden_state
    assert worst(adapted[rows], theirs(**batch).last_hidden_state[rows]) < 1e-5
    assert worst(adapted, plain) > 1e-2
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    again, their_again = make_pair("BertModel")
    for one in (again, their_again):
        one.load_adapter(str(tmp_path))
        assert one.active_adapters() == ["default"]
        assert worst(one(**batch).last_hidden_state[rows], adapted[rows]) < 1e-5
    again.disable_adapters()
    assert worst(again(**batch).last_hidden_state, plain) < 1e-6
    again.add_adapter(peft.LoraConfig(r=2), adapter_name="other")
    again.set_adapter(["default", "other"])
    again.enable_adapters()
    with pytest.raises(CheckpointError, match="the adapters default, other are active"):
        again.save_pretrained(tmp_path / "two")


def test_a_folder_with_an_adapter_opens_with_it(tmp_path: Path) -> None:
    batch = ragged([9, 4, 6])
    model, _ = make_pair("BertForSequenceClassification")
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(peft.LoraConfig(target_modules=["query"], init_lora_weights=False, base_model_name_or_path="x"))
    model.save_pretrained(tmp_path / "base")
    wanted = model(**batch).logits
    config = json.loads((tmp_path / "base/adapter_config.json").read_text())
    alone = tmp_path / "alone"
    model.save_pretrained(alone)
    (alone / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "base")}))
    for folder in (tmp_path / "base", alone):
        again = fastbert.BertForSequenceClassification.from_pretrained(folder)
        assert worst(again(**batch).logits, wanted) < 1e-5
    (alone / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="names no base_model_name_or_path"):
        fastbert.BertForSequenceClassification.from_pretrained(alone)
