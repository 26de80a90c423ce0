"""Parquet where other tables are read: texts, examples, tags, questions; row groups, rows from a place on, what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fastbert.data import read_texts
from fastbert.data.conll import read_tagged
from fastbert.data.parquet import parquet_rows
from fastbert.data.squad import read_questions
from fastbert.data.tables import columns_of, read_table
from fastbert.errors import InputError
from fastbert.finetuning.reading import ReadOptions, read_split


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def test_rows_from_any_place_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"n": list(range(23)), "t": [f"t{i}" for i in range(23)]}, row_group_size=5)
    for start in range(25):
        assert list(parquet_rows(path, ["t", "n"], start)) == [(f"t{i}", i) for i in range(start, 23)]


def test_it_is_read_where_other_tables_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.PARQUET", {"label": ["x", "y", "x"], "text": ["a", "", "b"], "id": [1, 2, 3]}, row_group_size=2)
    assert list(read_texts(path)) == ["a", "", "b"]
    assert columns_of(path) == ["label", "text", "id"]
    table = read_table(path, ["text", "id"])
    assert table.values == {"text": ["a", "", "b"], "id": [1, 2, 3]}
    assert table.place(1) == f"{path}, row 2"
    split = read_split("classify", path, "train", ReadOptions(id="id"))
    assert [(e.text, e.label) for e in split.examples] == [("a", "x"), ("", "y"), ("b", "x")]
    assert [mark["id"] for mark in split.marks] == [1, 2, 3]
    tagged = write(tmp_path / "b.parquet", {"tokens": [["a", "b"], ["c"]], "ner_tags": [["O", "B-X"], ["O"]]})
    assert [(s.words, s.tags) for s in read_tagged(tagged)] == [(("a", "b"), ("O", "B-X")), (("c",), ("O",))]
    answers = [{"text": ["b"], "answer_start": [2]}, {"text": [], "answer_start": []}]
    asked = write(tmp_path / "c.parquet", {"question": ["q", "r"], "context": ["a b", "c"], "answers": answers})
    assert [(q.question, q.impossible) for q in read_questions(asked)] == [("q", False), ("r", True)]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a", None], "n": [1, 2]})
    with pytest.raises(InputError, match="a.parquet, row 2: 'text' is None; expected a text"):
        list(read_texts(path))
    with pytest.raises(InputError, match="a.parquet has no column 'body'; it has text, n"):
        list(read_texts(path, "body"))
    with pytest.raises(InputError, match="a.parquet holds no example"):
        read_table(write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())}), ["text"])
    path.write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot read .*a.parquet"):
        columns_of(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\.parquet needs the package pyarrow \(pip install 'fastbert-triton\[bulk\]'\)"):
        list(read_texts(path))
