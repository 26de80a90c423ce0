"""Options of a fine-tuning run; the defaults are the paper's, and every value is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fastbert.errors import InputError
from fastbert.model.composed import LAYERS
from fastbert.model.pooling import check_modes
from fastbert.tasks.sequences import WINDOW_SCORES
from fastbert.text.framing import OVERLONG
from fastbert.training.optimizers import OPTIMIZERS
from fastbert.training.schedules import SCHEDULES

KINDS = ("classify", "nli", "regress", "choice", "ner", "qa")
MODES = ("finetune", "features")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

# Paper, appendix A.3: batch 16 or 32, rate 5e-5, 3e-5 or 2e-5, 2 to 4 epochs, dropout 0.1; section 4.2: three epochs at
# 5e-5 for SQuAD. Task models on frozen features are trained from scratch and need a higher rate and more epochs.
EPOCHS, RATE = {"finetune": 3, "features": 20}, {"finetune": 5e-5, "features": 1e-3}


@dataclass(frozen=True)
class FineTuneOptions:
    """How a model is fine-tuned, or a task model trained on its frozen features.

    Attributes:
        mode: "finetune" trains everything; "features" freezes the encoder and trains a task model on its hidden states.
        epochs, lr: None means 3 and 5e-5, or 20 and 1e-3 on features.
        batch_size: examples per step.
        warmup: fraction of the steps used for learning-rate warm-up.
        schedule, optimizer, weight_decay, max_grad_norm: see `fastbert.training`.
        dropout: dropout of the whole model, or of the task model on features; None keeps the checkpoint's, or 0.1.
        max_length: tokens of a sequence, special tokens included; None means the model's limit, 384 for questions.
        overlong: "truncate" (None), "error" or "window"; tags and questions always use windows.
        overlap: tokens shared by neighbouring windows of a text.
        window_scores: how the scores of windows are combined, "mean" or "max".
        doc_stride: tokens between the starts of neighbouring windows of a context.
        labels: names, in the order of the scores; None finds them in the training data, in alphabetical (or numerical) order.
        new_head: initialize a new head even if the checkpoint has one.
        multi_label: each text may have several labels.
        class_weights: weights of the labels in the loss of classification with one label a text: "balanced" (examples / (labels
            * examples of the label), as scikit-learn's), or a weight for each label by its name. None weighs all alike.
        fix_bio: repair tags that break the rules of their scheme, instead of only reporting them.
        metrics: names; the first one selects the best epoch. Empty: the task's defaults.
        layers, bilstm: layers and BiLSTM of a task model: see `fastbert.composed`. None: "last" and no BiLSTM for texts; on
            features of tokens the paper's choice, "concat-last-4" and two layers.
        pooling: pooling of texts: None uses the model's own head ([CLS] through the pooler); on features "cls".
        left_to_right: a token attends only to itself and to earlier tokens.
        seed: seed of new weights, example order and dropout.
        precision: "auto" is bfloat16 on CUDA devices that support it, else float32.
        checkpoint_every: steps between checkpoints; one is also written at the end of each epoch.
    """

    mode: str = "finetune"
    epochs: int | None = None
    lr: float | None = None
    batch_size: int = 32
    warmup: float = 0.1
    schedule: str = "hf"
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float | None = None
    max_length: int | None = None
    overlong: str | None = None
    overlap: int = 64
    window_scores: str = "mean"
    doc_stride: int = 128
    labels: tuple[str, ...] | None = None
    new_head: bool = False
    multi_label: bool = False
    class_weights: str | Mapping[str, float] | None = None
    fix_bio: bool = False
    metrics: tuple[str, ...] = ()
    layers: str | None = None
    bilstm: int | None = None
    pooling: str | None = None
    left_to_right: bool = False
    seed: int = 0
    precision: str = "auto"
    checkpoint_every: int = 500

    def resolved(self, kind: str) -> FineTuneOptions:
        """A checked copy with defaults filled in for a kind of task.

        Raises:
            InputError: a value out of range; the message names the allowed values.
        """
        self._one_of("mode", MODES)
        features = self.mode == "features"
        tokens = kind in ("ner", "qa")
        values: dict[str, Any] = {
            "epochs": EPOCHS[self.mode] if self.epochs is None else self.epochs,
            "lr": RATE[self.mode] if self.lr is None else self.lr,
            "overlong": self.overlong or "truncate",
        }
        if features:
            values["layers"] = self.layers or ("concat-last-4" if tokens else "last")
            values["bilstm"] = (2 if tokens else 0) if self.bilstm is None else self.bilstm
            values["pooling"] = self.pooling or "cls"
        options = replace(self, **values)
        options._check(kind)
        return options

    @property
    def composed(self) -> bool:
        """Whether a `ComposedModel` is needed: for features, or for another pooling, layers, BiLSTM or direction."""
        return self.mode == "features" or self.left_to_right or bool(self.pooling or self.layers or self.bilstm)

    def _check(self, kind: str) -> None:
        if kind not in KINDS:
            raise InputError(f"task = {kind!r} is not one of {', '.join(KINDS)}")
        self._one_of("overlong", OVERLONG)
        self._one_of("window_scores", WINDOW_SCORES)
        self._one_of("schedule", SCHEDULES)
        self._one_of("optimizer", OPTIMIZERS)
        self._one_of("precision", PRECISIONS)
        if self.layers is not None:
            self._one_of("layers", tuple(LAYERS))
        if self.pooling is not None:
            check_modes(self.pooling)
        for name in ("epochs", "batch_size", "checkpoint_every", "bilstm", "overlap", "doc_stride", "max_length", "seed"):
            self._is_number(name, int, "a whole number")
        for name in ("lr", "warmup", "dropout", "weight_decay", "max_grad_norm"):
            self._is_number(name, int | float, "a number")
        at_least = {"epochs": 1, "batch_size": 1, "checkpoint_every": 1, "bilstm": 0, "overlap": 0, "doc_stride": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} = {value} must be at least {least}")
        if self.lr is not None and not 0 < self.lr < 1:
            raise InputError(f"lr = {self.lr} must be above 0 and below 1")
        for name in ("warmup", "dropout", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name} = {value} must be in [0, 1)")
        if not self.max_grad_norm >= 0:
            raise InputError(f"max_grad_norm = {self.max_grad_norm} must be at least 0")
        if self.overlong == "window" and kind == "choice":
            raise InputError("overlong = 'window' is not for multiple choice: truncate, or error")
        if self.multi_label and kind != "classify":
            raise InputError(f"multi_label goes with 'classify', not with {kind!r}")
        if self.class_weights is not None and (kind not in ("classify", "nli") or self.multi_label):
            raise InputError("class_weights goes with 'classify' and 'nli', where a text has one label")
        self._check_weights()

    def _check_weights(self) -> None:
        given = self.class_weights
        if isinstance(given, Mapping):
            for name, weight in given.items():
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                    raise InputError(f"class_weights: the weight of {name!r} is {weight!r}; expected a number above 0")
        elif given not in (None, "balanced"):
            raise InputError(f"class_weights = {given!r} is neither 'balanced' nor weights by label")

    def _is_number(self, name: str, kind: Any, what: str) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise InputError(f"{name} = {value!r} must be {what}")

    def _one_of(self, name: str, values: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in values:
            raise InputError(f"{name} = {value!r} is not one of {', '.join(values)}")

    def to_dict(self) -> dict[str, Any]:
        """The options as a dictionary for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
