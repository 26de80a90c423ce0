"""Reads the sentences of documents from text files, one after another, in bounded memory, to build a pre-training corpus.

Formats:
    text       plain text: lines are joined into paragraphs and split into sentences; blank lines separate documents.
    sentences  one sentence per line, a blank line between documents, as google's BERT reads them.
    markdown   as text, but headings and rules (`#`, `---`) separate documents and are dropped; blank lines end paragraphs.
    jsonl      one document per line: text, or a list of sentences, under a key. Each line is held in memory as a whole.
    table      TSV or CSV, one document per row, in a column of text. Each row is held in memory as a whole.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.choices import FORMATS
from fastbert.data.lines import PLAIN, Form, ending, lines
from fastbert.data.tables import json_rows, missing_key
from fastbert.data.texts import column_texts
from fastbert.errors import InputError

_PARAGRAPH = 1 << 16  # characters of a paragraph held before its sentences are passed on
_SENTENCE = 2_000  # characters; longer sentences are cut between words, so that none fills a BERT sequence twice
_LINE = 1 << 20  # bytes of a line read at once
_BOUNDARY = re.compile(r"\s*(#|([-*_]\s*){3,}$)")

Advance = Callable[[int], object]


def read_sentences(
    paths: Iterable[str | Path],
    kind: str | None = None,
    *,
    column: str = "text",
    language: str = "en",
    whole_files: bool = False,
    errors: str = "strict",
    form: Form = PLAIN,
    advance: Advance | None = None,
) -> Iterator[str | None]:
    """Yields the sentences of all files in order, and None at the end of each document.

    Args:
        paths: files, "-" for standard input, or "python:package.module" for the texts of a module's dictionary, such as
            "python:pydoc_data.topics", the language reference that comes with every Python.
        kind: one of `FORMATS`; None chooses by the file extension: .jsonl, .md, .tsv, .csv; anything else is text.
        column: key of a JSON line, column of a table.
        language: language of the text, for sentence splitting (ISO 639-1).
        whole_files: each file is one document, whatever its blank lines.
        errors: "strict" or "replace", for bytes that are not text.
        form: encoding, and the delimiter of tables.
        advance: called with bytes read, for a progress bar.

    Raises:
        InputError: input that cannot be read, with file and line.
    """
    if kind is not None and kind not in FORMATS:
        raise InputError(f"format = {kind!r} is not one of {', '.join(FORMATS)}")
    for path in paths:
        if str(path).startswith("python:"):
            yield from _of_module(str(path).removeprefix("python:"), language)
            continue
        path = Path(path)
        read = _READERS[kind or _BY_ENDING.get(ending(path), "text")]
        if read is _table:
            read = partial(_table, form=form)
        stream = partial(lines, path, errors, advance=advance, encoding=form.encoding)
        for sentence in read(stream, path, column, language):
            if sentence is not None or not whole_files:
                yield sentence
        yield None


def _text(
    stream: Callable[..., Iterator[str]], path: Path, column: str, language: str, boundary: re.Pattern[str] | None = None
) -> Iterator[str | None]:
    """Reads plain text; with a `boundary`, lines that match it separate documents, and blank lines do not."""
    paragraph: list[str] = []
    size = 0
    for line in stream(at_most=_LINE):
        line = line.strip()
        ends = bool(line) and boundary is not None and boundary.match(line) is not None
        if line and not ends:
            paragraph.append(line)
            size += len(line) + 1
            if size > _PARAGRAPH:
                *whole, last = _sentences(" ".join(paragraph), language)
                yield from whole
                paragraph, size = [last], len(last)
            continue
        yield from _sentences(" ".join(paragraph), language)
        paragraph, size = [], 0
        if ends or boundary is None:
            yield None
    yield from _sentences(" ".join(paragraph), language)


def _markdown(stream: Callable[..., Iterator[str]], path: Path, column: str, language: str) -> Iterator[str | None]:
    return _text(stream, path, column, language, _BOUNDARY)


def _one_a_line(stream: Callable[..., Iterator[str]], path: Path, column: str, language: str) -> Iterator[str | None]:
    for line in stream(at_most=_LINE):
        if line.strip():
            yield from _pieces(line.strip())
        else:
            yield None


def _json(stream: Callable[..., Iterator[str]], path: Path, column: str, language: str) -> Iterator[str | None]:
    for number, row in json_rows(stream(), path):
        value = row.get(column) if isinstance(row, dict) else None
        if isinstance(value, str):
            yield from _paragraphs(value, language)
        elif isinstance(value, list) and all(isinstance(sentence, str) for sentence in value):
            for sentence in value:
                yield from _pieces(" ".join(sentence.split()))
        else:
            raise missing_key(path, number, row, f"text or list of texts under {column!r}")
        yield None


def _of_module(name: str, language: str) -> Iterator[str | None]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"python:{name}: {error}") from None
    tables = [value for key, value in vars(module).items() if isinstance(value, dict) and not key.startswith("_")]
    texts = [text for table in tables for _, text in sorted(table.items()) if isinstance(text, str)]
    if not texts:
        raise InputError(f"python:{name} has no dictionary of texts")
    for text in texts:
        yield from _paragraphs(text, language)
        yield None


def _table(
    stream: Callable[..., Iterator[str]], path: Path, column: str, language: str, form: Form = PLAIN
) -> Iterator[str | None]:
    for text in column_texts(stream(keep_ends=True), path, column, form):
        yield from _sentences(" ".join(text.split()), language)
        yield None


_READERS: dict[str, Callable[..., Iterator[str | None]]] = {
    "table": _table,
    "text": _text,
    "sentences": _one_a_line,
    "markdown": _markdown,
    "jsonl": _json,
}
_BY_ENDING = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".md": "markdown",
    ".markdown": "markdown",
    ".tsv": "table",
    ".csv": "table",
}


def _paragraphs(text: str, language: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        yield from _sentences(" ".join(paragraph.split()), language)


def _sentences(paragraph: str, language: str) -> Iterator[str]:
    if not paragraph:
        return
    import sentencex

    for sentence in sentencex.segment(language, paragraph):
        yield from _pieces(sentence.strip())


def _pieces(sentence: str) -> Iterator[str]:
    """Yields a sentence, cut into pieces if it is longer than `_SENTENCE` characters."""
    while len(sentence) > _SENTENCE:
        at = sentence.rfind(" ", 1, _SENTENCE)
        at = at if at > 0 else _SENTENCE
        yield sentence[:at]
        sentence = sentence[at:].lstrip()
    if sentence:
        yield sentence


class Sentences:
    """The sentences of some sources; can be iterated repeatedly, as training a vocabulary takes two passes.

    Args:
        sources, options: see `read_sentences`.
    """

    def __init__(self, sources: Iterable[str | Path], **options: Any) -> None:
        self.sources, self.options = list(sources), options

    def __iter__(self) -> Iterator[str]:
        return (sentence for sentence in read_sentences(self.sources, **self.options) if sentence is not None)


def expand_sources(sources: Iterable[str | Path]) -> list[str]:
    """The files that sources name: patterns such as "books/*.txt" or "books/**/*.md" in alphabetical order, the rest as it is.

    Raises:
        InputError: a pattern that matches no file.
    """
    found: list[str] = []
    for source in map(str, sources):
        matches = None if source.startswith("python:") else files.matches_of(source)
        if matches == []:
            raise InputError(f"{source} matches no file")
        found += [source] if matches is None else matches
    return found


def source_hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of each file and of each module's file; standard input can be read only once and is left out."""
    found = {}
    for name in map(str, paths):
        path: Path | None = Path(name)
        if name.startswith("python:"):
            origin = getattr(importlib.import_module(name.removeprefix("python:")), "__file__", None)
            path = Path(origin) if origin else None
        if path is not None and path.is_file():
            found[name] = files.sha256(path)
    return found
