"""Fine-tuning over one or several seeds: from examples to a model, its predictions and its scores.

output/model/        of the best seed, opens in transformers   output/predictions.jsonl  on test, or else on dev
output/metrics.json  each seed, mean and standard deviation    output/report.md          scores and errors, also as a plot
output/run.json      model, data hashes and options            output/seed-<n>/          one training run per seed

The model of the best seed is in output/model only; those of other seeds are in output/seed-<n>/model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastbert import files, terminal
from fastbert.data.rows import is_rows
from fastbert.errors import CheckpointError, InputError
from fastbert.files.rows import write_rows
from fastbert.finetuning.metrics import check_installed
from fastbert.finetuning.models import build_model, look_at
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.overview import overview
from fastbert.finetuning.problems import FramedSplit, Problem, Split
from fastbert.finetuning.reading import ReadOptions, read_split
from fastbert.finetuning.registry import make_problem
from fastbert.finetuning.results import spread, summary, write_errors
from fastbert.finetuning.seed_run import SeedResult, SeedRun, evaluate_saved, precision_of
from fastbert.model import checkpoint
from fastbert.progress import LINES, Show
from fastbert.tasks.loading import default_device
from fastbert.text import tokenizer_files
from fastbert.text.tokenizer import Tokenizer
from fastbert.training.preparation import differences

NO_SCORES = "There are no scores: neither dev (--dev, --dev-share) nor test (--test) examples were given."
_SOURCE = [*checkpoint.PATTERNS, *tokenizer_files.PATTERNS]  # files of the initial model


@dataclass
class FineTuneResult:
    """The result of a fine-tuning run.

    Attributes:
        folder: the output folder; the model is in `folder / "model"`.
        seeds: one result per seed.
        metrics: means over the seeds on test, or else on dev; empty without either.
        best: the seed whose model was kept: the best on dev, or the first one without dev.
    """

    folder: Path
    seeds: list[SeedResult]
    metrics: dict[str, float]
    best: int


def finetune(
    kind: str,
    model: str | Path,
    train: Split | Sequence[Any] | str | Path,
    dev: Split | Sequence[Any] | str | Path | None = None,
    test: Split | Sequence[Any] | str | Path | None = None,
    *,
    output: str | Path,
    options: FineTuneOptions | None = None,
    seeds: int = 1,
    device: str | torch.device | None = None,
    feature_cache: str | Path | None = None,
    show_progress: Show = None,
    progress: Callable[[str], None] = terminal.show_status,
    **hub: Any,
) -> FineTuneResult:
    """Trains a model for a task, or resumes where an earlier call with the same arguments stopped.

    Args:
        kind: "classify", "nli", "regress", "choice", "ner" or "qa".
        model: a directory or hub id to start from.
        train, dev, test: files; or rows with the columns of a table, such as a `datasets.Dataset`; or examples of
            `fastbert.data` (`TextExample`, `ChoiceExample`, `TaggedSentence`, `Question`). `read_split` takes other names of
            columns. The best epoch is chosen on dev; without it the last one is kept.
        output: folder of the run: a new folder, or that of the run to resume.
        options: hyperparameters; None means the paper's values.
        seeds: number of training runs, with the seeds `options.seed`, `options.seed + 1`, ...
        device: None means a CUDA device if one is available, else the CPU.
        feature_cache: folder for the features of a frozen encoder; None means one in `output`.
        show_progress: whether to show progress bars on stderr; None shows them on a terminal.
        progress: called with each status message; by default messages go to stderr.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`.

    Raises:
        InputError: invalid data or options, before anything is trained; or another process works in `output`.
        StoppedError: stopped by a signal, after saving.
    """
    check_installed()
    progress = hub.pop("say", progress)  # the name in earlier versions
    if seeds < 1:
        raise InputError(f"seeds = {seeds} must be at least 1")
    options = (options or FineTuneOptions()).resolved(kind)
    target = default_device(device)
    show = LINES if show_progress is None else show_progress
    folder = Path(output)
    check_output(folder)
    source = files.locate(model, _SOURCE, **hub)
    tokenizer = Tokenizer.from_pretrained(source)
    given = ((train, "train"), (dev, "dev"), (test, "test"))
    splits = [_split(kind, part, name, options) for part, name in given if part is not None]
    before = [_fingerprint(split) for split in splits]
    problem = make_problem(kind, options, tokenizer, splits[0], splits[1:], look_at(source, kind, tokenizer))
    parts = [problem.frame(split) for split in splits]
    named = {part.split.name: part for part in parts}
    text = overview(problem, parts)
    progress(text)
    build_model(problem, source, options, options.seed)  # rejects an unsuitable checkpoint before any file is written
    about = {
        "task": kind,
        "model": str(model),
        "weights": files.fingerprint(source, _SOURCE),
        "seeds": seeds,
        "options": options.to_dict(),
        "labels": problem.labels,
    }
    about["data"] = dict(zip(named, before, strict=True))
    with files.claimed(folder):
        _begin(folder, about, model)
        results = []
        for seed in range(options.seed, options.seed + seeds):
            one = folder / f"seed-{seed}"
            done = files.read_json_if_present(one / "result.json")
            if done:
                results.append(SeedResult(**done))
                continue
            cache = Path(feature_cache) if feature_cache is not None else folder / "features"
            run = SeedRun(
                problem, source, parts[0], named.get("dev"), replace(options, seed=seed), one, target, cache, show, progress
            )
            results.append(run.run())
        return _finish(folder, problem, named, results, target, text, progress)


def _finish(
    folder: Path,
    problem: Problem,
    named: dict[str, FramedSplit],
    results: list[SeedResult],
    device: torch.device,
    text: str,
    progress: Callable[[str], None],
) -> FineTuneResult:
    """Scores every seed on test (without test, the best one on dev), keeps the best model, and writes the results."""
    precision = precision_of(problem.options.precision, device)
    best = max(results, key=lambda result: problem.goodness(result.dev))
    judged = named.get("test", named.get("dev"))
    predictions: list[Any] = []
    for result in results:
        if "test" in named or (judged is not None and result is best):
            assert judged is not None
            found, rows = evaluate_saved(problem, _model_of(folder, result.seed), judged, device, precision)
            if "test" in named:
                result.test = found
            predictions = rows if result is best else predictions
    _keep(folder, results, best.seed)
    sets = {name: [getattr(r, name) for r in results] for name in ("dev", "test") if getattr(results[0], name)}
    means = {name: {key: spread([one[key] for one in found]) for key in found[0]} for name, found in sets.items()}
    written = {name: {key: {"mean": m, "spread": s} for key, (m, s) in found.items()} for name, found in means.items()}
    content = {**written, "best_seed": best.seed, "seeds": [asdict(result) for result in results]}
    lines = _report(problem, results, sets, text)
    if judged is not None:
        with files.replacing(folder / "predictions.jsonl") as part:
            write_rows(part, predictions, ".jsonl")
        errors = write_errors(folder, problem, predictions)
        lines += ["", f"# Errors on {judged.split.name}, seed {best.seed}", "", *errors.lines]
        content |= {"judged": judged.split.name, **errors.values}
    files.write_text(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    files.write_text(folder / "report.md", "\n".join(lines) + "\n")
    for name, scores in sets.items():
        progress(f"{name}: {summary(scores)}")
    shown = sets.get("test", sets.get("dev"))
    final = {key: spread([one[key] for one in shown])[0] for key in shown[0]} if shown else {}
    return FineTuneResult(folder, results, final, best.seed)


def _report(problem: Problem, results: list[SeedResult], sets: dict[str, list[dict[str, float]]], text: str) -> list[str]:
    options = problem.options
    how = f"{options.mode}, {options.epochs} epochs, batches of {options.batch_size}, rate {options.lr:g}"
    lines = [f"# {problem.kind}: {how}", "", "```", text, "```", ""]
    names = [(part, key) for part, found in sets.items() for key in found[0]]
    head = ["seed", "best epoch", *(f"{part} {key}" for part, key in names), "minutes", "tokens/s"]
    rows = [head]
    for result in results:
        scores = [f"{getattr(result, part)[key]:.4f}" for part, key in names]
        cells = [str(result.seed), str(result.epoch), *scores, f"{result.seconds / 60:.1f}", f"{result.tokens_per_second:,.0f}"]
        rows.append(cells)
    lines += [*terminal.markdown_table(rows), "", *(f"{name}: {summary(found)}" for name, found in sets.items())]
    lines += [] if sets else [NO_SCORES]
    lines += ["", f"{results[0].parameters:,} parameters trained."]
    return lines


def _model_of(folder: Path, seed: int) -> Path:
    """Where the model of a seed is: with its run, or, of the seed that was the best so far, in output/model."""
    own = folder / f"seed-{seed}" / "model"
    return own if own.is_dir() else folder / "model"


def _keep(folder: Path, results: Sequence[SeedResult], best: int) -> None:
    """Moves the best seed's model to output/model, and one that was there before back to its own run."""
    own, kept = folder / f"seed-{best}" / "model", folder / "model"
    if not own.is_dir():
        return
    if kept.is_dir():
        former = [r.seed for r in results if not (folder / f"seed-{r.seed}" / "model").is_dir()]
        if former:
            kept.rename(folder / f"seed-{former[0]}" / "model")
        else:  # a copy, as versions before 0.8 kept it
            files.remove_folder(kept)
    own.rename(kept)


def check_output(folder: Path) -> None:
    """Checks that results can be written to a folder: it must be new, empty, or hold a fine-tuning run.

    Raises:
        InputError: the folder holds something else. CheckpointError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write {folder}: it is a file")
    if folder.is_dir() and not files.holds_nothing(folder) and not (folder / "run.json").is_file():
        raise InputError(f"{folder} holds something other than a fine-tuning run: name a new folder")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        if made:
            folder.rmdir()
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from None


def _begin(folder: Path, about: dict[str, Any], model: str | Path) -> None:
    """Writes run.json, or checks that the run already in the folder has the same settings."""
    path = folder / "run.json"
    about = json.loads(json.dumps(about))
    if path.is_file():
        written = files.read_json(path)
        if "on_long" in written.get("options", {}):  # its name until 0.7
            written["options"]["overlong"] = written["options"].pop("on_long")
        found = [found for found in differences(written, about) if not _may_differ(*found)]
        for key, before, now in sorted(found, key=lambda one: one[0] != "options.mode"):  # other options depend on the mode
            if key.startswith("data."):
                part = key.removeprefix("data.")
                raise InputError(f"{folder} holds a run on other examples of {part}: name another output folder")
            if key == "weights":
                raise InputError(
                    f"{folder} holds a run that started from a model other than {model}: name another output folder"
                )
            raise InputError(f"{folder} holds a run with {key} = {before!r}; now it is {now!r}: name another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(about, indent=1) + "\n")


def _may_differ(key: str, before: Any, now: Any) -> bool:
    """Whether a run can be resumed despite a difference: the seed count, checkpoint interval, model path, or missing hash."""
    name = key.rpartition(".")[2]
    return name in ("seeds", "checkpoint_every", "model") or (name == "weights" and before is None)


def _split(kind: str, part: Split | Sequence[Any] | str | Path, name: str, options: FineTuneOptions) -> Split:
    if isinstance(part, str | Path) or (not isinstance(part, Split) and is_rows(part)):
        part = read_split(kind, part, name, ReadOptions(multi_label=options.multi_label))
    split = part if isinstance(part, Split) else Split(name, list(part))
    if not split.examples:
        raise InputError(f"{name} holds no example")
    return Split(name, list(split.examples), split.place, list(split.notes), list(split.marks))


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256()
    for example in split.examples:
        digest.update(repr(example).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
