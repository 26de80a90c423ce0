"""Metrics summed over the steps since the last record of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch

from fastbert.data.batches import PreTrainingBatch
from fastbert.model.config import BertConfig
from fastbert.training.speed import training_flops
from fastbert.training.stepper import StepSums


@dataclass
class Window:
    """Sums over the steps since the last record.

    Attributes:
        steps: number of steps in the window.
        words, pairs: labelled tokens and pairs of all processes.
        lr: learning rate of the last step.
        tokens, places, flops: of this process: real tokens, all tokens including dummies, FLOPs of the matrix products.
        seconds: time of the steps, each from the end of the previous one; evaluation and checkpoints excluded.
        values: (3,) MLM loss, pair loss, correctly classified pairs of this process.
        norm: () sum of the gradient norms.
    """

    steps: int = 0
    words: float = 0.0
    pairs: float = 0.0
    lr: float = 0.0
    tokens: int = 0
    places: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    values: torch.Tensor = field(default_factory=lambda: torch.zeros(3))
    norm: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, sums: StepSums, batches: list[PreTrainingBatch], config: BertConfig, lr: float) -> None:
        """Adds a step."""
        self.steps += 1
        self.words += sums.totals[0]
        self.pairs += sums.totals[1]
        self.lr = lr
        self.values = self.values.to(sums.values.device) + sums.values
        self.norm = self.norm.to(sums.grad_norm.device) + sums.grad_norm
        for batch in batches:
            self.tokens += batch.num_tokens
            self.places += batch.packed.num_tokens
            self.flops += training_flops(config, batch.num_tokens, batch.squares, batch.num_mlm_labels)

    def finite(self, scaled: bool) -> bool:
        """Whether all losses and gradients were finite (with a loss scaler: losses only). Waits for the device."""
        return bool(torch.isfinite(self.values).all() and (scaled or torch.isfinite(self.norm)))

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: keyword arguments that make an equal window."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
