"""What is measured, as data: the texts, natural or all full, as ids of the model's tokenizer."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastbert import BertTokenizer
from fastbert.data import read_texts


@dataclass(frozen=True)
class Case:
    """Texts of one length distribution.

    Attributes:
        name: in tables.
        source: where the texts come from.
        rows: ids of each text, special tokens included.
    """

    name: str
    source: str
    rows: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.rows]


def paragraphs_of_python_docs() -> Iterator[str]:
    """Paragraphs of the language reference, which every Python carries."""
    for topic in pydoc_data.topics.topics.values():
        for paragraph in topic.split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) > 20:
                yield text


def make_cases(
    tokenizer: BertTokenizer, text: Path | None, column: str | None, count: int, max_length: int, full: Sequence[int] = (128,)
) -> list[Case]:
    """The cases of a run.

    Args:
        tokenizer: of the model.
        text: a file of texts; None means the Python language reference.
        column: of a table.
        count: texts to use, taken evenly from the whole source.
        max_length: longer texts are cut there, for every candidate alike.
        full: lengths of the cases in which every text is equally long.
    """
    source = "paragraphs of the Python language reference" if text is None else text.name
    texts = list(paragraphs_of_python_docs() if text is None else read_texts(text, column))
    texts = [t for t in texts if t.strip()]
    step = max(1, len(texts) // count)
    encoded = tokenizer.encode_ids(texts)
    rows = [row if len(row) <= max_length else [*row[: max_length - 1], row[-1]] for row in encoded[::step][:count]]
    body = [i for row in encoded for i in row[1:-1]]
    cases = [Case("natural", source, rows)]
    for width in sorted({min(length, max_length) for length in full}):
        number = max(4, sum(map(len, rows)) // (2 * width))
        chunks = [body[i * (width - 2) % len(body) :][: width - 2] for i in range(number)]
        equal = [[rows[0][0], *chunk, rows[0][-1]] for chunk in chunks if len(chunk) == width - 2]
        cases.append(Case(f"full {width}", source, equal))
    return cases
