"""Fine-tuning: every task is learned, resumed exactly, saved for transformers; features leave the encoder alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from task_cases import ANIMALS, choices, numbers, pairs, questions, save_encoder, save_head, sentences, texts

import fastbert
from fastbert import BertTokenizer
from fastbert.data.conll import TaggedSentence
from fastbert.data.labelled import TextExample
from fastbert.data.squad import Answer, Question
from fastbert.errors import InputError, StoppedError
from fastbert.finetuning import FineTuneOptions, finetune, seed_run
from fastbert.finetuning.answering import best_threshold
from fastbert.finetuning.evaluation import evaluate_model, task_of_model
from fastbert.finetuning.labels import decide_labels
from fastbert.finetuning.problems import Split
from fastbert.finetuning.seed_run import SeedRun
from fastbert.studies.comparison import compare
from fastbert.studies.finetuning import TaskData, run_study
from fastbert.tasks import NLI, Classifier, MultipleChoice, QuestionAnswerer, TokenTagger

MAKERS: dict[str, Any] = {
    "classify": texts,
    "nli": pairs,
    "regress": numbers,
    "choice": choices,
    "ner": sentences,
    "qa": questions,
}
EPOCHS = {"classify": 4, "nli": 6, "regress": 3, "choice": 3, "ner": 6, "qa": 3}  # twice as many as it takes, at least
WANTED = {"classify": 0.95, "nli": 0.95, "regress": 0.9, "choice": 0.9, "ner": 0.8, "qa": 90.0}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def options(**changes: Any) -> FineTuneOptions:
    return FineTuneOptions(**{"epochs": 4, "lr": 2e-3, "batch_size": 16, "dropout": 0.0, **changes})


def run(kind: str, model: Path, output: Path, count: int = 256, **changes: Any) -> Any:
    rest = {name: changes.pop(name) for name in ("seeds", "test", "feature_cache", "progress") if name in changes}
    make = MAKERS[kind]
    rest.setdefault("progress", lambda text: None)
    return finetune(
        kind, model, make(count, 0), make(64, 1), output=output, options=options(**changes), show_progress=False, **rest
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_every_task_is_learned_and_leaves_its_results(kind: str, encoder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = run(kind, encoder, tmp_path / "run", test=MAKERS[kind](64, 2), progress=said.append, epochs=EPOCHS[kind])
    first = next(iter(result.metrics))
    assert result.metrics[first] >= WANTED[kind], result.metrics
    folder = tmp_path / "run"
    assert "examples" in said[0]
    assert "256" in said[0]
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 64
    assert all("gold" in row for row in predictions)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"][first]["mean"] == result.metrics[first]
    report = (folder / "report.md").read_text()
    assert f"{result.metrics[first]:.4f}" in report
    if kind not in ("regress",):
        picture = folder / ("errors.png" if kind in ("ner", "qa") else "confusion.png")
        assert picture.read_bytes()[:4] == b"\x89PNG"
    assert not (folder / "seed-0" / "checkpoints").exists()
    assert task_of_model(folder / "model") == kind
    again = evaluate_model(folder / "model", Split("test", MAKERS[kind](64, 2)), device="cpu")
    assert again.metrics == pytest.approx(result.metrics)


@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_without_dropout_training_is_that_of_transformers_trainer(
    kind: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same start and order of examples: rate, decay, clipping, loss and gradients are the same, so the weights are."""
    build, made = seed_run.build_model, []

    def keep(*arguments: Any) -> Any:
        made.append(build(*arguments))
        made[-1].save_pretrained(tmp_path / f"start-{len(made)}")
        return made[-1]

    monkeypatch.setattr(seed_run, "build_model", keep)
    monkeypatch.setattr(SeedRun, "_order", lambda self, epoch: list(range(len(self.targets))))
    examples = MAKERS[kind](200, 0)
    how = options(epochs=2, lr=5e-4)
    result = finetune(kind, encoder, examples, output=tmp_path / "run", options=how, device="cpu", show_progress=False)

    head = transformers.AutoModelForSequenceClassification
    ours, start = head.from_pretrained(result.folder / "model"), head.from_pretrained(tmp_path / "start-1")
    theirs = head.from_pretrained(tmp_path / "start-1")
    tok = transformers.AutoTokenizer.from_pretrained(result.folder / "model")
    number = theirs.config.label2id if kind == "classify" else None
    rows = [{**tok(example.text), "labels": example.label if number is None else number[example.label]} for example in examples]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        num_train_epochs=2,
        per_device_train_batch_size=16,
        learning_rate=5e-4,
        warmup_steps=0.1,
        weight_decay=0.01,
        adam_epsilon=1e-6,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
    )
    collate = transformers.DataCollatorWithPadding(tok)
    transformers.Trainer(model=theirs, args=arguments, data_collator=collate, train_dataset=rows).train()
    for (name, a), b, before in zip(ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True):
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, which Adam makes large
            assert float((a - b).norm()) < 2e-3 * float((b - before).norm()), name


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("classify", "AutoModelForSequenceClassification"),
        ("ner", "AutoModelForTokenClassification"),
        ("qa", "AutoModelForQuestionAnswering"),
        ("choice", "AutoModelForMultipleChoice"),
    ],
)
def test_what_we_save_gives_the_same_scores_in_transformers(kind: str, head: str, encoder: Path, tmp_path: Path) -> None:
    result = run(kind, encoder, tmp_path / "run", count=64, epochs=1)
    folder = result.folder / "model"
    theirs = getattr(transformers, head).from_pretrained(folder).eval()
    ours_class = {"classify": "BertForSequenceClassification", "ner": "BertForTokenClassification"}
    ours_class |= {"qa": "BertForQuestionAnswering", "choice": "BertForMultipleChoice"}
    ours = getattr(fastbert, ours_class[kind]).from_pretrained(folder)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    rows = tok(["the cat runs", "paris"], ["is a fox", "where"], padding=True, return_tensors="pt")
    if kind == "choice":
        rows = {name: value[None] for name, value in rows.items()}
    with torch.no_grad():
        for a, b in zip(ours(**rows).to_tuple(), theirs(**rows).to_tuple(), strict=True):
            mask = rows["attention_mask"].bool() if kind in ("ner", "qa") else ...
            assert torch.allclose(a[mask], b[mask], atol=1e-5)
    assert theirs.config.id2label == ours.config.id2label


def test_what_transformers_saves_predicts_the_same_here(tmp_path: Path) -> None:
    heads: dict[str, Any] = {
        "BertForSequenceClassification": (Classifier, ["the cat", ("a", "b")][:1]),
        "BertForTokenClassification": (TokenTagger, ["the cat in paris"]),
        "BertForQuestionAnswering": (QuestionAnswerer, [("where ?", "in paris")]),
        "BertForMultipleChoice": (MultipleChoice, [("the", ["cat", "dog"])]),
    }
    for name, (task, inputs) in heads.items():
        ours, theirs = tmp_path / f"{name}-ours", tmp_path / f"{name}-theirs"
        save_head(ours, name).save_pretrained(theirs)
        BertTokenizer.from_pretrained(ours).save_pretrained(theirs)
        assert task.from_pretrained(ours, "cpu").predict(inputs) == task.from_pretrained(theirs, "cpu").predict(inputs), name


def test_a_run_moves_every_tensor(encoder: Path, tmp_path: Path) -> None:
    result = run("classify", encoder, tmp_path / "run", count=64, epochs=1)
    before = fastbert.BertModel.from_pretrained(encoder).state_dict()
    after = fastbert.BertForSequenceClassification.from_pretrained(result.folder / "model").bert.state_dict()
    still = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert not still


# -- features ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classify", "ner", "qa", "choice"])
def test_features_leave_every_tensor_of_the_encoder_as_it_was(kind: str, tmp_path: Path) -> None:
    source = save_encoder(tmp_path / "encoder", layers=4)
    said: list[str] = []
    changes = {"mode": "features", "epochs": 2, "feature_cache": tmp_path / "cache"}
    result = run(kind, source, tmp_path / "run", count=128, progress=said.append, **changes)
    before = fastbert.BertModel.from_pretrained(source, add_pooling_layer=False).state_dict()
    after = fastbert.BertModel.from_pretrained(result.folder / "model", add_pooling_layer=False).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any("MiB ->" in text for text in said)
    said.clear()
    again = run(kind, source, tmp_path / "again", count=128, progress=said.append, **changes)
    assert sum("found in" in text for text in said) == 2
    assert again.metrics == result.metrics
    assert evaluate_model(again.folder / "model", Split("dev", MAKERS[kind](64, 1)), device="cpu").metrics == pytest.approx(
        result.metrics, abs=1e-6
    )


def test_both_modes_stand_side_by_side(tmp_path: Path) -> None:
    source = save_encoder(tmp_path / "encoder", layers=4)
    table = compare(
        "ner", source, sentences(64, 0), sentences(32, 1), output=tmp_path / "both", options=options(epochs=1),
        progress=lambda text: None, show_progress=False, all_layers=False,
    )  # fmt: skip
    assert [row["row"] for row in table.records()] == ["fine-tuning", "features: concat-last-4"]
    assert "parameters trained" in str(table)
    assert "96.4" in str(table)
    assert (tmp_path / "both" / "table.md").is_file()


def test_studies_run_and_directions_differ(tmp_path: Path) -> None:
    """Left to right, the answer of a tag that its right neighbour decides cannot be known."""
    source = save_encoder(tmp_path / "encoder")

    def right_neighbour(count: int, seed: int) -> Split:
        found = []
        for sentence in sentences(count, seed):
            words = (*sentence.words, "the")
            tags = (*("B-A" if after in ANIMALS else "O" for after in words[1:]), "O")
            found.append(TaggedSentence(words, tags, 1))
        return Split("data", found)

    task = TaskData("ner", right_neighbour(400, 0), right_neighbour(100, 1))
    how = options(epochs=5)
    table = run_study("direction", source, [task], tmp_path / "direction", how, progress=lambda text: None, show_progress=False)
    rows = [line.split() for line in str(table).splitlines()]
    both = next(float(row[-2]) for row in rows if "two" in row)
    left = next(float(row[-2]) for row in rows if "left" in row)
    assert both > 0.9
    assert left < 0.6
    sentence = TaskData("classify", Split("train", texts(16, 0)), Split("dev", texts(16, 1)))
    table = run_study(
        "pooling", source, [sentence], tmp_path / "pooling", options(epochs=1), progress=lambda text: None, show_progress=False
    )
    assert all(name in str(table) for name in ("pooler", "mean", "maximum", "last token"))
    with pytest.raises(InputError, match="suite = 'x' is not one of pooling"):
        run_study("x", source, [task], tmp_path / "x")


# -- seeds, resuming --------------------------------------------------------------------------------------------------------


def test_several_seeds_differ_and_the_best_is_kept(encoder: Path, tmp_path: Path) -> None:
    result = run("ner", encoder, tmp_path / "run", count=96, epochs=2, seeds=3)
    scores = [seed.dev["f1"] for seed in result.seeds]
    assert len(set(scores)) > 1
    assert result.best == max(range(3), key=scores.__getitem__)
    assert result.metrics["f1"] == pytest.approx(sum(scores) / 3)
    assert "+-" in (tmp_path / "run" / "report.md").read_text()
    models = sorted(path.parent.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("model.safetensors"))
    others = [Path(f"seed-{seed}/model") for seed in range(3) if seed != result.best]
    assert models == sorted([Path("model"), *others])  # no weights twice
    found = evaluate_model(tmp_path / "run" / "model", Split("dev", MAKERS["ner"](64, 1)), device="cpu").metrics
    assert found == pytest.approx(scores_of(result, result.best))


def scores_of(result: Any, seed: int) -> dict[str, float]:
    return next(one.dev for one in result.seeds if one.seed == seed)


def test_the_best_model_moves_when_more_seeds_are_trained(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    one = run("ner", encoder, folder, count=96, epochs=2)
    assert not (folder / "seed-0" / "model").exists()
    first = (folder / "model" / "model.safetensors").read_bytes()
    again = run("ner", encoder, folder, count=96, epochs=2)  # done: nothing is trained, the model stays
    assert again.metrics == one.metrics
    assert (folder / "model" / "model.safetensors").read_bytes() == first
    result = run("ner", encoder, folder, count=96, epochs=2, seeds=3)
    assert scores_of(result, 0) == one.metrics
    where = folder / "model" if result.best == 0 else folder / "seed-0" / "model"
    assert (where / "model.safetensors").read_bytes() == first
    assert len(list(folder.rglob("model.safetensors"))) == 3
    goodness = {r.seed: r.dev["f1"] for r in result.seeds}
    found = evaluate_model(folder / "model", Split("dev", MAKERS["ner"](64, 1)), device="cpu").metrics
    assert found["f1"] == pytest.approx(max(goodness.values()))


@pytest.mark.parametrize("mode", ["finetune", "features"])
def test_a_stopped_run_goes_on_to_the_same_bits(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_encoder(tmp_path / "encoder", layers=4)
    changes = {"mode": mode, "epochs": 2, "dropout": 0.1, "count": 96}
    whole = run("ner", source, tmp_path / "whole", **changes)
    for stop in (3, 8):  # in the first epoch, in the second
        step = SeedRun._step

        def stopping(self: SeedRun, step: Any = step, stop: int = stop) -> None:
            step(self)
            if self.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(SeedRun, "_step", stopping)
        with pytest.raises(StoppedError, match="SIGTERM"):
            run("ner", source, tmp_path / "parts", **changes)
        monkeypatch.undo()
    said: list[str] = []
    parts = run("ner", source, tmp_path / "parts", progress=said.append, **changes)
    assert any("resumed from step-00000008" in text for text in said)
    assert parts.seeds[0].dev == whole.seeds[0].dev
    for name in ("model.safetensors", *(["head.safetensors"] if mode == "features" else [])):
        assert (parts.folder / "model" / name).read_bytes() == (whole.folder / "model" / name).read_bytes()
    losses = [
        [(r["step"], r["loss"]) for r in map(json.loads, (folder / "seed-0" / "metrics.jsonl").open()) if r["kind"] == "train"]
        for folder in (parts.folder, whole.folder)
    ]
    assert losses[0] == losses[1]


def test_another_run_in_the_same_folder_is_refused(encoder: Path, tmp_path: Path) -> None:
    run("classify", encoder, tmp_path / "run", count=32, epochs=1)
    again = run("classify", encoder, tmp_path / "run", count=32, epochs=1)  # nothing is trained twice
    assert again.seeds[0].epoch == 1
    with pytest.raises(InputError, match=r"holds a run with options\.epochs = 1; now it is 2"):
        run("classify", encoder, tmp_path / "run", count=32, epochs=2)
    with pytest.raises(InputError, match="holds a run on other examples of train"):
        run("classify", encoder, tmp_path / "run", count=33, epochs=1)


# -- labels -----------------------------------------------------------------------------------------------------------------


def test_the_order_of_labels_changes_no_named_prediction(encoder: Path, tmp_path: Path) -> None:
    inputs = [(e.text, e.pair) for e in pairs(48, 5)]
    found = []
    for number, order in enumerate(
        [None, ("neutral", "contradictory", "entailment"), ("entailment", "neutral", "contradiction")]
    ):
        result = run("nli", encoder, tmp_path / str(number), count=128, epochs=2, labels=order, dropout=0.1)
        task = NLI.from_pretrained(result.folder / "model", "cpu")
        found.append(task.predict(inputs))
        if order is not None:
            assert list(task.model.config.id2label.values()) == [
                name.replace("contradictory", "contradiction") for name in order
            ]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a["label"] == b["label"]
            assert a["entailment"] == pytest.approx(b["entailment"], abs=1e-3)


def test_spellings_of_relations_are_one_label(encoder: Path, tmp_path: Path) -> None:
    mixed = [TextExample(e.text, e.pair, {"contradiction": "contradictory"}.get(e.label, e.label)) for e in pairs(64, 0)]
    result = finetune(
        "nli", encoder, mixed, pairs(16, 1), output=tmp_path / "run", options=options(epochs=1), progress=lambda t: None
    )
    assert "contradiction" in NLI.from_pretrained(result.folder / "model", "cpu").labels


def test_labels_are_decided_by_name() -> None:
    assert decide_labels(["b", "a", "b"], None, None, False) == ["a", "b"]
    assert decide_labels(["10", "9"], None, None, False) == ["9", "10"]
    assert decide_labels(["0", "1"], ["bad", "good"], None, False) == ["bad", "good"]
    assert decide_labels(["a", "b"], None, ["b", "a"], False) == ["b", "a"]  # the checkpoint's order stays
    with pytest.raises(InputError, match="labels names 'c', and no training example has it; they have a, b"):
        decide_labels(["a", "b"], ["a", "b", "c"], None, False)
    with pytest.raises(InputError, match="have the label 'b', which is not among a"):
        decide_labels(["a", "b"], ["a"], None, False)
    with pytest.raises(InputError, match=r"a head for 3 labels \(x, y, z\), the data have 2 \(a, b\)"):
        decide_labels(["a", "b"], None, ["x", "y", "z"], False)
    with pytest.raises(InputError, match="a single label, a: there is nothing to learn"):
        decide_labels(["a"], None, None, False)


def test_a_trained_head_goes_on_or_is_started_anew(encoder: Path, tmp_path: Path) -> None:
    first = run("classify", encoder, tmp_path / "first", count=128, epochs=4)
    more = run("classify", first.folder / "model", tmp_path / "more", count=16, epochs=1, lr=1e-6)
    assert more.metrics["accuracy"] == pytest.approx(first.metrics["accuracy"], abs=0.05)  # the head was kept
    other = [TextExample(e.text, None, {"animal": "A", "place": "B"}[e.label]) for e in texts(64, 0)]
    with pytest.raises(InputError, match=r"a head for 2 labels \(animal, place\), the data have 2 \(A, B\)"):
        finetune("classify", first.folder / "model", other, output=tmp_path / "x", options=options(), progress=lambda t: None)
    anew = finetune(
        "classify", first.folder / "model", other, output=tmp_path / "x", options=options(epochs=1, new_head=True),
        progress=lambda t: None,
    )  # fmt: skip
    assert Classifier.from_pretrained(anew.folder / "model", "cpu").labels == ["A", "B"]


def test_several_labels_are_learned(encoder: Path, tmp_path: Path) -> None:
    def make(count: int, seed: int) -> list[TextExample]:
        return [
            TextExample(f"{a.text} {b.text}", None, tuple(sorted({a.label, b.label})))
            for a, b in zip(texts(count, seed), texts(count, seed + 100), strict=True)
        ]

    result = finetune(
        "classify", encoder, make(256, 0), make(64, 1), output=tmp_path / "run", options=options(multi_label=True, epochs=6),
        progress=lambda t: None, show_progress=False,
    )  # fmt: skip
    assert result.metrics["f1_micro"] > 0.95
    assert "## Labels" in (tmp_path / "run" / "report.md").read_text()


def test_windows_read_long_texts_to_their_end(encoder: Path, tmp_path: Path) -> None:
    """The word that decides stands behind 80 others: cut off by truncation, in the second window."""
    long = [TextExample("the a is in " * 20 + e.text, None, e.label) for e in texts(4, 1)]
    said: list[str] = []
    how = options(overlong="window", epochs=1)
    result = finetune(
        "classify", encoder, [*texts(64, 0), *long], texts(16, 2), long, output=tmp_path / "run", options=how,
        progress=said.append, show_progress=False,
    )  # fmt: skip
    sequences = next(line.split() for line in said[0].splitlines() if line.startswith("sequences"))
    assert sequences[1:] == ["72", "16", "8"]
    task = Classifier.from_pretrained(result.folder / "model", "cpu")
    assert (task.overlong, task.window_scores) == ("window", "mean")
    saved = [json.loads(line)["score"] for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert saved == pytest.approx([row["score"] for row in task.predict([e.text for e in long])], abs=1e-5)
    both = ["the a is in " * 20 + word for word in ("cat", "paris")]
    whole = task.predict(both, None)
    assert whole[0] != whole[1]
    with pytest.warns(UserWarning, match="2 of 2 inputs have more than 64 tokens"):
        cut = task.predict(both, None, overlong="truncate")
    assert cut[0] == cut[1]


# -- questions, tags --------------------------------------------------------------------------------------------------------


def test_questions_without_an_answer_are_learned(encoder: Path, tmp_path: Path) -> None:
    result = finetune(
        "qa", encoder, questions(256, 0, True), questions(80, 1, True), questions(80, 2, True), output=tmp_path / "run",
        options=options(), progress=lambda t: None, show_progress=False,
    )  # fmt: skip
    assert result.metrics["f1"] > 90
    answerer = QuestionAnswerer.from_pretrained(result.folder / "model", "cpu")
    assert answerer.null_threshold is not None
    found = answerer.predict([("where ?", "the cat red sits"), ("where ?", "the cat sits in oslo")])
    assert [row["answer"] for row in found] == ["", "oslo"]


def test_the_threshold_is_the_best_of_all() -> None:
    rows = [
        {"answer": "x", "gold": ["x"], "null_margin": -3.0},
        {"answer": "x", "gold": ["x"], "null_margin": 0.5},
        {"answer": "y", "gold": [], "null_margin": 1.0},
        {"answer": "y", "gold": ["z"], "null_margin": 2.0},
        {"answer": "y", "gold": [], "null_margin": -1.0},
    ]

    def score(threshold: float) -> float:
        return sum((not row["gold"]) if row["null_margin"] > threshold else row["answer"] in row["gold"] for row in rows)

    best = max(score(t / 10) for t in range(-50, 50))
    assert score(best_threshold(rows)) == best == 3


def test_answers_not_in_their_context_are_counted_and_listed(encoder: Path, tmp_path: Path) -> None:
    lost = Question("lost", "where ?", "the cat", (Answer("mars", -1),))
    said: list[str] = []
    finetune("qa", encoder, [*questions(16, 0), lost], questions(4, 1), output=tmp_path / "run", options=options(epochs=1),
             progress=said.append, show_progress=False)  # fmt: skip
    assert "1 questions have an answer that is not in its context (lost): left out" in said[0]
    with pytest.raises(InputError, match="holds no question with an answer that stands in its context"):
        finetune("qa", encoder, [lost], output=tmp_path / "x", options=options(), progress=lambda t: None)


def test_broken_tags_are_reported_and_mended_on_request(encoder: Path, tmp_path: Path) -> None:
    broken = TaggedSentence(("the", "red", "blue"), ("O", "I-THING", "I-THING"), 7)
    for fix, text in ((False, "kept as they are"), (True, "mended")):
        said: list[str] = []
        finetune("ner", encoder, [*sentences(32, 0), broken], sentences(8, 1), output=tmp_path / str(fix),
                 options=options(epochs=1, fix_bio=fix), progress=said.append, show_progress=False)  # fmt: skip
        assert "1 tags in 1 sentences break the rules of IOB2 (train[32], word 2: 'I-THING')" in said[0]
        assert text in said[0]


def test_long_sentences_are_trained_and_tagged_whole(encoder: Path, tmp_path: Path) -> None:
    long = TaggedSentence(("cat", "the") * 300, ("B-BEAST", "O") * 300, 1)
    result = finetune("ner", encoder, [*sentences(128, 0), long], sentences(16, 1), [long], output=tmp_path / "run",
                      options=options(epochs=4), progress=lambda t: None, show_progress=False)  # fmt: skip
    assert result.metrics["f1"] > 0.9
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text())
    assert len(row["tags"]) == 600


# -- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "train", "dev", "changes", "message"),
    [
        ("classify", texts(8, 0), [TextExample("a", None, "other")], {}, r"dev\[0\]: the label 'other' is not among"),
        ("classify", [], None, {}, "train holds no example"),
        ("classify", [*texts(4, 0), *pairs(4, 0)], None, {}, "train mixes single texts and pairs: 4 of 8 are pairs"),
        ("nli", texts(8, 0), None, {}, "train holds single texts; NLI needs pairs"),
        ("ner", sentences(8, 0), [TaggedSentence(("a",), ("B-OTHER",), 1)], {}, r"dev\[0\]: the tag 'B-OTHER' is not among"),
        ("classify", texts(8, 0), None, {"lr": 5.0}, "lr = 5.0 must be above 0 and below 1"),
        ("classify", texts(8, 0), None, {"epochs": 0}, "epochs = 0 must be at least 1"),
        ("classify", texts(8, 0), None, {"mode": "both"}, "mode = 'both' is not one of finetune, features"),
        ("classify", texts(8, 0), None, {"max_length": 500}, "max_length = 500 is above the 64 tokens"),
        ("classify", texts(8, 0), None, {"metrics": ("bleu",)}, "metric = 'bleu' is not one of"),
        ("choice", choices(8, 0), None, {"overlong": "window"}, "overlong = 'window' is not for multiple choice"),
        ("tagging", sentences(8, 0), None, {}, "task = 'tagging' is not one of classify"),
        ("ner", sentences(8, 0), None, {"mode": "features"}, "wants 4 hidden states; the model has 3"),
    ],
)
def test_bad_input_is_said_before_anything_is_trained(
    kind: str, train: Any, dev: Any, changes: dict[str, Any], message: str, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(kind, encoder, train, dev, output=tmp_path / "run", options=options(**changes), progress=lambda t: None)
    assert not (tmp_path / "run").exists()


def test_the_output_folder_is_checked_first(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something other than a fine-tuning run"):
        run("classify", Path("no-such-model"), tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="it is a file"):
        run("classify", Path("no-such-model"), tmp_path / "file")
    assert os.listdir(tmp_path / "full") == ["letter.txt"]


def test_status_messages_go_to_the_callback_by_its_older_name_too(encoder: Path, tmp_path: Path) -> None:
    messages: dict[str, list[str]] = {"progress": [], "say": []}
    for name, heard in messages.items():
        callback: dict[str, Any] = {name: heard.append}
        finetune("classify", encoder, texts(32, 0), output=tmp_path / name, options=options(epochs=1), **callback)
    assert len(messages["progress"]) == len(messages["say"]) > 0
