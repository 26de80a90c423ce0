"""Compares two ways of using a pre-trained model on a task: fine-tuning, and a task model on frozen features.

For tagging, the table also shows the paper's figures: table 7, CoNLL-2003 NER, BERT-base, F1 on dev.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastbert import files, terminal
from fastbert.finetuning.finetuning import FineTuneResult, check_output, finetune
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Split
from fastbert.finetuning.results import spread
from fastbert.model.composed import LAYERS

TABLE_7 = {
    "finetune": 96.4,
    "embeddings": 91.0,
    "second-to-last": 95.6,
    "last": 94.9,
    "sum-last-4": 95.9,
    "concat-last-4": 96.1,
    "sum-all": 95.5,
}
NOTE = "The paper's: F1 of BERT-base on dev of CoNLL-2003 (table 7), another model and task: what compares is the order."


def compare(
    kind: str,
    model: str | Path,
    train: Split | Sequence[Any] | str | Path,
    dev: Split | Sequence[Any] | str | Path | None = None,
    test: Split | Sequence[Any] | str | Path | None = None,
    *,
    output: str | Path,
    options: FineTuneOptions | None = None,
    feature_cache: str | Path | None = None,
    all_layers: bool = False,
    progress: Callable[[str], None] = terminal.show_status,
    **rest: Any,
) -> terminal.Table:
    """Runs both modes, and returns a table: parameters trained, time, memory, scores, and the paper's figures.

    Args:
        kind, model, train, dev, test, options, rest: see `finetune`. The epochs and learning rate in `options` apply to
            fine-tuning, and the task model uses its own defaults; layers and BiLSTM apply to the task model only.
        feature_cache: folder for the features of a frozen encoder; None means one in `output`, shared by the rows.
        output: folder for one subfolder per row, the shared features, and table.md.
        all_layers: one row for every choice of layers in table 7, instead of the chosen or default one.
        progress: called with each status message.
    """
    options = options or FineTuneOptions()
    folder = Path(output)
    if not (folder / "finetune").is_dir():
        check_output(folder)
    features = replace(options, mode="features", epochs=None, lr=None)
    chosen = tuple(LAYERS) if all_layers else (features.resolved(kind).layers or "last",)
    rows: dict[str, FineTuneResult] = {}
    cache = folder / "cache" if feature_cache is None else feature_cache
    for name in ("finetune", *chosen):
        progress(f"-- {name}")
        whole = replace(options, mode="finetune", layers=None, bilstm=None)
        how = whole if name == "finetune" else replace(features, layers=name)
        rows[name] = finetune(
            kind, model, train, dev, test, output=folder / name, options=how, feature_cache=cache, progress=progress, **rest
        )
    table = terminal.Table(_rows(rows, kind), NOTE if kind == "ner" else "")
    files.write_text(folder / "table.md", table.markdown() + "\n")
    return table


def _rows(rows: dict[str, FineTuneResult], kind: str) -> list[tuple[str, ...]]:
    part = "test" if next(iter(rows.values())).seeds[0].test else "dev"
    metrics = list(getattr(next(iter(rows.values())).seeds[0], part))
    table = [("", "parameters trained", "minutes", "memory, MiB", *(f"{part} {name}" for name in metrics))]
    for name, result in rows.items():
        seeds = result.seeds
        scores = []
        for metric in metrics:
            middle, around = spread([getattr(seed, part)[metric] for seed in seeds])
            scores.append(f"{middle:.4f}" + (f" +- {around:.4f}" if len(seeds) > 1 else ""))
        minutes = sum(seed.seconds for seed in seeds) / len(seeds) / 60
        memory = max(seed.memory_bytes for seed in seeds) / 2**20
        title = "fine-tuning" if name == "finetune" else f"features: {name}"
        table.append((title, f"{seeds[0].parameters:,}", f"{minutes:.2f}", f"{memory:,.0f}", *scores))
    if kind == "ner":
        paper = ("paper", *(f"{TABLE_7[name]:.1f}" for name in rows))
        table = [(*row, cell) for row, cell in zip(table, paper, strict=True)]
    return table
