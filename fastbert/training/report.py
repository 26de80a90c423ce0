"""The report of a run: what was trained, its results, and a picture of losses and rates."""

from __future__ import annotations

from math import log
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
            f"{last['step']:,} steps in {minutes:.1f} minutes, {last['epoch'] + 1} epochs begun, "
            f"{speed:,.0f} tokens per second, {last['mfu']:.0%} of the measured matrix-product rate, "
            f"{last['memory_bytes'] / 2**20:,.0f} MiB at most, {last['tail_share']:.1%} dummy tokens.",
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
    if train and draw_run(folder / "loss.png", train, held_out):
        lines += ["![loss](loss.png)", ""]
    files.write_text(folder / "report.md", "\n".join(lines))


def draw_run(path: Path, train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> bool:
    """Plots losses, learning rate and speed against the step; returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    has_pairs = "next_sentence_loss" in train[-1]
    figure = Figure(figsize=(8, 7.5 if has_pairs else 5.5), layout="constrained")
    *losses, rates = figure.subplots(3 if has_pairs else 2, 1, sharex=True, height_ratios=[3, 2, 2] if has_pairs else [3, 2])
    steps = [record["step"] for record in train]
    for axes, name, title in zip(losses, ("masked_lm_loss", "next_sentence_loss"), ("MLM loss", "pair loss"), strict=False):
        axes.plot(steps, [record[name] for record in train], lw=0.8, alpha=0.7, label="training")
        found = [(record["step"], record[name]) for record in held_out if name in record]
        if found:
            axes.plot(*zip(*found, strict=True), marker="o", ms=3, label="held out")
        axes.set_ylabel(f"{title}, nats")
    if held_out:
        losses[0].axhline(held_out[-1]["unigram_entropy"], ls="--", lw=0.8, color="gray", label="unigram entropy, held out")
    if has_pairs:
        losses[1].axhline(log(2), ls="--", lw=0.8, color="gray", label="guessing")
    for axes in losses:
        axes.legend(frameon=False)
    rates.plot(steps, [record["lr"] for record in train], color="tab:green")
    rates.set_ylabel("learning rate", color="tab:green")
    rates.set_xlabel("step")
    speed = rates.twinx()
    speed.plot(steps, [record["tokens_per_second"] for record in train], lw=0.8, color="tab:purple")
    speed.set_ylabel("tokens per second", color="tab:purple")
    speed.set_ylim(bottom=0)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    return True
