"""From raw text to fill-mask on the command line, and what its commands say of bad input."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest
from pretraining_cases import documents, make_corpus

from fastbert import cli
from fastbert.data.corpus import Corpus
from fastbert.studies import ablations
from fastbert.studies.probe import ProbeOptions, probe_right_neighbour
from fastbert.training.records import read_metrics
from fastbert.training.stepper import Stepper

SMALL = [
    "model.config.hidden_size=32",
    "model.config.num_attention_heads=2",
    "model.config.intermediate_size=64",
    "phases.0.steps=30",
    "phases.0.batch_tokens=256",
    "schedule.warmup_steps=3",
    "run.log_every=10",
    "run.checkpoint_every=10",
    "target.below_unigram=0",
]
SETS = [argument for change in SMALL for argument in ("--set", change)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join("\n".join(sentences) for sentences in documents(120)) + "\n")
    return path


def build_corpus(text: Path, tmp_path: Path) -> Path:
    assert cli.main(["tokenizer", "train", str(text), "-o", str(tmp_path / "tok"), "--vocab-size", "90"]) == 0
    arguments = ["data", "build", str(text), "-o", str(tmp_path / "corpus"), "--tokenizer", str(tmp_path / "tok")]
    assert cli.main([*arguments, "--held-out", "0.1"]) == 0
    return tmp_path / "corpus"


@pytest.fixture(scope="module")
def corpus(text: Path) -> Path:
    """A corpus, with its tokenizer beside it in `tok`."""
    return build_corpus(text, text.parent)


def test_from_raw_text_to_fill_mask(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = build_corpus(text, tmp_path)
    shown = capsys.readouterr()
    assert "words are one entry" in shown.out
    assert "108 documents" in shown.err
    assert "held out: 12 documents" in shown.err
    assert "MB/s" in shown.err
    assert Corpus.open(corpus).manifest["sources"] == [str(text)]

    assert cli.main(["data", "inspect", str(corpus), "--count", "2", "--max-length", "48", "--whole-words"]) == 0
    shown = capsys.readouterr()
    assert "50.00% of pairs random or swapped" in shown.out or "% of pairs" in shown.out
    assert shown.out.count("[MASK]<=") > 2
    assert "[0] " in shown.out
    assert "[1] " in shown.out
    assert "[2] " not in shown.out

    command = ["pretrain", "minute", "-o", str(tmp_path / "run"), "--corpus", str(corpus), "--device", "cpu", *SETS]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert "| MLM loss, nats |" in shown.out
    assert shown.out.count("it was: ") == 3
    assert "step 30: masked_lm_loss" in shown.err
    assert cli.main(["fill-mask", "the [MASK] runs", "--model", str(tmp_path / "run" / "model"), "--device", "cpu"]) == 0
    assert "(mask 1)" in capsys.readouterr().out
    assert cli.main([*command, "--set", "target.below_unigram=20"]) == 2  # another recipe than the run's
    assert "now it is 20.0" in capsys.readouterr().err


def test_a_missed_target_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "c", 60)
    command = ["pretrain", "minute", "-o", str(tmp_path / "run"), "--corpus", str(corpus.folder), "--device", "cpu", *SETS]
    assert cli.main([*command, "--set", "target.below_unigram=20"]) == 1
    assert "target was not reached" in capsys.readouterr().err


@pytest.mark.thorough  # test_docs runs the command
def test_the_recipe_of_the_readme_makes_its_own_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", "minute", "-o", str(tmp_path / "run"), "--device", "cpu", *SETS, "--set", "data.vocab_size=500"]
    assert cli.main(command) == 0
    assert "python:pydoc_data.topics" in capsys.readouterr().err
    assert Corpus.open(tmp_path / "run" / "corpus", check=True).num_documents > 50


def test_static_examples_are_built_inspected_and_trained(corpus: Path, text: Path, tmp_path: Path, capsys) -> None:
    options = ["--static", "--duplicates", "2", "--max-length", "48"]
    tokenizer = ["--tokenizer", str(corpus.parent / "tok")]
    assert cli.main(["data", "build", str(text), "-o", str(tmp_path / "whole"), *tokenizer]) == 0
    assert cli.main(["data", "build", str(tmp_path / "whole"), "-o", str(tmp_path / "a"), *options]) == 0
    assert cli.main(["data", "build", str(text), "-o", str(tmp_path / "b"), *options, *tokenizer]) == 0
    for name in ("input_ids.bin", "labels.bin", "about.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert cli.main(["data", "inspect", str(tmp_path / "a"), "--count", "1"]) == 0
    assert "[MASK]<=" in capsys.readouterr().out
    command = ["pretrain", "minute", "-o", str(tmp_path / "run"), "--corpus", str(tmp_path / "a"), "--device", "cpu", *SETS]
    assert cli.main([*command, "--set", "phases.0.max_length=48"]) == 0


def test_two_trainings_of_a_vocabulary_are_the_same_and_a_share_can_be_held_out(text: Path, tmp_path: Path, capsys) -> None:
    for name in "ab":
        assert cli.main(["tokenizer", "train", str(text), "-o", str(tmp_path / name), "--vocab-size", "70"]) == 0
    assert (tmp_path / "a" / "vocab.txt").read_bytes() == (tmp_path / "b" / "vocab.txt").read_bytes()
    assert "on every 100th text trained on" in capsys.readouterr().out
    command = ["tokenizer", "train", str(text), "-o", str(tmp_path / "c"), "--vocab-size", "70", "--held-out", "0.1"]
    assert cli.main(command) == 0
    assert "on 10.00% of the texts, held out" in capsys.readouterr().out


def test_a_vocabulary_from_standard_input_is_the_same(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["tokenizer", "train", str(text), "-o", str(tmp_path / "a"), "--vocab-size", "70"]) == 0
    for options, code in ((["--held-out", str(text)], 0), ([], 0), (["--held-out", "0.1"], 2)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
        assert cli.main(["tokenizer", "train", "-", "-o", str(tmp_path / "b"), "--vocab-size", "70", *options]) == code
        assert (tmp_path / "a" / "vocab.txt").read_bytes() == (tmp_path / "b" / "vocab.txt").read_bytes()
    assert "cannot be read twice; name a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "build", "{gone}", "-o", "{out}", "--tokenizer", "{tok}"], "cannot read"),
        (["data", "build", "{empty}", "-o", "{out}", "--tokenizer", "{tok}"], "there is no text to build a corpus from"),
        (["data", "build", "{bad}", "-o", "{out}", "--tokenizer", "{tok}"], "line 2: not UTF-8 text"),
        (["data", "build", "{text}", "-o", "{out}"], "--tokenizer is needed"),
        (["data", "build", "{corpus}", "-o", "{out}"], "is already a corpus"),
        (["data", "build", "{text}", "-o", "{out}", "--static", "--held-out", "0.1"], "cannot be used with --static"),
        (["data", "build", "{text}", "-o", "{corpus}", "--tokenizer", "{tok}"], "the folder is not empty"),
        (["data", "inspect", "{corpus}", "--start", "100000"], "--start 100000 is not in 0.."),
        (["data", "inspect", "{tok}"], "has no manifest.json"),
        (["tokenizer", "train", "{empty}", "-o", "{out}"], "there is no text to train on"),
        (["tokenizer", "train", "{text}", "-o", "{out}", "--held-out", "0.7"], "--held-out 0.7 must be a share"),
        (["tokenizer", "train", "{text}", "-o", "{out}", "--vocab-size", "20"], "--vocab-size 20 is below"),
        (["pretrain", "second", "-o", "{out}"], "there is no recipe second"),
        (
            ["pretrain", "minute", "-o", "{out}", "--set", "optimizer.learning_rate=1"],
            "there is no key optimizer.learning_rate",
        ),
        (["pretrain", "minute", "-o", "{corpus}"], "holds something other than a pre-training run"),
        (["ablate", "--suite", "masking", "-o", "{out}", "--size", "huge"], "model.size = 'huge' is not one of"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    corpus: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.txt").write_bytes(b"one\ntw\xff\n")
    places = {"gone": tmp_path / "gone.txt", "empty": tmp_path / "empty.txt", "bad": tmp_path / "bad.txt", "text": text}
    places |= {"out": tmp_path / "out", "tok": corpus.parent / "tok", "corpus": corpus}
    capsys.readouterr()
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastbert: ")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists() or arguments[0] == "pretrain"


def test_missing_blank_lines_are_noticed(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], corpus: Path) -> None:
    (tmp_path / "one.txt").write_text(text.read_text().replace("\n\n", "\n"))
    tokenizer = ["--tokenizer", str(corpus.parent / "tok")]
    arguments = ["data", "build", str(tmp_path / "one.txt"), "-o", str(tmp_path / "one"), *tokenizer]
    assert cli.main(arguments) == 0
    assert "the corpus holds one document" in capsys.readouterr().err
    assert cli.main(["pretrain", "minute", "-o", str(tmp_path / "run"), "--corpus", str(tmp_path / "one"), *SETS]) == 2
    assert "Separate documents by blank lines" in capsys.readouterr().err


def test_sigterm_is_exit_code_143_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, step, seen = make_corpus(tmp_path / "c", 60), Stepper.step, []

    def step_and_stop(self: Stepper, *args: object) -> object:
        seen.append(None)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "step", step_and_stop)
    command = ["pretrain", "minute", "-o", str(tmp_path / "run"), "--corpus", str(corpus.folder), "--device", "cpu", *SETS]
    assert cli.main(command) == 143
    assert "stopped by SIGTERM after step" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert "resumed from step-0000000" in capsys.readouterr().err


def test_the_suites_print_the_papers_rows_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """What the probe finds is tested below; here it would only take long."""
    asked = []

    def probe(folder: Path, options: ProbeOptions, device: str) -> float:
        asked.append((folder.parent.name, options.bilstm, options.frozen))
        return 0.5

    monkeypatch.setattr(ablations, "probe_right_neighbour", probe)
    corpus = make_corpus(tmp_path / "c", 60)
    arguments = ["--corpus", str(corpus.folder), *SETS, "--set", "phases.0.steps=4"]
    assert cli.main(["ablate", "--suite", "objectives", "-o", str(tmp_path / "o"), "--device", "cpu", *arguments]) == 0
    table = capsys.readouterr().out
    assert [line.split("  ")[0] for line in table.splitlines()[1:5]] == [
        "BERT (MLM + NSP)",
        "no NSP",
        "left to right, no NSP",
        "",
    ]
    assert "84.4" in table
    assert "77.8" in table
    assert asked == [("mlm-nsp", False, False), ("mlm", False, False), ("ltr", False, False), ("ltr", True, False)]
    assert (tmp_path / "o" / "table.md").read_text().startswith("|  | held-out loss |")
    asked.clear()
    assert cli.main(["ablate", "--suite", "masking", "-o", str(tmp_path / "m"), "--device", "cpu", *arguments]) == 0
    assert len(capsys.readouterr().out.split("\n\n")[0].splitlines()) == 7
    assert len(asked) == 12
    assert len(list((tmp_path / "m").glob("*/model/config.json"))) == 6


@pytest.mark.slow
@pytest.mark.thorough
def test_the_right_neighbour_is_seen_in_two_directions_or_through_a_bilstm_only(tmp_path: Path) -> None:
    """Row D3: near 100 % in two directions, near chance left to right."""
    from fastbert import BertConfig, BertModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    found = {}
    for causal, bilstm in ((False, False), (True, False), (True, True)):
        import torch

        torch.manual_seed(0)
        config = BertConfig(vocab_size=90, max_position_embeddings=32, is_decoder=causal, **sizes)
        options = ProbeOptions(steps=150 if bilstm else 240, words=60, length=16, bilstm=bilstm)
        found[causal, bilstm] = probe_right_neighbour(BertModel(config, add_pooling_layer=False), options)
    assert found[False, False] > 0.95, found
    assert abs(found[True, False] - 0.5) < 0.1, found
    assert found[True, True] > 0.95, found


def test_a_frozen_encoder_keeps_its_bits() -> None:
    import torch

    from fastbert import BertConfig, BertModel

    encoder = BertModel(
        BertConfig.of_size("tiny", vocab_size=90, hidden_size=32, num_attention_heads=2), add_pooling_layer=False
    )
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe_right_neighbour(encoder, ProbeOptions(steps=5, frozen=True, words=50))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["minute", "books"])
def test_the_figures_of_the_docs_are_those_of_the_committed_runs(name: str) -> None:
    root = Path(__file__).resolve().parents[1]
    records = read_metrics(root / "benchmarks" / "results" / "pretraining" / name / "metrics.jsonl")
    last = next(record for record in reversed(records) if record["kind"] == "eval")
    minutes = sum(record["seconds"] for record in records if record["kind"] == "train") / 60
    below = last["unigram_entropy"] - last["masked_lm_loss"]
    assert below > 0.5
    build = json.loads((root / "benchmarks" / "results" / "pretraining" / "data_build.json").read_text())
    text = " ".join((root / "docs" / "pretraining.md").read_text(encoding="utf-8").split())
    for figure in (
        f"{last['step']:,} steps",
        f"took {minutes:.1f} minutes",
        f"at {last['masked_lm_loss']:.3f} nats, {below:.3f} below the entropy",
        f"{last['next_sentence_accuracy']:.1%} of the held-out pairs",
        f"reads {build['build_mb_per_s']:.1f} MB/s",
        f"alone reads {build['bare_tokenizer_mb_per_s']:.1f} MB/s",
        f"{build['peak_mib']} MiB",
    ):
        assert figure in text, figure
