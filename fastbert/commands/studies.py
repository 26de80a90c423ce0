"""The ablate command: reproduces tables of the paper at small sizes, and runs studies."""

from __future__ import annotations

import argparse
from typing import Any

from fastbert.commands.adding import print_result
from fastbert.commands.options import recipe_of
from fastbert.errors import InputError
from fastbert.terminal import Table


def ablate(args: argparse.Namespace) -> int:
    """Trains the rows of a study, or of a table of the paper at a small size, and prints them beside the paper's."""
    from fastbert.studies.ablations import run_suite
    from fastbert.studies.finetuning import STUDIES

    if args.suite in STUDIES:
        table = _study(args)
        print_result(args, table.records(), table)
        return 0
    recipe = recipe_of(args)
    if args.size:
        recipe = recipe.override(f"model.size='{args.size}'")
    table = run_suite(args.suite, recipe.override(*args.set), args.output, args.device)
    print_result(args, table.records(), table)
    return 0


def _study(args: argparse.Namespace) -> Table:
    """Runs a study of poolings, directions or layers; returns its table."""
    from fastbert.finetuning import FineTuneOptions
    from fastbert.finetuning.reading import ReadOptions, read_split
    from fastbert.studies.finetuning import TaskData, run_study

    if args.model is None:
        raise InputError(f"--suite {args.suite} needs --model, the checkpoint to fine-tune")
    tasks = []
    for name in ("sentence", "token"):
        kind = getattr(args, f"{name}_task")
        paths = {part: getattr(args, f"{name}_{part}") for part in ("train", "dev", "test")}
        if paths["train"] is None:
            continue
        if paths["dev"] is None:
            raise InputError(f"--{name}-train needs --{name}-dev: the best epoch is selected on it")
        how = ReadOptions(layout=args.layout if name == "sentence" else None)
        tasks.append(TaskData(kind, **{part: read_split(kind, path, part, how) for part, path in paths.items() if path}))
    if not tasks:
        raise InputError(f"--suite {args.suite} needs --sentence-train and --sentence-dev, or --token-train and --token-dev")
    options = FineTuneOptions(epochs=args.epochs, max_length=args.max_length)
    common: dict[str, Any] = {"seeds": args.seeds, "device": args.device}
    return run_study(
        args.suite, args.model, tasks, args.output, options, left_to_right_model=args.left_to_right_model, **common
    )
