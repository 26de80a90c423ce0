"""Pre-training from a recipe: training steps, evaluation, checkpoints, and exact resuming.

The state of a run is its step, its position in the data, weights and optimiser. Everything random (weights, examples, order,
masks, dropout) is a function of the seed and the step, epoch or index, so a run that was killed and resumed is bit-identical to
an uninterrupted one.

    output/recipe.json      the recipe                      output/checkpoints/  the last few, see `checkpoints`
    output/metrics.jsonl    losses, rates, speed            output/model/        the final model
    output/report.md        results, with loss.png          output/corpus/       the corpus, if built by the run from text
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastbert import files
from fastbert.data.batches import Budget, EpochBatches, PreTrainingBatch
from fastbert.data.examples import Examples
from fastbert.errors import CheckpointError, InputError, TrainingError
from fastbert.progress import LINES, Show, progress
from fastbert.terminal import show_status
from fastbert.training.allocator import keep_freed_memory
from fastbert.training.checkpoints import MANIFEST, STATE, Checkpoints
from fastbert.training.evaluation import evaluate
from fastbert.training.optimizers import make_optimizer
from fastbert.training.preparation import build_model, check_corpus, open_sources, prepare_corpus, prepare_folder
from fastbert.training.recipe import Phase, Recipe
from fastbert.training.records import MetricsWriter, check_tensorboard
from fastbert.training.report import write_report
from fastbert.training.schedules import rate
from fastbert.training.seeds import mixed_seed
from fastbert.training.signals import stop_requests
from fastbert.training.speed import matmul_flops_per_s, peak_memory
from fastbert.training.state import load_optimizer_state, model_state, optimizer_state, unwrapped
from fastbert.training.stepper import Stepper, autocast
from fastbert.training.stream import PhaseBatches, Position, next_phase, stream
from fastbert.training.window import Window
from fastbert.training.world import LostProcessError, World, is_lost


@dataclass
class PreTrainingResult:
    """The result of a pre-training run.

    Attributes:
        folder: output folder of the run; the model is in `folder / "model"`.
        step: steps done.
        metrics: the last evaluation, with "unigram_entropy"; empty without held-out text.
        stopped_by: name of the signal that ended the run early, such as "SIGTERM"; empty otherwise.
        target_reached: whether the recipe's target was reached; None if it has none.
        leads: whether this process wrote the files: the only process, or rank 0 under torchrun.
    """

    folder: Path
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    stopped_by: str = ""
    target_reached: bool | None = None
    leads: bool = True


def pretrain(
    recipe: Recipe, output: str | Path, device: str | torch.device | None = None, show_progress: Show = None
) -> PreTrainingResult:
    """Trains a model from a recipe, or resumes where an earlier call with the same recipe and output stopped.

    Under torchrun every process calls it; rank 0 writes the files. SIGTERM and Ctrl-C end the run after the current step, and a
    checkpoint is saved.

    Args:
        recipe: what to train; see `Recipe.load`.
        output: folder of the run.
        device: "cuda" or "cpu"; None means CUDA if it is available.
        show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

    Raises:
        InputError: a recipe that does not fit the corpus, or that differs from the recipe of the run in `output`; or another
            process works in that folder.
        TrainingError: the loss is not a number, or another process is gone; the message names the last good checkpoint.
        CheckpointError: a checkpoint cannot be written.
    """
    world = World.join(device)
    try:
        with ExitStack() as claim:
            return _Run(recipe, Path(output), world, LINES if show_progress is None else show_progress, claim).run()
    finally:
        world.leave()


class _Run:
    """One process's part in a run."""

    def __init__(self, recipe: Recipe, folder: Path, world: World, show: Show, claim: ExitStack) -> None:
        self.recipe, self.folder, self.world = recipe, folder, world
        for number, phase in enumerate(recipe.phases):
            if phase.batches_per_step % world.size:
                place = f"phases.{number}.batches_per_step = {phase.batches_per_step}"
                raise InputError(f"{place} is not a multiple of the {world.size} processes: each takes its share of a step")
        self.show = show if world.leads else False
        if recipe.run.tensorboard:
            check_tensorboard()
        self.checkpoints = Checkpoints(folder / "checkpoints", recipe.run.keep)
        self._alone(lambda: claim.enter_context(files.claimed(folder)))
        self._alone(lambda: prepare_folder(recipe, folder, self.checkpoints.any(), self._show_status))
        self._alone(lambda: prepare_corpus(recipe, folder, self._show_status))
        self._alone(self.checkpoints.clean)
        self._alone(lambda: check_corpus(recipe, folder))
        self.sources = open_sources(recipe, folder)
        model = build_model(recipe, self.sources)
        self._alone(lambda: self.checkpoints.check_room(model))
        state = self._load_checkpoint(model)
        self.sharded = recipe.run.sharded and world.size > 1
        self.limits = model.base_model.limits
        self.model = world.wrap(model.to(world.device).train(), self.sharded)
        part = recipe.optimizer
        captures = world.device.type == "cuda" and world.size == 1 and recipe.run.precision == "bfloat16"
        if recipe.run.capture and not captures:
            self._show_status("run.capture: steps are not captured; that needs one CUDA device and run.precision = 'bfloat16'")
        optimizer = make_optimizer(part.name, self.model, part.lr, (part.betas[0], part.betas[1]), part.eps, part.weight_decay)
        trained: Any = torch.compile(self.model) if recipe.run.compile else self.model
        keep_freed_memory(self.world.device)
        self.stepper = Stepper(
            trained, optimizer, world, recipe.run.precision, part.max_grad_norm, recipe.run.capture and captures
        )
        if state:
            load_optimizer_state(self.model, optimizer, state["optimizer"], self.sharded)
            self.stepper.scaler.load_state_dict(state["scaler"])
        self.position = Position(*state.get("position", ()))
        self.window = Window(**state.get("window", {}))
        self.metrics: dict[str, float] = state.get("metrics", {})
        self.saved_at = self.position.step
        self.clock = time.perf_counter()
        self.flops_per_s = matmul_flops_per_s(world.device, recipe.run.precision)

    def _alone(self, work: Callable[[], object]) -> None:
        """Runs `work` in rank 0 while the other processes wait; if it fails, all processes stop."""

        def run() -> None:
            work()

        self.world.from_first(run)

    def _load_checkpoint(self, model: Any) -> dict[str, Any]:
        """Loads the weights of the newest intact checkpoint into the model; returns its state, empty if there is none."""
        found = self.checkpoints.newest()
        if found is None:
            return {}
        path, state = found
        if state["corpus"] != self.sources.fingerprint:
            raise InputError(f"the run in {self.folder} was started with a different corpus from the one given now")
        model.load_state_dict(type(model).from_pretrained(path, dtype="float32").state_dict())
        self._show_status(f"resumed from {path.name}")
        return state

    # -- the steps -------------------------------------------------------------------------------------------------------

    def run(self) -> PreTrainingResult:
        """Runs all remaining steps."""
        recipe = self.recipe
        with ExitStack() as stack:
            stopped = stack.enter_context(stop_requests())
            writer = None
            if self.world.leads:
                writer = stack.enter_context(closing(MetricsWriter(self.folder, self.position.step, recipe.run.tensorboard)))
            start, self.clock = self.position.step, time.perf_counter()
            bar = stack.enter_context(progress(recipe.steps, "step", "pre-training", self.show, initial=start))
            try:
                for batches, after in self._steps():
                    self._train(batches)
                    self.position = after
                    self._tick()
                    bar.update()
                    ends = bool(self.world.sum([bool(stopped)])[0])  # any process
                    self._after_step(writer, bar, ends)
                    if ends and after.step < recipe.steps:
                        return PreTrainingResult(self.folder, after.step, self.metrics, stopped[0] if stopped else "SIGTERM")
            except RuntimeError as error:
                if not isinstance(error, LostProcessError) and not (self.world.size > 1 and is_lost(error)):
                    raise
                lost = error if isinstance(error, LostProcessError) else LostProcessError(error)
                where = f"after step {self.position.step}. {self._last_good()}"
                self.world.leave()  # here, where a signal waits: torchrun stops the other processes meanwhile
                raise TrainingError(f"{lost}, {where} Run the same command again to resume") from error
        return self._finish()

    def _steps(self) -> Iterator[tuple[list[PreTrainingBatch], Position]]:
        """Yields this process's batches for each remaining step, and the position after the step."""
        position, done = self.position, 0
        for phase, examples in zip(self.recipe.phases, self.sources.examples, strict=True):
            stop = done + phase.steps
            if position.step == done:
                position = next_phase(position)
            if position.step < stop:
                epochs = self._epochs(phase, examples)
                for mine, after in stream(epochs, position, stop, phase.batches_per_step, self.world, self.recipe.run.workers):
                    yield mine, after
                    position = after
            done = stop

    def _epochs(self, phase: Phase, examples: Examples) -> PhaseBatches:
        budget = Budget.of(examples, phase.batch_tokens)
        return PhaseBatches(lambda epoch: EpochBatches(examples, budget, self.recipe.run.seed, epoch, self.limits))

    def _train(self, batches: list[PreTrainingBatch]) -> None:
        """Performs one training step."""
        recipe, step = self.recipe, self.position.step
        torch.manual_seed(mixed_seed(recipe.run.seed, step, self.world.rank))
        words, pairs = self.world.sum([sum(b.num_mlm_labels for b in batches), sum(b.num_pair_labels for b in batches)])
        lr = recipe.optimizer.lr * rate(recipe.schedule.name, step, recipe.schedule.warmup_steps, recipe.steps)
        sums = self.stepper.step(batches, lr, (words, pairs))
        self.window.add(sums, batches, unwrapped(self.model).config, lr)
        if self.world.device.type == "cpu":
            self._check_finite(step + 1)

    def _after_step(self, writer: MetricsWriter | None, bar: Any, ends: bool) -> None:
        """Writes a record, evaluates and saves a checkpoint, whenever each is due."""
        run, step = self.recipe.run, self.position.step
        last = step == self.recipe.steps
        if step % run.log_every == 0 or last:
            self._check_finite(step)
            self._tick()  # the GPU has been synchronised
            record = self._record()
            if writer:
                writer.write(record)
            bar.set_postfix(loss=f"{record['loss']:.3f}", tokens_s=f"{record['tokens_per_second']:,.0f}")
            self.window = Window()
        if self.sources.held_out is not None and (last or (run.eval_every and step % run.eval_every == 0)):
            precision = autocast(self.world.device, run.precision)
            found = evaluate(unwrapped(self.model), self.sources.held_out, run.eval_batches, self.world, precision)
            self.metrics = {**found, "unigram_entropy": self.sources.unigram_entropy}
            if writer:
                writer.write({"kind": "eval", "step": step, **self.metrics})
            self._show_status(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items()))
        if last or ends or (run.checkpoint_every and step % run.checkpoint_every == 0):
            self._check_finite(step)
            self._save()
        self.clock = time.perf_counter()

    def _tick(self) -> None:
        """Adds the time since the last tick, or since the previous step was recorded and saved."""
        now = time.perf_counter()
        self.window.seconds += now - self.clock
        self.clock = now

    def _record(self) -> dict[str, Any]:
        """The window's metrics over all processes, as a record."""
        window, world = self.window, self.world
        sums = [*window.values.tolist(), window.tokens, window.places, window.flops, window.seconds]
        mlm, pair, hits, tokens, places, flops, seconds = world.sum(sums)
        seconds = max(seconds / world.size, 1e-9)
        record: dict[str, Any] = {"kind": "train", "step": self.position.step, "epoch": self.position.epoch, "lr": window.lr}
        record["masked_lm_loss"] = record["loss"] = mlm / max(window.words, 1)
        if window.pairs:
            record |= {"next_sentence_loss": pair / window.pairs, "next_sentence_accuracy": hits / window.pairs}
            record["loss"] += record["next_sentence_loss"]
        record |= {
            "grad_norm": float(window.norm) / window.steps if math.isfinite(float(window.norm)) else None,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "tail_share": 1 - tokens / places,
            "mfu": flops / seconds / (self.flops_per_s * world.size),
            "memory_bytes": peak_memory(world.device),
        }
        if self.stepper.scaler.is_enabled():
            record["loss_scale"] = self.stepper.scaler.get_scale()
        return record

    def _check_finite(self, step: int) -> None:
        wrong = not self.window.finite(self.stepper.scaler.is_enabled())
        if self.world.sum([wrong])[0]:  # in any process: all stop with the same message
            exactly = self.world.device.type == "cpu"  # a GPU is not synchronised at every step
            first = f"step {step}" if exactly else f"a step after {step - self.window.steps}, up to {step}"
            raise TrainingError(
                f"the loss or its gradient is not a number at {first}. {self._last_good()} Lower optimizer.lr, or look at the "
                "data, and continue in a new folder with model.init set to that checkpoint"
            )

    # -- files -----------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Saves a checkpoint; with sharded weights all processes take part, and rank 0 writes it."""
        step = self.position.step
        if step == self.saved_at:
            return
        weights = model_state(self.model) if self.sharded else None
        state = {
            "optimizer": optimizer_state(self.model, self.stepper.optimizer, self.sharded),
            "scaler": self.stepper.scaler.state_dict(),
            "position": [step, self.position.epoch, self.position.batch],
            "window": self.window.state(),
            "metrics": self.metrics,
            "corpus": self.sources.fingerprint,
        }

        def write_model(folder: Path) -> None:
            model = unwrapped(self.model)
            model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
            self.sources.tokenizer.save_pretrained(folder)

        self._alone(lambda: self.checkpoints.save(step, state, write_model))
        self.saved_at = step

    def _finish(self) -> PreTrainingResult:
        """Writes the final model and the report, and checks whether the target was reached."""
        result = PreTrainingResult(self.folder, self.position.step, self.metrics, leads=self.world.leads)
        wanted = self.recipe.target.below_unigram
        if wanted and self.metrics:
            result.target_reached = self.metrics["masked_lm_loss"] <= self.metrics["unigram_entropy"] - wanted
        self._alone(self._write_results)
        return result

    def _write_results(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            raise CheckpointError(f"{self.folder} has no intact checkpoint to take the model from")
        target = self.folder / "model"
        try:
            with files.replacing_folder(target) as part:
                shutil.copytree(found[0], part, ignore=shutil.ignore_patterns(STATE, MANIFEST), dirs_exist_ok=True)
            write_report(self.folder)
        except OSError as error:
            raise CheckpointError(f"cannot write {target} and the report: {error}; {found[0]} holds the model") from error

    def _last_good(self) -> str:
        found = self.checkpoints.newest()
        if found is None:
            return "There is no checkpoint yet."
        path, state = found
        return f"The last good checkpoint is {path} (step {state['position'][0]})."

    def _show_status(self, text: str) -> None:
        if self.world.leads:
            show_status(text)
