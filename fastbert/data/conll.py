"""Sentences of tagged words: CoNLL files, and JSON lines with a list of words and a list of tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.lines import PLAIN, Form, lines
from fastbert.data.parquet import is_parquet
from fastbert.data.rows import Rows
from fastbert.data.tables import columns_of, is_json, read_table
from fastbert.errors import InputError

_DOCUMENT = "-DOCSTART-"
_WORDS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels")


@dataclass(frozen=True)
class TaggedSentence:
    """The words of a sentence and, if they are known, their tags.

    Attributes:
        words, tags: of equal length; tags is None if the file has none.
        line: line number of the first word in the file.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    line: int


def read_tagged(
    path: str | Path | Rows, *, word_column: int = 1, tag_column: int | None = None, tagged: bool = True, form: Form = PLAIN
) -> list[TaggedSentence]:
    """Reads a CoNLL file (one word per line, blank lines between sentences), or JSON lines with `tokens` and `tags`.

    Args:
        path: .jsonl and .ndjson hold JSON lines, .parquet holds such rows, as rows in memory are; anything else is CoNLL.
        word_column, tag_column: columns of a CoNLL file, counted from 1; None means the last one. A line with a tab is split at
            tabs, others at white space. Blank lines separate sentences; lines that start with -DOCSTART- are left out.
        tagged: whether to read tags.
        form: the encoding; columns are as said above.

    Raises:
        InputError: a line without the columns, or unequal numbers of words and tags, with the line number; a file without a
            word.
    """
    if isinstance(path, Rows) or is_json(path) or is_parquet(path):
        return _read_rows(path, tagged, form)
    path = Path(path)
    for name, column in (("word_column", word_column), ("tag_column", tag_column)):
        if column is not None and column < 1:
            raise InputError(f"{name} = {column}: columns count from 1")
    sentences = []
    words: list[str] = []
    tags: list[str] = []
    start = 1
    for number, line in _lines_and_end(path, form):
        if not line.strip() or line.startswith(_DOCUMENT):
            if words:
                sentences.append(TaggedSentence(tuple(words), tuple(tags) if tagged else None, start))
            words, tags, start = [], [], number + 1
            continue
        parts = line.split("\t") if "\t" in line else line.split()
        last = len(parts) if tag_column is None else tag_column
        if max(word_column, last if tagged else 1) > len(parts) or (tagged and last == word_column):
            raise InputError(f"{path}, line {number}: {len(parts)} columns; expected a word and its tag")
        word = parts[word_column - 1].strip()
        if not word:
            raise InputError(f"{path}, line {number}: no word in column {word_column}")
        words.append(word)
        if tagged:
            tags.append(parts[last - 1].strip())
    if not sentences:
        raise InputError(f"{path} holds no example")
    return sentences


def _lines_and_end(path: Path, form: Form) -> Iterator[tuple[int, str]]:
    number = 0
    for number, line in enumerate(lines(path, encoding=form.encoding), 1):
        yield number, line
    yield number + 1, ""


def _read_rows(path: str | Path | Rows, tagged: bool, form: Form) -> list[TaggedSentence]:
    keys = columns_of(path, form)
    word_key = next((key for key in _WORDS if key in keys), None)
    tag_key = next((key for key in _TAGS if key in keys), None)
    if word_key is None or (tagged and tag_key is None):
        missing = f"tags ({', '.join(_TAGS)})" if word_key else f"words ({', '.join(_WORDS)})"
        raise InputError(f"{path} has no key known to hold {missing}; it has {', '.join(keys)}")
    table = read_table(path, [word_key, tag_key] if tagged and tag_key else [word_key], form=form)
    sentences = []
    for row, words in enumerate(table.values[word_key]):
        tags: Any = table.values[tag_key][row] if tagged and tag_key else None
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise InputError(f"{table.place(row)}: {word_key!r} is not a list of words")
        if tags is not None and (not isinstance(tags, list) or len(tags) != len(words)):
            raise InputError(f"{table.place(row)}: {len(words)} words; {tag_key!r} is not a list of as many tags")
        sentences.append(TaggedSentence(tuple(words), None if tags is None else tuple(map(str, tags)), table.lines[row]))
    return sentences
