"""One training step: forward and backward of its batches with gradient accumulation, clipping, the optimiser.

The gradient of a step equals that of one large batch: the MLM loss is the mean over all labelled tokens of the step, the pair
loss the mean over all its labelled pairs, however they are distributed over batches and processes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastbert.data.batches import PreTrainingBatch
from fastbert.graphs import CapturedStep
from fastbert.packing import PackedBatch
from fastbert.packing.batch import IGNORE
from fastbert.training.optimizers import set_rate
from fastbert.training.world import World


@dataclass
class StepSums:
    """Results of a step, summed over this process's batches; they stay on the device, without synchronisation.

    Attributes:
        values: (3,) float32: MLM loss, pair loss, correctly classified pairs.
        grad_norm: () norm of the whole gradient before clipping.
        totals: labelled tokens and pairs of the step, over all processes.
    """

    values: Tensor
    grad_norm: Tensor
    totals: tuple[float, float]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """An autocast context for a 16-bit type; does nothing for float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


class Stepper:
    """Trains a model step by step.

    Args:
        model: a language-model class, as wrapped by `World.wrap`.
        optimizer: the optimiser of its parameters.
        world: the processes of the run.
        precision: "float32", "bfloat16" or "float16"; the last with a loss scaler.
        max_grad_norm: norm to clip gradients to; 0 disables clipping.
        capture: run forward and backward as one CUDA graph; needs one CUDA device and bfloat16.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        precision: str = "float32",
        max_grad_norm: float = 1.0,
        capture: bool = False,
    ) -> None:
        self.model, self.optimizer, self.world = model, optimizer, world
        self.precision, self.max_grad_norm = precision, max_grad_norm
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "float16")
        self._capture = capture
        self._captured: dict[tuple[int, ...], CapturedStep] = {}

    def step(self, batches: list[PreTrainingBatch], lr: float, totals: tuple[float, float]) -> StepSums:
        """Trains on this process's batches of a step.

        Args:
            batches: the batches, in order.
            lr: learning rate.
            totals: labelled tokens and pairs of the step, over all processes.
        """
        world = self.world
        scales = torch.tensor([world.size / max(total, 1) for total in totals]).to(world.device, non_blocking=True)
        values = torch.zeros(3, device=world.device)
        for i, batch in enumerate(batches):
            batch = batch.to(world.device)
            with world.accumulating(self.model, i == len(batches) - 1):
                values += self._forward_backward(batch, scales)
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.max_grad_norm or float("inf"))
        set_rate(self.optimizer, lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self._capture)
        whole: Any = norm
        return StepSums(values, (whole.full_tensor() if hasattr(whole, "full_tensor") else whole).detach(), totals)

    def _forward_backward(self, batch: PreTrainingBatch, scales: Tensor) -> Tensor:
        if not self._capture:
            return self._run(batch.packed, scales, **batch.inputs())
        inputs: dict[str, Any] = {"batch": batch.packed, "scales": scales, **batch.inputs()}
        shape = (batch.packed.num_tokens, batch.packed.batch_size, batch.packed.max_seqlen, len(batch.labels))
        if shape not in self._captured:
            self._captured.clear()  # frees the memory of a finished phase's graph
            self._captured[shape] = self._capture_step(inputs)
        result: Tensor = self._captured[shape](**inputs)
        return result

    def _capture_step(self, inputs: dict[str, Any]) -> CapturedStep:
        """Captures a CUDA graph of `_run`; gradients and random state, which its warm-up changes, are restored."""
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = [None if p.grad is None else p.grad.clone() for p in trained]
        state = torch.cuda.get_rng_state(self.world.device)
        captured = CapturedStep(self._run, inputs)
        torch.cuda.set_rng_state(state, self.world.device)
        for p, gradient in zip(trained, before, strict=True):
            if p.grad is not None:
                p.grad.zero_() if gradient is None else p.grad.copy_(gradient)
        return captured

    def _run(self, batch: PackedBatch, scales: Tensor, **labels: Tensor) -> Tensor:
        """Forward and backward of a batch -> (3,) sums of MLM loss, pair loss and correctly classified pairs."""
        with autocast(self.world.device, self.precision):
            out = self.model(batch, **labels)
        words = out.mlm_loss.float() * out.num_mlm_labels
        pairs = hits = words.detach() * 0
        follows = labels.get("next_sentence_label")
        if follows is not None:
            pairs = out.nsp_loss.float() * out.num_nsp_labels
            hits = ((out.seq_relationship_logits.argmax(1) == follows) & (follows != IGNORE)).sum().float()
        self.scaler.scale(words * scales[0] + pairs * scales[1]).backward()
        return torch.stack([words.detach(), pairs.detach(), hits.detach()])
