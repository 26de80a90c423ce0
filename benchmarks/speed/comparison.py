"""Compares two runs, to find which of our rows got slower."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.records import Row, key
from fastbert.errors import InputError


def compare(old: Sequence[Row], new: Sequence[Row], fail_below: float) -> tuple[str, list[Row]]:
    """Compares two runs: returns a table as text, and our rows whose speed fell below `fail_below` of the old speed.

    Speeds are compared as shares of the limit that each run measured, so that a machine that is slower today is not mistaken
    for slower code; rows without a share are compared by time. A row of ours that used to work and has no figure now counts as
    slower.

    Raises:
        InputError: the runs have no row in common, or come from different devices.
    """
    before = {key(row): row for row in old if row["status"] == "ok"}
    devices = {row["device"] for row in (*old, *new)}
    if len(devices) > 1:
        raise InputError(f"results of different devices cannot be compared: {', '.join(sorted(devices))}")
    lines, slower = [], []
    for row in new:
        was = before.get(key(row))
        if was is None:
            continue
        name = ", ".join(str(part) for part in key(row))
        if row["status"] != "ok":
            lines.append(f"{'gone':>7}  {name}: {row['status']}, {row['reason']}")
            if row["ours"]:
                slower.append(row)
            continue
        ratio = _speed(row, was)
        if ratio is None:
            continue
        lines.append(f"{ratio:6.2f}x  {name}")
        if row["ours"] and ratio < fail_below:
            slower.append(row)
    if not lines:
        raise InputError("the two files have no measured row in common")
    verdict = f"{len(slower)} of our rows below {fail_below:g} of their old speed" if slower else "nothing of ours got slower"
    return "\n".join([*lines, verdict]), slower


def _speed(row: Row, was: Row) -> float | None:
    if "share_of_limit" in row and "share_of_limit" in was:
        return float(row["share_of_limit"] / was["share_of_limit"])
    if "median_s" in row and "median_s" in was:
        return float(was["median_s"] / row["median_s"])
    return None
