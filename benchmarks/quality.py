"""Scores and speed of fine-tuning beside transformers, by the same recipes, on real data.

    python benchmarks/quality.py run --task mrpc --seeds 0 1 2     trains with both systems, tests, adds rows to the results
    python benchmarks/quality.py speed                             seconds of an epoch, the systems in turns
    python benchmarks/quality.py table                             makes quality.md of all rows

Each training is a process of its own, so that none inherits the memory or the state of another. Rows stand in
results/<device>/quality.jsonl; a row is replaced when it is measured again. FASTBERT_TEST_DATA names the folder of the data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.checkpoints import default_model
from benchmarks.environment import environment
from benchmarks.quality_tasks import RECIPES, Recipe, Splits, load, score
from fastbert.errors import FastbertError, InputError

SYSTEMS = ("fastbert", "transformers")
_KEY = ("kind", "task", "library", "seed", "epochs")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "speed", "table", "one"])
    parser.add_argument("--task", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--repeats", type=int, default=3, help="of speed (default: 3)")
    parser.add_argument("--examples", type=int, default=2000, help="of speed: of the training set (default: 2000)")
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTBERT_TEST_DATA"), help="the folder of the data")
    parser.add_argument("--model", type=Path, help="a folder (default: all-MiniLM-L6-v2, from its package)")
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    try:
        if args.what != "table" and args.data is None:
            raise InputError("name the folder of the data: --data, or FASTBERT_TEST_DATA")
        if args.what == "one":
            print(json.dumps(_one(args)))
        elif args.what == "run":
            for task in args.task:
                for seed in args.seeds:
                    for system in args.system:
                        _add([_apart(args, task, system, seed)])
        elif args.what == "speed":
            _add(_speed(args))
        print(_write_table(), file=sys.stderr if args.what == "one" else sys.stdout) if args.what != "one" else None
    except FastbertError as error:
        print(f"quality.py: {error}", file=sys.stderr)
        return 2
    return 0


def _apart(args: argparse.Namespace, task: str, system: str, seed: int, limit: int | None = None) -> dict[str, Any]:
    """A training in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "one",
        "--task",
        task,
        "--system",
        system,
        "--seeds",
        str(seed),
        "--data",
        str(args.data),
    ]
    for name, value in (("--epochs", args.epochs), ("--model", args.model), ("--limit", limit)):
        command += [name, str(value)] if value is not None else []
    print(f"{task}, {system}, seed {seed} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(f"{task}, {system}, seed {seed} failed with exit code {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {row['metrics']} {row['seconds']:.1f} s", file=sys.stderr, flush=True)
    return row


def _one(args: argparse.Namespace) -> dict[str, Any]:
    """One training; with a limit only its speed."""
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
        from benchmarks.quality_transformers import train_and_predict
    else:
        from benchmarks.quality_fastbert import train_and_predict
    return train_and_predict


if __name__ == "__main__":
    sys.exit(main())
