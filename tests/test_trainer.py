"""transformers' Trainer with our models and our tokenizer: the whole of a training's life, once for each head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_pair
from task_cases import WORDS, tokenizer
from torch import nn

import fastbert

LABELS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "BertForSequenceClassification": lambda i, n: {"labels": i % 2},
    "regression": lambda i, n: {"labels": i / 4 - 0.6},
    "BertForTokenClassification": lambda i, n: {"labels": [i % 2] * n},
    "BertForMaskedLM": lambda i, n: {},
    "BertLMHeadModel": lambda i, n: {},
    "BertForPreTraining": lambda i, n: {"labels": [7] * n, "next_sentence_label": i % 2},
    "BertForNextSentencePrediction": lambda i, n: {"labels": i % 2},
    "BertForQuestionAnswering": lambda i, n: {"start_positions": 1, "end_positions": 2},
    "BertForMultipleChoice": lambda i, n: {"labels": i % 2},
}
TEXTS = ["the cat", "a red dog runs", "paris is not in rome and the dog sits", "the owl", "bern", "a fox in oslo"]


def rows_of(name: str) -> list[dict[str, Any]]:
    made = []
    for i, text in enumerate(TEXTS):
        if name == "BertForMultipleChoice":
            encoded = tokenizer()([text, "the cat"], padding="max_length", max_length=12)
        elif name == "BertForPreTraining":  # no collator of transformers pads two kinds of labels
            encoded = tokenizer()(text, padding="max_length", max_length=12)
        else:
            encoded = tokenizer()(text)
        made.append({**encoded, **LABELS[name](i, len(encoded["input_ids"]))})
    return made


def collator_of(name: str) -> Any:
    made = tokenizer()
    if name in ("BertForMaskedLM", "BertLMHeadModel"):
        return transformers.DataCollatorForLanguageModeling(made, mlm=name == "BertForMaskedLM", mlm_probability=0.5)
    if name == "BertForTokenClassification":
        return transformers.DataCollatorForTokenClassification(made)
    if name in ("BertForMultipleChoice", "BertForPreTraining"):
        return transformers.default_data_collator
    return transformers.DataCollatorWithPadding(made)


def trainer_of(name: str, folder: Path, steps: int, **options: Any) -> transformers.Trainer:
    kind = "BertForSequenceClassification" if name == "regression" else name
    fields: dict[str, Any] = {"num_labels": 1} if name == "regression" else {}
    model, _ = make_pair(kind, vocab_size=len(WORDS), max_position_embeddings=64, **fields)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        save_steps=2,
        eval_steps=2,
        eval_strategy="steps",
        save_strategy="steps",
        seed=3,
        **options,
    )
    rows = rows_of(name)
    return transformers.Trainer(
        model, arguments, data_collator=collator_of(name), train_dataset=rows, eval_dataset=rows, processing_class=tokenizer()
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated and checkpointed": {
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
}
# Layers are recomputed below the heads: one head of the pooled row, one of all rows, both, and a decoder.
RECOMPUTED = ["BertForSequenceClassification", "BertForTokenClassification", "BertForPreTraining", "BertLMHeadModel"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, "plain") for name in LABELS),
        *(pytest.param(name, "accumulated and checkpointed", marks=pytest.mark.thorough) for name in RECOMPUTED[:3]),
        (RECOMPUTED[3], "accumulated and checkpointed"),
    ],
)
def test_a_training_saves_goes_on_and_keeps_its_best(name: str, options: str, tmp_path: Path) -> None:
    def run(folder: Path, steps: int, resume: bool | None = None) -> transformers.Trainer:
        trainer = trainer_of(
            name,
            folder,
            steps,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            lr_scheduler_type="constant",
            **OPTIONS[options],
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole", 4)
    assert all(torch.isfinite(p).all() for p in whole.model.parameters())
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4, True)
    assert parts.state.global_step == 4
    losses = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (whole, parts)]
    if name not in ("BertForMaskedLM",):  # whose collator draws other masks after a resume
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    state = whole.model.state_dict()
    whole.save_model(str(tmp_path / "saved"))
    again = type(whole.model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert len(fastbert.BertTokenizer.from_pretrained(tmp_path / "saved")) == len(WORDS)
    last = type(whole.model).from_pretrained(tmp_path / "whole" / "checkpoint-4", output_loading_info=True)[1]
    assert not any(last.values())
    if "gradient_checkpointing" in OPTIONS[options]:
        assert whole.model.is_gradient_checkpointing


def test_checkpointing_takes_what_transformers_passes() -> None:
    model, _ = make_pair("BertModel", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train()
    ids = torch.randint(1, 101, (2, 6))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(ids).last_hidden_state.pow(2).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    wanted = gradients()
    calls: list[nn.Module] = []
    for layer in model.encoder.layer:
        layer.register_forward_pre_hook(lambda module, _: calls.append(module))
    for every, recomputed in ((1, 3), (2, 2), (5, 1)):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=None, every_n_layers=every, offload=False)
        calls.clear()
        assert all(torch.equal(a, b) for a, b in zip(gradients(), wanted, strict=True))
        assert len(calls) == 3 + recomputed
    model.gradient_checkpointing_disable()
    model.gradient_checkpointing_enable({"use_reentrant": False}, offload=True)
    assert all(torch.equal(a, b) for a, b in zip(gradients(), wanted, strict=True))
    with pytest.raises(fastbert.FastbertError, match="every_n_layers = 0 must be a positive integer"):
        model.gradient_checkpointing_enable(every_n_layers=0)


@pytest.mark.filterwarnings("ignore")
def test_neftune_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    trainer = trainer_of("BertForSequenceClassification", tmp_path, 2, neftune_noise_alpha=5.0)
    trainer.train()
    assert not trainer.model.get_input_embeddings()._forward_hooks
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
