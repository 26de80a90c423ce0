"""Pictures of what a model gets wrong: confusion of labels as a heat map, counts of errors as bars. They need matplotlib."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST = 50  # labels of a heat map
_WIDEST = 26  # characters of a label


def draw_confusion(path: Path, matrix: Any, labels: Sequence[str]) -> list[str]:
    """Draws a confusion matrix: a row is a right label, its colours are shares of the row, its numbers counts.

    Of more than `MOST` labels those are drawn that are confused most often. Labels that no font of this machine can write are
    drawn as numbers.

    Args:
        path: the PNG file.
        matrix: (L, L) counts, right label by predicted label.
        labels: L names.

    Returns:
        Sentences that belong below the picture; empty without matplotlib, which then draws nothing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    notes = [""]
    if len(labels) > MOST:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
        kept = sorted((-wrong).argsort(kind="stable")[:MOST].tolist())
        notes.append(f"Of {len(labels)} labels the picture shows the {MOST} that are confused most often.")
        matrix, labels = matrix[kept][:, kept], [labels[i] for i in kept]
    families = fonts_for("".join(labels))
    names = [_shortened(label) for label in labels]
    if len(set(names)) < len(names):
        names = list(labels)
    if not families:
        names = [str(number) for number in range(1, len(labels) + 1)]
        named = ", ".join(f"{number} {label}" for number, label in enumerate(labels, 1))
        notes.append(f"No font of this machine can write the labels: {named}.")
    _heat(path, matrix, names, families or ["DejaVu Sans"])
    return notes


def _heat(path: Path, matrix: Any, names: Sequence[str], families: Sequence[str]) -> None:
    cell = 0.62 if len(names) <= 20 else 0.34
    side = max(3.2, cell * len(names))
    figure = _figure(side + 1.6, side + 1.6)
    axes = figure.add_subplot()
    shares = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    text = {"fontfamily": list(families), "fontsize": 9 if len(names) <= 20 else 8}
    turned = max(map(len, names)) * 0.09 > side / len(names)  # names that would run into one another
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, **text)
    axes.set_yticks(range(len(names)), names, **text)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("right label")
    axes.set_xticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.grid(which="minor", color="#dee2e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for i, row in enumerate(matrix.tolist()):
        for j, count in enumerate(row):
            if count:
                colour, digits = "white" if shares[i, j] > 0.5 else "black", len(str(count))
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=min(9.0, cell * 60 / digits))
    figure.savefig(path, dpi=110)


def draw_counts(path: Path, counts: Counter[str]) -> bool:
    """Draws counts of errors by their kind; returns False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    figure = _figure(7, 0.4 * len(counts) + 1.2)
    axes = figure.add_subplot()
    names, values = zip(*reversed(counts.most_common()), strict=True)
    bars = axes.barh(names, values, color="steelblue")
    axes.bar_label(bars, padding=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return True


def fonts_for(text: str) -> list[str]:
    """Families of installed fonts that together can write a text, matplotlib's own first; empty if there are none."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    own = font_manager.findfont("DejaVu Sans")
    families, missing = ["DejaVu Sans"], set(text) - {chr(code) for code in FT2Font(own).get_charmap()}
    missing = {character for character in missing if not character.isspace()}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda one: (one.style != "normal", one.weight != 400)):
        if not missing:
            break
        if entry.name.startswith("Last Resort"):  # which draws boxes
            continue
        known = missing & {chr(code) for code in FT2Font(entry.fname).get_charmap()}
        if known:
            families.append(entry.name)
            missing -= known
    return [] if missing else families


def _shortened(label: str) -> str:
    return label if len(label) <= _WIDEST else f"{label[: _WIDEST // 2]}…{label[-_WIDEST // 2 + 1 :]}"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
