"""Pre-training: the losses of transformers, one gradient for any cut of a batch, resuming to the bit, and how it fails."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pretraining_cases
import pytest
import torch
import transformers
from pretraining_cases import forks, life, make_corpus, run_in_a_group

import fastbert
from fastbert.data.batches import Budget, EpochBatches
from fastbert.data.corpus import Corpus
from fastbert.data.examples import CorpusExamples, ExampleOptions
from fastbert.data.static import write_static
from fastbert.errors import CheckpointError, InputError, TrainingError
from fastbert.tasks import FillMask
from fastbert.training import Recipe, pretrain
from fastbert.training.checkpoints import Checkpoints
from fastbert.training.evaluation import evaluate
from fastbert.training.optimizers import make_optimizer
from fastbert.training.records import read_metrics
from fastbert.training.stepper import Stepper
from fastbert.training.world import World

HERE = World(0, 1, torch.device("cpu"))
STEPS = 24


def make_recipe(corpus: Path, *changes: str) -> Recipe:
    return pretraining_cases.make_recipe(corpus, f"phases.0.steps={STEPS}", *changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("pretraining") / "c", 80)


@pytest.fixture(scope="module")
def whole_run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(make_recipe(corpus.folder), folder, "cpu").step == STEPS
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return fastbert.BertForPreTraining.from_pretrained(folder / "model").state_dict()


def learned(folder: Path) -> list[dict[str, Any]]:
    """The records of a run without what the clock says."""
    timed = ("seconds", "tokens_per_second", "mfu", "memory_bytes")
    return [{k: v for k, v in record.items() if k not in timed} for record in read_metrics(folder / "metrics.jsonl")]


def assert_same_run(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert learned(folder) == learned(other)


def batches_of(corpus: Corpus, objective: str = "mlm+nsp", tokens: int = 256) -> EpochBatches:
    source = CorpusExamples(corpus, ExampleOptions(objective, 48), 0)
    return EpochBatches(source, Budget.of(source, tokens), 0, 0)


def make_model(name: str = "BertForPreTraining", **fields: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = fastbert.BertConfig(vocab_size=90, max_position_embeddings=48, **{**sizes, **still, **fields})
    return getattr(fastbert, name)(config).train()


def make_stepper(model: Any, **options: Any) -> Stepper:
    return Stepper(model, make_optimizer("adamw", model, 1e-3), HERE, **options)


def train(stepper: Stepper, steps: list[list[Any]], lr: float = 1e-3) -> list[float]:
    """Losses of steps, each of some batches."""
    losses = []
    for batches in steps:
        totals = (sum(b.num_mlm_labels for b in batches), sum(b.num_pair_labels for b in batches))
        mlm, pair, _ = stepper.step(batches, lr, totals).values.tolist()
        losses.append(mlm / totals[0] + (pair / totals[1] if totals[1] else 0))
    return losses


# -- what is learned -----------------------------------------------------------------------------------------------------


def test_twenty_steps_follow_transformers(corpus: Corpus) -> None:
    """The same weights, batches and AdamW: the losses stay within 1e-4."""
    model, batches = make_model(), batches_of(corpus)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**model.config.to_dict(), attn_implementation="eager"))
    theirs.load_state_dict(model.state_dict())
    theirs.train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in theirs.named_parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for n, p in theirs.named_parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
        eps=1e-6,
    )
    ours = train(make_stepper(model, max_grad_norm=1.0), [[batches[i]] for i in range(20)])
    for i in range(20):
        packed, count = batches[i].packed, batches[i].num_sequences
        starts = packed.cu_seqlens.tolist()
        rows = [slice(a, b) for a, b in pairwise(starts[: count + 1])]
        labels = torch.full((packed.num_tokens,), -100)
        labels[batches[i].scored_rows[batches[i].labels != -100]] = batches[i].labels[batches[i].labels != -100]
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = {
            "input_ids": pad([packed.input_ids[r] for r in rows], batch_first=True),
            "token_type_ids": pad([packed.token_type_ids[r] for r in rows], batch_first=True),
            "attention_mask": pad([torch.ones(r.stop - r.start) for r in rows], batch_first=True),
            "labels": pad([labels[r] for r in rows], batch_first=True, padding_value=-100),
            "next_sentence_label": batches[i].next_sentence_label[:count],
        }
        loss = theirs(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert ours[i] == pytest.approx(float(loss), abs=1e-4), i
    assert ours[-1] < ours[0] - 0.3


def test_accumulation_over_uneven_batches_is_the_gradient_of_the_big_batch(corpus: Corpus) -> None:
    """Three batches of different fill against their examples in one: words and pairs each weigh the same everywhere."""
    source = CorpusExamples(corpus, ExampleOptions("mlm+nsp", 48), 0)
    small, big = (EpochBatches(source, Budget.of(source, tokens), 0, 0, shuffle=False) for tokens in (96, 960))
    parts = [small[i] for i in range(len(small))]
    count = next(n for n in range(1, len(parts)) if sum(b.num_sequences for b in parts[:n]) == big[0].num_sequences)
    parts = parts[:count]
    assert len({(b.num_mlm_labels, b.num_pair_labels) for b in parts}) > 1
    found = []
    for batches in (parts, [big[0]]):
        model = make_model()
        train(make_stepper(model), [batches])
        found.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        model = make_model()
        stepper = make_stepper(model)
        stepper.optimizer.zero_grad = lambda **_: None  # the gradients stay to be looked at
        train(stepper, [batches], lr=0.0)
        found[-1] |= {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=2e-6), name


def test_evaluation_between_steps_of_fused_adamw_sees_the_new_weights(corpus: Corpus) -> None:
    model, batches = fastbert.prepack(make_model()), batches_of(corpus)
    stepper, losses = make_stepper(model), []
    for i in range(4):
        train(stepper, [[batches[i]]])
        found = evaluate(model, batches, 3, HERE, torch.autocast("cpu", enabled=False))
        fresh = make_model()
        fresh.load_state_dict(model.state_dict())
        assert found == evaluate(fresh, batches, 3, HERE, torch.autocast("cpu", enabled=False))
        assert model.training
        losses.append(found["masked_lm_loss"])
    assert len(set(losses)) == 4


def test_evaluation_is_that_of_the_whole_scores(corpus: Corpus) -> None:
    model, batches = make_model().eval(), batches_of(corpus)
    found = evaluate(model, batches, 2, HERE, torch.autocast("cpu", enabled=False))
    words = hits = pairs = right = 0
    for i in range(2):
        batch = batches[i]
        with torch.no_grad():
            out = model(batch.packed)
        keep, follows = batch.labels != -100, batch.next_sentence_label != -100
        words += int(keep.sum())
        hits += int((out.prediction_logits.argmax(-1)[batch.scored_rows] == batch.labels)[keep].sum())
        pairs += int(follows.sum())
        right += int((out.seq_relationship_logits.argmax(-1) == batch.next_sentence_label)[follows].sum())
    assert found["masked_lm_accuracy"] == pytest.approx(hits / words)
    assert found["next_sentence_accuracy"] == pytest.approx(right / pairs)


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop", "mlm", "ltr"])
def test_every_objective_trains_and_its_model_opens(corpus: Corpus, tmp_path: Path, objective: str) -> None:
    result = pretrain(
        make_recipe(corpus.folder, f"data.objective={objective}", "phases.0.steps=40", "run.log_every=10"),
        tmp_path / "run",
        "cpu",
    )
    first, *_, last = [record for record in learned(tmp_path / "run") if record["kind"] == "train"]
    assert last["masked_lm_loss"] < first["masked_lm_loss"] - 0.3
    assert ("next_sentence_accuracy" in result.metrics) == ("+" in objective)
    config = fastbert.BertConfig.from_pretrained(tmp_path / "run" / "model")
    assert config.is_decoder == (objective == "ltr")
    theirs = getattr(transformers, config.architectures[0]).from_pretrained(tmp_path / "run" / "model")
    assert theirs.config.vocab_size == 90
    if objective == "mlm":
        assert len(FillMask.from_pretrained(tmp_path / "run" / "model").predict(["the [MASK] runs"])[0]) == 5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precisions_train(corpus: Corpus, tmp_path: Path, precision: str) -> None:
    pretrain(make_recipe(corpus.folder, f"run.precision={precision}", "phases.0.steps=12"), tmp_path / "run", "cpu")
    records = learned(tmp_path / "run")
    assert records[-2]["masked_lm_loss"] < records[0]["masked_lm_loss"]
    assert ("loss_scale" in records[0]) == (precision == "float16")


def test_two_phases_go_on_with_one_schedule_at_a_new_epoch(corpus: Corpus, tmp_path: Path) -> None:
    recipe = make_recipe(corpus.folder).to_dict()
    recipe["phases"] = [
        {"steps": 6, "max_length": 24, "batch_tokens": 256},
        {"steps": 6, "max_length": 48, "batch_tokens": 256},
    ]
    recipe["run"]["log_every"] = 1
    pretrain(Recipe.from_dict(recipe), tmp_path / "run", "cpu")
    train_records = [record for record in learned(tmp_path / "run") if record["kind"] == "train"]
    assert [record["lr"] for record in train_records][5:8] == pytest.approx([1e-3 * (12 - s) / 8 for s in (5, 6, 7)])
    assert train_records[6]["epoch"] == train_records[5]["epoch"] + 1


def test_static_examples_train(corpus: Corpus, tmp_path: Path) -> None:
    write_static(corpus, ExampleOptions("mlm+nsp", 48), 0, 2, tmp_path / "static")
    result = pretrain(make_recipe(tmp_path / "static", "phases.0.steps=6"), tmp_path / "run", "cpu")
    assert result.step == 6
    assert result.metrics == {}


def test_training_goes_on_from_a_checkpoint_of_another_run(corpus: Corpus, whole_run: Path, tmp_path: Path) -> None:
    recipe = make_recipe(corpus.folder, f"model.init='{whole_run / 'model'}'", "phases.0.steps=4", "run.log_every=1")
    pretrain(recipe, tmp_path / "run", "cpu")
    assert learned(tmp_path / "run")[0]["masked_lm_loss"] < learned(whole_run)[0]["masked_lm_loss"] - 0.3


def test_the_report_and_the_target(corpus: Corpus, tmp_path: Path) -> None:
    recipe = make_recipe(corpus.folder, "target.below_unigram=9")
    result = pretrain(recipe, tmp_path / "run", "cpu")
    assert result.target_reached is False
    text = (tmp_path / "run" / "report.md").read_text()
    assert f"| {result.metrics['masked_lm_loss']:.3f} |" in text
    assert (tmp_path / "run" / "loss.png").stat().st_size > 10_000
    assert 0 < read_metrics(tmp_path / "run" / "metrics.jsonl")[-2]["mfu"] < 5


# -- resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_killed_six_times_has_the_bits_of_one_that_was_not(corpus: Corpus, whole_run: Path, tmp_path: Path) -> None:
    """Half of the kills come at random moments, half while a checkpoint is being written."""
    processes = forks()
    draw, recipe, kills, lives = random.Random(0), make_recipe(corpus.folder).to_dict(), 0, 0
    threads = torch.get_num_threads()  # sums are of as many parts
    while kills < 6:
        lives += 1
        assert lives < 20
        die = draw.randrange(0, 22) if kills % 2 else None
        process = processes.Process(target=life, args=(recipe, str(tmp_path / "run"), threads, die))
        process.start()
        if die is None:
            time.sleep(draw.uniform(0.2, 1.2))
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:  # it came to the end: begin again, the kills so far count
            assert_same_run(tmp_path / "run", whole_run)
            (tmp_path / "run").rename(tmp_path / f"finished-{lives}")
    process = processes.Process(target=life, args=(recipe, str(tmp_path / "run"), threads, None))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert_same_run(tmp_path / "run", whole_run)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    corpus: Corpus, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    step, seen = Stepper.step, []

    def step_and_signal(self: Stepper, *args: Any) -> Any:
        seen.append(None)
        if len(seen) == 7:
            os.kill(os.getpid(), number)
        return step(self, *args)

    monkeypatch.setattr(Stepper, "step", step_and_signal)
    result = pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")
    assert result.stopped_by == number.name
    assert result.step == 7
    assert (tmp_path / "run" / "checkpoints" / f"step-{result.step:08d}").is_dir()
    assert pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu").step == STEPS
    assert_same_run(tmp_path / "run", whole_run)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_finds_workers_still_at_work(
    corpus: Corpus, whole_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As torchrun, Slurm and Ctrl-C send it: were the workers to die first, the step could not be finished."""
    recipe = make_recipe(corpus.folder, "run.workers=2").to_dict()
    process = forks().Process(target=run_in_a_group, args=(recipe, str(tmp_path / "run")))
    process.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, number)
    process.join(60)
    assert process.exitcode == 128
    pretrain(Recipe.from_dict(recipe), tmp_path / "run", "cpu")
    assert_same_run(tmp_path / "run", whole_run)


def interrupted(corpus: Corpus, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 14) -> None:
    """A run that dies of an error after some steps."""
    step, seen = Stepper.step, []

    def step_or_die(self: Stepper, *args: Any) -> Any:
        seen.append(None)
        if len(seen) > steps:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            pretrain(make_recipe(corpus.folder), folder, "cpu")


@pytest.fixture(scope="module")
def interrupted_run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died after 14 steps."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupted(corpus, folder, patch)
    return folder


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest", "empty manifest"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    corpus: Corpus, whole_run: Path, interrupted_run: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(interrupted_run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000012"
    assert sorted(path.name for path in newest.parent.iterdir()) == ["step-00000009", "step-00000012"]
    path = newest / ("checkpoint.json" if "manifest" in damage else "training.pt")
    data = path.read_bytes()
    if damage in ("missing", "no manifest"):
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "changed": data[:-1] + b"x", "empty manifest": b""}[damage])
    with pytest.warns(UserWarning, match="the checkpoint step-00000012 is skipped"):
        result = pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")
    assert result.step == STEPS
    assert_same_run(tmp_path / "run", whole_run)


def test_the_same_run_again_changes_nothing(corpus: Corpus, whole_run: Path) -> None:
    before = {path: path.read_bytes() for path in (whole_run / "model").iterdir()}
    assert pretrain(make_recipe(corpus.folder), whole_run, "cpu").step == STEPS
    assert before == {path: path.read_bytes() for path in (whole_run / "model").iterdir()}


def test_a_run_is_not_resumed_with_another_recipe_or_corpus(corpus: Corpus, whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a run with optimizer\.lr = 0\.001; now it is 0\.1: name another output"):
        pretrain(make_recipe(corpus.folder, "optimizer.lr=0.1"), whole_run, "cpu")
    other = make_corpus(tmp_path / "c", 30)
    with pytest.raises(InputError, match="was started with a different corpus"):
        pretrain(make_recipe(other.folder), whole_run, "cpu")
    pretrain(make_recipe(corpus.folder, "run.log_every=7"), whole_run, "cpu")  # how it is reported may change


def test_a_recipe_that_came_to_nothing_can_be_mended_in_its_folder(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_tokens = 40 is below"):
        pretrain(make_recipe(corpus.folder, "phases.0.batch_tokens=40"), tmp_path / "run", "cpu")
    assert pretrain(make_recipe(corpus.folder, "phases.0.steps=5"), tmp_path / "run", "cpu").step == 5


# -- how it fails --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_checkpoint(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Stepper._run, []

    def poisoned(self: Stepper, *args: Any, **labels: Any) -> Any:
        seen.append(None)
        if len(seen) == 8:
            with torch.no_grad():
                self.model.cls.predictions.bias[0] = float("nan")
        return run(self, *args, **labels)

    monkeypatch.setattr(Stepper, "_run", poisoned)
    with pytest.raises(TrainingError, match=r"not a number at step 8\. The last good checkpoint is .*step-00000006 \(step 6\)"):
        pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")
    assert not (tmp_path / "run" / "model").exists()


def test_a_full_disk_names_the_last_good_checkpoint_and_keeps_it(
    corpus: Corpus, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: Any, path: Path) -> None:
        if "step-00000012" in str(path):
            Path(path).write_bytes(b"half of it")
            raise RuntimeError("unexpected pos 64 vs 0") from OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            CheckpointError, match=r"step-00000012: No space left on device; the last good one is .*step-00000009"
        ):
            pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000006", "step-00000009"]
    pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")
    assert_same_run(tmp_path / "run", whole_run)


def test_a_gradient_that_is_no_number_is_noticed_before_it_is_saved(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Stepper._run, []

    def poisoned(self: Stepper, *args: Any, **labels: Any) -> Any:
        values = run(self, *args, **labels)
        seen.append(None)
        if len(seen) == 9:  # a step with a checkpoint
            self.model.bert.pooler.dense.weight.grad[0, 0] = float("inf")
        return values

    monkeypatch.setattr(Stepper, "_run", poisoned)
    with pytest.raises(TrainingError, match=r"not a number at step 9\. The last good checkpoint is .*step-00000006 \(step 6\)"):
        pretrain(make_recipe(corpus.folder), tmp_path / "run", "cpu")


@pytest.mark.parametrize("room", [1_000, 50_000, 400_000], ids=["config", "weights", "optimiser"])
def test_files_that_cannot_be_written_whole_are_one_sentence(tmp_path: Path, room: int) -> None:
    """A real limit of the system in place of a full disk: what the libraries make of it differs from file to file."""
    resource = pytest.importorskip("resource", reason="file size limits are those of Unix")
    checkpoints, model = Checkpoints(tmp_path / "c"), make_model()
    checkpoints.save(1, {}, model.save_pretrained)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot write the checkpoint .*step-00000002: .*; the last good one is .*-00000001"
        ):
            checkpoints.save(2, {"state": torch.zeros(200_000)}, model.save_pretrained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]


def test_recipes_that_do_not_fit_are_refused_before_training(corpus: Corpus, tmp_path: Path) -> None:
    def refused(text: str, *changes: str, folder: Path = tmp_path / "run") -> None:
        with pytest.raises((InputError, CheckpointError), match=text):
            pretrain(make_recipe(corpus.folder, *changes), folder, "cpu")

    refused("give data.corpus, .* or data.sources.*; neither is given", "data.corpus=''")
    refused("both are given", "data.sources=['a.txt']", folder=tmp_path / "2")
    refused(r"max_length = 64 is above max_position_embeddings = 48", "phases.0.max_length=64", folder=tmp_path / "3")
    refused("batch_tokens = 40 is below max_length = 48", "phases.0.batch_tokens=40", folder=tmp_path / "4")
    refused("vocab_size = 50 is below the 90 entries", "model.config.vocab_size=50", folder=tmp_path / "5")
    refused("type_vocab_size = 1: mlm.nsp has two segments", "model.config.type_vocab_size=1", folder=tmp_path / "6a")
    refused(r"has no manifest\.json", f"data.corpus='{tmp_path / 'gone'}'", folder=tmp_path / "6")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    refused("holds something other than a pre-training run", folder=tmp_path / "full")
    thin = make_corpus(tmp_path / "thin", 30, 0.04)
    with pytest.raises(InputError, match=r"held-out holds 1 document, too few for next-sentence pairs: .* a larger --held-out"):
        pretrain(make_recipe(thin.folder), tmp_path / "8", "cpu")
    refused("sharded with run.precision = 'float16'", "run.sharded=true", "run.precision=float16")
    with pytest.raises(InputError, match="there is no CUDA device"):
        pretrain(make_recipe(corpus.folder), tmp_path / "7", "cuda")


def test_a_vocabulary_that_is_not_the_corpus_own_is_refused(corpus: Corpus, tmp_path: Path, minilm: Path) -> None:
    with pytest.raises(InputError, match="the vocabulary of model.init = .* is not the one that"):
        pretrain(make_recipe(corpus.folder, f"model.init='{minilm}'"), tmp_path / "run", "cpu")


def test_metrics_have_the_four_classic_names_and_tensorboard_the_same_numbers(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="TensorBoard files are written with the package tensorboard, of the extra `train`"
    )
    pretrain(make_recipe(corpus.folder, "run.tensorboard=true", "phases.0.steps=6"), tmp_path / "run", "cpu")
    *_, train_record, eval_record = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for name in ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy"):
        assert isinstance(eval_record[name], float)
    assert {"lr", "tokens_per_second", "tail_share", "mfu", "memory_bytes", "grad_norm"} <= train_record.keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert events.Scalars("train/masked_lm_loss")[-1].value == pytest.approx(train_record["masked_lm_loss"], rel=1e-6)


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.newest() is None
    for step in range(1, 6):
        checkpoints.save(step, {"n": step}, lambda folder: (folder / "config.json").write_text("{}"))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000004", "step-00000005"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1] == {"n": 5}
    assert json.loads((newest[0] / "checkpoint.json").read_text())["step"] == 5


def test_damaged_checkpoints_ahead_do_not_push_the_new_one_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(9, {}, lambda folder: (folder / "config.json").write_text("{}"))
    (tmp_path / "c" / "step-00000012").mkdir()
    saved = checkpoints.save(10, {}, lambda folder: (folder / "config.json").write_text("{}"))
    assert [path.name for path in (tmp_path / "c").iterdir()] == [saved.name] == ["step-00000010"]
