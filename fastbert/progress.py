"""Progress of long work on stderr: a bar on a terminal, a line now and then where stderr is a file or a pipe."""

from __future__ import annotations

import time
from typing import Any, Self

from tqdm import tqdm

from fastbert.terminal import show_note, shows_progress

LINES = "lines"  # for `show`: a bar on a terminal, else a line at the start and one every so often
SECONDS = 30.0  # between such lines

Show = bool | str | None  # True: a bar; False: nothing; None: a bar on a terminal, else nothing; or `LINES`


def progress(total: int | None, unit: str, name: str, show: Show, *, initial: int = 0, scale: bool = False) -> Any:
    """A bar, or what stands in for it; to be used as a context manager.

    Args:
        total: units in all; None if it is not known.
        unit: what is counted, such as "text".
        name: of the work.
        show: whether, and how, it is shown.
        initial: units that were done before.
        scale: counts are shortened, such as 1.2M.
    """
    if isinstance(show, str):
        if not shows_progress(None):
            return _Lines(total, unit, name, initial)
        show = True
    return _Bar(
        total=total,
        unit=unit,
        desc=name,
        initial=initial,
        unit_scale=scale,
        disable=not shows_progress(show),
        dynamic_ncols=True,
    )


class _Bar(tqdm):
    """A bar whose time left follows the work, where that is not even: `work` is the share that is done, from 0 to 1."""

    work: float | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = super().format_dict
        if self.work:
            left = values["elapsed"] * (1 - self.work) / self.work
            head, tail = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<", ", {rate_fmt}{postfix}]"
            values["bar_format"] = head + tqdm.format_interval(left) + tail
        return values


class _Lines:
    """Lines of progress: name, units done and in all, rate, time left, and what `set_postfix` was given.

    The first line comes with the first units: work that is refused says one sentence, and not before it that it starts.
    """

    def __init__(self, total: int | None, unit: str, name: str, initial: int) -> None:
        self.total, self.unit, self.name, self.n, self.initial = total, unit, name, initial, initial
        self.work: float | None = None
        self._values: dict[str, Any] = {}
        self._began = self._said = time.monotonic()
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the work; says nothing."""

    def set_description(self, name: str) -> None:
        """Another name for the work."""
        self.name = name

    def set_postfix(self, **values: Any) -> None:
        """Values that the next line shows."""
        self._values = values

    def update(self, count: float = 1) -> None:
        """Counts units; says so if it is time."""
        if not self._started:
            self._started = True
            whole = "started" if self.total is None else f"{self.total - self.initial:,} {self.unit}s"
            show_note(f"{self.name}: {whole}" + (f" after {self.initial:,}" if self.initial else ""))
        self.n += int(count)
        now = time.monotonic()
        if now - self._said < SECONDS:
            return
        self._said, seconds = now, now - self._began
        done = self.n - self.initial
        parts = [f"{self.n:,}" + ("" if self.total is None else f" of {self.total:,}") + f" {self.unit}s"]
        parts += [f"{key} {value}" for key, value in self._values.items()]
        parts.append(f"{done / seconds:,.1f} {self.unit}s/s")
        share = self.work or (done / (self.total - self.initial) if self.total and self.total > self.initial else 0)
        if share:
            parts.append(f"{tqdm.format_interval(seconds * (1 - share) / share)} left")
        show_note(f"{self.name}: {', '.join(parts)}")
