"""Jobs over files: every form of input, the same bytes whoever makes the parts, and nothing lost when a process dies."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bulk_cases import die_at, everything, run_alone
from pretraining_cases import forks, free_port, one_of_several
from pyarrow import parquet
from task_cases import save_encoder, save_head, texts

from benchmarks import bulk
from fastbert import cli
from fastbert.bulk import Columns, Embed, plan, rows, run_job
from fastbert.bulk.rows import read_rows
from fastbert.data.lines import PLAIN, Form
from fastbert.errors import CheckpointError, InputError
from fastbert.files import writing
from fastbert.tasks import Embedder

ODD = ["", "paris, rome", 'a "quoted" cat', "two\nlines", "caf\u00e9 \u00df", "  spaces  "]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file, a table and JSON lines: 200 rows."""
    folder = tmp_path_factory.mktemp("corpus")
    found = [one.text for one in texts(200, seed=3)]
    (folder / "a.txt").write_text("".join(f"{text}\n" for text in found[:70]))
    (folder / "b.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in found[70:140]))
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in found[140:]))
    return folder


def command(model: Path, inputs: Sequence[Path | str], out: Path, *options: str) -> list[str]:
    return ["embed", *map(str, inputs), "-o", str(out), "--model", str(model), "--device", "cpu", *options]


def job(model: Path, **options: Any) -> Embed:
    return Embed(str(model), "cpu", **options)


# -- what is read --------------------------------------------------------------------------------------------------------------


def in_every_form(folder: Path, values: Sequence[str]) -> dict[Path, Form]:
    """Files that hold the same texts, with a number and a note beside each; text files those without a line end."""
    folder.mkdir(exist_ok=True)
    rows = [(number, text, None if number % 2 else "note") for number, text in enumerate(values)]

    def cells(row: tuple[Any, ...], between: str) -> str:
        return between.join('"' + str("" if value is None else value).replace('"', '""') + '"' for value in row)

    csv = "id,text,note\n" + "".join(f"{cells(row, ',')}\n\n" for row in rows)
    lines = "".join(json.dumps({"id": i, "text": text, "note": note}) + "\n \n" for i, text, note in rows)
    (folder / "a.csv").write_text(csv, encoding="utf-8-sig")
    (folder / "b.csv").write_bytes(csv.replace(",", ";").replace("paris; rome", "paris, rome").encode("latin-1"))
    (folder / "c.CSV.gz").write_bytes(gzip.compress(csv.encode()))
    (folder / "d.jsonl").write_text(lines, encoding="utf-8")
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = pa.table({"note": [row[2] for row in rows], "text": [row[1] for row in rows], "id": [row[0] for row in rows]})
    parquet.write_table(table, folder / "f.parquet", row_group_size=4)
    found = dict.fromkeys(sorted(folder.iterdir()), PLAIN)
    found[folder / "b.csv"] = Form("latin-1", ";")
    return found


def test_rows_are_the_same_in_every_form_and_from_every_place(tmp_path: Path) -> None:
    values = ODD * 2 + ["x" * number for number in range(5)]
    for path, form in in_every_form(tmp_path / "in", values).items():
        found = list(read_rows(path, Columns(id="id", keep=("note",)), form))
        assert [row[0] for *_, row in found] == values, path  # type: ignore[index]
        assert [int(row[1]) for *_, row in found] == list(range(len(values))), path  # type: ignore[index]
        assert [place.row for place, *_ in found] == list(range(len(values)))
        for number, (place, *_) in enumerate(found):
            assert list(read_rows(path, Columns(id="id", keep=("note",)), form, place)) == found[number:], (path, number)


def test_lines_of_text_and_tables_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\nthree")
    found = list(read_rows(tmp_path / "a.txt", Columns(), PLAIN))
    assert [(line, row) for _, line, row in found] == [(1, ("one",)), (2, ("",)), (3, ("three",))]
    assert list(read_rows(tmp_path / "a.txt", Columns(), PLAIN, found[1][0])) == found[1:]
    (tmp_path / "b.tsv").write_text('1\t"a\n\n2\tb\n')
    found = list(read_rows(tmp_path / "b.tsv", Columns(("2",), "1"), PLAIN))
    assert [(line, row) for _, line, row in found] == [(1, ('"a', "1")), (3, ("b", "2"))]
    assert list(read_rows(tmp_path / "b.tsv", Columns(("2",), "1"), PLAIN, found[1][0])) == found[1:]


def test_the_output_holds_what_encode_gives_with_ids_and_columns(model: Path, tmp_path: Path) -> None:
    values = [text.replace("\n", " ") for text in ODD * 3]
    wanted = Embedder.from_pretrained(model, "cpu").encode(values)
    for number, (path, form) in enumerate(in_every_form(tmp_path / "in", values).items()):
        out = tmp_path / f"out{number}"
        columns = Columns(id="id", keep=("note", "text"))
        found = run_job(job(model), [str(path)], out, columns, form, part_rows=7)
        assert (found.rows, found.parts, found.made, found.skipped, found.cut) == (18, 3, 18, 0, 0)
        table = parquet.read_table(out)  # which passes over the manifest
        assert table.column_names == ["id", "note", "text", "vector"]
        assert table["text"].to_pylist() == values
        csv = ".csv" in path.name.lower()
        assert table["id"].to_pylist() == [str(i) if csv else i for i in range(18)]
        assert table["note"].to_pylist() == [("" if csv else None) if i % 2 else "note" for i in range(18)]
        assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float32()), 64)
        assert np.allclose(np.array(table["vector"].to_pylist()), wanted, atol=1e-6)


def test_npy_with_ids_beside_and_other_precisions(model: Path, corpus: Path, tmp_path: Path) -> None:
    inputs = [str(corpus / "*.*")]
    run_job(job(model), inputs, tmp_path / "a", file_form="npy", part_rows=64)
    assert sorted(everything(tmp_path / "a")) == ["_manifest.json"] + [
        f"part-{i:05d}.{end}" for i in range(4) for end in ("jsonl", "npy")
    ]
    vectors = np.concatenate([np.load(tmp_path / "a" / f"part-{i:05d}.npy") for i in range(4)])
    lines = "".join((tmp_path / "a" / f"part-{i:05d}.jsonl").read_text() for i in range(4)).splitlines()
    assert json.loads(lines[0]) == {"file": str(corpus / "a.txt"), "row": 1}
    assert json.loads(lines[-1]) == {"file": str(corpus / "c.jsonl"), "row": 60}
    for precision, kind in (("float16", pa.float16()), ("int8", pa.int8()), ("ubinary", pa.uint8())):
        run_job(job(model, precision=precision), inputs, tmp_path / precision, part_rows=64)
        table = parquet.read_table(tmp_path / precision)
        assert table.schema.field("vector").type.value_type == kind
        found = np.array(table["vector"].to_pylist())
        if precision == "float16":
            assert np.array_equal(found, vectors.astype(np.float16))
    low, high = json.loads((tmp_path / "int8" / "_manifest.json").read_text())["settled"]["ranges"]
    assert np.allclose(low, vectors.min(0), atol=1e-6)  # 200 rows: all of them are in the sample
    assert np.allclose(high, vectors.max(0), atol=1e-6)
    int8 = np.array(parquet.read_table(tmp_path / "int8")["vector"].to_pylist(), dtype=np.float32)
    steps = (np.array(high) - low) / 255
    assert np.abs((int8 + 128.5) * steps + low - vectors).max() <= steps.max()


def test_one_type_a_column_whatever_the_part(model: Path, tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "a", "n": None, "m": 1, "t": "x", "b": True, "j": [1]}] * 3
    rows += [{"text": "b", "n": 2, "m": 1.5, "t": 5, "b": False, "j": {"k": "\u00e9"}}] * 3
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_job(job(model), [str(tmp_path / "a.jsonl")], tmp_path / "out", Columns(keep=("n", "m", "t", "b", "j")), part_rows=2)
    schemas = {str(parquet.read_schema(path).remove_metadata()) for path in (tmp_path / "out").glob("*.parquet")}
    assert len(schemas) == 1
    table = parquet.read_table(tmp_path / "out")
    assert [str(table.schema.field(name).type) for name in "nmtbj"] == ["int64", "double", "string", "bool", "string"]
    assert table["j"].to_pylist() == ["[1]"] * 3 + ['{"k": "\u00e9"}'] * 3


def test_texts_that_are_too_long_are_counted_or_named(model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.txt").write_text("cat\n" + "cat " * 100 + "\n" + "dog " * 90 + "\n")
    assert cli.main(command(model, [tmp_path / "a.txt"], tmp_path / "out")) == 0
    assert "2 texts of 3 were longer than the model reads, and were truncated" in capsys.readouterr().err
    assert cli.main(command(model, [tmp_path / "a.txt"], tmp_path / "other", "--overlong", "error")) == 2
    assert "a.txt, line 2 has 102 tokens, the limit is 64" in capsys.readouterr().err


# -- who makes the parts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_job(job(model), [str(corpus / "*")], out, part_rows=16)
    found = everything(out)
    assert len(found) == 14
    return found


def test_a_second_start_makes_what_is_missing_and_nothing_else(
    model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    given = command(model, [corpus / "*"], tmp_path, "--part-rows", "16")
    for name, content in undisturbed.items():
        (tmp_path / name).write_bytes(content)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert cli.main(given) == 0
    assert "200 rows, all of them made before" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / "part-00003.parquet").unlink()
    (tmp_path / "part-00012.parquet").unlink()
    assert cli.main(given) == 0
    assert "24 rows in" in capsys.readouterr().err
    assert everything(tmp_path) == undisturbed
    after = {path for path, changed in before.items() if path.stat().st_mtime_ns != changed}
    assert {path.name for path in after} == {"part-00003.parquet", "part-00012.parquet", "_manifest.json"}


def test_workers_make_the_same_bytes(model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    assert cli.main(command(model, [corpus / "*"], tmp_path / "out", "--part-rows", "16", "--workers", "2")) == 0
    assert everything(tmp_path / "out") == undisturbed


def test_two_ranks_make_the_same_bytes_and_a_lost_one_is_made_up_for(
    model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = command(model, [corpus / "*"], out, "--part-rows", "16")
    for count in (2, 3):
        port = free_port()
        said = tmp_path / f"said{count}"
        ranks = [forks().Process(target=one_of_several, args=(given, rank, count, port, str(said))) for rank in range(count)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(120)
        assert [rank.exitcode for rank in ranks] == [0] * count, said.read_text()
        assert said.read_text().count("->") == 1, "one process reports"
        assert everything(out) == undisturbed
        for number in (1, 2, 5, 11):  # the parts of a rank that is gone
            (out / f"part-{number:05d}.parquet").unlink()


def test_killed_at_any_point_the_output_is_the_same(
    model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = command(model, [corpus / "*"], out, "--part-rows", "16")
    draws = random.Random(5)
    for turn in range(20):
        if turn % 2:
            place = draws.choice(["disk", "before", "after"])
            process = forks().Process(target=die_at, args=(given, place, draws.randrange(4)))
            process.start()
        else:
            process = forks().Process(target=run_alone, args=(given,))
            process.start()
            time.sleep(draws.uniform(0.0, 0.6))
            process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:  # all was done: begin again
            assert everything(out) == undisturbed
            shutil.rmtree(out)
    process = forks().Process(target=run_alone, args=(given,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert everything(out) == undisturbed


def test_a_full_disk_stops_with_a_sentence_and_the_same_command_goes_on(
    model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, left = tmp_path / "out", [6]  # the manifest, and five parts

    def full(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    given = command(model, [corpus / "*"], out, "--part-rows", "16")
    with monkeypatch.context() as patched:
        patched.setattr(writing, "flush", full)
        assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert "No space left on device; 8 of 13 parts are missing, the same command makes them" in said
    assert len(everything(out)) == 6
    assert cli.main(given) == 0
    assert everything(out) == undisturbed


# -- what is refused -----------------------------------------------------------------------------------------------------------


def test_another_model_other_settings_or_other_inputs_are_refused(
    model: Path, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, content in undisturbed.items():
        (out / name).write_bytes(content)
    other = save_encoder(tmp_path / "other", layers=1)
    inputs = [str(corpus / "*")]
    cases: list[tuple[str, Any, list[str], dict[str, Any]]] = [
        (f"another model, {model}; now it is {other}", job(other), inputs, {}),
        ("begun without normalize, and is now given with normalize = True", job(model, normalize=True), inputs, {}),
        ("begun without pooling, and is now given with pooling = \\['cls'\\]", job(model, pooling=("cls",)), inputs, {}),
        ("with precision = 'float32', and is now given with precision = 'int8'", job(model, precision="int8"), inputs, {}),
        ("with part_rows = 16, and is now given with part_rows = 17", job(model), inputs, {"part_rows": 17}),
        ("with format = 'parquet', and is now given with format = 'npy'", job(model), inputs, {"file_form": "npy"}),
        ("without keep, and is now given with keep = \\['text'\\]", job(model), inputs, {"columns": Columns(keep=("text",))}),
        ("other inputs: .*c.jsonl is not among them", job(model), [str(corpus / "[ab].*")], {}),
    ]
    for message, work, given, options in cases:
        with pytest.raises(InputError, match=message + ".*name another folder"):
            run_job(work, given, out, **{"part_rows": 16, **options})
    assert everything(out) == undisturbed


def test_an_input_that_has_changed_is_refused_and_a_touched_one_is_not(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("cat\ndog\n")
    run_job(job(model), [str(path)], out)
    os.utime(path, (1, 1))
    assert run_job(job(model), [str(path)], out).made == 0
    path.write_text("cat\nfox\n")
    with pytest.raises(InputError, match="a.txt has changed since .*out was begun: name another folder"):
        run_job(job(model), [str(path)], out)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"fine\n\xff broken\n", [], "a.txt, line 2: not UTF-8 text (byte 1 of the line)"),
        ("a.csv", b"id,title\n1,x\n", [], "a.csv has no column 'text'; it has id, title"),
        ("a.csv", b"id,text\n1,x\n2\n", [], "a.csv, line 3: 1 columns, the header has 2"),
        ("a.csv", b'text\n"x\n', [], "a.csv, line 2: a quote is opened and never closed"),
        ("a.csv", b"text\nx\n", ["--keep", "vector,text"], "has no column 'vector'"),
        ("a.csv", b"text,file\nx,y\n", ["--keep", "file"], "--keep 'file': the output has a column 'file' of its own"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": null}\n', [], "a.jsonl, line 3: 'text' is null; expected a text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y"}\n', ["--id", "k"], "a.jsonl, line 1: no key 'k'; it has text"),
        ("a.jsonl", b'{"text": "x"}\n{"text"\n', [], "a.jsonl, line 2: not JSON"),
        ("a.json", b"{}", [], "a.json is JSON, whose lines are no texts"),
        ("a.txt.gz", gzip.compress(b"x\n" * 9999, mtime=0)[:30], [], "cannot read"),
        ("a.parquet", b"PAR1", [], "cannot read"),
        ("a.txt", b"x\n", ["--id", "k"], "a.txt is read line by line: the columns text, k need a table"),
        ("a.txt", b"", [], "a.txt: no text that can be used"),
        ("a.txt", b"x\n", ["--part-rows", "0"], "--part-rows 0 must be a whole number of at least 1"),
        ("a.txt", b"x\n", ["--workers", "0"], "--workers 0 must be a whole number of at least 1"),
        ("a.txt", b"x\n", ["--encoding", "utf-16"], "a bulk job reads encodings whose line ends are the byte 10"),
        ("a.txt", b"x\n", ["--int8"], "only a .npy output takes it"),
        (
            "a.txt",
            b"x\n",
            ["--fp8"],
            "--fp8 chooses by measuring, which differs from start to start: only",
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_any_work(
    model: Path, tmp_path: Path, capsys: Any, name: str, content: bytes, options: list[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    if "vector" in str(options):
        message = "--keep 'vector': the output has a column 'vector' of its own"
    assert cli.main(command(model, [tmp_path / "in" / name], tmp_path / "out", *options)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.replace("scan: started\n", "").count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_be_used_are_counted(model: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"cat\n\xff\ndog\n\xfe\n")
    (folder / "b.csv").write_text("id,text\n1,fox\n2\n3,owl\n")
    (folder / "c.jsonl").write_text('{"text": 5}\n{"text": "cat"}\n[1]\n{\n')
    (folder / "d.csv").write_text("id,title\n1,x\n")
    (folder / "e.parquet").write_bytes(b"PAR1")
    parquet.write_table(pa.table({"text": ["dog", None]}), folder / "f.parquet")
    given = command(model, [folder / "*"], tmp_path / "out", "--part-rows", "2")
    assert cli.main(given) == 2
    assert "a.txt, line 2: not UTF-8" in capsys.readouterr().err
    assert cli.main([*given, "--errors", "skip"]) == 0
    assert "7 rows could not be used, and 2 files not be read to the end: the manifest has them" in capsys.readouterr().err
    table = parquet.read_table(tmp_path / "out")
    rows = zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
    assert [(Path(file).name, row) for file, row in rows] == [
        ("a.txt", 1),
        ("a.txt", 3),
        ("b.csv", 1),
        ("b.csv", 3),
        ("c.jsonl", 2),
        ("f.parquet", 1),
    ]
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["skipped"] == 7
    assert [Path(path).name for path, _ in manifest["unreadable"]] == ["d.csv", "e.parquet"]
    assert cli.main(given) == 0, "what was decided before holds"


def test_a_damaged_part_and_a_foreign_folder_are_named(model: Path, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    given = command(model, [corpus / "a.txt"], tmp_path / "out", "--part-rows", "50")
    assert cli.main(given) == 0
    part = tmp_path / "out" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert cli.main(given) == 2
    assert "part-00001.parquet is damaged" in capsys.readouterr().err
    part.unlink()
    assert cli.main(given) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    assert cli.main(command(model, [corpus / "a.txt"], tmp_path / "other")) == 2
    assert "is not empty and has no _manifest.json: name a new folder" in capsys.readouterr().err
    assert cli.main(command(model, [corpus / "no*.txt"], tmp_path / "third")) == 2
    assert "no file matches" in capsys.readouterr().err
    assert cli.main(command(model, [corpus], tmp_path / "third")) == 2
    assert "is a folder: name its files, such as" in capsys.readouterr().err
    assert cli.main(command(model, [corpus / "a.txt"], tmp_path / "v.npy", "--id", "x")) == 2
    assert "--id 'x' needs a folder as output" in capsys.readouterr().err


def test_an_input_that_changes_meanwhile_is_noticed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("cat\n" * 10)
    make = plan.make_plan

    def made(*given: Any, **named: Any) -> Any:
        found = make(*given, **named)
        path.write_text("cat\n" * 5)
        return found

    monkeypatch.setattr("fastbert.bulk.running.make_plan", made)
    with pytest.raises(InputError, match="a.txt has changed while the job ran"):
        run_job(job(model), [str(path)], tmp_path / "out")


def test_a_worker_that_is_gone_is_named(model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    for path in model.iterdir():
        shutil.copy(path, tmp_path / "model")
    work = job(tmp_path / "model")
    _ = work.fingerprint  # the model is gone before the workers load it
    shutil.rmtree(tmp_path / "model")
    with pytest.raises((InputError, CheckpointError), match="model"):
        run_job(work, [str(corpus / "*")], tmp_path / "out", part_rows=16, workers=2)


# -- what a careful reader found -----------------------------------------------------------------------------------------------


def test_a_process_killed_while_the_first_manifest_is_written_is_made_up_for(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    given = command(model, [tmp_path / "a.txt"], tmp_path / "out")
    process = forks().Process(target=die_at, args=(given, "before", 0))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(everything(tmp_path / "out")) == 2, "the lock and a leftover"
    assert cli.main(given) == 0
    assert sorted(everything(tmp_path / "out")) == ["_manifest.json", "part-00000.parquet"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("predict", ["--task", "zero-shot"], "needs --candidates"),
        ("predict", ["--label-column", "y"], "--label-column 'y' is not for a folder as output"),
        ("predict", ["--text-column", "text"], "--text-column 'text' names columns of a table; .*a.txt is read line by line"),
        ("features", ["--layers=99"], "--layer 99|layer = 99 is not one of"),
        ("embed", ["--batch-tokens", "0"], "--batch-tokens 0 must be at least 1"),
        ("embed", ["--output", "-"], "name a file or a folder"),
        ("rank", ["--top-k", "0"], "--top-k 0 must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_said_before_the_folder_is_made(
    name: str, options: list[str], message: str, model: Path, tmp_path: Path, capsys: Any
) -> None:
    kind = "BertForSequenceClassification"
    save_head(tmp_path / "head", kind, num_labels=1 if name == "rank" else 3, id2label=None if name == "rank" else THREE)
    (tmp_path / "a.txt").write_text("cat\n")
    query = ["x"] if name == "rank" else []
    folder = model if name in ("embed", "features") else tmp_path / "head"
    given = [name, *query, str(tmp_path / "a.txt"), "-o", f"{tmp_path / 'out'}/", "--model", str(folder), "--device", "cpu"]
    assert cli.main([*given, *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


THREE = {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_a_text_that_is_too_long_does_not_lose_what_was_made(model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "\n\ncat\n" * 10 + "cat " * 99 + "\ndog\n")
    given = command(model, [tmp_path / "a.csv"], tmp_path / "out", "--part-rows", "4")
    assert cli.main([*given, "--overlong", "error"]) == 2
    assert "a.csv, line 32 has 101 tokens, the limit is 64" in capsys.readouterr().err
    assert (tmp_path / "out" / "part-00001.parquet").exists()
    assert cli.main([*given, "--overlong", "window"]) == 0
    assert cli.main(command(model, [tmp_path / "a.csv"], tmp_path / "whole", "--part-rows", "4", "--overlong", "window")) == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_halves_of_characters_are_bad_rows(model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "\\ud83d\\ude00", "k": 1}\n{"text": "a", "k": "\\ud800"}\n{"text": "\\udc00", "k": 2}\n'
    )
    given = command(model, [tmp_path / "a.jsonl"], tmp_path / "out", "--keep", "k")
    assert cli.main(given) == 2
    assert "a.jsonl, line 2: holds half of a surrogate pair" in capsys.readouterr().err
    assert cli.main([*given, "--errors", "skip"]) == 0
    assert parquet.read_table(tmp_path / "out")["k"].to_pylist() == [1]


def test_files_without_a_column_are_left_out_and_others_keep_their_types(model: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    for name, kind in (("b", pa.int32()), ("c", pa.int32())):
        parquet.write_table(pa.table({"text": ["a", "b"], "id": pa.array([1, 2], kind)}), tmp_path / f"{name}.parquet")
    found = run_job(job(model), [str(tmp_path / "*.parquet")], tmp_path / "out", Columns(id="id"), errors="skip")
    assert (found.rows, found.unreadable) == (4, 1)
    assert parquet.read_table(tmp_path / "out").schema.field("id").type == pa.int32()
    parquet.write_table(pa.table({"text": ["a"], "id": pa.array([3], pa.int64())}), tmp_path / "d.parquet")
    run_job(job(model), [str(tmp_path / "[bcd].parquet")], tmp_path / "two", Columns(id="id"))
    assert parquet.read_table(tmp_path / "two").schema.field("id").type == pa.int64()


def test_numbers_that_no_double_holds_and_dates_among_texts_stay_what_they_are(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": 9007199254740993, "d": "x"}\n{"text": "a", "n": 1.5, "d": "y"}\n')
    run_job(job(model), [str(tmp_path / "a.jsonl")], tmp_path / "one", Columns(keep=("n",)))
    assert parquet.read_table(tmp_path / "one")["n"].to_pylist() == ["9007199254740993", "1.5"]
    days = pa.array([1], pa.date32())
    parquet.write_table(pa.table({"text": ["b"], "n": [1], "d": days}), tmp_path / "b.parquet")
    run_job(job(model), [str(tmp_path / name) for name in ("a.jsonl", "b.parquet")], tmp_path / "two", Columns(keep=("d",)))
    assert parquet.read_table(tmp_path / "two")["d"].to_pylist() == ["x", "y", "1970-01-02"]


def test_npy_without_its_ids_is_made_again_and_a_damaged_one_named(model: Path, corpus: Path, tmp_path: Path) -> None:
    inputs, out = [str(corpus / "*")], tmp_path / "out"
    run_job(job(model), inputs, out, file_form="npy", part_rows=100)
    before = everything(out)
    (out / "part-00001.jsonl").unlink()
    run_job(job(model), inputs, out, file_form="npy", part_rows=100)
    assert everything(out) == before
    for name, content in (("part-00000.npy", b""), ("part-00001.jsonl", b"{}\n")):
        (out / name).write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            run_job(job(model), inputs, out, file_form="npy", part_rows=100)
        (out / name).write_bytes(before[name])


def test_int8_takes_a_byte_a_number_and_its_ranges_are_from_all_over(model: Path, tmp_path: Path) -> None:
    lines = ["cat"] * 3000 + ["paris rome"] * 3000
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    sizes = {}
    for precision in ("float32", "int8", "ubinary"):
        run_job(job(model, precision=precision), [str(tmp_path / "a.txt")], tmp_path / precision)
        sizes[precision] = sum(len(content) for name, content in everything(tmp_path / precision).items() if "part" in name)
    assert sizes["int8"] < 0.3 * sizes["float32"]
    assert sizes["ubinary"] < 0.1 * sizes["float32"]
    low, high = json.loads((tmp_path / "int8" / "_manifest.json").read_text())["settled"]["ranges"]
    vectors = Embedder.from_pretrained(model, "cpu").encode(["cat", "paris rome"])
    assert np.allclose([low, high], [vectors.min(0), vectors.max(0)], atol=1e-6)


@pytest.mark.thorough
def test_workers_end_with_the_process_that_started_them(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat dog fox\n" * 60_000)
    out = tmp_path / "out"
    options = ["--part-rows", "50", "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "fastbert", *command(model, [tmp_path / "a.txt"], out, *options)])
    while not list(out.glob("*.parquet")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    time.sleep(0.5)
    count = len(list(out.iterdir()))
    time.sleep(0.5)
    assert len(list(out.iterdir())) == count


def test_a_packed_file_is_read_on_from_part_to_part(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"".join(b"cat %d\n" % n for n in range(300))))
    opened: list[Path] = []
    real = rows.opened
    monkeypatch.setattr(rows, "opened", lambda name: opened.append(name) or real(name))
    run_job(job(model), [str(path)], tmp_path / "out", part_rows=20)
    assert len(opened) == 2, "once for the scan, once for all parts"
    (tmp_path / "out" / "part-00003.parquet").unlink()
    (tmp_path / "out" / "part-00009.parquet").unlink()
    run_job(job(model), [str(path)], tmp_path / "out", part_rows=20)
    assert len(opened) == 3
    assert parquet.read_table(tmp_path / "out")["row"].to_pylist() == list(range(1, 301))


# -- the page ------------------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs/bulk.md"


def test_the_page_s_commands_are_commands_and_its_python_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^(?:torchrun .* -m )?(fastbert (?:embed|predict|rank|features) .*)$", page, re.M)
    assert len(lines) == 7
    for line in lines:
        cli._parser().parse_args(shlex.split(line)[1:])
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    rows = [{"doc_id": n, "text": one.text, "title": f"t{n}", "url": "u"} for n, one in enumerate(texts(20, seed=1))]
    Path("corpus/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (block,) = (one for one in re.findall(r"```python\n(.*?)```", page, re.S) if "run_job" in one)
    exec(block.replace("my-model/", str(model)), {})
    wanted = parquet.read_table("titles/")
    assert wanted.column_names == ["id", "title", "vector"]

    import datasets
    import pandas as pd

    found = datasets.load_dataset("parquet", data_files="titles/*.parquet", split="train", cache_dir=str(tmp_path / "cache"))
    assert list(found["title"]) == list(pd.read_parquet("titles/")["title"]) == [row["title"] for row in rows]


def test_the_page_s_figures_are_the_committed_ones_and_reach_their_aims() -> None:
    rows = [json.loads(line) for line in bulk.RESULTS.open()]
    page = PAGE.read_text(encoding="utf-8")
    begin, end = bulk.MARKS
    assert begin + page.split(begin)[1].split(end)[0] + end == bulk.block(rows)
    seconds = {row["way"]: row["median_s"] for row in rows}
    assert seconds["from ids"] / seconds["from a file to a folder"] > 0.9
    assert seconds["sentence-transformers' encode, as it comes"] / seconds["from a file to a folder"] > 1.8


@pytest.mark.thorough
def test_the_benchmark_compares_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    out = tmp_path / "rows.jsonl"
    assert bulk.main(["--texts", "5", "--rounds", "1", "--output", str(out)]) == 0
    assert next(json.loads(line)["way"] for line in out.open()) == "from ids"
    assert len(capsys.readouterr().out.splitlines()) == 4
    monkeypatch.setattr(bulk, "CLOSE", -1.0)
    assert bulk.main(["--texts", "5", "--rounds", "1", "--output", str(out)]) == 2
    assert "gives vectors that differ by" in capsys.readouterr().err
