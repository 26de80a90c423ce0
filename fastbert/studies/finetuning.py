"""Fine-tuning studies of claims about BERT: how texts are pooled, one direction or two, and which layers serve as features.

pooling    a sentence task, fine-tuned with [CLS] through the pooler, [CLS], mean, maximum, and the last token
direction  a sentence task and a token task, in two directions and from left to right
features   a task model on each choice of layers, compared with fine-tuning: table 7
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastbert import files, terminal
from fastbert.errors import InputError
from fastbert.finetuning.finetuning import FineTuneResult, finetune
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Split
from fastbert.finetuning.results import spread
from fastbert.studies.comparison import compare

STUDIES = ("pooling", "direction", "features")
POOLINGS: dict[str, str | None] = {
    "[CLS] through the pooler (BERT)": None,
    "[CLS]": "cls",
    "mean": "mean",
    "maximum": "max",
    "the last token, [SEP]": "lasttoken",
}
DIRECTION_NOTE = (
    "A text is read off its last token, which sees all of it in both directions. The left-to-right rows start from {start}."
)


@dataclass(frozen=True)
class TaskData:
    """The kind of a task, and its data."""

    kind: str
    train: Split
    dev: Split
    test: Split | None = None


def run_study(
    name: str,
    model: str | Path,
    tasks: Sequence[TaskData],
    output: str | Path,
    options: FineTuneOptions | None = None,
    *,
    left_to_right_model: str | Path | None = None,
    progress: Callable[[str], None] = terminal.show_status,
    **rest: Any,
) -> terminal.Table:
    """Runs or resumes a study; returns its table, which is also written to table.md.

    Args:
        name: one of `STUDIES`.
        model: the checkpoint to start from.
        tasks: a sentence task for "pooling", one task for "features", one or both for "direction".
        output: folder for one subfolder per row, and table.md.
        options: options of each training run.
        left_to_right_model: for "direction": a checkpoint that was pre-trained from left to right; None takes `model`.
        progress: called with each status message.
        rest: `seeds`, `device`, `show_progress`: see `finetune`.
    """
    options, folder = options or FineTuneOptions(), Path(output)
    if name not in STUDIES:
        raise InputError(f"suite = {name!r} is not one of {', '.join(STUDIES)}")
    if not tasks:
        raise InputError("a study needs a task: --train and --dev")
    if name == "features":
        task = tasks[0]
        return compare(
            task.kind,
            model,
            task.train,
            task.dev,
            task.test,
            output=folder,
            options=options,
            all_layers=True,
            progress=progress,
            **rest,
        )
    rows: list[tuple[str, str, TaskData, FineTuneOptions, str | Path]] = []
    note = ""
    if name == "pooling":
        if tasks[0].kind in ("ner", "qa"):
            raise InputError(f"the pooling study needs a sentence task, not {tasks[0].kind!r}")
        for title, pooling in POOLINGS.items():
            rows.append((title, pooling or "pooler", tasks[0], replace(options, pooling=pooling), model))
    else:
        own = left_to_right_model is not None
        note = DIRECTION_NOTE.format(start="a model pre-trained that way" if own else "the same weights, under a causal mask")
        for task in tasks:
            pooling = None if task.kind in ("ner", "qa") else "lasttoken"
            both = replace(options, pooling=pooling, layers="last")
            rows.append((f"{task.kind}, two directions", f"{task.kind}-both", task, both, model))
            causal = replace(both, left_to_right=True)
            start = left_to_right_model if left_to_right_model is not None else model
            rows.append((f"{task.kind}, left to right", f"{task.kind}-left-to-right", task, causal, start))
    found = []
    for title, place, task, how, start in rows:
        progress(f"-- {title}")
        result = finetune(
            task.kind, start, task.train, task.dev, task.test, output=folder / place, options=how, progress=progress, **rest
        )
        found.append((title, *_cells(result)))
    table = terminal.Table([("", "metric", "score", "dev or test"), *found], note)
    files.write_text(folder / "table.md", table.markdown() + "\n")
    return table


def _cells(result: FineTuneResult) -> tuple[str, str, str]:
    """The first metric, its mean and standard deviation, and the set it was measured on."""
    part = "test" if result.seeds[0].test else "dev"
    scores = [getattr(seed, part) for seed in result.seeds]
    metric = next(iter(scores[0]))
    middle, around = spread([one[metric] for one in scores])
    return metric, f"{middle:.4f}" + (f" +- {around:.4f}" if len(scores) > 1 else ""), part
