"""Plots of results as PNG files: throughput against length, share of the limit, roofline of the ops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
            models.setdefault(f"{row['model']}, {row['dtype']}", []).append(row)
    return models


def _throughput(rows: Sequence[Row]) -> Any:
    """Tokens/s against the mean length: ragged cases as crosses, texts of equal length as lines."""
    models = _encoders(rows)
    if not models:
        return None
    figure, axes = _figure(len(models))
    colours = _colours(row["candidate"] for found in models.values() for row in found)
    for axis, (model, found) in zip(axes, models.items(), strict=True):
        for name in dict.fromkeys(row["candidate"] for row in found):
            mine = [row for row in found if row["candidate"] == name]
            full = sorted((row["longest"], row["tokens_per_s"]) for row in mine if row["case"].startswith("full"))
            ragged = [(row["tokens"] / row["texts"], row["tokens_per_s"]) for row in mine if not row["case"].startswith("full")]
            if full:
                axis.plot(*zip(*full, strict=True), marker=".", color=colours[name], lw=2.5 if name == "fastbert" else 1)
            if ragged:
                axis.scatter(*zip(*ragged, strict=True), marker="x", color=colours[name])
        axis.set(title=model, xlabel="tokens per text (lines: all equal; crosses: ragged, the mean)", ylabel="real tokens/s")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    _legend(figure, colours)
    return figure


def _share(rows: Sequence[Row]) -> Any:
    """Share of the machine's limit, one bar per candidate and case."""
    models = _encoders(rows)
    if not models:
        return None
    figure, axes = _figure(len(models), height=7)
    colours = _colours(row["case"] for found in models.values() for row in found)
    for axis, (model, found) in zip(axes, models.items(), strict=True):
        names = list(dict.fromkeys(row["candidate"] for row in found))
        cases = list(dict.fromkeys(row["case"] for row in found))
        thick = 0.8 / len(cases)
        for number, case in enumerate(cases):
            values = {row["candidate"]: row["share_of_limit"] for row in found if row["case"] == case}
            places = [-i - number * thick for i in range(len(names))]
            axis.barh(places, [100 * values.get(name, 0) for name in names], thick, color=colours[case])
        axis.set_yticks([-i - 0.4 + thick / 2 for i in range(len(names))], names, fontsize=8)
        axis.set(title=model, xlabel="% of the machine's limit")
        axis.axvline(100, color="0.4", lw=1)
        axis.grid(alpha=0.3, axis="x")
    _legend(figure, colours)
    return figure


def _roofline(rows: Sequence[Row]) -> Any:
    """Roofline plot: FLOP/s of the ops against FLOPs per byte, under the machine's limits; the ops are numbered."""
    found = [row for row in rows if row["suite"] == "ops" and row["flops"]]
    if not found:
        return None
    figure, (axis,) = _figure(1, width=9.5, height=5.5)
    roof = max(row["limit_tflops"] for row in found)
    bandwidth = max(row["limit_gb_per_s"] for row in found)
    span = [row["flops"] / row["bytes"] for row in found]
    left, right = min(span) / 2, max(span) * 2
    corner = roof * 1e3 / bandwidth
    line = sorted({left, right, min(max(corner, left), right)})
    axis.loglog(line, [min(roof, x * bandwidth / 1e3) for x in line], color="0.3")
    colours = _colours(row["candidate"] for row in found)
    for name, colour in colours.items():
        mine = [row for row in found if row["candidate"] == name]
        size = 130 if name == "fastbert" else 20
        axis.scatter([r["flops"] / r["bytes"] for r in mine], [r["tflops"] for r in mine], s=size, color=colour)
    ours = sorted((row for row in found if row["candidate"] == "fastbert"), key=lambda row: row["flops"] / row["bytes"])
    for number, row in enumerate(ours, 1):
        place = (row["flops"] / row["bytes"], row["tflops"])
        axis.annotate(str(number), place, fontsize=7, color="white", weight="bold", ha="center", va="center")
    axis.set(xlabel="FLOPs per byte", ylabel="TFLOP/s", title="Ops under the roofline of this machine")
    axis.xaxis.set_minor_formatter("")  # which would run into one another
    axis.grid(alpha=0.3, which="both")
    _legend(figure, colours, [f"{number}  {row['task']}" for number, row in enumerate(ours, 1)])
    return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the same in all panels."""
    return {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(names))}


def _legend(figure: Any, colours: dict[str, str], notes: Sequence[str] = ()) -> None:
    """One legend for all panels, with lines of text below."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles += [Patch(alpha=0, label=note) for note in notes]
    figure.legend(handles=handles, fontsize=8, loc="outside right upper", frameon=False)
