"""Metrics records of a run: metrics.jsonl, one record per line, and TensorBoard files if requested."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, TextIO

from fastbert import files
from fastbert.errors import CheckpointError, InputError


class MetricsWriter:
    """Appends records, after removing those later than the step from which a run resumes.

    Args:
        folder: output folder of the run.
        step: steps done so far.
        tensorboard: also write event files to `folder/tensorboard`; see `check_tensorboard`.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False) -> None:
        path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= step] if step else []
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._stream: TextIO = path.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record, whose keys include "kind" ("train" or "eval") and "step"."""
        try:
            self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()
        except OSError as error:
            raise CheckpointError(f"cannot write {self._stream.name}: {error.strerror}") from error
        if self._board is not None:
            for name, value in record.items():
                if name not in ("kind", "step") and isinstance(value, int | float):
                    self._board.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        """Closes the files."""
        self._stream.close()
        if self._board is not None:
            self._board.close()


def check_tensorboard() -> None:
    """Raises InputError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("run.tensorboard needs the package tensorboard: pip install tensorboard")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; an unfinished last line is ignored."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
