"""Evaluates a trained model on labelled examples: finds its task, predicts, and scores the predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastbert import files
from fastbert.errors import InputError
from fastbert.finetuning.metrics import check_installed
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Checkpoint, Prediction, Problem, Split
from fastbert.finetuning.registry import make_problem
from fastbert.finetuning.seed_run import evaluate_saved
from fastbert.model.composed import is_composed
from fastbert.model.families import bert_name, config_of
from fastbert.tasks.loading import PATTERNS, default_device, longest_row, task_settings
from fastbert.tasks.nli import relation
from fastbert.text.tokenizer import Tokenizer

_TASKS = {
    "BertForTokenClassification": "ner",
    "BertForQuestionAnswering": "qa",
    "BertForMultipleChoice": "choice",
    "BertForNextSentencePrediction": "next-sentence",
}
_RELATIONS = {"entailment", "neutral", "contradiction", "not_entailment"}


def task_of_model(folder: Path) -> str:
    """The task that a model was trained for, read from the fine-tuning settings or derived from its class and labels.

    Raises:
        InputError: the model has no task head.
    """
    written = task_settings(folder).get("task")
    if written:
        return str(written)
    config = config_of(folder)
    architecture = (config.architectures or [""])[0]
    name = bert_name(architecture)
    if name in _TASKS:
        return _TASKS[name]
    if name != "BertForSequenceClassification":
        raise InputError(
            f"{folder} holds a {architecture or 'model of an unnamed class'}, which shows no head of a task: fine-tune it "
            "first, or name the task (--task)"
        )
    if config.num_labels == 1 or config.problem_type == "regression":
        return "regress"
    return "nli" if {relation(label) for label in config.id2label.values()} <= _RELATIONS else "classify"


def has_several_labels(folder: Path, kind: str) -> bool:
    """Whether a model may assign several labels to one text."""
    return kind == "classify" and config_of(folder).problem_type == "multi_label_classification"


@dataclass
class Evaluation:
    """The evaluation of a model.

    Attributes:
        metrics: by name.
        predictions: one for each example, in order.
        problem: the task, as the model's labels and the examples make it.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    problem: Problem


def evaluate_model(
    model: str | Path,
    split: Split,
    kind: str | None = None,
    options: FineTuneOptions | None = None,
    device: str | torch.device | None = None,
    **hub: Any,
) -> Evaluation:
    """Scores a model on labelled examples.

    Args:
        model: a directory or hub id.
        split: the examples.
        kind: the task; None takes the model's own.
        options: metrics, labels (the names that numbers in the data stand for, or other names for the model's labels, in its
            order) and length handling; None takes the settings saved with the model.
        device: None means a CUDA device if one is available, else the CPU.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`.

    Raises:
        InputError: an example with a label that the model does not have.
    """
    check_installed()
    folder = files.locate(model, PATTERNS, **hub)
    kind = kind or task_of_model(folder)
    config = config_of(folder)
    settings = task_settings(folder)
    options = options or FineTuneOptions()
    known = {
        name: settings[name]
        for name in ("max_length", "overlong", "overlap", "window_scores", "doc_stride")
        if name in settings
    }
    defaults = FineTuneOptions()
    given = {name: value for name, value in known.items() if getattr(options, name) == getattr(defaults, name)}
    options = replace(options, **given, multi_label=has_several_labels(folder, kind)).resolved(kind)
    labels = config.label_names
    if is_composed(folder) and kind in ("qa", "choice"):
        labels = []
    tokenizer = Tokenizer.from_pretrained(folder)
    problem = make_problem(kind, options, tokenizer, split, (), Checkpoint(labels, longest_row(config, tokenizer), True))
    part = problem.frame(split)
    problem.warn_of_cuts(part)
    found, predictions = evaluate_saved(problem, folder, part, default_device(device), "float32")
    return Evaluation(found, predictions, problem)
