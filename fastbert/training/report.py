"""The report of a run: what was trained, its results, and the loss curve."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from fastbert import files
from fastbert.training.records import read_metrics

_NAMES = (
    ("masked_lm_loss", "MLM loss, nats"),
    ("masked_lm_accuracy", "MLM accuracy"),
    ("next_sentence_loss", "pair loss, nats"),
    ("next_sentence_accuracy", "pair accuracy"),
)


def write_report(folder: Path) -> None:
    """Writes report.md, and loss.png if matplotlib is installed, from recipe.json and metrics.jsonl of a run."""
    recipe = files.read_json(folder / "recipe.json")
    records = read_metrics(folder / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    held_out = [record for record in records if record["kind"] == "eval"]
    lines = [f"# Pre-training: {recipe['data']['objective']}", ""]
    if train:
        last = train[-1]
        minutes = sum(record["seconds"] for record in train) / 60
        speed = median(record["tokens_per_second"] for record in train)
        lines += [
            f"{last['step']:,} steps in {minutes:.1f} minutes, {last['epoch'] + 1} epochs begun, {speed:,.0f} tokens a second, "
            f"{last['mfu']:.0%} of the measured matrix-product rate, {last['memory_bytes'] / 2**20:,.0f} MiB at most, "
            f"{last['tail_share']:.1%} dummy tokens.",
            "",
        ]
    if held_out:
        entropy = held_out[-1]["unigram_entropy"]
        lines += ["| held-out text | first evaluation | end |", "| --- | --- | --- |"]
        lines += [
            f"| {title} | {held_out[0][name]:.3f} | {held_out[-1][name]:.3f} |"
            for name, title in _NAMES
            if name in held_out[-1]
        ]
        gain = entropy - held_out[-1]["masked_lm_loss"]
        where = "below" if gain >= 0 else "above"
        lines += [
            "",
            f"Unigram entropy of the held-out text: {entropy:.3f} nats; the MLM loss ends {abs(gain):.3f} {where} it.",
            "",
        ]
    if train and _plot(folder / "loss.png", train, held_out):
        lines += ["![loss](loss.png)", ""]
    files.write_text(folder / "report.md", "\n".join(lines))


def _plot(path: Path, train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> bool:
    """Plots the loss curve; returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in train], [r["masked_lm_loss"] for r in train], lw=0.8, alpha=0.6, label="MLM, training")
    if held_out:
        steps = [r["step"] for r in held_out]
        axes.plot(steps, [r["masked_lm_loss"] for r in held_out], marker="o", ms=3, label="MLM, held out")
        axes.axhline(held_out[-1]["unigram_entropy"], ls="--", lw=0.8, color="gray", label="unigram entropy, held out")
    if "next_sentence_loss" in train[-1]:
        axes.plot(
            [r["step"] for r in train], [r["next_sentence_loss"] for r in train], lw=0.8, alpha=0.6, label="pairs, training"
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return True
