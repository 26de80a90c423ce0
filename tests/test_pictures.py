"""Pictures of errors and of training: they can be read with many labels, long ones, and labels that no font has."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbert.finetuning import pictures
from fastbert.finetuning.results import _confusion_table
from fastbert.training.report import draw_run

CHINESE = ["金融", "体育", "科技"]


def matrix_of(size: int) -> Any:
    drawn = np.random.default_rng(size)
    found = drawn.poisson(0.3, (size, size))
    found[np.arange(size), np.arange(size)] = drawn.integers(5, 400, size)
    return found


class Drawn:
    """What is written on a figure instead of into a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        def keep(figure: Any, *_: Any, **__: Any) -> None:
            FigureCanvasAgg(figure).draw()
            self.figure = figure

        monkeypatch.setattr(Figure, "savefig", keep)

    def boxes(self, texts: Any) -> list[Any]:
        return [text.get_window_extent() for text in texts if text.get_text()]


@pytest.mark.parametrize("count", [2, 3, 20, 50])
def test_names_and_numbers_do_not_run_into_one_another(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, names = Drawn(monkeypatch), [f"contradiction {i}" for i in range(count)]
    assert pictures.draw_confusion(Path("x.png"), matrix_of(count), names) == [""]
    (axes,) = drawn.figure.axes
    for boxes in (drawn.boxes(axes.get_xticklabels()), drawn.boxes(axes.get_yticklabels()), drawn.boxes(axes.texts)):
        assert len(boxes) >= count
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    inside = drawn.figure.bbox
    assert all(inside.contains(box.x0, box.y0) for box in drawn.boxes([*axes.get_xticklabels(), *axes.get_yticklabels()]))


def test_labels_that_no_font_has_become_numbers_with_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "fonts_for", lambda text: [])
    drawn = Drawn(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as matplotlib's of a missing glyph
        _, note = pictures.draw_confusion(tmp_path / "a.png", matrix_of(3), CHINESE)
    assert note == "No font of this machine can write the labels: 1 金融, 2 体育, 3 科技."
    assert [text.get_text() for text in drawn.figure.axes[0].get_xticklabels()] == ["1", "2", "3"]


def test_labels_in_any_script_give_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (CHINESE, ["أخبار", "رياضة", "علوم"], ["ja 😀", "nein", "c"], ["été", "Größe", "Ω"]):
            notes = pictures.draw_confusion(tmp_path / "a.png", matrix_of(3), labels)
            assert (tmp_path / "a.png").stat().st_size > 5000
            assert notes[0] == ""
    assert pictures.fonts_for("été Größe Ω") == ["DejaVu Sans"]


def test_of_many_labels_those_that_are_confused_most_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, names = Drawn(monkeypatch), [f"l{i}" for i in range(120)]
    counts = np.diag(np.full(120, 9))
    counts[100, 7] = counts[3, 119] = 5
    notes = pictures.draw_confusion(Path("x.png"), counts, names)
    assert notes == ["", "Of 120 labels the picture shows the 50 that are confused most often."]
    shown = [text.get_text() for text in drawn.figure.axes[0].get_xticklabels()]
    assert len(shown) == 50
    assert {"l3", "l7", "l100", "l119"} < set(shown)
    lines = _confusion_table(counts, names)
    assert lines[2:] == ["| l3 | l119 | 5 |", "| l100 | l7 | 5 |"]
    assert _confusion_table(np.array([[1, 2], [0, 3]]), ["a", "b"])[2:] == ["| a | 1 | 2 |", "| b | 0 | 3 |"]


def test_long_labels_are_shortened_where_they_stay_different(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    long = ["a very long name of a class of texts", "another very long name, of others"]
    pictures.draw_confusion(Path("x.png"), matrix_of(2), long)
    assert [text.get_text() for text in drawn.figure.axes[0].get_yticklabels()] == [pictures._shortened(name) for name in long]
    alike = ["category number 1 of a catalogue", "category number 2 of a catalogue"]
    pictures.draw_confusion(Path("x.png"), matrix_of(2), alike)
    assert [text.get_text() for text in drawn.figure.axes[0].get_yticklabels()] == alike


def test_counts_are_bars_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    assert pictures.draw_counts(Path("x.png"), Counter({"right": 10, "missed": 2}))
    assert {"10", "2"} <= {text.get_text() for text in drawn.figure.axes[0].texts}


@pytest.mark.parametrize("pairs", [True, False])
def test_the_picture_of_a_run_has_both_losses_and_both_rates(pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Path(__file__).parents[1] / "benchmarks/results/pretraining/minute/metrics.jsonl"
    records = [json.loads(line) for line in where.read_text().splitlines()]
    if not pairs:
        records = [{key: value for key, value in record.items() if "next" not in key} for record in records]
    drawn = Drawn(monkeypatch)
    assert draw_run(Path("x.png"), *([one for one in records if one["kind"] == kind] for kind in ("train", "eval")))
    names = [axes.get_ylabel() for axes in drawn.figure.axes]
    assert names == ["MLM loss, nats", *(["pair loss, nats"] if pairs else []), "learning rate", "tokens per second"]
    assert [line.get_label() for line in drawn.figure.axes[0].lines] == ["training", "held out", "unigram entropy, held out"]


def test_pictures_of_the_benchmark_name_every_system_case_and_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """One legend for all panels, in which a colour means the same."""
    from benchmarks.speed import plots, records

    for _, rows in records.newest():
        fine = [row for row in rows if row["status"] == "ok" and "median_s" in row]
        encoders = [row for row in fine if row["suite"] == "inference" and row["task"] == "encoder"]
        ops = [row for row in fine if row["suite"] == "ops" and row["flops"]]
        for plot, wanted in (
            (plots._throughput, {row["candidate"] for row in encoders}),
            (plots._share, {row["case"] for row in encoders}),
            (plots._roofline, {row["candidate"] for row in ops}),
        ):
            figure = plot(fine)
            if wanted:
                (legend,) = figure.legends
                assert wanted <= {text.get_text() for text in legend.get_texts()}
        numbered = sorted(row["task"] for row in ops if row["candidate"] == "fastbert")
        if ops:
            named = [text.get_text().split("  ", 1) for text in legend.get_texts() if "  " in text.get_text()]
            assert sorted(task for _, task in named) == numbered
