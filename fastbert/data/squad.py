"""Questions about texts, read from SQuAD's JSON, version 1.1 or 2.0, or from JSON lines with a question and a context."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data.lines import PLAIN, Form, lines
from fastbert.data.parquet import is_parquet, parquet_rows, parquet_types
from fastbert.data.rows import Rows, place_in
from fastbert.data.tables import is_json, json_rows, missing_key
from fastbert.errors import InputError


@dataclass(frozen=True)
class Answer:
    """An answer as a span of characters of a context.

    Attributes:
        text: the characters.
        start: their position in the context; -1 if they do not occur in it.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: unique id in the data set.
        question, context: the texts.
        answers: all reference answers; empty for a question without an answer, or if the answers are not known.
        impossible: whether the question cannot be answered from the context (version 2.0).
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    impossible: bool = False


def read_questions(path: str | Path | Rows, form: Form = PLAIN) -> list[Question]:
    """The questions of a file, or of rows: JSON lines, Parquet, or under any other ending SQuAD's JSON (`read_squad`).

    Raises:
        InputError: see `read_squad` and `question_of_line`.
    """
    if isinstance(path, Rows):
        rows = [dict(zip(path.values, row, strict=True)) for row in zip(*path.values.values(), strict=True)]
        return _checked([question_of_line(row, path, number, number) for number, row in enumerate(rows, 1)], path)
    path = Path(path)
    if is_parquet(path):
        names = list(parquet_types(path))
        values = (dict(zip(names, row, strict=True)) for row in parquet_rows(path, names))
        return _checked([question_of_line(row, path, number, number) for number, row in enumerate(values, 1)], path)
    if not is_json(path):
        return read_squad(path, form)
    found = json_rows(lines(path, encoding=form.encoding), path)
    return _checked([question_of_line(row, path, number, count) for count, (number, row) in enumerate(found, 1)], path)


def question_of_line(row: Any, path: Path | Rows, number: int, count: int) -> Question:
    """The question of a JSON line: {"question", "context"}, and if they are known "id" and "answers".

    Args:
        row: the value of the line.
        path, number: the file, or the rows, and the number in it, for messages.
        count: the id of a question without one.

    The answers are SQuAD's list of {"text", "answer_start"}, or the two lists of the data set on the hub,
    {"text": [...], "answer_start": [...]}, where an empty list says that there is no answer.

    Raises:
        InputError: a line without a question or context, or with answers of another form.
    """
    place = place_in(path, number)
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "context")):
        raise missing_key(path, number, row, "text under 'question' and 'context'")
    entry = {"id": str(count), **row}
    answers = row.get("answers")
    if isinstance(answers, dict):
        texts, starts = (answers.get(key) for key in ("text", "answer_start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise InputError(f"{place}: 'answers' has no lists 'text' and 'answer_start' of one length")
        entry["answers"] = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        entry["is_impossible"] = not texts
    return _question(entry, row["context"], place)


def read_squad(path: str | Path, form: Form = PLAIN) -> list[Question]:
    """The questions of a SQuAD file, in order.

    If an answer is not at the position given in the file, the occurrence in the context nearest to that position is used. An
    answer that does not occur at all gets the start -1; `misplaced` lists questions that have only such answers.

    Raises:
        InputError: not JSON, or not in SQuAD's format, with the place; no question; an id that occurs twice.
    """
    path = Path(path)
    try:
        content = json.loads("\n".join(lines(path, encoding=form.encoding)))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    questions: list[Question] = []
    for a, article in enumerate(_list(content, "data", str(path))):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, data[{a}]")):
            place = f"{path}, data[{a}].paragraphs[{p}]"
            context = _text(paragraph, "context", place)
            for q, entry in enumerate(_list(paragraph, "qas", place)):
                questions.append(_question(entry, context, f"{place}.qas[{q}]"))
    return _checked(questions, path)


def _checked(questions: list[Question], path: Path | Rows) -> list[Question]:
    if not questions:
        raise InputError(f"{path} holds no question")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(f"{path}: the id {question.id!r} occurs twice")
        seen.add(question.id)
    return questions


def misplaced(questions: list[Question]) -> list[Question]:
    """Questions that have answers, none of which occurs in the context."""
    return [question for question in questions if question.answers and all(a.start < 0 for a in question.answers)]


def _question(entry: Any, context: str, place: str) -> Question:
    impossible = bool(isinstance(entry, dict) and entry.get("is_impossible"))
    answers = _list(entry, "answers", place) if isinstance(entry, dict) and "answers" in entry and not impossible else []
    found = tuple(_answer(answer, context, f"{place}.answers[{n}]") for n, answer in enumerate(answers))
    identity = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(identity, str | int):
        raise InputError(f"{place} has no id")
    return Question(str(identity), _text(entry, "question", place), context, found, impossible)


def _answer(entry: Any, context: str, place: str) -> Answer:
    text, start = _text(entry, "text", place), entry.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool):
        raise InputError(f"{place} has no answer_start")
    return Answer(text, _locate(text, start, context))


def _locate(text: str, start: int, context: str) -> int:
    if not text or context[max(start, 0) :].startswith(text):
        return max(start, 0) if text else -1
    found, at = [], context.find(text)
    while at >= 0:
        found.append(at)
        at = context.find(text, at + 1)
    return min(found, key=lambda place: abs(place - start), default=-1)


def _list(value: Any, key: str, place: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{place} has no list {key!r}: this is not SQuAD's JSON")
    return found


def _text(value: Any, key: str, place: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise InputError(f"{place} has no text under {key!r}: this is not SQuAD's JSON")
    return found
