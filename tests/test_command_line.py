"""What people expect of any command: --quiet, --json, --version, completion, NO_COLOR, options that belong to the task."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pair

from fastbert import BertTokenizer, cli

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "is", "the", "capital", "of", "france", "."]
OWN_JSON = {"embed", "predict", "features", "eval", "data build", "serve"}  # a file, JSON in any case, or no result at all


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its words."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for word, sub in group.choices.items():
            yield from commands(sub, f"{name} {word}".strip())
    if not groups:
        yield name, parser


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made, _ = make_pair("BertForMaskedLM", vocab_size=len(WORDS))
    made.save_pretrained(folder)
    BertTokenizer(WORDS, model_max_length=40).save_pretrained(folder)
    return str(folder)


def test_every_command_has_quiet_and_every_result_for_people_is_json_too() -> None:
    found = dict(commands(cli._parser()))
    assert len(found) > 20
    assert [name for name, parser in found.items() if "--quiet" not in flags(parser)] == []
    assert {name for name, parser in found.items() if "--json" not in flags(parser)} == OWN_JSON


def result_of(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> list[Any]:
    """The lines of JSON that a command prints; --quiet leaves nothing on stderr."""
    assert cli.main([*command, "--quiet", "--json"]) == code
    shown = capsys.readouterr()
    assert shown.err == ""
    return [json.loads(line) for line in shown.out.splitlines()]


def test_results_as_json(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--model", model, "--device", "cpu")
    (found,) = result_of(capsys, "params", "--size", "large", "--head", "BertForPreTraining")
    assert found["total"] == sum(term["count"] for term in found["terms"]) == 336_226_108
    (found,) = result_of(capsys, "explain", "paris", "the capital of france .", *where)
    assert found["tokens"] == 3 + 7
    assert found["positions"] == 2 * 7
    assert {row["op"] for row in found["ops"]} >= {"embedding", "attention"}
    (found,) = result_of(capsys, "verify", "paris is the capital .", *where)
    assert found["ok"] is True
    assert all(row["max_error"] >= 0 for row in found["comparisons"])
    (found,) = result_of(capsys, "fill-mask", "paris is [MASK] capital", "--top-k", "2", *where)
    assert len(found["answers"]) == 2
    (tmp_path / "in.txt").write_text("paris is the capital\nof france .\n" * 4)
    (found,) = result_of(capsys, "bench", str(tmp_path / "in.txt"), "--rounds", "1", *where)
    assert found["texts"] == 8
    assert found["systems"][0]["system"].startswith("fastbert")
    ranked = result_of(capsys, "rank", "paris", str(tmp_path / "in.txt"), "--model", reranker(tmp_path), "--top-k", "3")
    assert [set(row) for row in ranked] == 3 * [{"row", "score", "text"}]


def reranker(folder: Path) -> str:
    made, _ = make_pair("BertForSequenceClassification", vocab_size=len(WORDS), num_labels=1)
    made.save_pretrained(folder / "reranker")
    BertTokenizer(WORDS, model_max_length=40).save_pretrained(folder / "reranker")
    return str(folder / "reranker")


def test_results_of_long_work_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, tokenizer, corpus, run = (tmp_path / name for name in ("a.txt", "tokenizer", "corpus", "run"))
    text.write_text("".join(f"The cat number {i} sat on the mat. It was a good cat.\n\n" for i in range(200)))
    options = ("--vocab-size", "60", "--held-out", "0.1")
    (found,) = result_of(capsys, "tokenizer", "train", str(text), "-o", str(tokenizer), *options)
    assert found["entries"] == len((tokenizer / "vocab.txt").read_text().split())
    assert 0 < found["whole"] <= found["words"] <= found["pieces"]
    build = ["data", "build", str(text), "-o", str(corpus), "--tokenizer", str(tokenizer), "--held-out", "0.1"]
    assert cli.main([*build, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    about, *examples = result_of(capsys, "data", "inspect", str(corpus), "--count", "2", "--max-length", "24")
    assert about["examples"] > 2
    for example in examples:
        assert example["tokens"][0] == "[CLS]"
        assert example["tokens"][example["second"] - 1] == "[SEP]"
        assert example["predict"]
    values = (
        "phases.0.steps=3",
        "schedule.warmup_steps=1",
        "phases.0.batch_tokens=512",
        "phases.0.max_length=24",
        "model.config.num_hidden_layers=1",
    )
    sizes = [part for value in values for part in ("--set", value)]
    pretrain = ("pretrain", "minute", "-o", str(run), "--corpus", str(corpus), "--device", "cpu", *sizes)
    assert cli.main([*pretrain, "--quiet", "--json"]) in (0, 1)  # three steps do not reach the recipe's target
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["step"] == 3
    assert Path(found["model"], "config.json").is_file()
    assert found["masked_lm_loss"] > 0
    assert shown.err in ("", "fastbert: the recipe's target was not reached\n")


def test_scores_and_a_comparison_as_json(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("paris is the capital", "good"), ("of france .", "bad")] * 8
    table = tmp_path / "train.tsv"
    table.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    how = ("--train", str(table), "--dev", str(table), "--model", model, "--epochs", "1", "--device", "cpu")
    (found,) = result_of(capsys, "finetune", "classify", *how, "-o", str(tmp_path / "run"))
    assert "accuracy" in found
    (found,) = result_of(capsys, "finetune", "classify", *how, "-o", str(tmp_path / "both"), "--compare")
    assert [row["row"] for row in found] == ["fine-tuning", "features: last"]


def test_quiet_leaves_warnings_and_errors(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("paris is the capital\n" + "paris " * 60 + "\n")
    command = ["embed", str(tmp_path / "in.txt"), "--model", model, "--device", "cpu", "--quiet", "--progress"]
    assert cli.main([*command, "-o", str(tmp_path / "out.npy")]) == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 48)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastbert: warning: 1 of 2 texts have more than 40 tokens")
    assert cli.main([*command, "-o", str(tmp_path / "out.npy"), "--batch-tokens", "0"]) == 2
    assert capsys.readouterr().err.endswith("\nfastbert: --batch-tokens 0 must be at least 1\n")
    assert cli.main([*command, "-o", f"{tmp_path}/out/"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 text of 2 was longer than the model reads" in line
    assert cli.main(["embed", str(tmp_path / "in.txt"), "--model", model, "-o", str(tmp_path / "out.npy")]) == 0
    assert "2 texts in" in capsys.readouterr().err  # the next command speaks again


def test_version_names_what_figures_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import triton

    import fastbert

    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    line = capsys.readouterr().out
    assert line.startswith(f"fastbert {fastbert.__version__}, torch {torch.__version__}, triton {triton.__version__}, ")
    place = (
        r"GPU: \S.*" if torch.cuda.is_available() else rf"CPU: \S.*, [A-Z0-9_]+( with BF16)?, {torch.get_num_threads()} threads"
    )
    assert re.search(place, line)


# -- options that belong to the task ------------------------------------------------------------------------------------------

ONLY = {
    "--doc-stride": {"qa"},
    "--fix-bio": {"ner"},
    "--word-column": {"ner"},
    "--tag-column": {"ner"},
    "--multi-label": {"classify"},
    "--label-separator": {"classify"},
    "--choice-columns": {"choice"},
    "--class-weights": {"classify", "nli"},
    "--labels": {"classify", "nli", "ner"},
    "--label": {"classify", "nli", "ner"},
    "--overlong": {"classify", "nli", "regress", "choice"},
    "--window-scores": {"classify", "nli", "regress"},
    "--pooling": {"classify", "nli", "regress", "choice"},
    "--text-column": {"classify", "nli", "regress", "choice"},
    "--id": {"classify", "nli", "regress", "choice"},
}


@pytest.mark.parametrize("flag", ONLY)
def test_help_shows_the_options_that_a_task_uses(flag: str) -> None:
    found = dict(commands(cli._parser()))
    kinds = {name.split()[1]: flags(parser) for name, parser in found.items() if name.startswith("finetune ")}
    assert {kind for kind, known in kinds.items() if flag in known} == ONLY[flag]


def test_an_option_of_another_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["finetune", "qa", "--model", "m", "--train", "t.json", "-o", "o", "--fix-bio"])
    assert end.value.code == 2
    assert "unrecognized arguments: --fix-bio" in capsys.readouterr().err


def test_commands_of_all_tasks_list_options_under_headings() -> None:
    found = dict(commands(cli._parser()))
    assert "for files of words with tags (CoNLL):" in found["predict"].format_help()
    assert "--multi-label" not in flags(found["predict"]) | flags(found["eval"])


# -- shells and terminals ------------------------------------------------------------------------------------------------------


def completion(shell: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "fastbert", "--print-completion", shell], capture_output=True, text=True, check=True
    )
    assert made.stderr == ""
    return made.stdout


def complete(script: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_fastbert; echo ${{COMPREPLY[@]}}"
    return set(subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split())


def test_bash_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    script = tmp_path / "fastbert.bash"
    script.write_text(completion("bash"))
    assert complete(script, "fastbert", "em") == {"embed"}
    assert complete(script, "fastbert", "finetune", "n") == {"ner", "nli"}
    assert "--precision" in complete(script, "fastbert", "embed", "--pre")
    assert complete(script, "fastbert", "embed", "a.txt", "--dtype", "b") == {"bfloat16"}
    (tmp_path / "texts.txt").write_text("")
    assert complete(script, "fastbert", "embed", f"{tmp_path}/te") == {f"{tmp_path}/texts.txt"}


@pytest.mark.parametrize(("shell", "first"), [("zsh", "#compdef fastbert"), ("tcsh", "#")])
def test_scripts_for_other_shells(shell: str, first: str) -> None:
    made = completion(shell)
    assert made.startswith(first)
    assert "fill-mask" in made


def on_a_terminal(*command: str, **env: str) -> tuple[int, str]:
    """The exit code of a command on a terminal, and all that it wrote there."""
    lead, follow = pty.openpty()
    given = {**os.environ, "TERM": "xterm-256color", **env}
    with subprocess.Popen([sys.executable, "-m", "fastbert", *command], stdout=follow, stderr=follow, env=given) as process:
        os.close(follow)
        written = b""
        while True:
            try:
                part = os.read(lead, 4096)
            except OSError:  # the last process has closed its side
                break
            if not part:
                break
            written += part
    os.close(lead)
    return process.returncode, written.decode()


def test_no_colour_where_none_is_wanted(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("paris is the capital\n" * 50)
    embed = ("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "--model", model, "--device", "cpu")
    for command, expected in ((("embed", "--help"), "usage: fastbert embed"), (embed, "50 texts in"), (("embed",), "usage:")):
        code, written = on_a_terminal(*command, NO_COLOR="1")
        assert code == (2 if command == ("embed",) else 0)
        assert expected in written
        assert re.search(r"\x1b\[[0-9;]*m", written) is None
