"""The eval command: scores a trained model on labelled examples."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.choices import OVERLONG
from fastbert.commands.adding import Commands, add, add_model, check_outputs
from fastbert.commands.finetuning import EXAMPLES, add_reading
from fastbert.commands.options import labels_of, read_options
from fastbert.errors import InputError
from fastbert.files.rows import ROWS, check_ending, write_rows
from fastbert.terminal import show_note


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(commands, "eval", evaluate, "fastbert eval test.tsv --model sentiment/model")
    sub.add_argument("input", help="labelled examples, as for finetune")
    add_model(sub)
    sub.add_argument("--task", choices=list(EXAMPLES), help="default: the model's own")
    add_reading(sub, None)
    sub.add_argument("--metric", action="append", default=[], help="a metric; may be repeated (default: the task's)")
    sub.add_argument("--labels", help="names of 0, 1, ... in the data, or new names for the model's labels, comma-separated")
    sub.add_argument("--label", action="append", help="one name, which may hold a comma; repeated, in place of --labels")
    sub.add_argument(
        "--strict",
        action="store_true",
        help="refuse empty texts and missing labels; tags: also count spans that follow the rules of their scheme",
    )
    sub.add_argument(
        "--overlong", "--on-long", choices=OVERLONG, help="texts beyond the limit (default: as in training, else truncate)"
    )
    sub.add_argument("--predictions", help="also write the predictions, to a .jsonl, .csv, .tsv, .parquet or .conll file")
    sub.add_argument("-o", "--output", help="a .json file for the metrics (default: stdout)")
    sub.add_argument("--report", help="folder for report.md, metrics.json and a picture: scores of each label and confusion")


def evaluate(args: argparse.Namespace) -> None:
    """Scores a trained model on labelled examples."""
    from fastbert.finetuning.evaluation import PATTERNS, has_several_labels, task_of_model

    check_outputs([args.output, args.predictions], [args.input, args.model])
    folder = files.locate(args.model, PATTERNS, local_files_only=args.local_files_only)
    kind = args.task or task_of_model(folder)
    how = replace(read_options(args), multi_label=has_several_labels(folder, kind))
    if kind not in EXAMPLES:
        raise InputError(f"eval does not know the task {kind!r}; it knows {', '.join(EXAMPLES)}")
    if args.output is not None:
        check_ending(args.output, (".json", ".jsonl"), "metrics")
    form = ".jsonl"
    if args.predictions is not None:
        form = check_ending(args.predictions, (*ROWS, ".conll") if kind == "ner" else ROWS, f"predictions of {kind}")
    with ExitStack() as stack:
        written = {
            name: stack.enter_context(files.replacing(path))
            for name, path in (("metrics", args.output), ("predictions", args.predictions))
            if path is not None
        }
        _evaluate(args, folder, kind, how, written, form)


def _evaluate(args: argparse.Namespace, folder: Path, kind: str, how: Any, written: dict[str, Path], form: str) -> None:
    """Evaluates the model and writes to the files in `written`, which are known to be writable."""
    from fastbert.finetuning import FineTuneOptions
    from fastbert.finetuning.evaluation import evaluate_model
    from fastbert.finetuning.metrics import tag_metrics
    from fastbert.finetuning.reading import read_split

    split = read_split(kind, args.input, "input", how)
    options = FineTuneOptions(metrics=tuple(args.metric) or how.metrics, labels=labels_of(args), overlong=args.overlong)
    found = evaluate_model(folder, split, kind, options, args.device)
    metrics = dict(found.metrics)
    if args.strict and kind == "ner":
        gold, tags = [row["gold"] for row in found.predictions], [row["tags"] for row in found.predictions]
        metrics |= {f"strict_{name}": v for name, v in tag_metrics(("f1", "precision", "recall"), gold, tags, True).items()}
    for note in split.notes:
        show_note(f"fastbert: note: {note}")
    if "predictions" in written:
        write_rows(written["predictions"], found.predictions, form)
    if args.report is not None:
        _write_report(Path(args.report), found, metrics)
    text = json.dumps({**metrics, "examples": len(split.examples)})
    if "metrics" in written:
        written["metrics"].write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def _write_report(folder: Path, found: Any, metrics: dict[str, float]) -> None:
    """Writes the scores and the errors of an evaluation in Markdown and JSON, with a picture."""
    from fastbert.finetuning.results import summary, write_errors

    folder.mkdir(parents=True, exist_ok=True)
    errors = write_errors(folder, found.problem, found.predictions)
    count = len(found.predictions)
    lines = [f"# {found.problem.kind}: {count:,} examples", "", summary([metrics]), "", *errors.lines]
    files.write_text(folder / "report.md", "\n".join(lines) + "\n")
    content = {**metrics, "examples": count, **errors.values}
    files.write_text(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    show_note(f"report -> {folder / 'report.md'}")
