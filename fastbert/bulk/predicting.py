"""The job behind `fastbert predict`: labels, numbers, entities or answers, by the model's head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fastbert.bulk.jobs import Advance, Job, Opened, Results
from fastbert.errors import InputError
from fastbert.tasks.loading import PATTERNS
from fastbert.tasks.predicting import HowToPredict, Predictor, open_predictor
from fastbert.text.framing import Framed, Place

_KINDS = ("classify", "regress", "nli", "next-sentence", "zero-shot", "ner", "qa")
_ARGUMENT = re.compile(r"^(?:inputs|pairs|texts)\[(\d+)\]")  # how a task's message names a text
_PAIRS = ("nli", "next-sentence", "qa")


@dataclass(frozen=True)
class Predict(Job):
    """Predictions of a trained model.

    Attributes:
        kind: the task: "classify", "regress", "nli", "next-sentence", "zero-shot", "ner" (of texts) or "qa".
        how: options; its device and dtype are the job's.
    """

    name = "predict"
    part_rows = 8192
    patterns = PATTERNS

    kind: str = "classify"
    how: HowToPredict = field(default_factory=HowToPredict)

    def __post_init__(self) -> None:
        """Checks the task."""
        if self.kind not in _KINDS:
            raise InputError(f"task = {self.kind!r} cannot be written to a folder; these can: {', '.join(_KINDS)}")

    @property
    def settings(self) -> dict[str, Any]:
        """See `Job.settings`."""
        options = {name: value for name, value in asdict(self.how).items() if name != "device"}
        return {"task": self.kind, **options, "dtype": self.dtype}

    def check_texts(self, texts: Sequence[str]) -> None:
        """See `Job.check_texts`."""
        if (self.kind in _PAIRS) != (len(texts) == 2) and self.kind not in ("classify", "regress"):
            wanted = "two columns of text" if self.kind in _PAIRS else "one column of text"
            raise InputError(f"{self.kind} reads {wanted}, not {' and '.join(texts)}")

    @property
    def probe_text(self) -> Any:
        """See `Job.probe_text`."""
        return ("a", "a") if self.kind in _PAIRS else "a"

    @property
    def own_columns(self) -> tuple[str, ...]:
        """See `Job.own_columns`."""
        if self.kind == "qa":
            return ("answer", "score", "start", "end") if self.how.top_k in (None, 1) else ("answers",)
        if self.kind in ("ner", "regress"):
            return ("entities",) if self.kind == "ner" else ("score",)
        return ("label", "labels", "score", "scores")

    def open(self, settled: Mapping[str, Any]) -> _Predicting:
        """See `Job.open`."""
        return _Predicting(self, self.task)

    def load(self) -> Predictor:
        """See `Job.load`."""
        return open_predictor(self.kind, self.folder, replace(self.how, device=self.device, dtype=self.dtype))


class _Predicting(Opened):
    def __init__(self, job: Predict, predictor: Predictor) -> None:
        self.job, self.predictor = job, predictor

    def prepare(self, texts: Sequence[Any], place: Place) -> Any:
        if self.predictor.frame is not None:
            return self.predictor.frame(texts, place)
        return texts, place

    def compute(self, prepared: Any, advance: Advance) -> Results:
        if self.predictor.of_rows is not None and isinstance(prepared, Framed):
            rows = self.predictor.of_rows(prepared, False, advance)
            return self._results(rows, int(np.count_nonzero(prepared.cut)))
        texts, place = prepared
        try:
            rows = self.predictor.run(texts, False)
        except InputError as error:
            raise InputError(_ARGUMENT.sub(lambda found: place(int(found[1])), str(error))) from None
        advance(len(rows))
        return self._results(rows, 0)

    def _results(self, rows: Sequence[Mapping[str, Any]], cut: int) -> Results:
        return Results({name: [row.get(name) for row in rows] for name in self._names}, cut)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The columns of the task's predictions."""
        if self.job.kind == "zero-shot":
            return ("label", "score", "scores", "labels")
        without = ("label", "score") if self.predictor.several else ("labels",)
        return tuple(name for name in self.job.own_columns if not self.predictor.labels or name not in without)

    def arrow(self, name: str, values: Any) -> Any:
        """One type a column, also of parts in which a value of it never occurs."""
        import pyarrow as pa

        text, number, whole = pa.string(), pa.float64(), pa.int64()
        span = [("score", number), ("start", whole), ("end", whole)]
        tag = [("entity", text), ("index", whole)] if self.job.how.aggregation == "none" else [("entity_group", text)]
        types = {
            "label": text,
            "labels": pa.list_(text),
            "score": number,
            "answer": text,
            "start": whole,
            "end": whole,
            "scores": pa.struct([(label, number) for label in self.predictor.labels]),
            "entities": pa.list_(pa.struct([*tag, ("word", text), *span])),
            "answers": pa.list_(pa.struct([("answer", text), *span])),
        }
        return pa.array(values, types[name])
