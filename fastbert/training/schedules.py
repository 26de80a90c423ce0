"""Learning rates over the steps of a run, as multiples of the peak. Step 0 is the first one."""

from __future__ import annotations

from fastbert.errors import InputError

SCHEDULES = ("hf", "google")


def rate(schedule: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """The multiple of the peak at which step `step` runs: a linear rise from 0, then a linear fall to 0.

    Both rise as step / warmup_steps. "hf" falls from 1 at the end of the rise, as transformers'
    `get_linear_schedule_with_warmup` does; "google" is on the line from 1 at step 0 to 0 at the end all the time and only
    replaces its start by the rise, as the released code of BERT does.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule = {schedule!r} is not one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "google":
        return max(0.0, 1 - step / total_steps)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
