"""A summary of the data before training: number of examples, lengths, truncation and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastbert.finetuning.problems import FramedSplit, Problem
from fastbert.terminal import align

MOST_LABELS = 30


def overview(problem: Problem, parts: Sequence[FramedSplit]) -> str:
    """A table of the splits, followed by the notes made while reading the data.

    Args:
        problem: the task.
        parts: the framed splits, train first.
    """
    splits, framed = [part.split for part in parts], [part.framed for part in parts]
    rows: list[tuple[str, ...]] = [("", *(split.name for split in splits))]
    lengths = [one.lengths for one in framed]
    rows.append(("examples", *(f"{len(split.examples):,}" for split in splits)))
    rows.append(("sequences", *(f"{len(one):,}" for one in framed)))
    rows.append(("tokens, mean", *(f"{one.mean():.1f}" for one in lengths)))
    rows.append(("tokens, 95 % below", *(f"{np.percentile(one, 95):.0f}" for one in lengths)))
    rows.append(("tokens, longest", *(f"{one.max()} of {problem.max_length}" for one in lengths)))
    cut = [one.cut[one.cut > 0] for one in framed]
    rows.append(("truncated", *(f"{len(one)} examples, {one.sum():,} tokens" if len(one) else "none" for one in cut)))
    counts = [problem.counts(split) for split in splits]
    names = [name for name in problem.labels if any(name in count for count in counts)]
    names += sorted({name for count in counts for name in count} - set(names))
    for name in names[:MOST_LABELS]:
        rows.append((f"  {name}", *(_share(count[name], count.total()) for count in counts)))
    lines = [line.rstrip() for line in align(rows)]
    if len(names) > MOST_LABELS:
        lines.append(f"  ... and {len(names) - MOST_LABELS} labels more")
    lines += [f"note: {split.name}: {note}" for split in splits for note in split.notes]
    for split, count in zip(splits, counts, strict=True):
        absent = [name for name in names if not count[name]]
        if absent and count:
            lines.append(f"note: {split.name} has no example of {', '.join(absent)}")
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "-"
