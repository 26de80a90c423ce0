"""Trainer, accelerate and PEFT with patched models, and with RoBERTa's classes: train, save, go on, as without fastbert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import worst
from test_patch import inputs_of, model_of

import fastbert

NAMES = ["BertForSequenceClassification", "XLMRobertaForTokenClassification", "ours"]


def made(name: str, patched: bool) -> Any:
    """A model in training mode without dropout: patched, plain, or fastbert's own with the same weights."""
    theirs = model_of("RobertaForSequenceClassification" if name == "ours" else name)
    if name != "ours":
        return fastbert.patch(theirs) if patched else theirs
    if not patched:
        return theirs
    ours = fastbert.RobertaForSequenceClassification(fastbert.RobertaConfig(**theirs.config.to_dict()))
    ours.load_state_dict(theirs.state_dict())
    return ours.train()


def rows_of(name: str) -> list[dict[str, Any]]:
    kind = "RobertaForSequenceClassification" if name == "ours" else name
    batch = inputs_of(kind, model_of(kind), (9, 9, 9, 9))
    keys = [key for key in batch if batch[key].shape[:1] == batch["input_ids"].shape[:1]]
    return [{key: batch[key][i % 4].tolist() for key in keys} for i in range(8)]


def trained(name: str, patched: bool, folder: Path, steps: int, resume: bool = False) -> Any:
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        optim="sgd",  # Adam would make much of the rounding of gradients that are nearly 0
        learning_rate=0.1,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_steps=2,
        seed=3,
    )
    trainer = transformers.Trainer(
        model=made(name, patched), args=arguments, train_dataset=rows_of(name), data_collator=transformers.default_data_collator
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if resume else None)
    return trainer.model


def distance(a: Any, b: Any) -> float:
    wanted = b.state_dict()
    return max(worst(value, wanted[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_trainer_trains_saves_and_goes_on(name: str, tmp_path: Path) -> None:
    whole = trained(name, True, tmp_path / "whole", 4)
    again = trained(name, True, tmp_path / "whole", 4, resume=True)
    assert distance(whole, again) == 0
    plain = trained(name, False, tmp_path / "plain", 4)
    assert distance(whole, plain) < 1e-4
    assert distance(plain, made(name, False)) > 1e-3  # it learnt
    kind = type(plain)
    opened = kind.from_pretrained(tmp_path / "whole/checkpoint-4")  # transformers' own class
    assert distance(opened, whole) == 0


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_prepares_saves_and_loads_a_state(name: str, tmp_path: Path) -> None:
    from accelerate import Accelerator

    def steps(model: Any, optimizer: Any, accelerator: Accelerator, count: int) -> list[float]:
        rows = transformers.default_data_collator(rows_of(name)[:4])
        losses = []
        for _ in range(count):
            loss = model(**rows).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses

    accelerator = Accelerator(cpu=True)
    model = made(name, True)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-3))
    steps(model, optimizer, accelerator, 2)
    accelerator.save_state(str(tmp_path / "state"))
    wanted = steps(model, optimizer, accelerator, 2)
    accelerator.load_state(str(tmp_path / "state"))
    assert steps(model, optimizer, accelerator, 2) == wanted
    inner = accelerator.unwrap_model(model)
    plain = made(name, False)
    plain.load_state_dict(inner.state_dict())
    rows = transformers.default_data_collator(rows_of(name)[:4])
    assert abs(float(inner(**rows).loss.detach()) - float(plain(**rows).loss.detach())) < 1e-5


def test_adapters_on_roberta_are_trained_saved_and_merged(tmp_path: Path) -> None:
    import peft

    model, plain = made("ours", True), made("ours", False)
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    wanted = peft.get_peft_model(plain, config)
    wanted.load_state_dict(adapted.state_dict())
    rows = transformers.default_data_collator(rows_of("ours")[:4])
    for one in (adapted, wanted):
        one(**rows).loss.backward()
    gradients = {key: value.grad for key, value in wanted.named_parameters() if value.grad is not None}
    assert gradients
    assert all(worst(dict(adapted.named_parameters())[key].grad, value) < 1e-5 for key, value in gradients.items())
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        scores = wanted.eval()(**rows).logits
        assert worst(adapted.eval()(**rows).logits, scores) < 1e-5
        fastbert.prepack(adapted.base_model.model)
        assert worst(adapted.merge_and_unload()(**rows).logits, scores) < 1e-4  # no copy of the weights from before
        again = peft.PeftModel.from_pretrained(made("ours", True), tmp_path).eval()
        assert worst(again(**rows).logits, scores) < 1e-5
