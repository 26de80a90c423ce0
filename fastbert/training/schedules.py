"""Learning-rate schedules over the steps of a run, as multiples of the peak. The first step is step 0."""

from __future__ import annotations

from fastbert.errors import InputError

SCHEDULES = ("hf", "google", "constant")


def rate(schedule: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of step `step` as a multiple of the peak: linear warm-up from 0, then linear decay to 0, or none.

    All schedules warm up as step / warmup_steps. "hf" decays from 1 at the end of the warm-up, like transformers'
    `get_linear_schedule_with_warmup`; "google" decays along the line from 1 at step 0 to 0 at `total_steps`, and the warm-up
    replaces the start of that line, like the released code of BERT. "constant" stays at 1, and so does not depend on the number
    of steps: a run can be lengthened at any time.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule = {schedule!r} is not one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "google":
        return max(0.0, 1 - step / total_steps)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
