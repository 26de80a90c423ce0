"""What a bulk job reads, and which rows of it make which part of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from fastbert import files
from fastbert.bulk.columns import Kinds
from fastbert.bulk.inputs import state_of
from fastbert.bulk.rows import START, Columns, Place, read_rows
from fastbert.data.lines import Form
from fastbert.errors import InputError
from fastbert.progress import Show, progress

_AT_ONCE = 4096  # rows between two steps of the bar


@dataclass(frozen=True)
class Source:
    """A file that is read.

    Attributes:
        path: as it was named.
        size, modified: bytes, and the time of the last change in nanoseconds: whether it may have changed.
        sha256: of its bytes.
        rows: that can be used.
        skipped: rows that cannot.
    """

    path: str
    size: int
    modified: int
    sha256: str
    rows: int
    skipped: int


@dataclass(frozen=True)
class Span:
    """Rows of one file, one behind the other: `count` of them from `place` on, those that cannot be used included."""

    source: int
    place: Place
    count: int


@dataclass(frozen=True)
class Part:
    """A file of the output.

    Attributes:
        number: from 0.
        rows: of the output.
        spans: what it is made of.
    """

    number: int
    rows: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Plan:
    """The whole work.

    Attributes:
        sources: the files.
        unreadable: files that were left out, and why.
        types: of the columns that are taken over, by Arrow's names.
        parts: of the output.
    """

    sources: tuple[Source, ...]
    unreadable: tuple[tuple[str, str], ...]
    types: dict[str, str]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def skipped(self) -> int:
        """Rows that cannot be used."""
        return sum(source.skipped for source in self.sources)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> Self:
        """From `to_json`."""
        parts = tuple(
            Part(
                part["number"],
                part["rows"],
                tuple(Span(span["source"], Place(**span["place"]), span["count"]) for span in part["spans"]),
            )
            for part in found["parts"]
        )
        unreadable = tuple((path, why) for path, why in found["unreadable"])
        return cls(tuple(Source(**one) for one in found["sources"]), unreadable, found["types"], parts)


def make_plan(
    paths: Sequence[Path], columns: Columns, form: Form, part_rows: int, *, skip_errors: bool = False, show: Show = None
) -> Plan:
    """Reads all rows once, which finds every bad one before any work is done, and shares them out among parts.

    Args:
        paths: the files.
        columns, form: what is read of them, and how they are written.
        part_rows: rows of a part; the last one may have fewer.
        skip_errors: count rows and files that cannot be used, in place of stopping at the first.
        show: see `fastbert.progress`.

    Raises:
        InputError: a row or a file that cannot be used, with its line; or no row at all.
    """
    if isinstance(part_rows, bool) or not isinstance(part_rows, int) or part_rows < 1:
        raise InputError(f"part_rows = {part_rows!r} must be a whole number of at least 1")
    making = _Making(columns, form, part_rows, skip_errors)
    with progress(None, "row", "scan", show, scale=True) as bar:
        for path in paths:
            making.add(path, bar)
    return making.plan()


class _Making:
    """The plan so far."""

    def __init__(self, columns: Columns, form: Form, part_rows: int, skip_errors: bool) -> None:
        self.columns, self.form, self.part_rows, self.skip_errors = columns, form, part_rows, skip_errors
        self.kinds = Kinds(columns.others)
        self.others = [columns.names.index(name) for name in columns.others]
        self.sources: list[Source] = []
        self.unreadable: list[tuple[str, str]] = []
        self.parts: list[Part] = []
        self.spans: list[Span] = []  # of the part that is being filled
        self.rows = 0  # of it

    def add(self, path: Path, bar: Any) -> None:
        """Reads a file; one that cannot be read to its end is left out from there on."""
        good = bad = 0
        begin, begun = START, 0  # of the span that is being filled: its place, and how many rows came before it
        state = state_of(path)
        try:
            for place, _, values in read_rows(path, self.columns, self.form):
                if good + bad == begun:
                    begin = place
                if isinstance(values, InputError):
                    if not self.skip_errors:
                        raise values
                    bad += 1
                else:
                    good += 1
                    self.kinds.note([values[at] for at in self.others])
                    self.rows += 1
                if self.rows == self.part_rows:
                    self._end_span(begin, good + bad - begun)
                    begun = good + bad
                    self._end_part()
                if (good + bad) % _AT_ONCE == 0:
                    bar.update(_AT_ONCE)
            digest = files.sha256(path)
        except (InputError, OSError) as error:
            if not self.skip_errors:
                raise
            self.unreadable.append((str(path), str(error)))
            digest = ""
        bar.update((good + bad) % _AT_ONCE)
        self._end_span(begin, good + bad - begun)
        if state_of(path) != state:
            raise InputError(f"{path} was changed while it was read")
        self.sources.append(Source(str(path), *state, digest, good, bad))

    def _end_span(self, begin: Place, count: int) -> None:
        if count:
            self.spans.append(Span(len(self.sources), begin, count))

    def _end_part(self) -> None:
        self.parts.append(Part(len(self.parts), self.rows, tuple(self.spans)))
        self.spans, self.rows = [], 0

    def plan(self) -> Plan:
        """What has been added."""
        if self.rows:
            self._end_part()
        if not self.parts:
            why = f": {self.unreadable[0][1]}" if self.unreadable else ""
            raise InputError(f"{', '.join(source.path for source in self.sources)}: no text that can be used{why}")
        read = [Path(source.path) for source in self.sources if source.rows]
        return Plan(tuple(self.sources), tuple(self.unreadable), self.kinds.types(read), tuple(self.parts))
