"""What tells an example of a file in predictions: its row, its id, and columns of the file that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastbert.data.tables import Table
from fastbert.errors import InputError

# What predictions hold; a column to keep needs another name.
OWN_KEYS = frozenset(
    (
        *("row", "id", "text", "text_pair", "question", "choices", "words", "gold"),
        *("label", "labels", "score", "scores", "choice", "entities", "tags"),
        *("answer", "answers", "start", "end", "null_margin"),
    )
)


def columns_to_keep(identity: str | None, keep: Sequence[str], text: str) -> list[str]:
    """The columns of a table that go into predictions.

    Args:
        identity, keep: the columns asked for.
        text: the column of the text, which predictions have as "text" anyway.

    Raises:
        InputError: a column to keep whose name a prediction needs for itself.
    """
    for name in keep:
        if name in OWN_KEYS and not name == text == "text":
            advice = "; name it as the label's column in place of keep: it stands under 'gold' then" if "label" in name else ""
            raise InputError(f"keep = {name!r}: each prediction has a {name!r} of its own{advice}")
    return [*([] if identity is None else [identity]), *keep]


def marks_of(table: Table, identity: str | None, keep: Sequence[str]) -> list[dict[str, Any]]:
    """What tells each row of a table in predictions: its number from 1, its id, and kept columns."""
    marks: list[dict[str, Any]] = [{"row": row} for row in table.rows]
    for key, column in [*([] if identity is None else [("id", identity)]), *zip(keep, keep, strict=True)]:
        for mark, value in zip(marks, table.values[column], strict=True):
            mark[key] = value
    return marks
