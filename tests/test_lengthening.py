"""Runs that get more steps than they were planned for, text named by patterns, targets of recipes, options from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining_cases import make_corpus, make_recipe
from task_cases import save_encoder, texts

import fastbert
from fastbert import cli
from fastbert.data.corpus import Corpus
from fastbert.data.documents import expand_sources
from fastbert.errors import InputError
from fastbert.training import Recipe, pretrain
from fastbert.training.preparation import lengthened
from fastbert.training.records import read_metrics
from fastbert.training.report import write_report
from fastbert.training.schedules import rate

CONSTANT = ("schedule.name='constant'", "schedule.warmup_steps=4", "run.log_every=5", "run.checkpoint_every=5")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("lengthening") / "c", 60)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return fastbert.BertForPreTraining.from_pretrained(folder / "model").state_dict()


def test_a_constant_schedule_does_not_depend_on_the_steps() -> None:
    assert [rate("constant", step, 4, 10) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert rate("constant", 9, 4, 10) == rate("constant", 9, 4, 10**6) == 1


def test_a_lengthened_run_has_the_bits_of_one_that_was_long(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = (make_recipe(corpus.folder, *CONSTANT, f"phases.0.steps={steps}") for steps in (10, 20))
    pretrain(short, tmp_path / "a", "cpu")
    capsys.readouterr()
    assert pretrain(long, tmp_path / "a", "cpu").step == 20
    said = capsys.readouterr().err
    assert "the run is lengthened from 10 to 20 steps\n" in said
    pretrain(long, tmp_path / "b", "cpu")
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[r["loss"] for r in read_metrics(tmp_path / run / "metrics.jsonl") if r["kind"] == "train"] for run in ("a", "b")]
    assert losses[0] == losses[1]


def test_where_the_schedule_does_not_allow_it_that_is_said(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(make_recipe(corpus.folder, "phases.0.steps=10", "schedule.warmup_steps=2"), tmp_path / "a", "cpu")
    recipe = make_recipe(corpus.folder, "phases.0.steps=14", "schedule.warmup_steps=2")
    assert pretrain(recipe, tmp_path / "a", "cpu").step == 14
    assert "it will not be the same as a run that was planned longer" in " ".join(capsys.readouterr().err.split())
    for change in ("phases.0.steps=12", "phases.0.max_length=24", "optimizer.lr=0.5"):  # shorter, or not the same rest
        with pytest.raises(InputError, match="name another output, or the same value"):
            pretrain(recipe.override(change), tmp_path / "a", "cpu")


def test_what_counts_as_longer() -> None:
    one = {"steps": 4, "max_length": 24}
    two = {"steps": 4, "max_length": 48}
    assert lengthened([one], [{**one, "steps": 5}])
    assert lengthened([one], [one, two])
    assert lengthened([one, two], [one, {**two, "steps": 9}])
    assert not lengthened([one, two], [{**one, "steps": 9}, two])
    assert not lengthened([one, two], [one])
    assert not lengthened([one], [{**one, "steps": 3}])
    assert not lengthened([one], [{**one, "max_length": 48}])


# -- sources -----------------------------------------------------------------------------------------------------------------


def test_patterns_name_files_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "odd[1].txt").write_text("x")
    assert expand_sources([f"{tmp_path}/[ab].txt", "-", "python:this"]) == [
        f"{tmp_path}/a.txt",
        f"{tmp_path}/b.txt",
        "-",
        "python:this",
    ]
    found = expand_sources([f"{tmp_path}/**/*.txt"])
    assert [Path(path).name for path in found] == ["a.txt", "b.txt", "d.txt", "odd[1].txt"]
    assert expand_sources([f"{tmp_path}/odd[1].txt"]) == [f"{tmp_path}/odd[1].txt"]
    with pytest.raises(InputError, match=r"none\*\.txt matches no file"):
        expand_sources([f"{tmp_path}/none*.txt"])


def test_a_recipe_and_the_commands_take_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = ["the cat runs in paris.", "a dog sits in rome.", "the fox is not red.", "an owl is white and blue."]
    for number in range(6):
        lines = [sentences[(number + i) % 4] + " " + sentences[(number * i) % 4] for i in range(12)]
        (tmp_path / f"t{number}.txt").write_text("\n\n".join(lines) + "\n")
    pattern = str(tmp_path / "t*.txt")
    assert cli.main(["tokenizer", "train", pattern, "-o", str(tmp_path / "tok"), "--vocab-size", "60"]) == 0
    assert cli.main(["data", "build", pattern, "-o", str(tmp_path / "c"), "--tokenizer", str(tmp_path / "tok")]) == 0
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert len(manifest["about"]["sources"] if "about" in manifest else manifest["sources"]) == 6
    values = make_recipe(tmp_path / "c", "phases.0.steps=4").to_dict()
    values["data"] |= {"corpus": "", "sources": [pattern], "vocab_size": 60, "held_out": 0.2}
    pretrain(Recipe.from_dict(values), tmp_path / "run", "cpu")
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    capsys.readouterr()


# -- targets, reports, printing ----------------------------------------------------------------------------------------------


def test_the_target_of_a_recipe_belongs_to_its_own_text() -> None:
    minute = Recipe.load("minute")
    assert minute.target.below_unigram > 0
    assert minute.override("optimizer.lr=1e-4").target == minute.target
    assert minute.override("data.sources=[]", "data.corpus='other'").target.below_unigram == 0
    assert minute.override("data.sources=['a.txt']").target.below_unigram == 0
    assert minute.override("data.sources=['a.txt']", "target.below_unigram=0.1").target.below_unigram == 0.1


@pytest.mark.parametrize(("loss", "words"), [(2.0, "ends 1.000 below it"), (3.5, "ends 0.500 above it")])
def test_a_number_above_a_bound_is_called_above(loss: float, words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"objective": "mlm"}}))
    row = {"kind": "eval", "step": 1, "masked_lm_loss": loss, "masked_lm_accuracy": 0.1, "unigram_entropy": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    write_report(tmp_path)
    assert words in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("name", ["minute", "base"])
def test_a_printed_recipe_is_that_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "--print-recipe", name])
    assert ended.value.code == 0
    (tmp_path / "own.toml").write_text(capsys.readouterr().out)
    assert Recipe.load(tmp_path / "own.toml") == Recipe.load(name)
    assert cli.main(["pretrain", "--print-recipe", "huge"]) == 2
    assert "there is no recipe huge" in capsys.readouterr().err


# -- options of finetune from a file -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    save_encoder(tmp_path / "encoder")
    rows = [f"{e.text}\t{e.label}" for e in texts(16, 0)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return {
        "train": str(tmp_path / "train.tsv"),
        "model": str(tmp_path / "encoder"),
        "output": str(tmp_path / "run"),
        "device": "cpu",
        "dev_share": 0.25,
    }


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def test_fine_tuning_takes_its_options_from_a_file(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"epochs": 3, "lr": 1e-3, "batch-size": 4, "strict": True, "new_head": False, "metric": ["accuracy", "f1_macro"]}
    (tmp_path / "own.toml").write_text(toml(files | more))
    assert cli.main(["finetune", "classify", "--config", str(tmp_path / "own.toml"), "--epochs", "2"]) == 0  # the flag wins
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["epochs"], options["lr"], options["batch_size"], options["new_head"]) == (2, 1e-3, 4, False)
    assert options["metrics"] == ["accuracy", "f1_macro"]
    assert not math.isnan(json.loads(capsys.readouterr().out)["accuracy"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3\n", "there is no option epoch; did you mean epochs?"),
        ("[model]\nname = 1\n", "model is a table"),
        ("epochs 3\n", "is not valid TOML"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_file_of_options_is_one_sentence(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.toml"
    if text is not None:
        path.write_text(text)
    assert cli.main(["finetune", "classify", f"--config={path}"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
