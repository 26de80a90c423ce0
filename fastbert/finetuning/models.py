"""Builds, saves and loads the models that are fine-tuned: one of the nine model classes, or a `ComposedModel`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fastbert import files
from fastbert.errors import InputError
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Checkpoint, Problem
from fastbert.model import checkpoint
from fastbert.model.composed import ComposedModel, HeadOptions, is_composed
from fastbert.model.encoder import BertModel
from fastbert.model.families import bert_name, class_for, config_of
from fastbert.tasks.loading import SETTINGS, check_complete, head_of, longest_row, task_settings
from fastbert.text.tokenizer import Tokenizer

# For each kind of task, the model class whose checkpoints have a trained head with reusable labels.
_HEADS = {
    "classify": "BertForSequenceClassification",
    "nli": "BertForSequenceClassification",
    "ner": "BertForTokenClassification",
}

# Parts that fine-tuning may initialize randomly.
_NEW_PARTS = ("classifier.", "qa_outputs.", "bert.pooler.", "roberta.pooler.")


def look_at(folder: Path, kind: str, tokenizer: Tokenizer) -> Checkpoint:
    """The label names and the maximum row length of a checkpoint, for a task."""
    if is_composed(folder):
        raise InputError(f"{folder} holds a task model on frozen features: fine-tuning starts from a BERT")
    config = config_of(folder)
    labels = None
    if kind in _HEADS and bert_name((config.architectures or [""])[0]) == _HEADS[kind]:
        state = checkpoint.read_state_dict(folder)
        if any(name.startswith("classifier.") for name in state):
            labels = config.label_names
    return Checkpoint(labels, longest_row(config, tokenizer))


def build_model(problem: Problem, folder: Path, options: FineTuneOptions, seed: int) -> Any:
    """The model to train, in float32 on the CPU: the checkpoint's weights, and missing ones initialized from the seed.

    The rows of a new classifier are drawn in alphabetical order of the labels, so a label starts with the same weights
    whatever its index.
    """
    torch.manual_seed(seed)
    other = head_of(folder) not in (None, problem.task_class.model_class.__name__)  # never reuse another task's head
    new_head = options.new_head or other
    fields = dict(problem.config_fields)
    if options.dropout is not None and not options.composed:
        fields |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), options.dropout)
    if options.left_to_right:
        fields["is_decoder"] = True
    config = config_of(folder, **fields)
    if options.composed:
        encoder = class_for(BertModel, folder).from_pretrained(folder, config=config, dtype="float32", add_pooling_layer=False)
        check_complete(encoder, folder)
        head = HeadOptions(
            problem.head,
            {"span": 2, "choice": 1}.get(problem.head, len(problem.labels)),
            layers=options.layers or "last",
            pooling=options.pooling or "cls",
            bilstm=options.bilstm or 0,
            frozen=options.mode == "features",
            dropout=config.hidden_dropout_prob if options.dropout is None else options.dropout,
            problem_type=config.problem_type,
        )
        model: Any = ComposedModel(encoder, head)
        drawn = True
    else:
        model_class: Any = class_for(problem.task_class.model_class, folder)
        before = config_of(folder)
        trained = not new_head and model_class.__name__ in (before.architectures or ())
        if trained and problem.labels and before.num_labels != len(problem.labels):
            raise InputError(
                f"the checkpoint has a head for {before.num_labels} labels, this task wants {len(problem.labels)}: start a new "
                "head (new_head, --new-head)"
            )
        model, _ = model_class.from_pretrained(
            folder, config=config, dtype="float32", output_loading_info=True, ignore_mismatched_sizes=new_head
        )
        check_complete(model, folder, new=_NEW_PARTS)
        report = model.load_report
        new = [*report.missing, *(name for name, *_ in report.mismatched)]
        drawn = any(name in new for name in ("classifier.weight", "classifier.out_proj.weight"))
        if new_head and not drawn:
            model.init_weights(model.classifier if hasattr(model, "classifier") else model.qa_outputs)
            drawn = hasattr(model, "classifier")
    if drawn and len(problem.labels) > 1:
        weight = getattr(model.classifier, "out_proj", model.classifier).weight
        ranks = torch.tensor([sorted(problem.labels).index(name) for name in problem.labels])
        with torch.no_grad():
            weight.copy_(weight[ranks].clone())
    return model


def save_model(problem: Problem, model: Any, folder: Path) -> None:
    """Writes a model that opens in transformers, its tokenizer and the settings of our tasks, replacing the folder."""
    settings = {"task": problem.kind, "max_length": problem.options.max_length, **problem.settings}
    with files.replacing_folder(folder) as part:
        model.save_pretrained(part)
        problem.tokenizer.save_pretrained(part)
        files.write_text(part / SETTINGS, json.dumps(settings, indent=1) + "\n")


def load_model(problem: Problem, folder: Path, device: torch.device) -> Any:
    """Loads a model written by `save_model`, in evaluation mode; settings tuned on dev are restored to the problem."""
    problem.restore(task_settings(folder))
    if is_composed(folder):
        model: Any = ComposedModel.from_pretrained(folder, device=device)
    else:
        kind = class_for(problem.task_class.model_class, folder)
        model, _ = kind.from_pretrained(folder, device=device, output_loading_info=True)
    check_complete(model, folder)
    return model
