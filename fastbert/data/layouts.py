"""Column layouts and metrics of known data sets: GLUE's tasks, STS benchmark, SWAG, and tables with common column names.

A layout is looked up by name (`--layout mrpc`), or inferred from the column names in a table's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastbert.data.lines import PLAIN, Form
from fastbert.data.parquet import is_parquet
from fastbert.data.rows import Rows
from fastbert.data.tables import columns_of, is_json, other_delimiter
from fastbert.errors import InputError


@dataclass(frozen=True)
class Layout:
    """The columns of a table by role, and the metrics of its data set.

    Attributes:
        text, pair, label: names from the header, or numbers from 1 for tables without a header; "" if there is none.
        metrics: names in `fastbert.finetuning.metrics`; the first one chooses the best epoch. Empty: the task's default.
        choices: columns of the candidates for multiple choice.
    """

    text: str
    pair: str = ""
    label: str = ""
    metrics: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in use."""
        return tuple(name for name in (self.text, self.pair, *self.choices, self.label) if name)


# The files as GLUE distributes them (train.tsv, dev.tsv; CoLA has no header), each with the metrics it is scored by.
LAYOUTS = {
    "cola": Layout("4", "", "2", ("matthews_correlation",)),
    "sst2": Layout("sentence", "", "label", ("accuracy",)),
    "mrpc": Layout("#1 String", "#2 String", "Quality", ("accuracy", "f1")),
    "qqp": Layout("question1", "question2", "is_duplicate", ("accuracy", "f1")),
    "stsb": Layout("sentence1", "sentence2", "score", ("pearson", "spearman")),
    "mnli": Layout("sentence1", "sentence2", "gold_label", ("accuracy",)),
    "qnli": Layout("question", "sentence", "label", ("accuracy",)),
    "rte": Layout("sentence1", "sentence2", "label", ("accuracy",)),
    "wnli": Layout("sentence1", "sentence2", "label", ("accuracy",)),
    "sts-benchmark": Layout("6", "7", "5", ("pearson", "spearman")),
    "swag": Layout("sent1", "sent2", "label", ("accuracy",), ("ending0", "ending1", "ending2", "ending3")),
}

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
)
_TEXTS = ("text", "sentence", "review", "content")
_LABELS = ("label", "labels", "gold_label", "score", "Quality", "is_duplicate", "class", "category", "target")


def find_layout(
    path: str | Path | Rows,
    name: str | None = None,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    choices: Sequence[str] = (),
    labelled: bool = True,
    form: Form = PLAIN,
) -> Layout:
    """The layout of a table: columns given explicitly, else those of the layout `name`, else common names in its header.

    Args:
        path: the file of the table, or rows in its place.
        name: a key of `LAYOUTS`.
        text, pair, label, choices: columns; "" for `pair` means single texts.
        labelled: whether a label column is required; if not, it is used if present.
        form: encoding and delimiter.

    Raises:
        InputError: no column could be found; the message lists the columns present.
    """
    if name is not None:
        if name not in LAYOUTS:
            raise InputError(f"layout = {name!r} is not one of {', '.join(LAYOUTS)}")
        known = LAYOUTS[name]
        text, pair = known.text if text is None else text, known.pair if pair is None else pair
        label = known.label if label is None else label
        return Layout(text, pair, label, known.metrics, tuple(choices) or known.choices)
    if text is not None and text.isdecimal():
        if labelled and label is None:
            raise InputError(f"text = {text} is the number of a column: name the number of the label's column as well")
        return Layout(text, pair or "", label or "", (), tuple(choices))
    header = columns_of(path, form)
    hint = "" if isinstance(path, Rows) or is_json(path) or is_parquet(path) else other_delimiter(header, Path(path), form)
    if text is None and pair is None:
        found = next((names for names in _PAIRS if set(names) <= set(header)), None)
        text, pair = found or (next((name for name in _TEXTS if name in header), None), "")
    if text is None:
        raise InputError(f"{path} has no column known to hold text; name one of {', '.join(header)}{hint}")
    if label is None:
        label = next((name for name in _LABELS if name in header and name not in (text, pair)), None)
    if labelled and not label:
        raise InputError(f"{path} has no column known to hold labels; name one of {', '.join(header)}{hint}")
    return Layout(text, pair or "", label or "", (), tuple(choices))
