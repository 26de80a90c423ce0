"""Text files to sentences of documents."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from fastbert.data.documents import Sentences, read_sentences
from fastbert.errors import InputError


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, *args, **options) -> list[str | None]:
    return list(read_sentences([path], *args, **options))


def test_text_finds_sentences_across_lines_and_documents_at_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Mr. Smith went\r\nhome. He slept.\r\n\r\nA second text, by Dr. Jones.\n")
    assert read(path) == ["Mr. Smith went home.", "He slept.", None, "A second text, by Dr. Jones.", None]


def test_whole_files_are_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One.\n\nTwo.\n")
    assert read(path, whole_files=True) == ["One.", "Two.", None]


def test_sentences_stand_one_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One. Still one.\nTwo\n\nThree\n")
    assert read(path, "sentences") == ["One. Still one.", "Two", None, "Three", None]


def test_markdown_headings_and_rules_separate_documents_and_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md", "# Title: Emma\n\n-------\n\n##  CHAPTER I \n\nOne. Two.\n\nThree.\n\n* * *\nFour.\n")
    assert [s for s in read(path) if s] == ["One.", "Two.", "Three.", "Four."]
    joined = "|".join(s or "END" for s in read(path))
    assert "Two.|Three.|END|Four.|END" in joined


def test_json_lines_hold_texts_or_lists_of_sentences(tmp_path: Path) -> None:
    rows = [{"body": "One. Two.\n\nThree."}, {"body": ["A b. C d.", "E"]}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path, column="body") == ["One.", "Two.", "Three.", None, "A b. C d.", "E", None, None]


def test_tables_are_documents_row_by_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "id\ttext\n1\tOne. Two.\n2\tThree.\n")
    assert [s for s in read(path) if s] == ["One.", "Two.", "Three."]


def test_tables_replace_bad_bytes_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text,id\n"One\xff.",1\n')
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert [s for s in read(path, errors="replace") if s] == ["One\ufffd."]


def test_every_python_carries_a_corpus() -> None:
    found = list(read_sentences(["python:pydoc_data.topics"]))
    assert found.count(None) > 50
    assert sum(len(s) for s in found if s) > 300_000
    assert list(Sentences(["python:pydoc_data.topics"])) == [s for s in found if s]


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_bytes_that_are_no_utf8_are_named_by_line_or_replaced(tmp_path: Path, errors: str) -> None:
    path = write(tmp_path / "a.txt", b"One.\nTw\xff.\nThree.\n")
    if errors == "strict":
        with pytest.raises(InputError, match=r"a\.txt, line 2: not UTF-8 text \(byte 3 of the line\)"):
            read(path)
    else:
        with pytest.warns(UserWarning, match="1 lines were not UTF-8"):
            assert read(path, "sentences", errors="replace") == ["One.", "Tw\ufffd.", "Three.", None]


@pytest.mark.parametrize("text", ["word " * 2_000_000, "x" * 10_000_000, "漢字" * 1_700_000])
def test_a_line_of_ten_megabytes_is_cut_into_sentences_in_bounded_memory(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.txt", text + "\nLast.\n")
    tracemalloc.start()
    found = kept = 0
    for sentence in read_sentences([path], "sentences"):
        if sentence is not None:
            assert 0 < len(sentence) <= 2000
            found += len(sentence.replace(" ", ""))
            kept += sentence == "Last."
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == len(text.replace(" ", "")) + len("Last.")  # nothing is lost at the cuts
    assert kept == 1
    assert peak < 30e6


def test_a_file_without_blank_lines_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "A line of text that goes on.\n" * 200_000)
    tracemalloc.start()
    count = sum(1 for _ in read_sentences([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 100_000
    assert peak < 10e6


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*gone\.txt"):
        read(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="no text or list of texts under 'text'; it has body"):
        read(write(tmp_path / "a.jsonl", '{"body": "x"}\n'))
    with pytest.raises(InputError, match="line 1: not JSON"):
        read(write(tmp_path / "b.jsonl", "{\n"))
    with pytest.raises(InputError, match="format = 'word' is not one of"):
        read(tmp_path / "a.txt", "word")
    with pytest.raises(InputError, match=r"python:no\.such: No module"):
        list(read_sentences(["python:no.such"]))
