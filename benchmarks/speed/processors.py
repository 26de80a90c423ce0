"""One table for all processors that were measured, for the docs: the lowest and the highest figure of each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed.records import Row, fastest, measured
from fastbert.terminal import markdown_table

Groups = list[list[Row]]
_SDPA = "transformers sdpa"
_TEXT = "sentence-transformers, from text"
_SHOWN = {
    ("inference", "encoder"),
    ("latency", "encoder"),
    ("training", "fine-tuning"),
    ("training", "pre-training"),
}


def block(results: Sequence[tuple[Path, list[Row]]], questions: Callable[[list[Row]], Groups]) -> str:
    """The table of inference, latency and training on CPUs, and a line for each processor.

    Args:
        results: (results file, rows) of each processor.
        questions: groups rows by question.
    """
    cases: dict[tuple[str, str, str], list[list[Row]]] = {}
    for _, rows in results:
        for group in questions(rows):
            if (group[0]["suite"], group[0]["task"]) in _SHOWN and _best(group, ours=True) is not None:
                first = group[0]
                cases.setdefault((first["model"], first["dtype"], _work(first)), []).append(group)
    lines: list[tuple[str, ...]] = [
        ("", "processors", "fastbert", "times the best other", f"times {_SDPA}", "from text, times sentence-transformers")
    ]
    for (model, dtype, work), groups in cases.items():
        gains = ([_gain(group, name) for group in groups] for name in (None, _SDPA, _TEXT))
        rows = [row for row in (_best(group, ours=True) for group in groups) if row is not None]
        if groups[0][0]["suite"] == "latency":
            speed = _span([1e3 * float(row["median_s"]) for row in rows], " ms")
        else:
            speed = _span([float(row["texts_per_s"]) for row in rows], " texts/s")
        what = model if dtype == "float32" else f"{model}, {dtype}"
        lines.append((f"{what}, {work}", str(len(groups)), speed, *(_span(each, "x") for each in gains)))
    where = [f"- {_processor(rows)}: `{_path(path, rows)}`" for path, rows in results]
    return "\n".join([*markdown_table(lines), "", *where])


def _work(row: Row) -> str:
    """What a question measures, in words."""
    if row["suite"] == "latency":
        return f"one text of {row['case'].split()[-1]} tokens"
    return f"{row['task']}, {row['case']}" if row["suite"] == "training" else str(row["case"])


def _best(group: Sequence[Row], name: str | None = None, ours: bool = False, from_text: bool = False) -> Row | None:
    """The fastest row that passed its check: ours, or a candidate's, or that of the best rival in the same type."""
    found = [row for row in measured(group) if row["from_text"] == from_text and row["ours"] == ours]
    return fastest(row for row in found if (row["candidate"] == name if name else row["rival"]))


def _gain(group: Sequence[Row], name: str | None) -> float | None:
    """How many times as fast as a candidate fastbert is; None stands for the best other one."""
    from_text = name == _TEXT
    mine, other = _best(group, ours=True, from_text=from_text), _best(group, name, from_text=from_text)
    return None if mine is None or other is None else float(other["median_s"]) / float(mine["median_s"])


def _span(values: Sequence[float | None], unit: str) -> str:
    """The lowest and the highest figure with their unit."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = (f"{value:.2f}" if unit == "x" else f"{value:.3g}" for value in (min(known), max(known)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _processor(rows: Sequence[Row]) -> str:
    row, rates = rows[-1], dict[str, float]()
    for one in rows:
        if one.get("limit_tflops"):
            rates[one["dtype"]] = max(rates.get(one["dtype"], 0.0), float(one["limit_tflops"]))
    products = " and ".join(f"{rate:.2f} TFLOP/s{_in(dtype)}" for dtype, rate in sorted(rates.items(), reverse=True))
    set_of = f", {row['instructions']}" if row.get("instructions") else ", instruction set not recorded"
    commits = ", ".join(dict.fromkeys(str(one["commit"]) for one in rows))
    return f"{row['cpu']}{set_of}, {row['cores']} cores, matrix products at {products}; commit {commits}"


def _in(dtype: str) -> str:
    return "" if dtype == "float32" else f" in {dtype}"


def _path(path: Path, rows: Sequence[Row]) -> str:
    return f"benchmarks/results/{rows[0]['device']}/{path.stem}.md"
