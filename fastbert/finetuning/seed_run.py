"""One training run with one seed: epochs of packed batches, evaluation after each, the best epoch kept, exact resume.

    folder/metrics.jsonl    losses and scores        folder/model/        of the best epoch, or of the last without a dev set
    folder/checkpoints/     to resume from           folder/result.json   the result, written when the run is complete

The order of examples, new weights and dropout are functions of the seed and the step: on a CPU, a run that was stopped and
resumed is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastbert import files
from fastbert.errors import StoppedError, TrainingError
from fastbert.finetuning.feature_cache import FeatureCache
from fastbert.finetuning.models import build_model, load_model, save_model
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import FramedSplit, Prediction, Problem
from fastbert.model.composed import ComposedModel
from fastbert.packing.batching import BATCH_TOKENS
from fastbert.progress import Show, progress
from fastbert.training.allocator import keep_freed_memory
from fastbert.training.checkpoints import Checkpoints
from fastbert.training.optimizers import make_optimizer, set_rate
from fastbert.training.records import MetricsWriter
from fastbert.training.schedules import rate
from fastbert.training.seeds import mixed_seed
from fastbert.training.signals import stop_requests
from fastbert.training.speed import peak_memory
from fastbert.training.stepper import autocast

LOG_EVERY = 50


@dataclass
class SeedResult:
    """The result of training with one seed.

    Attributes:
        seed: the seed.
        epoch: the epoch whose model was kept, from 1.
        dev, test: metrics; empty without such examples.
        seconds: time of the training steps and of computing features, without evaluation.
        tokens_per_second: real tokens per second of the training steps.
        parameters: number of trained parameters.
        memory_bytes: peak memory.
    """

    seed: int
    epoch: int
    dev: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    parameters: int = 0
    memory_bytes: int = 0


class SeedRun:
    """A resumable training run with one seed.

    Args:
        problem: the task.
        source: folder of the checkpoint to start from.
        train: the training examples.
        dev: the examples on which the best epoch is selected; None keeps the last epoch.
        options: resolved options.
        folder: output folder of this run.
        device: the device to train on.
        features: folder of cached features, for a frozen encoder.
        show: see `fastbert.progress`.
        say: called with each status message.
    """

    def __init__(
        self,
        problem: Problem,
        source: Path,
        train: FramedSplit,
        dev: FramedSplit | None,
        options: FineTuneOptions,
        folder: Path,
        device: torch.device,
        features: Path,
        show: Show,
        say: Callable[[str], None],
    ) -> None:
        self.problem, self.train, self.dev, self.options, self.folder = problem, train, dev, options, folder
        self.device, self.show, self.say = device, show, say
        self.precision = precision_of(options.precision, device)
        self.model = build_model(problem, source, options, options.seed).to(device)
        self.task = problem.task(self.model)
        self.targets = problem.targets(train)
        began = time.perf_counter()
        if options.mode == "features":
            self._cache_features(features)
        self.feature_seconds = time.perf_counter() - began
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.per_epoch = math.ceil(len(self.targets) / options.batch_size)
        assert options.epochs is not None
        self.steps = self.per_epoch * options.epochs
        self.warmup = math.ceil(self.steps * options.warmup)  # as in transformers' Trainer
        assert options.lr is not None
        self.lr = options.lr
        self.optimizer = make_optimizer(options.optimizer, self.model, self.lr, weight_decay=options.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        self.checkpoints.check_room(self.model)
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.best: dict[str, Any] = {"epoch": 0, "metrics": {}}
        self.losses: list[torch.Tensor] = []
        self._resume()

    # -- the steps -------------------------------------------------------------------------------------------------------

    def run(self) -> SeedResult:
        """Runs all remaining steps.

        Raises:
            StoppedError: stopped by SIGTERM or Ctrl-C, after writing a checkpoint. TrainingError: the loss is not finite.
        """
        keep_freed_memory(self.device)
        self.model.train()
        writer = MetricsWriter(self.folder, self.step)
        bar = progress(self.steps, "step", f"seed {self.options.seed}", self.show, initial=self.step)
        with stop_requests() as stopped, closing(writer), bar:
            while self.step < self.steps:
                self._step()
                bar.update()
                ends = self.step % self.per_epoch == 0
                if self.step % LOG_EVERY == 0 or ends:
                    loss = self._record(writer)
                    bar.set_postfix(loss=f"{loss:.3f}", tokens_s=f"{self.tokens / max(self.seconds, 1e-9):,.0f}")
                if ends:
                    self._end_of_epoch(writer)
                if self.step < self.steps and (stopped or ends or self.step % self.options.checkpoint_every == 0):
                    self._save()
                if stopped and self.step < self.steps:
                    raise StoppedError(stopped[0])
        return self._finish()

    def _step(self) -> None:
        options, began = self.options, time.perf_counter()
        epoch, place = divmod(self.step, self.per_epoch)
        order = self._order(epoch)[place * options.batch_size : (place + 1) * options.batch_size]
        torch.manual_seed(mixed_seed(options.seed, self.step))
        batch, keywords = self.problem.step(self.train.framed, self.targets, order, self.device)
        with autocast(self.device, self.precision):
            loss = self.problem.loss(self.model, batch, keywords)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trained, options.max_grad_norm or float("inf"))
        set_rate(self.optimizer, self.lr * rate(options.schedule, self.step, self.warmup, self.steps))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.losses.append(loss.detach().float())
        self.step += 1
        self.tokens += batch.num_tokens
        self.seconds += time.perf_counter() - began

    def _order(self, epoch: int) -> list[int]:
        """The sample indices of an epoch, in random order."""
        if getattr(self, "_ordered", (-1,))[0] != epoch:
            draws = torch.Generator().manual_seed(mixed_seed(self.options.seed, -1 - epoch))
            self._ordered = (epoch, torch.randperm(len(self.targets), generator=draws).tolist())
        return self._ordered[1]

    def _record(self, writer: MetricsWriter) -> float:
        """Writes the mean loss since the last record; synchronizes with the device."""
        began = time.perf_counter()
        loss = float(torch.stack(self.losses).mean())
        self.seconds += time.perf_counter() - began  # time for pending GPU work
        self.losses = []
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is not a number within {LOG_EVERY} steps up to step {self.step} (seed {self.options.seed}): lower "
                f"lr, or look at the data; {self.folder} keeps the last checkpoint"
            )
        lr = self.optimizer.param_groups[0]["lr"]
        epoch = self.step / self.per_epoch
        writer.write({"kind": "train", "step": self.step, "epoch": epoch, "lr": lr, "loss": loss, "seconds": self.seconds})
        return loss

    def _end_of_epoch(self, writer: MetricsWriter) -> None:
        """Evaluates on dev and saves the model if it is the best so far; without dev, saves it after the last epoch."""
        epoch = self.step // self.per_epoch
        found: dict[str, float] = {}
        if self.dev is not None:
            found, _ = evaluate(self.problem, self.task, self.dev, self.precision)
            writer.write({"kind": "eval", "step": self.step, "epoch": epoch, **found})
            self.say(f"seed {self.options.seed}, epoch {epoch}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        better = not self.best["metrics"] or self.problem.goodness(found) > self.problem.goodness(self.best["metrics"])
        if self.dev is None and self.step < self.steps:
            better = False
        if better:
            self.best = {"epoch": epoch, "metrics": found}
            save_model(self.problem, self.model, self.folder / "model")
        self.model.train()

    # -- files -----------------------------------------------------------------------------------------------------------

    def _state_of_model(self) -> dict[str, torch.Tensor]:
        if isinstance(self.model, ComposedModel) and self.model.options.frozen:
            return self.model.head_state()
        state: dict[str, torch.Tensor] = self.model.state_dict()
        return state

    def _save(self) -> None:
        state = {
            "model": self._state_of_model(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "losses": self.losses,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "step": self.step,
        }
        self.checkpoints.save(self.step, state, lambda folder: None)

    def _resume(self) -> None:
        self.checkpoints.clean()
        found = self.checkpoints.newest()
        if found is None:
            return
        path, state = found
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best, self.seconds, self.tokens = state["best"], state["seconds"], state["tokens"]
        self.losses, self.step = [loss.to(self.device) for loss in state["losses"]], state["step"]
        self.say(f"seed {self.options.seed}: resumed from {path.name}")

    def _cache_features(self, folder: Path) -> None:
        cache = FeatureCache(folder, self.model, self.problem.tokenizer, self.say)
        for part in (self.train, self.dev):
            if part is not None:
                cache.prepare(part.framed, self.show)
        self.model.cache = cache

    def _finish(self) -> SeedResult:
        result = SeedResult(
            self.options.seed,
            self.best["epoch"],
            self.best["metrics"],
            seconds=self.seconds + self.feature_seconds,
            tokens_per_second=self.tokens / max(self.seconds, 1e-9),
            parameters=sum(p.numel() for p in self.trained),
            memory_bytes=peak_memory(self.device),
        )
        files.write_text(self.folder / "result.json", json.dumps(vars(result)) + "\n")
        files.remove_folder(self.folder / "checkpoints")
        return result


def evaluate(problem: Problem, task: Any, part: FramedSplit, precision: str) -> tuple[dict[str, float], list[Prediction]]:
    """Metrics and predictions on a split; leaves the model in evaluation mode."""
    task.model.eval()
    with autocast(task.model.device, precision):
        found = problem.predict(task, part, BATCH_TOKENS)
    predictions = [{**mark, **row} for mark, row in zip(part.split.marks, found, strict=True)]
    return problem.score(part.split, predictions), predictions


def evaluate_saved(
    problem: Problem, folder: Path, part: FramedSplit, device: torch.device, precision: str
) -> tuple[dict[str, float], list[Prediction]]:
    """Like `evaluate`, with a saved model."""
    return evaluate(problem, problem.task(load_model(problem, folder, device)), part, precision)


def precision_of(name: str, device: torch.device) -> str:
    """The precision to use on a device, with "auto" resolved."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
