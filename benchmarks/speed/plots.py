"""Plots of results as PNG files: throughput against length, share of the limit, roofline of the ops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.records import Row
from fastbert.errors import InputError


def draw(path: Path, rows: Sequence[Row]) -> list[Path]:
    """Draws the plots for which there are rows, next to a results file; returns the written files.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError('plots need matplotlib: pip install "fastbert-triton[bench]"') from None
    matplotlib.use("Agg")
    fine = [row for row in rows if row["status"] == "ok" and "median_s" in row]
    written = []
    for name, plot in (("throughput", _throughput), ("share", _share), ("roofline", _roofline)):
        figure = plot(fine)
        if figure is not None:
            target = path.with_name(f"{path.stem}-{name}.png")
            figure.savefig(target, dpi=110, bbox_inches="tight", metadata={"Software": None})
            written.append(target)
    return written


def _figure(columns: int, width: float = 6.5, height: float = 4.5) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _encoders(rows: Sequence[Row]) -> dict[str, list[Row]]:
    models: dict[str, list[Row]] = {}
    for row in rows:
        if row["suite"] == "inference" and row["task"] == "encoder":
            models.setdefault(row["model"], []).append(row)
    return models


def _throughput(rows: Sequence[Row]) -> Any:
    """Tokens/s against the mean length: ragged cases as crosses, texts of equal length as lines."""
    models = _encoders(rows)
    if not models:
        return None
    figure, axes = _figure(len(models))
    for axis, (model, found) in zip(axes, models.items(), strict=True):
        for index, name in enumerate(dict.fromkeys(row["candidate"] for row in found)):
            mine = [row for row in found if row["candidate"] == name]
            full = sorted((row["longest"], row["tokens_per_s"]) for row in mine if row["case"].startswith("full"))
            ragged = [(row["tokens"] / row["texts"], row["tokens_per_s"]) for row in mine if not row["case"].startswith("full")]
            colour, width = f"C{index % 10}", 2.5 if name == "fastbert" else 1
            axis.plot(*zip(*full, strict=True), marker=".", color=colour, lw=width, label=name) if full else None
            axis.scatter(*zip(*ragged, strict=True), marker="x", color=colour, label=None if full else name) if ragged else None
        axis.set(title=model, xlabel="tokens a text (lines: all equal; crosses: ragged, the mean)", ylabel="real tokens/s")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _share(rows: Sequence[Row]) -> Any:
    """Share of the machine's limit, one bar per candidate and case."""
    models = _encoders(rows)
    if not models:
        return None
    figure, axes = _figure(len(models), height=7)
    for axis, (model, found) in zip(axes, models.items(), strict=True):
        names = list(dict.fromkeys(row["candidate"] for row in found))
        cases = list(dict.fromkeys(row["case"] for row in found))
        thick = 0.8 / len(cases)
        for number, case in enumerate(cases):
            values = {row["candidate"]: row["share_of_limit"] for row in found if row["case"] == case}
            places = [-i - number * thick for i in range(len(names))]
            axis.barh(places, [100 * values.get(name, 0) for name in names], thick, label=case)
        axis.set_yticks([-i - 0.4 + thick / 2 for i in range(len(names))], names, fontsize=8)
        axis.set(title=model, xlabel="% of the machine's limit")
        axis.axvline(100, color="0.4", lw=1)
        axis.grid(alpha=0.3, axis="x")
    axes[-1].legend(fontsize=8)
    return figure


def _roofline(rows: Sequence[Row]) -> Any:
    """Roofline plot: FLOP/s of the ops against FLOPs per byte, under the machine's limits."""
    found = [row for row in rows if row["suite"] == "ops" and row["flops"]]
    if not found:
        return None
    figure, (axis,) = _figure(1, width=8, height=5.5)
    roof = max(row["limit_tflops"] for row in found)
    bandwidth = max(row["limit_gb_per_s"] for row in found)
    span = [row["flops"] / row["bytes"] for row in found]
    left, right = min(span) / 2, max(span) * 2
    corner = roof * 1e3 / bandwidth
    line = sorted({left, right, min(max(corner, left), right)})
    axis.loglog(line, [min(roof, x * bandwidth / 1e3) for x in line], color="0.3")
    for number, name in enumerate(dict.fromkeys(row["candidate"] for row in found)):
        mine = [row for row in found if row["candidate"] == name]
        size = 60 if name == "fastbert" else 20
        axis.scatter(
            [r["flops"] / r["bytes"] for r in mine], [r["tflops"] for r in mine], s=size, color=f"C{number}", label=name
        )
    for row in found:
        if row["candidate"] == "fastbert":
            axis.annotate(row["task"], (row["flops"] / row["bytes"], row["tflops"]), fontsize=6, rotation=20)
    axis.set(xlabel="FLOPs a byte", ylabel="TFLOP/s", title="Ops under the roofline of this machine")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    return figure
