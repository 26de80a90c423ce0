"""Outputs appear whole: killed at any step, a file or folder is the old one or the new one, and the next start clears up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_pair
from task_cases import WORDS, save_encoder, save_head, texts, tokenizer

import fastbert
from fastbert import BertTokenizer, cli, files
from fastbert.errors import CheckpointError, InputError
from fastbert.files import writing
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.stopping import Stopped, stopping_signals

TEXT = "\n\n".join("the cat runs in paris and the dog sits .\nwhere is the red owl ?" for _ in range(30)) + "\n"


def run_killed(at: int, command: list[str]) -> bool:
    """Runs a command in a forked process that dies by SIGKILL at its n-th step of changing names or writing files.

    Returns whether it came to its end before.
    """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        return status == 0
    code, left = 1, [at]

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            for before in (True, False):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if before:
                    found = function(*arguments, **options)
            return found

        return call

    try:
        for place, names in (
            (os, ("replace", "rename", "link")),
            (Path, ("write_text", "write_bytes", "rename", "replace", "unlink")),
            (writing, ("_exchange",)),
        ):
            for name in names:
                setattr(place, name, dying(getattr(place, name)))
        code = cli.main(command)
    finally:
        os._exit(code)


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.thorough
def test_a_vocabulary_is_never_a_mixture_of_two(tmp_path: Path) -> None:
    folder = tmp_path / "vocabulary"
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT.replace("cat", "zebra").replace("owl", "wombat"))
    command = ["tokenizer", "train", str(tmp_path / "b.txt"), "-o", str(folder), "--vocab-size", "90"]
    assert cli.main(["tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(folder), "--vocab-size", "80"]) == 0
    (folder / "notes.md").write_text("mine")
    old = state_of(folder)
    assert cli.main([*command[:-4], "-o", str(tmp_path / "new"), "--vocab-size", "90"]) == 0
    new = {**state_of(tmp_path / "new"), "notes.md": b"mine"}
    points, ended = 0, False
    while not ended:
        points += 1
        assert points < 60
        ended = run_killed(points, command)
        assert state_of(folder) in (old, new), f"killed at step {points}"
        if state_of(folder) == new and not ended:
            assert cli.main(["tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(folder), "--vocab-size", "80"]) == 0
            assert state_of(folder) == old
    assert points > 5
    assert state_of(folder) == new
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "new", "vocabulary"]  # no .part is left


@pytest.mark.parametrize("static", [False, True])
def test_a_killed_build_is_started_again(static: bool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    tokenizer().save_pretrained(tmp_path / "tok")
    command = ["data", "build", str(tmp_path / "a.txt"), "--tokenizer", str(tmp_path / "tok")]
    command += ["--static", "--duplicates", "2", "--max-length", "32"] if static else []
    assert cli.main([*command, "-o", str(tmp_path / "whole")]) == 0
    whole = {k: v for k, v in state_of(tmp_path / "whole").items() if k.endswith(".bin")}
    for at in (1, 3, 5, 8, 11, 14, 17, 20, 24, 28, 32, 40):
        output = tmp_path / f"killed-{at}"
        ended = run_killed(at, [*command, "-o", str(output)])
        assert cli.main([*command, "-o", str(output)]) == 0  # also where it was killed when all was done
        assert {k: v for k, v in state_of(output).items() if k.endswith(".bin")} == whole
        assert not list(tmp_path.glob(".*"))
        if ended:
            break
    (tmp_path / "a.txt").write_text(TEXT + "another line\n")
    assert cli.main([*command, "-o", str(tmp_path / "whole")]) == 2  # of another text


def test_a_static_build_looks_at_its_output_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    tokenizer().save_pretrained(tmp_path / "tok")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    monkeypatch.setattr("fastbert.commands.pretraining._build_corpus", lambda *_: pytest.fail("worked before it looked"))
    command = ["data", "build", str(tmp_path / "a.txt"), "--tokenizer", str(tmp_path / "tok"), "--static"]
    for output in ("full", "a.txt", "a.txt/inside"):
        assert cli.main([*command, "-o", str(tmp_path / output)]) == 2


def test_saving_a_model_changes_all_its_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, _ = make_pair("BertModel")
    large, _ = make_pair("BertModel", num_hidden_layers=1, seed=1)
    small.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("mine")
    before = state_of(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_exchange", lambda *_: (_ for _ in ()).throw(OSError("the power is gone")))
        with pytest.raises(CheckpointError, match="the power is gone"):
            large.save_pretrained(tmp_path / "model")
    assert state_of(tmp_path / "model") == before
    large.save_pretrained(tmp_path / "model")
    assert fastbert.BertModel.from_pretrained(tmp_path / "model").config.num_hidden_layers == 1
    assert (tmp_path / "model" / "README.md").read_text() == "mine"
    (tmp_path / "model" / "folder").mkdir()  # such a folder is written to file by file
    small.save_pretrained(tmp_path / "model")
    assert fastbert.BertModel.from_pretrained(tmp_path / "model").config.num_hidden_layers == 3
    monkeypatch.chdir(tmp_path / "model")  # the folder that this process works in stays the folder that it is
    (tmp_path / "model" / "folder").rmdir()
    large.save_pretrained(".")
    assert Path.cwd() == tmp_path / "model"
    assert json.loads(Path("config.json").read_text())["num_hidden_layers"] == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "folder").mkdir()
    small.save_pretrained(tmp_path / "model")
    with monkeypatch.context() as patch:  # a system without the exchange
        patch.setattr(writing, "_exchange", lambda *_: False)
        (tmp_path / "model" / "folder").rmdir()
        large.save_pretrained(tmp_path / "model")
    assert fastbert.BertModel.from_pretrained(tmp_path / "model").config.num_hidden_layers == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_the_dead_are_cleared_and_those_of_the_living_stay(tmp_path: Path) -> None:
    for name in (".out.npy.abcdefgh.part", ".other.npy.abcdefgh.part"):
        (tmp_path / name).write_text("left")
    (tmp_path / ".model.xyzxyz12.part").mkdir()
    with files.replacing(tmp_path / "out.npy") as living:
        with files.replacing(tmp_path / "out.npy") as second:
            assert living.exists()
            second.write_text("two")
        living.write_text("one")
    assert (tmp_path / "out.npy").read_text() == "one"
    with files.replacing_folder(tmp_path / "model") as part:
        (part / "x").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.npy.abcdefgh.part", "model", "out.npy"]


def test_what_others_write_into_a_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b", "download.bin.part"):
        (folder / name).write_text("old")
    with files.updating_folder(folder) as part:
        files.write_text(part / "a", "new")
        files.write_text(part / "c", "new")
        (folder / "notes").write_text("another's")
        files.write_text(folder / "b", "another's")  # replaced, as a save of another process would
        files.write_text(folder / "c", "another's")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a": "new", "b": "another's", "c": "new", "notes": "another's", "download.bin.part": "old"
    }  # fmt: skip

    def fill_meanwhile() -> None:
        with files.new_folder(tmp_path / "x"):
            (tmp_path / "x").mkdir()
            (tmp_path / "x" / "another's").touch()

    with pytest.raises(CheckpointError, match="another process has filled it meanwhile"):
        fill_meanwhile()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["another's"]


def test_a_folder_that_was_aside_when_a_process_died_is_put_back(tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    (tmp_path / ".model.before").mkdir()
    (tmp_path / ".model.before" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "mine"
    (tmp_path / ".model.before").mkdir()
    model.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_many_processes_write_one_file(tmp_path: Path) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(150):
                    files.write_text(tmp_path / "shared.json", f"{number}" * 100)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(set((tmp_path / "shared.json").read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shared.json"]


def test_streams_of_another_encoding_lose_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    from fastbert import terminal

    with open(1, "w", encoding="ascii", closefd=False) as narrow:
        steady = terminal._Steady(narrow)
        for word in ("one\n", "café\n", "two\n"):
            steady.write(word)
        steady.flush()
    assert capfd.readouterr().out == "one\ncaf\\xe9\ntwo\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_leaves_nothing_or_what_the_next_start_clears(number: signal.Signals, tmp_path: Path) -> None:
    save_encoder(tmp_path / "model")
    (tmp_path / "in.txt").write_text("the cat runs\n" * 4000)
    command = ["embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "--model", str(tmp_path / "model")]
    child = os.fork()
    if not child:
        code = 1
        for one in (signal.SIGTERM, signal.SIGHUP):  # as in a process of its own: a library may have left a handler
            signal.signal(one, signal.SIG_DFL)
        try:
            with (tmp_path / "said").open("w") as sys.stderr:
                code = cli.main([*command, "--device", "cpu"])
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".out.npy.*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, number)
    ended, said = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), (tmp_path / "said").read_text()
    if number == signal.SIGKILL:
        assert list(tmp_path.glob(".out.npy.*"))
        assert cli.main([*command, "--device", "cpu"]) == 0
    else:
        assert ended == 128 + number, said
        assert f"fastbert: stopped by {number.name}; no file is half written" in said
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("writer", [files.replacing, files.new_folder, files.scratch_folder])
def test_a_signal_between_making_a_file_and_noting_it_leaves_nothing(
    number: signal.Signals, writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing.lock

    def lock(handle: int) -> bool | None:
        os.kill(os.getpid(), number)  # the file is there, and nobody knows its name yet
        return real(handle)

    monkeypatch.setattr(writing, "lock", lock)
    # As in a process of its own: a library may have left a handler here.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        with (
            pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped),
            stopping_signals(),
            writer(tmp_path / "out"),
        ):
            raise AssertionError("the signal came before")
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)
    assert not list(tmp_path.iterdir())


# -- outputs that are inputs ---------------------------------------------------------------------------------------


def test_an_output_is_never_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(tmp_path / "model", "BertForSequenceClassification")
    table, link = tmp_path / "in.tsv", tmp_path / "link.tsv"
    table.write_text("text\tlabel\nthe cat\tLABEL_0\na dog\tLABEL_1\n")
    link.symlink_to(table)
    model = ["--model", str(tmp_path / "model"), "--device", "cpu"]
    weights = str(tmp_path / "model" / "model.safetensors")
    before = table.read_bytes(), Path(weights).read_bytes()
    for output in (str(table), str(link), weights):
        for command in (
            ["embed", str(table), "-o", output],
            ["predict", str(link), "-o", output],
            ["features", str(table), "-o", output],
            ["eval", str(table), "--predictions", output],
            ["eval", str(table), "-o", output],
        ):
            assert cli.main([*command, *model]) == 2, command
            assert "it would be overwritten; name another output" in capsys.readouterr().err
    twice = ["eval", str(table), "-o", str(tmp_path / "x"), "--predictions", str(tmp_path / "x"), *model]
    assert cli.main(twice) == 2
    assert "would be written twice" in capsys.readouterr().err
    assert (table.read_bytes(), Path(weights).read_bytes()) == before
    train = ["tokenizer", "train", str(table), "-o", str(tmp_path / "model"), "--vocab-size", "90"]
    assert cli.main(train) == 2
    assert "holds a model (config.json), whose tokenizer this would replace" in capsys.readouterr().err


# -- runs that go on with something else ---------------------------------------------------------------------------


def test_a_resumed_fine_tuning_names_another_model(tmp_path: Path) -> None:
    one, two = save_encoder(tmp_path / "one"), save_encoder(tmp_path / "two")
    options = FineTuneOptions(epochs=1)

    def run(model: Path) -> Any:
        return finetune("classify", model, texts(12, 0), output=tmp_path / "run", options=options, device="cpu")

    run(one)
    run(two)  # the same weights by another path
    model = fastbert.BertModel.from_pretrained(two)
    model.encoder.layer[1].output.dense.weight.data[0, 0] += 1e-3
    model.save_pretrained(two)
    with pytest.raises(InputError, match="holds a run that started from a model other than .*two: name another output"):
        run(two)
    BertTokenizer(WORDS, model_max_length=64, strip_accents=False).save_pretrained(one)
    with pytest.raises(InputError, match="holds a run that started from a model other than"):
        run(one)


def test_a_flipped_byte_in_the_feature_cache_is_noticed(tmp_path: Path) -> None:
    model, said = save_encoder(tmp_path / "model"), []
    options = FineTuneOptions(mode="features", epochs=1)

    def run(name: str) -> dict[str, float]:
        cache = {"feature_cache": tmp_path / "cache", "progress": said.append, "device": "cpu"}
        return finetune("classify", model, texts(12, 0), texts(6, 1), output=tmp_path / name, options=options, **cache).metrics

    wanted = run("a")
    assert run("b") == wanted
    assert any("found in" in text for text in said)
    flip(next((tmp_path / "cache").rglob("layer-*.npy")), -5)
    assert run("c") == wanted
    assert any("the values changed; computing them anew" in text for text in said)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def damage_corpus(folder: Path, _: Path) -> None:
    flip(folder / "corpus" / "tokens-00000.bin", 10)


def damage_held_out(folder: Path, _: Path) -> None:
    flip(folder / "corpus" / "held-out" / "tokens-00000.bin", 4)


def change_text(_: Path, text: Path) -> None:
    text.write_text(TEXT.replace("paris", "rome"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_corpus, "corpus/tokens-00000.bin is damaged: its hash differs"),
        (damage_held_out, "held-out/tokens-00000.bin is damaged: its hash differs"),
        (change_text, "a.txt has changed since the corpus in .* was built"),
    ],
)
def test_a_resumed_pre_training_names_what_changed(damage: Callable[[Path, Path], None], message: str, tmp_path: Path) -> None:
    from fastbert.training import Recipe, pretrain

    text, folder = tmp_path / "a.txt", tmp_path / "run"
    text.write_text(TEXT)
    recipe = Recipe.load("minute").override(
        f"data.sources=['{text}']", "data.vocab_size=90", "data.held_out=0.2", "data.objective='mlm'", "phases.0.steps=4",
        "phases.0.max_length=32", "phases.0.batch_tokens=128", "run.checkpoint_every=2", "run.eval_every=0", "target={}",
        "model.size='tiny'", "model.config.hidden_size=16", "model.config.num_attention_heads=2", "run.precision='float32'",
        "model.config.intermediate_size=16", "schedule.warmup_steps=1",
    )  # fmt: skip
    pretrain(recipe, folder, "cpu")
    pretrain(recipe, folder, "cpu")  # nothing to do, nothing to say
    damage(folder, text)
    with pytest.raises((CheckpointError, InputError), match=message):
        pretrain(recipe, folder, "cpu")


# -- streams -------------------------------------------------------------------------------------------------------


# One process imports everything; each command runs in a fork of it, with streams as a shell would give them: "broken" is a pipe
# that nobody reads, "closed" is what `>&-` makes. It ends as every run of Python ends, by flushing its streams.
STREAMS = """
import json, os, sys
import fastbert.finetuning, fastbert.tasks, matplotlib.pyplot, torch._dynamo
from fastbert import cli

def give(number, name, kind):
    if kind == "closed":
        os.close(number)
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
        return
    reader, opened = os.pipe() if kind == "broken" else (None, os.open(kind, os.O_WRONLY | os.O_CREAT))
    os.dup2(opened, number)
    for one in {reader, opened} - {None, number}:
        os.close(one)

codes = []
for command, streams in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if name in streams:
                give(number, name, streams[name])
        sys.exit(cli.main(command))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.mark.thorough
def test_broken_and_closed_streams(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model")
    save_head(tmp_path / "head", "BertForSequenceClassification")
    rows = "".join(f"{row.text}\t{row.label}\n" for row in texts(40, 0))
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + rows)
    (tmp_path / "in.txt").write_text("the cat runs\n" * 3000)
    train = ["finetune", "classify", "--train", "train.tsv", "--model", str(model), "--epochs", "1", "--device", "cpu"]
    predict = ["predict", "in.txt", "--model", "head", "--device", "cpu"]
    runs = [
        ([*train, "-o", "run0"], {"stdout": "broken", "stderr": "broken"}),
        ([*train, "-o", "run1"], {"stderr": "closed"}),
        (predict, {"stdout": "broken", "stderr": "lost"}),
        (predict, {"stdout": "/dev/full", "stderr": "full"}),
        (["predict", "-", *predict[2:]], {"stdin": "closed", "stderr": "unread"}),
    ]
    command = [sys.executable, "-c", STREAMS, json.dumps(runs)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, 141, 2, 2], done
    for number in range(2):  # a reader that left stopped nothing
        assert (tmp_path / f"run{number}" / "model" / "model.safetensors").is_file()
    assert "Traceback" not in (tmp_path / "lost").read_text()
    assert (tmp_path / "unread").read_text() == "fastbert: cannot read standard input: it is closed\n"
    assert (tmp_path / "full").read_text().strip().splitlines()[-1].endswith("No space left on device")

    # This one ends before PyTorch is imported.
    shell = ["bash", "-c", f"{sys.executable} -m fastbert.cli predict in.txt --model head >&-"]
    ended = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stderr) == (2, "fastbert: standard output is closed\n")


def test_escapes_of_the_terminal_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m"
    save_head(tmp_path / "lm", "BertForMaskedLM")
    (tmp_path / "train.tsv").write_text(f"text\tlabel{evil}\nthe cat\ta{evil}\na dog\tb\n" * 6)
    (tmp_path / "bad.tsv").write_text(f"id{evil}\tx\n1\t2\n")
    model = ["--model", str(tmp_path / "lm"), "--device", "cpu"]
    assert cli.main(["fill-mask", f"the {evil} [MASK]", *model]) == 0
    assert cli.main(["embed", str(tmp_path / "bad.tsv"), "-o", str(tmp_path / "x.npy"), *model]) == 2
    train = ["finetune", "classify", "--train", str(tmp_path / "train.tsv"), "-o", str(tmp_path / "run"), "--epochs", "1"]
    assert cli.main([*train, "--label-column", f"label{evil}", "--text-column", "text", *model]) == 0
    captured = capsys.readouterr()
    for stream in (captured.out, captured.err):
        assert not {"\x1b", "\x07", "\x9b"} & set(stream)
    assert "\\x1b" in captured.err


# -- long inputs ---------------------------------------------------------------------------------------------------


def test_tags_and_answers_take_time_in_proportion_to_the_text(tmp_path: Path) -> None:
    save_head(tmp_path / "ner", "BertForTokenClassification", num_labels=3)
    save_head(tmp_path / "qa", "BertForQuestionAnswering")
    tagger = fastbert.tasks.TokenTagger.from_pretrained(tmp_path / "ner", "cpu")
    answerer = fastbert.tasks.QuestionAnswerer.from_pretrained(tmp_path / "qa", "cpu")

    def seconds(count: int) -> tuple[float, float]:
        words = ["the", "cat", "runs", "in", "paris"] * (count // 5)
        started = time.perf_counter()
        assert len(tagger.tag([words])[0]) == count
        tagged = time.perf_counter()
        assert answerer.predict([("where ?", " ".join(words))])[0]["answer"]
        return tagged - started, time.perf_counter() - tagged

    torch.set_num_threads(1)
    seconds(500)
    small, large = seconds(4000), seconds(32_000)
    for a, b in zip(small, large, strict=True):
        assert b < 8 * 2.5 * a, (small, large)  # 64 times, if it were quadratic


def test_json_of_a_folder_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, message in (
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "is nested more than 64 levels deep"),
        ("9" * 10_000, "is not valid JSON"),
        ("[1]", "holds a JSON list; expected a dict"),
        ("\ufeff", "is not valid JSON"),
        (json.dumps({"hidden_act": "x" * 10**6}), "hidden_act = 'xxx"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(fastbert.FastbertError, match=message) as caught:
            fastbert.BertConfig.from_pretrained(tmp_path)
        assert len(str(caught.value)) < 500
    with path.open("wb") as stream:
        stream.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError, match="a JSON file of a model has at most"):
        fastbert.BertConfig.from_pretrained(tmp_path)
