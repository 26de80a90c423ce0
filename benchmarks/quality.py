"""Compares scores and speed of fine-tuning with transformers, by the same recipes on real data.

    python benchmarks/quality.py run --task mrpc --seeds 0 1 2     trains with both systems, tests, adds rows to the results
    python benchmarks/quality.py speed                             seconds per epoch, alternating between the systems
    python benchmarks/quality.py table                             writes quality.md and the table of docs/finetuning.md

Each training run is a separate process, so that none inherits the memory or state of another. Rows are stored in
results/finetuning/quality.jsonl; a row is replaced when it is measured again. FASTBERT_TEST_DATA names the data folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import pages
from benchmarks.quality.tasks import RECIPES, Recipe, Splits, load, score
from benchmarks.speed.checkpoints import default_model
from benchmarks.speed.environment import environment
from fastbert import files
from fastbert.errors import FastbertError, InputError

SYSTEMS = ("fastbert", "transformers")
# The speed comparison also runs transformers with glibc told to keep freed memory (mallopt(3)), as fastbert does by itself.
TUNED = "transformers, freed memory kept"
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"
_KEY = ("kind", "task", "library", "seed", "epochs")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "speed", "table", "one"])
    parser.add_argument("--task", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="overrides the recipe's (speed: always one)")
    parser.add_argument("--repeats", type=int, default=3, help="speed: number of repeats (default: 3)")
    parser.add_argument("--examples", type=int, default=2000, help="speed: number of training examples (default: 2000)")
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTBERT_TEST_DATA"), help="the data folder")
    parser.add_argument("--model", type=Path, help="a folder (default: all-MiniLM-L6-v2, from its package)")
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    try:
        if args.what != "table" and args.data is None:
            raise InputError("name the data folder: --data, or FASTBERT_TEST_DATA")
        if args.what == "one":
            print(json.dumps(_one(args)))
        elif args.what == "run":
            for task in args.task:
                for seed in args.seeds:
                    for system in args.system:
                        _add([_apart(args, task, system, seed)])
        elif args.what == "speed":
            _add(_speed(args))
        if args.what != "one":
            print(_write_table())
    except FastbertError as error:
        print(f"quality.py: {error}", file=sys.stderr)
        return 2
    return 0


def _apart(args: argparse.Namespace, task: str, system: str, seed: int, limit: int | None = None) -> dict[str, Any]:
    """Runs one training in a separate process; returns its row."""
    command = [
        sys.executable,
        __file__,
        "one",
        "--task",
        task,
        "--system",
        "transformers" if system == TUNED else system,
        "--seeds",
        str(seed),
        "--data",
        str(args.data),
    ]
    for name, value in (("--epochs", args.epochs), ("--model", args.model), ("--limit", limit)):
        command += [name, str(value)] if value is not None else []
    print(f"{task}, {system}, seed {seed} ...", file=sys.stderr, flush=True)
    environ = {**os.environ, **KEEPING} if system == TUNED else None
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environ)
    if done.returncode:
        raise InputError(f"{task}, {system}, seed {seed} failed with exit code {done.returncode}")
    row: dict[str, Any] = {**json.loads(done.stdout.splitlines()[-1]), "library": system}
    print(f"  {row['metrics']} {row['seconds']:.1f} s", file=sys.stderr, flush=True)
    return row


def _one(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one training in this process; with a limit, only its speed is measured."""
    task, system, seed = args.task[0], args.system[0], args.seeds[0]
    recipe, splits, model = RECIPES[task], load(task, args.data), args.model or default_model()
    if args.epochs is not None:
        recipe = Recipe(**{**vars(recipe), "epochs": args.epochs})
    if args.limit is not None:
        splits = Splits(splits.train[: args.limit], None, splits.test)
    train = _system(system)
    predictions, seconds = train(recipe, splits, model, seed, grouped=args.limit is not None, evaluate=args.limit is None)
    found = {} if args.limit is not None else score(recipe, splits.test, predictions)
    row: dict[str, Any] = environment(torch.device("cpu"))
    row |= {"kind": "speed" if args.limit is not None else "score", "task": task, "library": system, "seed": seed}
    row |= {"epochs": recipe.epochs, "examples": len(splits.train), "metrics": found, "seconds": seconds}
    return (
        row | {"lr": recipe.lr, "batch_size": recipe.batch_size, "model": model.parent.name} | environment(torch.device("cpu"))
    )


def _system(name: str) -> Any:
    if name == "transformers":
        from benchmarks.quality.transformers_side import train_and_predict
    else:
        from benchmarks.quality.fastbert_side import train_and_predict
    return train_and_predict


def _speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Median seconds per epoch on a part of the training set, alternating between the systems."""
    rows = []
    args.epochs = 1
    for task in args.task:
        systems = [*args.system, *([TUNED] if "transformers" in args.system else [])]
        runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        for seed in range(args.repeats):
            for system in systems:
                runs[system].append(_apart(args, task, system, seed, limit=args.examples))
        for found in runs.values():
            seconds = [row["seconds"] for row in found]
            rows.append({**found[0], "seed": "median", "seconds": median(seconds), "all_seconds": seconds})
    return rows


def _results() -> Path:
    return Path(__file__).resolve().parent / "results" / "finetuning" / "quality.jsonl"


def _read() -> list[dict[str, Any]]:
    path = _results()
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _add(rows: list[dict[str, Any]]) -> None:
    """Adds rows to the results, replacing those with the same key."""
    fresh = {tuple(row[name] for name in _KEY): row for row in rows}
    kept = [row for row in _read() if tuple(row[name] for name in _KEY) not in fresh]
    path = _results()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in [*kept, *fresh.values()]))


def _write_table() -> str:
    """Writes quality.md and the table of docs/finetuning.md: scores, mean and standard deviation over seeds, and the speed."""
    rows = _read()
    lines = ["# Fine-tuning: scores and speed beside transformers", ""]
    lines += [f"all-MiniLM-L6-v2, the paper's recipe ({_recipe_line()}). {_machine(rows)}", ""]
    lines += ["| task | metric | " + " | ".join(SYSTEMS) + " | seeds | epochs | known |", "|" + " --- |" * 7]
    for task, recipe in RECIPES.items():
        of_task = {s: [r for r in rows if (r["kind"], r["task"], r["library"]) == ("score", task, s)] for s in SYSTEMS}
        epochs = ", ".join(map(str, sorted({row["epochs"] for found in of_task.values() for row in found})))
        seeds = " / ".join(str(len(found)) for found in of_task.values())
        for metric in recipe.metrics if epochs else ():
            cells = " | ".join(_spread([row["metrics"][metric] for row in found]) for found in of_task.values())
            known = recipe.expected if metric == recipe.metrics[0] else ""
            lines.append(f"| {task} | {metric} | {cells} | {seeds} | {epochs} | {known} |")
    lines += [
        "",
        "Speed: an epoch of training, evaluation left out, in the same run; transformers pads dynamically and groups by",
        "length. The median of several turns. fastbert's training tells glibc to keep freed memory; the last columns are",
        "transformers when it is told the same by the environment.",
        "",
    ]
    lines += ["| task | examples | fastbert, s | transformers, s | ratio | freed memory kept, s | ratio |", "|" + " --- |" * 7]
    for task in RECIPES:
        found = {r["library"]: r for r in rows if (r["kind"], r["task"]) == ("speed", task)}
        if set(SYSTEMS) <= set(found):
            ours, plain = (found[system]["seconds"] for system in SYSTEMS)
            kept = found.get(TUNED, {}).get("seconds")
            cells = f"{ours:.1f} | {plain:.1f} | {plain / ours:.2f}x | "
            cells += " | " if kept is None else f"{kept:.1f} | {kept / ours:.2f}x"
            lines.append(f"| {task} | {found[SYSTEMS[0]]['examples']:,} | {cells} |")
    text = "\n".join(lines) + "\n"
    if rows:
        files.write_text(_results().with_name("quality.md"), text)
        page = Path(__file__).resolve().parents[1] / "docs" / "finetuning.md"
        block = pages.marked((BEGIN, END), "\n".join(lines[2:]))
        files.write_text(page, pages.put(page.read_text(encoding="utf-8"), (BEGIN, END), block))
    return text


def _recipe_line() -> str:
    recipe = RECIPES["mrpc"]
    return f"batch {recipe.batch_size}, rate {recipe.lr:g}, warm-up over 10 %, decay 0.01, clipping at 1"


def _machine(rows: Iterable[dict[str, Any]]) -> str:
    found = sorted({f"{r['cpu']}, {r['cores']} cores, torch {r['torch']}, transformers {r['transformers']}" for r in rows})
    return "; ".join(found) + "." if found else ""


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
