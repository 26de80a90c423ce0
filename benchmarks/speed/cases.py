"""The benchmark's models and inputs: BERT sizes, and tokenized texts of several length distributions."""

from __future__ import annotations

import itertools
import json
import pydoc_data.topics
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.jobs import Inputs, masked_places
from fastbert import BertTokenizer
from fastbert.data import read_texts
from fastbert.errors import InputError

HISTOGRAM_BIN = 32
SIZES = {  # hidden size, layers, heads, intermediate size; weights from a seed (MiniLM-L6 has trained weights)
    "tiny": (128, 2, 2, 512),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}
REAL = "MiniLM-L6"


@dataclass(frozen=True)
class Case:
    """Texts of one length distribution.

    Attributes:
        name: the name in tables.
        source: where the texts come from.
        inputs: ids of each text, special tokens included, and the texts themselves if they are uncut.
    """

    name: str
    source: str
    inputs: Inputs

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each text."""
        return [len(row) for row in self.inputs.rows]

    def histogram(self) -> list[tuple[int, int]]:
        """Length histogram as (longest length of the bin, number of texts in it), in bins of 32 tokens."""
        counts = Counter(-(-length // HISTOGRAM_BIN) * HISTOGRAM_BIN for length in self.lengths)
        return sorted(counts.items())

    def masked(self, mask_token_id: int) -> Case:
        """A copy of the case with some words masked."""
        rows = [list(row) for row in self.inputs.rows]
        for i, row in enumerate(rows):
            for at in masked_places(i, len(row)):
                row[at] = mask_token_id
        return Case(self.name, self.source, Inputs(rows))


class Texts:
    """Makes cases from texts.

    Args:
        tokenizer: the model's tokenizer.
        text: a file of texts; None means the Python language reference.
        column: the text column of a table.
        squad: a SQuAD file, for the lengths of its questions with their contexts.
        max_length: longer texts are truncated to this many tokens, for every candidate alike.
    """

    def __init__(
        self, tokenizer: BertTokenizer, text: Path | None, column: str | None, squad: Path | None, max_length: int
    ) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.source = "paragraphs of the Python language reference" if text is None else text.name
        found = paragraphs_of_python_docs() if text is None else read_texts(text, column)
        self.texts = [t for t in found if t.strip()]
        if not self.texts:
            raise InputError(f"{text} has no text")
        self.rows = [self._cut(row) for row in tokenizer.encode_ids(self.texts)]
        self.body = [i for row in self.rows for i in row[1:-1]]
        if not self.body:
            raise InputError(f"{text} has no text that the tokenizer knows")
        self.pairs = None if squad is None else list(_questions_with_contexts(squad))
        self.squad = squad

    def case(self, name: str, tokens: int) -> Case:
        """The case with that name and about `tokens` tokens: "natural", "SQuAD", "N(256,64)" or "full <length>"."""
        if name == "natural":
            places = self._spread(list(map(len, self.rows)), tokens)
            return Case(name, self.source, Inputs([self.rows[i] for i in places], [self.texts[i] for i in places]))
        if name == "SQuAD":
            assert self.pairs is not None
            assert self.squad is not None
            rows = [self._cut(row) for row in self._encode_pairs(self.pairs[: max(1, tokens // 40)])]
            return Case(name, self.squad.name, Inputs([rows[i] for i in self._spread(list(map(len, rows)), tokens)]))
        if name == "N(256,64)":
            draw = random.Random(7)
            lengths = (round(draw.gauss(256, 64)) for _ in itertools.count())
            return Case(name, self.source, Inputs(self._chunks(lengths, tokens, least=1)))
        width = min(int(name.split()[1]), self.max_length)
        return Case(f"full {width}", self.source, Inputs(self._chunks(itertools.repeat(width), tokens, least=4)))

    def one(self, length: int) -> Case:
        """A case with a single text of that length."""
        case = self.case(f"full {length}", 1)
        return Case(case.name, case.source, Inputs(case.inputs.rows[:1]))

    def _cut(self, row: list[int]) -> list[int]:
        return row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]]

    def _spread(self, lengths: Sequence[int], tokens: int) -> list[int]:
        """Indices spread evenly over the whole source; they wrap around if it is too short."""
        wanted = max(4, round(tokens * len(lengths) / sum(lengths)))
        if wanted >= len(lengths):
            return [i % len(lengths) for i in range(wanted)]
        return [i * len(lengths) // wanted for i in range(wanted)]

    def _chunks(self, lengths: Iterable[int], tokens: int, least: int) -> list[list[int]]:
        """Running text cut into rows of the given lengths."""
        body, start, rows = itertools.cycle(self.body), (self.rows[0][0], self.rows[0][-1]), []
        total = 0
        for length in lengths:
            inner = min(max(length, 3), self.max_length) - 2
            rows.append([start[0], *itertools.islice(body, inner), start[1]])
            total += inner + 2
            if total >= tokens and len(rows) >= least:
                return rows
        return rows

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        questions = self.tokenizer.encode_ids([question for question, _ in pairs])
        contexts = self.tokenizer.encode_ids([context for _, context in pairs])
        return [[*question, *context[1:]] for question, context in zip(questions, contexts, strict=True)]


def paragraphs_of_python_docs() -> Iterator[str]:
    """Paragraphs of the language reference, which ships with Python."""
    for topic in pydoc_data.topics.topics.values():
        for paragraph in topic.split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) > 20:
                yield text


def _questions_with_contexts(path: Path) -> Iterator[tuple[str, str]]:
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield question["question"], paragraph["context"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a SQuAD file: {type(error).__name__} {error}") from None
