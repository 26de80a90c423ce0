"""Recipes: everything that a pre-training run depends on, as a TOML file, checked before anything starts.

`Recipe.load` reads a file, or a recipe of the package by name: "base" (the paper's settings) or "minute" (a small BERT trained
in minutes on a CPU, on the language reference that comes with every Python). `override` changes single values:
"optimizer.lr=1e-4".
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastbert.data.examples import ExampleOptions
from fastbert.data.masking import MaskingOptions
from fastbert.errors import InputError
from fastbert.model.config import SIZES, BertConfig
from fastbert.training.optimizers import OPTIMIZERS
from fastbert.training.schedules import SCHEDULES

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelPart:
    """The model: a released size, a checkpoint to start from, and fields of `BertConfig` that differ.

    Attributes:
        size: one of the released sizes, for the fields that `config` does not name.
        init: a directory or hub id whose weights training starts from; empty for random ones.
        config: fields of `BertConfig`.
    """

    size: str = "base"
    init: str = ""
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataPart:
    """The training data.

    Attributes:
        corpus: folder written by `fastbert data build`; if empty, a corpus is built from `sources` in the output folder.
        sources: files, or "python:module", to build vocabulary and corpus from.
        vocab_size: entries of that vocabulary.
        held_out: share of documents held out of that corpus.
        objective: "mlm+nsp", "mlm+sop", "mlm" or "ltr".
        nsp_balance: "exact" or "google".
        short_share: share of sequences with a random shorter length.
    """

    corpus: str = ""
    sources: tuple[str, ...] = ()
    vocab_size: int = 30_000
    held_out: float = 0.01
    objective: str = "mlm+nsp"
    nsp_balance: str = "exact"
    short_share: float = 0.1


@dataclass(frozen=True)
class OptimizerPart:
    """The optimiser. `max_grad_norm` = 0 disables clipping."""

    name: str = "adamw"
    lr: float = 1e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class SchedulePart:
    """The learning-rate schedule over all phases: "hf", "google" or "constant"; see `fastbert.training.schedules`."""

    name: str = "hf"
    warmup_steps: int = 10_000


@dataclass(frozen=True)
class Phase:
    """A phase of training with one maximum sequence length.

    Attributes:
        steps: optimiser steps.
        max_length: most tokens of a sequence.
        batch_tokens: tokens of a batch, all processed in one forward and backward.
        batches_per_step: batches per optimiser step, over all processes (gradient accumulation).
    """

    steps: int
    max_length: int = 128
    batch_tokens: int = 32_768
    batches_per_step: int = 1


@dataclass(frozen=True)
class RunPart:
    """How the run is executed; only `seed` and `precision` change what is learned.

    Attributes:
        seed: seed of weights, examples, order and dropout.
        precision: "float32", or autocast to "bfloat16" or "float16" (with a loss scaler).
        log_every, eval_every, checkpoint_every: intervals in steps; 0 for evaluation or checkpoints at the end only.
        keep: number of checkpoints to keep.
        eval_batches: most batches of held-out text in an evaluation.
        workers: processes that prepare batches; 0 prepares them between steps.
        compile: use torch.compile.
        capture: capture forward and backward as CUDA graphs, on one CUDA device.
        sharded: FSDP2 instead of DDP with several processes.
        gradient_checkpointing: recompute the layers in the backward pass.
        tensorboard: also write TensorBoard files.
    """

    seed: int = 0
    precision: str = "float32"
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 3
    eval_batches: int = 20
    workers: int = 0
    compile: bool = False
    capture: bool = False
    sharded: bool = False
    gradient_checkpointing: bool = False
    tensorboard: bool = False


@dataclass(frozen=True)
class TargetPart:
    """The target of a run; the command's exit code is 1 if it is missed.

    Attributes:
        below_unigram: nats by which the held-out MLM loss must end below the unigram entropy of the held-out text; 0 disables
            the check.
    """

    below_unigram: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on."""

    model: ModelPart = ModelPart()
    data: DataPart = DataPart()
    masking: MaskingOptions = field(default_factory=MaskingOptions)
    optimizer: OptimizerPart = OptimizerPart()
    schedule: SchedulePart = SchedulePart()
    phases: tuple[Phase, ...] = ()
    run: RunPart = RunPart()
    target: TargetPart = TargetPart()

    def __post_init__(self) -> None:
        """Checks all values that the parts do not check themselves."""
        _one_of("model.size", self.model.size, tuple(SIZES))
        _one_of("optimizer.name", self.optimizer.name, OPTIMIZERS)
        _one_of("schedule.name", self.schedule.name, SCHEDULES)
        _one_of("run.precision", self.run.precision, PRECISIONS)
        _known(self.model.config, [f.name for f in dataclasses.fields(BertConfig) if f.name != "extra"], "model.config")
        if not self.phases:
            raise InputError("a recipe needs at least one [[phases]] with its steps")
        for number, phase in enumerate(self.phases):
            for name in ("steps", "batch_tokens", "batches_per_step"):
                _at_least(f"phases.{number}.{name}", getattr(phase, name), 1)
            self.example_options(phase)
        for name in ("log_every", "keep", "eval_batches"):
            _at_least(f"run.{name}", getattr(self.run, name), 1)
        for name in ("eval_every", "checkpoint_every", "workers"):
            _at_least(f"run.{name}", getattr(self.run, name), 0)
        if self.run.sharded and self.run.precision == "float16":
            raise InputError("run.sharded with run.precision = 'float16': a loss scaler sees one shard only; use bfloat16")
        if len(self.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in self.optimizer.betas):
            raise InputError(f"optimizer.betas = {list(self.optimizer.betas)} must be two numbers within 0..1")
        if not 0 <= self.schedule.warmup_steps <= self.steps:
            raise InputError(f"schedule.warmup_steps = {self.schedule.warmup_steps} is not within the {self.steps} steps")

    @property
    def steps(self) -> int:
        """Total steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def example_options(self, phase: Phase) -> ExampleOptions:
        """How a phase's examples are made."""
        data = self.data
        return ExampleOptions(data.objective, phase.max_length, data.short_share, data.nsp_balance, self.masking)

    @classmethod
    def load(cls, path_or_name: str | Path) -> Recipe:
        """Reads a TOML file, the recipe.json of a run, or a recipe of the package by its name.

        Raises:
            InputError: no such file or name, not TOML, an unknown key (the message suggests the nearest one), a wrong value.
        """
        path = _find(path_or_name)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested mappings, as parsed from TOML or JSON."""
        recipe: Recipe = _build(cls, values, "")
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested mappings."""
        return dataclasses.asdict(self)

    def override(self, *changes: str) -> Recipe:
        """The recipe with single values changed, such as "optimizer.lr=1e-4" or "phases.0.steps=100"; values are TOML.

        A target is one for the recipe's own text: with other text, and none of its own among the changes, there is none.
        """
        values = self.to_dict()
        for change in changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise InputError(f"{change!r} is not KEY=VALUE, such as optimizer.lr=1e-4")
            *path, last = key.strip().split(".")
            target: Any = values
            for depth, name in enumerate(path):
                target = _step_into(target, name, ".".join(path[:depth]))
            place = ".".join(path)
            if isinstance(target, list | tuple):
                raise InputError(f"{key} names a list; name one of its fields, such as {place}.0.steps")
            if place != "model.config":
                _known({last: None}, list(target), place)
            target[last] = _value(text.strip())
        changed = Recipe.from_dict(values)
        other_text = (changed.data.corpus, changed.data.sources) != (self.data.corpus, self.data.sources)
        if other_text and not any(change.strip().startswith("target.") for change in changes):
            changed = dataclasses.replace(changed, target=TargetPart())
        return changed

    @staticmethod
    def text_of(name: str) -> str:
        """The TOML of a recipe of the package, or of a file, comments included; raises as `load`."""
        return _find(name).read_text(encoding="utf-8")


def _find(path_or_name: str | Path) -> Path:
    """The file of a recipe."""
    path = Path(path_or_name)
    if not path.is_file() and (RECIPES / f"{path_or_name}.toml").is_file():
        path = RECIPES / f"{path_or_name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in RECIPES.glob("*.toml")))
        raise InputError(f"there is no recipe {path_or_name}: give a .toml file or one of {names}")
    return path


def _step_into(target: Any, name: str, place: str) -> Any:
    if isinstance(target, list | tuple):
        if not name.isdecimal() or int(name) >= len(target):
            raise InputError(f"{place}.{name}: {place} has the entries 0 to {len(target) - 1}")
        return target[int(name)]
    _known({name: None}, list(target), place)
    if not isinstance(target[name], dict | list | tuple):
        raise InputError(f"{place + '.' if place else ''}{name} is a single value and has no parts")
    return target[name]


def _value(text: str) -> Any:
    """Parses a TOML value; text that is not valid TOML is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: Any, values: Any, place: str) -> Any:
    """Builds a dataclass from a mapping, recursively, and checks the types of its fields."""
    if not isinstance(values, Mapping):
        raise InputError(f"{place or 'a recipe'} = {values!r} must be a table of values")
    hints = get_type_hints(kind)
    _known(values, [f.name for f in dataclasses.fields(kind)], place)
    given = {}
    for name, value in values.items():
        inside = f"{place}.{name}" if place else name
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            given[name] = _build(hint, value, inside)
        elif get_origin(hint) is tuple and dataclasses.is_dataclass(get_args(hint)[0]):
            if not isinstance(value, list | tuple):
                raise InputError(f"{inside} must be a list of tables: [[{inside}]]")
            given[name] = tuple(_build(get_args(hint)[0], one, f"{inside}.{i}") for i, one in enumerate(value))
        else:
            given[name] = _checked(hint, value, inside)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{place} lacks {', '.join(missing)}")
    return kind(**given)


def _checked(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{place} = {value!r} must be a list")
        return tuple(_checked(get_args(hint)[0], one, place) for one in value)
    if get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{place} = {value!r} must be a table of values")
        return dict(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise InputError(f"{place} = {value!r} must be a value of type {expected}")
    return value


def _known(values: Mapping[str, Any], names: list[str], place: str) -> None:
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.6)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
            raise InputError(f"there is no key {place + '.' if place else ''}{name}; {advice}")


def _one_of(place: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{place} = {value!r} is not one of {', '.join(choices)}")


def _at_least(place: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{place} = {value} must be at least {least}")
