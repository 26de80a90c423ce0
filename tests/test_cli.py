"""The command line: results on stdout or in files, one sentence on stderr, exit code 2 for bad input, nothing half written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_pair

from fastbert import BertTokenizer, cli
from fastbert.data import read_texts
from fastbert.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "is", "the", "capital", "of", "france", "."]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made, _ = make_pair("BertForMaskedLM", vocab_size=len(WORDS))
    made.save_pretrained(folder)
    BertTokenizer(WORDS, model_max_length=40).save_pretrained(folder)
    return str(folder)


def embed(model: str, source: Path | str, out: Path, *options: str) -> int:
    return cli.main(["embed", str(source), "-o", str(out), "--model", model, "--device", "cpu", *options])


def test_embed_takes_text_tables_and_standard_input(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ['Paris is "the" capital', "", "of France."]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_bytes(("\ufeffid\ttext\r\n" + "".join(f"{i}\t{t}\r\n" for i, t in enumerate(texts))).encode())
    (tmp_path / "c.csv").write_text('text,id\n"Paris is ""the"" capital",0\n"",1\nof France.,2\n', encoding="utf-8")
    (tmp_path / "d.jsonl").write_text(
        "\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(texts)), encoding="utf-8"
    )
    (tmp_path / "e.tsv").write_text("".join(f"x\t{t}\textra\n" for t in texts), encoding="utf-8")
    results = []
    for name, options in (
        ("a.txt", []),
        ("b.tsv", []),
        ("c.csv", ["--column", "text"]),
        ("d.jsonl", []),
        ("e.tsv", ["--column", "2"]),
    ):
        assert embed(model, tmp_path / name, tmp_path / "out.npy", *options) == 0, name
        results.append(np.load(tmp_path / "out.npy"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.txt").read_bytes())))
    assert embed(model, "-", tmp_path / "out.npy") == 0
    results.append(np.load(tmp_path / "out.npy"))
    assert results[0].shape == (3, 48)
    assert results[0].dtype == np.float32
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_embed_reports_on_stderr_and_replaces_the_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("paris\n")
    (tmp_path / "out.npy").write_text("old")
    assert embed(model, tmp_path / "a.txt", tmp_path / "out.npy", "--pooling", "cls,max", "--normalize") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1 texts in" in shown.err
    assert "1 x 96 float32" in shown.err
    assert np.load(tmp_path / "out.npy").shape == (1, 96)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "out.npy"]


def test_an_output_that_cannot_be_written_stops_before_the_work(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastbert.tasks import Embedder

    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(Embedder, "from_pretrained", too_late)
    (tmp_path / "a.txt").write_text("paris\n")
    assert embed(model, tmp_path / "a.txt", tmp_path / "no" / "out.npy") == 2
    assert "cannot write" in capsys.readouterr().err
    assert embed(model, tmp_path / "a.txt", tmp_path) == 2
    assert "is not empty and has no _manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"fine\n\xff\xfe broken\n", [], r"a.txt, line 2: not UTF-8 text (byte 1 of the line)"),
        ("a.txt", b"", [], "holds no text"),
        ("a.txt", b"x\n", ["--column", "2"], "--column '2' needs a .tsv, .csv, .jsonl or .parquet file"),
        ("a.tsv", b"id\ttitle\n1\tx\n", [], "has no column 'text'; it has id, title"),
        ("a.tsv", b"a\tb\nc\n", ["--column", "2"], "line 2: 1 columns, column 2 is wanted"),
        ("a.tsv", b"a\tb\n", ["--column", "0"], "columns count from 1"),
        ("a.tsv", b"", [], "is empty; expected a header row"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}\n', [], "line 2: no text under 'text'; it has text"),
        ("a.jsonl", b'{"text": "x"}\nnonsense\n', [], "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", [], "line 1: no text under 'text'; it has a list"),
        ("a.txt", b"paris " * 50, ["--overlong", "error"], "texts[0] has 52 tokens, the limit is 40"),
        ("a.txt", b"paris\n", ["--batch-tokens", "0"], "--batch-tokens 0 must be at least 1"),
        ("a.txt", b"paris\n", ["--pooling", "sum"], "--pooling ['sum']: the modes are"),
    ],
)
def test_embed_refuses(model: str, tmp_path: Path, capsys, name: str, content: bytes, options: list[str], message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert embed(model, tmp_path / name, tmp_path / "out.npy", *options) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1, "more than one sentence"
    assert sorted(os.listdir(tmp_path)) == [name], "something was left behind"


def test_missing_files_and_models_are_named(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(model, tmp_path / "nothing.txt", tmp_path / "out.npy") == 2
    assert "nothing.txt: No such file" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("paris\n")
    assert embed(str(tmp_path / "model"), tmp_path / "a.txt", tmp_path / "out.npy") == 2
    assert "there is no directory" in capsys.readouterr().err


def test_interrupting_leaves_no_part_behind(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from fastbert.tasks import Embedder

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "encode", interrupted)
    (tmp_path / "a.txt").write_text("paris\n")
    assert embed(model, tmp_path / "a.txt", tmp_path / "out.npy") == 130
    assert "interrupted; no file is half written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.txt"]


def test_truncation_is_reported(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("paris " * 50)
    assert embed(model, tmp_path / "a.txt", tmp_path / "out.npy") == 0
    assert "fastbert: warning: 1 of 1 texts have more than 40 tokens and were truncated" in capsys.readouterr().err


def test_fill_mask_prints_tables_and_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Paris is the [MASK] of [MASK]."
    assert cli.main(["fill-mask", text, "--model", model, "--top-k", "2", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "(mask 2)" in shown
    assert len(shown.splitlines()) == 6
    assert (
        cli.main(["fill-mask", text, "the [MASK]", "--model", model, "--targets", "paris,france", "--json", "--device", "cpu"])
        == 0
    )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [len(part) for part in first["answers"]] == [2, 2]
    assert {a["token_str"] for a in second["answers"]} == {"paris", "france"}
    assert cli.main(["fill-mask", "no mask here", "--model", model]) == 2


def test_params_prints_the_closed_form(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "--size", "large", "--head", "BertForPreTraining"]) == 0
    assert "336,226,108" in capsys.readouterr().out
    assert cli.main(["params", "--model", model]) == 0
    assert cli.main(["params", "--head", "BertForFun"]) == 2


def test_explain_prints_the_paths(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "paris", "paris is the capital", "--model", model, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "attention" in shown
    assert "9 tokens packed, padding left out: 25.0% of 12 positions" in shown


def test_explain_says_what_it_cut(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "paris " * 60, "--model", model, "--device", "cpu"]) == 0
    assert "1 texts were truncated to 40 tokens" in capsys.readouterr().err


def test_a_reader_that_closes_early_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fastbert.cli", "params"]
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "")  # what was asked for was not delivered


def test_a_failed_training_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokenizer", "train", str(tmp_path / "missing.txt"), "-o", str(tmp_path / "tok")]) == 2
    assert "missing.txt: No such file" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_tokenizer_train_writes_a_folder_and_reports_unknowns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 20, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the cat 中\n", encoding="utf-8")
    arguments = ["tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "tok"), "--vocab-size", "60"]
    assert cli.main([*arguments, "--held-out", str(tmp_path / "b.txt")]) == 0
    assert "33.3333%" in capsys.readouterr().out
    assert BertTokenizer.from_pretrained(tmp_path / "tok").tokenize("cat")
    assert cli.main([*arguments[:-1], "5"]) == 2


@pytest.mark.parametrize("command", [["embed"], ["fill-mask"], ["params"], ["explain"], ["tokenizer", "train"]])
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  fastbert {' '.join(command)} " in capsys.readouterr().out


def test_bad_usage_exits_with_2() -> None:
    run = subprocess.run([sys.executable, "-m", "fastbert.cli", "embed"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "the following arguments are required" in run.stderr


def test_read_texts_keeps_odd_separators_inside_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\u2028still one\x0bhere\r\ntwo\x85two\n".encode())
    assert list(read_texts(path)) == ["one\u2028still one\x0bhere", "two\x85two"]


def test_read_texts_takes_quotes_in_tsv_as_text_and_long_csv_fields(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('1\t"unbalanced\n2\tnext "one"\n', encoding="utf-8")
    assert list(read_texts(tmp_path / "a.tsv", "2")) == ['"unbalanced', 'next "one"']
    (tmp_path / "b.csv").write_text("text\n" + "x" * 200_000 + '\n"a\nb"\n', encoding="utf-8")
    assert [len(t) for t in read_texts(tmp_path / "b.csv")] == [200_000, 3]
    with pytest.raises(InputError, match="columns count from 1"):
        list(read_texts(tmp_path / "b.csv", "0"))
