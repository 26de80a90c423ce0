"""Files as people have them: encodings, byte-order marks, delimiters, gzip, quoted line ends; advice where one is refused."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from fastbert import cli
from fastbert.data import read_texts
from fastbert.data.labelled import read_text_examples
from fastbert.data.layouts import find_layout
from fastbert.data.lines import Form
from fastbert.data.tables import columns_of, read_table
from fastbert.errors import InputError

ROWS = [
    {"id": "1", "text": "Größe, naïve", "label": "a"},
    {"id": "2", "text": 'she said "so"', "label": "b"},
    {"id": "3", "text": "two\nlines\r\nhere", "label": "a"},
    {"id": "4", "text": "", "label": "b"},
    {"id": "5", "text": "odd \u2028 separators \x0b inside", "label": "b"},
]


def written(path: Path, delimiter: str = ",", encoding: str = "utf-8", between: str = "") -> Path:
    """A CSV, with blank lines between and behind its rows."""
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "text", "label"], delimiter=delimiter)
        writer.writeheader()
        for row in ROWS:
            stream.write(between)
            writer.writerow(row if encoding != "latin-1" else {k: v.replace("\u2028", "-") for k, v in row.items()})
        stream.write(between)
    return path


@pytest.mark.parametrize("between", ["", "\r\n"])
@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("|", "latin-1"), ("\t", "utf-16"), (",", "utf-16-le")]
)
def test_rows_are_those_of_csv_dictreader(delimiter: str, encoding: str, between: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", delimiter, encoding, between)
    form = Form(encoding, None if delimiter == "," else delimiter)
    with path.open(encoding=encoding, newline="") as stream:
        expected = [*csv.DictReader(stream, delimiter=delimiter)]
    assert len(expected) == len(ROWS)
    table = read_table(path, ["text", "label"], form=form)
    assert table.values["text"] == [row["text"] for row in expected]
    assert columns_of(path, form) == ["id", "text", "label"]
    assert [*read_texts(path, "text", form)] == table.values["text"], "the same rule for texts"
    examples, _ = read_text_examples(path, find_layout(path, form=form), form=form)
    assert [example.text for example in examples] == table.values["text"]


def test_lines_of_errors_count_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n\n"one\ntwo",x\n\nthree,x,surplus\n')
    with pytest.raises(InputError, match=r"a\.csv, line 6: 3 columns, the header has 2"):
        read_table(path, ["text", "label"])


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.tsv"])
def test_gzipped_files_are_read(name: str, tmp_path: Path) -> None:
    content = {"a.txt": "one\ntwo\n", "a.csv": "text\none\ntwo\n", "a.tsv": "n\ttext\n1\tone\n2\ttwo\n"}
    text = content.get(name, '{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    assert [*read_texts(tmp_path / f"{name}.gz")] == ["one", "two"]
    whole = gzip.compress(text.encode() * 1000)
    (tmp_path / f"{name}.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"cannot read .*{name}\.gz: Compressed file ended"):
        [*read_texts(tmp_path / f"{name}.gz")]
    (tmp_path / f"{name}.gz").write_text(text)
    with pytest.raises(InputError, match=rf"cannot read .*{name}\.gz: Not a gzipped file"):
        [*read_texts(tmp_path / f"{name}.gz")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "id;text;label\n1;one;a\n",
            r"no column 'text'; it has id;text;label; if ';' is between its columns, name it: del",
        ),
        ("a.tsv", "id,text\n1,one\n", r"no column 'text'; it has id,text; if ',' is between its columns"),
        ("a.csv", "id\ttext\n1\tone\n", "; if a tab is between its columns, name it: delimiter = '\\\\t'"),
        (
            "a.tsv",
            "just words\nand more\n",
            r"no column 'text'; it has just words; is it a table with a tab between its columns",
        ),
        (
            "a.csv",
            "text\nna\xefve\n".encode("latin-1"),
            r"a\.csv, line 2: not UTF-8 text \(byte 3 of the line\); if it is Latin-1",
        ),
        (
            "a.json",
            '[{"text": "one"}]',
            r"a\.json is JSON, whose lines are no texts; JSON lines, an object a line, end in \.jsonl",
        ),
        ("a.jsonl", '[\n{"text": "one"}\n]\n', r"a\.jsonl, line 1: not JSON \(.*\); an array, or an object over several lines"),
        ("a.jsonl", '[{"text": "one"}]\n', r"a\.jsonl, line 1: no text under 'text'; it has a list"),
    ],
)
def test_what_is_written_otherwise_is_refused_with_advice(name: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        [*read_texts(tmp_path / name)]


def test_wrong_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoding = 'latin-99' is none that Python knows"):
        Form("latin-99")
    for delimiter in ("", "ab", '"', "\n"):
        with pytest.raises(InputError, match="must be one character, neither a quote nor the end of a line"):
            Form(delimiter=delimiter)
    (tmp_path / "a.txt").write_bytes(b"fine\nb\x81d\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: not CP1252 text \(byte 2 of the line\)$"):
        [*read_texts(tmp_path / "a.txt", form=Form("cp1252"))]
    with pytest.raises(InputError, match="delimiter = ';' needs a .tsv or .csv file"):
        [*read_texts(tmp_path / "a.txt", form=Form(delimiter=";"))]


def test_every_command_that_reads_takes_delimiter_and_encoding(minilm: Path, tmp_path: Path) -> None:
    import json

    import numpy as np

    path = written(tmp_path / "a.csv", ";", "latin-1")
    form = ["--delimiter", ";", "--encoding", "latin-1"]
    common = ["--model", str(minilm), "--device", "cpu"]
    assert cli.main(["embed", str(path), "-o", str(tmp_path / "a.npy"), *form, *common]) == 0
    assert np.load(tmp_path / "a.npy").shape == (len(ROWS), 384)
    assert cli.main(["features", str(path), "-o", str(tmp_path / "a.jsonl"), *form, *common]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(ROWS)
    run = str(tmp_path / "run")
    train = ["finetune", "classify", "--train", str(path), "-o", run, "--mode", "features", "--epochs", "1", *form]
    assert cli.main([*train, *common]) == 0
    trained = ["--model", f"{run}/model", "--device", "cpu", *form]
    assert cli.main(["predict", str(path), "-o", str(tmp_path / "p.jsonl"), *trained]) == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == len(ROWS)
    assert cli.main(["eval", str(path), "-o", str(tmp_path / "e.json"), *trained]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["examples"] == len(ROWS)


def test_the_command_names_its_own_flags(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "a.csv", ";", "latin-1")
    command = ["embed", str(tmp_path / "a.csv"), "-o", str(tmp_path / "a.npy"), "--model", str(minilm), "--device", "cpu"]
    assert cli.main(command) == 2
    assert "if ';' is between its columns, name it: --delimiter ';'" in capsys.readouterr().err
    assert cli.main([*command, "--delimiter", ";"]) == 2
    assert "if it is Latin-1, name it: --encoding 'latin-1'" in capsys.readouterr().err


def test_stray_quotes_are_those_of_dictreader_and_an_open_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a"b,x\n5" wide,y\n"say ""so""",z\n')
    with path.open(newline="") as stream:
        expected = [row["text"] for row in csv.DictReader(stream)]
    assert [*read_texts(path)] == read_table(path, ["text"]).values["text"] == expected
    for end in ('"open,x\n', '"open,x', 'a,"open\nnext,y\n'):
        path.write_text(f"text,label\nfine,x\n{end}")
        with pytest.raises(InputError, match=r"a\.csv, line 3: a quote is opened and never closed"):
            [*read_texts(path)]


@pytest.mark.parametrize("encoding", ["rot13", "base64", "punycode", "undefined"])
def test_what_is_no_encoding_of_lines_is_refused(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(InputError):
        [*read_texts(tmp_path / "a.txt", form=Form(encoding))]


def test_an_encoding_of_mainframes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\none,x\n".encode("cp037"))
    assert [*read_texts(tmp_path / "a.csv", form=Form("cp037"))] == ["one"]


def test_a_json_line_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: not JSON \(.* line 1 column 13"):
        [*read_texts(tmp_path / "a.jsonl")]


def test_text_for_pre_training_is_read_in_its_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{i};der Fuchs läuft über die Straße {i % 3}." for i in range(40)]
    (tmp_path / "t.csv").write_bytes("\n".join(["nr;text", *rows]).encode("latin-1"))
    (tmp_path / "t.txt").write_bytes("\n".join(rows).encode("latin-1"))
    form = ("--encoding", "latin-1", "--delimiter", ";")
    source, tokens = str(tmp_path / "t.csv"), str(tmp_path / "tok")
    assert cli.main(["tokenizer", "train", str(tmp_path / "t.txt"), "-o", tokens, "--vocab-size", "60"]) == 2
    assert "--encoding 'latin-1'" in capsys.readouterr().err
    assert cli.main(["tokenizer", "train", source, "-o", tokens, "--vocab-size", "60", *form]) == 0
    build = ["data", "build", source, "--tokenizer", tokens]
    assert cli.main([*build, "-o", str(tmp_path / "c"), *form]) == 0
    assert cli.main([*build, "-o", str(tmp_path / "c"), *form]) == 0
    assert "already holds this build" in capsys.readouterr().err
    assert cli.main([*build, "-o", str(tmp_path / "d"), "--encoding", "latin-1"]) == 2
    assert "--delimiter" in capsys.readouterr().err
