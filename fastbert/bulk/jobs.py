"""What a bulk job computes: its settings, which decide the output, and the work on the texts of a part.

A job can be sent to another process; what it opens there holds the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastbert import files
from fastbert.errors import InputError
from fastbert.text.framing import Place

Advance = Callable[[int], object]  # called with numbers of texts that are done
Sample = tuple[Sequence[Any], Place]


@dataclass(frozen=True)
class Results:
    """What was computed of the texts of a part.

    Attributes:
        columns: of the output: (n,) or (n, D) arrays, or lists of n values.
        cut: texts that were longer than the model reads.
    """

    columns: Mapping[str, Any]
    cut: int = 0


class Opened(ABC):
    """A job with its model."""

    @abstractmethod
    def prepare(self, texts: Sequence[Any], place: Place) -> Any:
        """What is done ahead, in another thread, while the model is busy with the part before.

        Args:
            texts: texts, or pairs as tuples.
            place: what messages call a text.
        """

    @abstractmethod
    def compute(self, prepared: Any, advance: Advance) -> Results:
        """The results for what was prepared."""

    def arrow(self, name: str, values: Any) -> Any:
        """A column of the results as an Arrow array: (n, D) as lists of a fixed size."""
        import pyarrow as pa

        if isinstance(values, np.ndarray) and values.ndim == 2:
            return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        return pa.array(values)


@dataclass(frozen=True)
class Job(ABC):
    """The work, apart from its inputs and its output.

    Attributes:
        model: a directory or a hub id.
        device, dtype, local_files_only: as of the tasks' `from_pretrained`.
        batch_tokens: tokens processed at once.
    """

    name: ClassVar[str]
    part_rows: ClassVar[int]  # of an output file, where none is asked for
    patterns: ClassVar[Sequence[str]]  # files of the model that it reads

    model: str
    device: str | None = None
    dtype: str | None = None
    local_files_only: bool = False
    batch_tokens: int = 16384

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the output depends on beside the model and the inputs, as JSON holds it."""

    @abstractmethod
    def open(self, settled: Mapping[str, Any]) -> Opened:
        """The work of this process, given what `settle` found."""

    @property
    @abstractmethod
    def own_columns(self) -> tuple[str, ...]:
        """Columns of the output that the job makes, or may make."""

    def probe(self) -> None:
        """Loads the model and runs a text, so that options and a model that do not go together are said before the work."""
        opened = self.open({})
        opened.compute(opened.prepare([self.probe_text], str), lambda count: None)

    @property
    def probe_text(self) -> Any:
        """A text as the job reads them, or a pair."""
        return "a"

    def settle(self, sample: Callable[[], Sample]) -> dict[str, Any]:
        """What is decided once for all parts; `sample` gives some of the texts, and what messages call them."""
        return {}

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raises InputError unless these are as many columns of text as the job reads."""
        if len(texts) != 1:
            raise InputError(f"{self.name} reads one column of text; named are {', '.join(texts)}")

    @abstractmethod
    def load(self) -> Any:
        """The task with its model, from `folder`."""

    @cached_property
    def task(self) -> Any:
        """The task, loaded once in a process."""
        return self.load()

    def __getstate__(self) -> dict[str, Any]:
        """Without the task: another process loads its own."""
        return {name: value for name, value in self.__dict__.items() if name != "task"}

    @cached_property
    def folder(self) -> Path:
        """Where the model is on this machine."""
        return files.locate(self.model, list(self.patterns), local_files_only=self.local_files_only)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's files."""
        return files.fingerprint(self.folder, self.patterns)
