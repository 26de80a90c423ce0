"""The project's performance targets compared with committed results, as a table for the docs.

A target can only be met by a row of ours that passed its check, with a baseline measured in the same run; a figure without a
baseline is shown and marked as such. Targets are for 16-bit types on a GPU, and for float32 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.speed.op_cases import LENGTHS
from benchmarks.speed.records import Row, fastest, measured

Groups = list[list[Row]]  # rows grouped by question


class Found(NamedTuple):
    """A figure, its baseline as text ("" if missing), and the commit that was measured."""

    figure: float
    baseline: str
    commit: str


@dataclass(frozen=True)
class Target:
    """A figure to reach.

    Attributes:
        work: description of the measured work.
        goal: the figure to reach.
        unit: unit of the figure.
        at_most: whether lower is better.
        find: finds the figure among the results of a device; None if it is missing.
    """

    work: str
    goal: float
    unit: str
    find: Callable[[Groups], Found | None]
    at_most: bool = False

    def ratio(self, figure: float) -> float:
        """The figure relative to the goal; at least 1 if the target is met."""
        return self.goal / figure if self.at_most else figure / self.goal


def _select(groups: Groups, **facts: str) -> Iterator[list[Row]]:
    """Selects the questions with these facts; `model` and `task` match as prefixes."""
    for group in groups:
        first = group[0]
        begins = (str(first[name]).startswith(text) for name, text in facts.items() if name in ("model", "task"))
        if all(begins) and all(first[name] == text for name, text in facts.items() if name not in ("model", "task")):
            yield group


def _mine(group: Sequence[Row]) -> Row | None:
    """Our fastest row."""
    return fastest(row for row in measured(group) if row["ours"] and row["rival"] and not row["from_text"])


def _rival(group: Sequence[Row], mine: Row, *names: str, needs: Sequence[str] = ()) -> Row | None:
    """The fastest other row of the same run, optionally among these names; None if a needed candidate is missing."""
    run = ("started", "commit", "date")
    fine = [row for row in measured(group) if not row["ours"] and row["rival"]]
    fine = [row for row in fine if all(row.get(name) == mine.get(name) for name in run)]
    if not {*needs} <= {row["candidate"] for row in fine}:
        return None
    return fastest(row for row in fine if not names or row["candidate"] in names)


def _rate(of: str, scale: float = 1.0, candidate: str = "", **facts: str) -> Callable[[Groups], Found | None]:
    """Finds a column of our fastest row, or of a candidate of ours, with the best other candidate as its baseline."""

    def find(groups: Groups) -> Found | None:
        for group in _select(groups, **facts):
            named = (row for row in measured(group) if row["candidate"] == candidate)
            mine = next(named, None) if candidate else _mine(group)
            if mine is not None:
                other = _rival(group, mine)
                beside = "" if other is None else f"{other['candidate']}: {_number(other[of] * scale)}"
                return Found(mine[of] * scale, beside, mine["commit"])
        return None

    return find


def _gain(*rivals: str, questions: int = 1, needs: Sequence[str] = (), **facts: str) -> Callable[[Groups], Found | None]:
    """Finds our smallest speed-up over rivals (default: the best of all); needs at least this many answered questions."""

    def find(groups: Groups) -> Found | None:
        least: Found | None = None
        answered = 0
        for group in _select(groups, **facts):
            mine = _mine(group)
            if mine is None:
                continue
            other = _rival(group, mine, *rivals, needs=needs)
            if other is None:
                return Found(float("nan"), "", mine["commit"])
            answered += 1
            gain = other["median_s"] / mine["median_s"]
            if least is None or gain < least.figure:
                place = group[0]["task"] if group[0]["suite"] == "ops" else group[0]["case"]
                least = Found(gain, f"{other['candidate']}, {place}", mine["commit"])
        return least if least is None or answered >= questions else least._replace(baseline="")

    return find


def _share(questions: int = 1, **facts: str) -> Callable[[Groups], Found | None]:
    """Finds our smallest share of the limit over at least this many questions.

    The limit, measured in the same run, is the baseline.
    """

    def find(groups: Groups) -> Found | None:
        mine = [row for row in map(_mine, _select(groups, **facts)) if row is not None]
        if not mine:
            return None
        least = min(mine, key=lambda row: float(row["share_of_limit"]))
        limit = f"the limit: {least['limit_tflops']:.3g} TFLOP/s, {least['limit_gb_per_s']:,.0f} GB/s"
        judged = len(mine) >= questions and least["share_of_limit"] <= 1  # beyond it something else slowed the limit down
        return Found(100 * least["share_of_limit"], limit if judged else "", least["commit"])

    return find


_ENCODER = {"suite": "inference", "task": "encoder"}
_FLASH = ("SDPA flash", "SDPA cuDNN", "varlen_attn")
_BOTH_PASSES = 2
ON_GPU = (
    Target("base, forward, full 128", 28_000, "texts/s", _rate("texts_per_s", model="BERT-base", case="full 128", **_ENCODER)),
    Target("base, forward, full 512", 6_500, "texts/s", _rate("texts_per_s", model="BERT-base", case="full 512", **_ENCODER)),
    Target(
        "large, forward, SQuAD lengths", 5_900, "texts/s", _rate("texts_per_s", model="BERT-large", case="SQuAD", **_ENCODER)
    ),
    Target(
        "large, forward, SQuAD lengths, fp8",
        9_200,
        "texts/s",
        _rate("texts_per_s", candidate="fastbert fp8", model="BERT-large", case="SQuAD", **_ENCODER),
    ),
    Target(
        "large, MLM + NSP step, full 512",
        255_000,
        "tokens/s",
        _rate("tokens_per_s", suite="training", model="BERT-large", task="pre-training", case="full 512"),
    ),
    Target(
        "base, one text of 128, captured graph",
        0.40,
        "ms",
        _rate("median_s", 1e3, suite="latency", model="BERT-base", case="full 128"),
        at_most=True,
    ),
    Target(
        "base, forward, natural lengths, times transformers sdpa",
        3.0,
        "x",
        _gain("transformers sdpa", model="BERT-base", case="natural", **_ENCODER),
    ),
    Target(
        "base, forward, full 128, times torch.compile max-autotune",
        1.5,
        "x",
        _gain("torch.compile max-autotune", model="BERT-base", case="full 128", **_ENCODER),
    ),
    Target(
        "base, fine-tuning step, natural lengths, times transformers sdpa",
        2.5,
        "x",
        _gain("transformers sdpa", suite="training", model="BERT-base", task="fine-tuning"),
    ),
    Target(
        "attention, every length, both passes, times the best other",
        1.0,
        "x",
        _gain(questions=_BOTH_PASSES * len(LENGTHS), needs=_FLASH, suite="ops", task="attention"),
    ),
    Target("layer_norm, share of the copy bandwidth", 85, "%", _share(_BOTH_PASSES, suite="ops", task="layer_norm")),
    Target("embedding, share of the copy bandwidth", 85, "%", _share(_BOTH_PASSES, suite="ops", task="embedding")),
)
ON_CPU = (
    Target(
        "MiniLM-L6, forward, natural lengths, times the best other",
        1.5,
        "x",
        _gain(model="all-MiniLM-L6", case="natural", **_ENCODER),
    ),
    Target(
        "MiniLM-L6, forward, natural lengths, share of the matrix-product rate",
        85,
        "%",
        _share(model="all-MiniLM-L6", case="natural", **_ENCODER),
    ),
)


def status(target: Target, found: Found | None) -> tuple[str, str, str, str]:
    """The cells (measured, measured / goal, verdict, baseline) of a target."""
    if found is None:
        return "", "", "not measured", ""
    if not found.baseline:
        figure = "" if found.figure != found.figure else f"{_number(found.figure)} {target.unit}"
        return figure, "", "no baseline beside it", ""
    ratio = target.ratio(found.figure)
    return f"{_number(found.figure)} {target.unit}", f"{ratio:.2f}", "met" if ratio >= 1 else "not met", found.baseline


def block(results: Sequence[Sequence[Row]], groups_of: Callable[[Sequence[Row]], Groups]) -> str:
    """The table of targets, one per line, with the newest results of each GPU and each CPU.

    Args:
        results: the rows of each device.
        groups_of: groups rows by question.
    """
    lines = ["| where | target | goal | measured | measured / goal | verdict | beside |", "|" + " --- |" * 7]
    gpus = [rows for rows in results if rows[0]["cuda"] is not None]
    cpus = [rows for rows in results if rows[0]["cuda"] is None]
    for rows, targets in [*((rows, ON_GPU) for rows in gpus or [[]]), *((rows, ON_CPU) for rows in cpus or [[]])]:
        device = rows[0]["device"] if rows else "NVIDIA H200" if targets is ON_GPU else "a CPU"
        groups = [group for group in groups_of(rows) if (group[0]["dtype"] == "float32") == (targets is ON_CPU)]
        for target in targets:
            goal = f"{'at most' if target.at_most else 'at least'} {_number(target.goal)} {target.unit}"
            found = target.find(groups)
            figure, ratio, verdict, beside = status(target, found)
            where = device if found is None else f"{device}, {found.commit}"
            lines.append(f"| {where} | {target.work} | {goal} | {figure} | {ratio} | {verdict} | {beside} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
