"""The rows of a part of the output: read from its spans of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fastbert.bulk.inputs import state_of
from fastbert.bulk.plan import Part, Plan, Source, Span
from fastbert.bulk.rows import Columns, Place, Values, read_rows
from fastbert.data.lines import Form
from fastbert.data.rows import place_in
from fastbert.errors import InputError

_SAMPLED_PARTS = 16


@dataclass
class PartRows:
    """The rows of a part, n of them.

    Attributes:
        texts: n texts, or pairs as tuples.
        files: n names of files.
        rows: n numbers in them, from 1.
        lines: n lines at which they start; of Parquet the row.
        others: n tuples: the id if there is one, and what is kept.
    """

    texts: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    others: list[Values] = field(default_factory=list)

    def place(self, number: int) -> str:
        """What messages call a text."""
        return place_in(Path(self.files[number]), self.lines[number])


class Reader:
    """Reads parts, best in their order: a file that goes on in the next part stays open.

    Args:
        plan: of the job.
        columns, form: as of `read_rows`.
    """

    def __init__(self, plan: Plan, columns: Columns, form: Form) -> None:
        self._plan, self._columns, self._form = plan, columns, form
        self._others = [columns.names.index(name) for name in columns.others]
        self._source, self._row = -1, 0  # the open file, and its row that comes next
        self._open: Iterator[tuple[Place, int, Values | InputError]] = iter(())

    def read(self, part: Part) -> PartRows:
        """The rows of a part.

        Raises:
            InputError: a file that can no longer be read, or has changed since the plan was made.
        """
        found, pairs = PartRows(), len(self._columns.texts) > 1
        for span in part.spans:
            source = self._plan.sources[span.source]
            check_unchanged(source)
            for place, line, values in self._span(span):
                if isinstance(values, InputError):
                    continue
                texts = values[: len(self._columns.texts)]
                found.texts.append(texts if pairs else texts[0])
                found.files.append(source.path)
                found.rows.append(place.row + 1)
                found.lines.append(line)
                found.others.append(tuple(values[at] for at in self._others))
        if len(found.texts) != part.rows:
            raise InputError(f"{self._plan.sources[part.spans[-1].source].path} has changed while the job ran")
        return found

    def _span(self, span: Span) -> Iterator[tuple[Place, int, Values | InputError]]:
        path = Path(self._plan.sources[span.source].path)
        ahead = span.place.row - self._row if span.source == self._source else -1
        if ahead > 0 and path.suffix.lower() == ".gz":  # going on is faster than unpacking it from its beginning
            ahead -= sum(1 for _ in islice(self._open, ahead))
        if ahead != 0:
            self._open = read_rows(path, self._columns, self._form, span.place)
        self._source, self._row = span.source, span.place.row + span.count
        return islice(self._open, span.count)


def check_unchanged(source: Source) -> None:
    """Raises InputError if a file is not what it was when the plan was made."""
    if state_of(Path(source.path)) != (source.size, source.modified):
        raise InputError(f"{source.path} has changed while the job ran")


def sample(reader: Reader, parts: Sequence[Part], most: int) -> PartRows:
    """Rows from all over the inputs: of some parts, spread evenly, rows spread evenly."""
    chosen = parts[:: -(-len(parts) // _SAMPLED_PARTS)]
    found = PartRows()
    for part in chosen:
        rows = reader.read(part)
        step = max(1, len(rows.texts) * len(chosen) // most)
        for name in ("texts", "files", "rows", "lines", "others"):
            getattr(found, name).extend(getattr(rows, name)[::step])
    return found
