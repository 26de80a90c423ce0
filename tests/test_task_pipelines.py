"""Predictions of tasks: the same as transformers' pipelines and models; windows; offsets; bad input."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from task_cases import ANIMALS, COLOURS, OTHERS, PLACES, save_head, tokenizer

from fastbert.errors import CheckpointError, InputError
from fastbert.tasks import NLI, Classifier, MultipleChoice, NextSentence, QuestionAnswerer, TokenTagger
from fastbert.tasks.answers import ScoredWindow, best_answers

TEXTS = ["the cat runs", "", "paris is not in rome, and the dog sits!", "a", " ".join(ANIMALS * 3)]
TAGS = {0: "O", 1: "B-A", 2: "I-A", 3: "B-B", 4: "I-B"}


def saved(tmp_path_factory: pytest.TempPathFactory, name: str, **fields: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp(name)
    return folder, save_head(folder, name, **fields)


def pipeline(task: str, folder: Path, **options: Any) -> Any:
    model = {
        "text-classification": "AutoModelForSequenceClassification",
        "zero-shot-classification": "AutoModelForSequenceClassification",
        "token-classification": "AutoModelForTokenClassification",
    }[task]
    net = getattr(transformers, model).from_pretrained(folder)
    return transformers.pipeline(task, model=net, tokenizer=transformers.AutoTokenizer.from_pretrained(folder), **options)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    names = {0: "contradiction", 1: "entailment", 2: "neutral"}
    return saved(tmp_path_factory, "BertForSequenceClassification", id2label=names, label2id={v: k for k, v in names.items()})


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return saved(tmp_path_factory, "BertForTokenClassification", id2label=TAGS, label2id={v: k for k, v in TAGS.items()})


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return saved(tmp_path_factory, "BertForQuestionAnswering")


# -- sentences --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_classifier_gives_what_the_pipeline_gives(classifier: tuple[Path, Any], top_k: int | None) -> None:
    ours = Classifier.from_pretrained(classifier[0], "cpu")
    theirs = pipeline("text-classification", classifier[0])
    for a, b in zip(ours.predict(TEXTS, top_k), theirs(TEXTS, top_k=top_k), strict=True):
        for one, other in zip([a] if top_k == 1 else a, [b] if isinstance(b, dict) else b, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    pair = {"text": "the cat", "text_pair": "the dog"}
    found = ours.predict([pair, ("the cat", "the dog")])
    assert found[0] == found[1]
    assert found[0]["score"] == pytest.approx(theirs(pair)["score"], abs=1e-5)


def test_hub_ids_bring_what_fine_tuning_wrote_beside_the_model(tmp_path: Path) -> None:
    """The hub client's own cache: a ref that names a snapshot."""
    repo = tmp_path / "models--someone--small-bert"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc123")
    save_head(repo / "snapshots/abc123", "BertForSequenceClassification")
    (repo / "snapshots/abc123/fastbert_task.json").write_text('{"task": "classify", "max_length": 7, "on_long": "window"}')
    found = Classifier.from_pretrained("someone/small-bert", "cpu", cache_dir=tmp_path, local_files_only=True)
    assert (found.max_length, found.overlong) == (7, "window")


@pytest.mark.parametrize(("kind", "count"), [("regression", 1), ("multi_label_classification", 3)])
def test_classifier_knows_numbers_and_several_labels(tmp_path: Path, kind: str, count: int) -> None:
    save_head(tmp_path, "BertForSequenceClassification", problem_type=kind, num_labels=count)
    ours = Classifier.from_pretrained(tmp_path, "cpu").predict(TEXTS, None)
    theirs = pipeline("text-classification", tmp_path)(TEXTS, top_k=None)
    for a, b in zip(ours, theirs, strict=True):
        assert [x["label"] for x in a] == [x["label"] for x in b]
        assert [x["score"] for x in a] == pytest.approx([x["score"] for x in b], abs=1e-5)


def test_long_texts_are_cut_with_a_warning_refused_or_read_in_windows(classifier: tuple[Path, Any]) -> None:
    task = Classifier.from_pretrained(classifier[0], "cpu")
    long = " ".join((ANIMALS + PLACES) * 15)
    with pytest.warns(UserWarning, match="1 of 2 inputs have more than 64 tokens and were truncated, by 58 tokens in all"):
        task.predict(["the", long])
    with pytest.raises(InputError, match=r"inputs\[1\] has 122 tokens, the limit is 64"):
        task.predict(["the", long], overlong="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = task.predict([long, "the cat"], None, overlong="window")
    framed = task.frame([long], "window")
    rows = task.logits(framed)
    assert len(framed) == 3
    ids = [task.tokenizer.convert_ids_to_tokens(row[1:-1]) for row in map(framed.row, range(3))]
    single = [task.logits(task.frame([" ".join(map(str, tokens))])) for tokens in ids]
    assert torch.allclose(rows[0], torch.cat(single).mean(0), atol=1e-5)
    task.window_scores = "max"
    assert torch.allclose(task.logits(framed)[0], torch.cat(single).amax(0), atol=1e-5)
    alone = {row["label"]: row["score"] for row in task.predict(["the cat"], None)[0]}
    assert {row["label"]: row["score"] for row in whole[1]} == pytest.approx(alone, abs=1e-5)


def test_nli_names_relations_whatever_their_order(classifier: tuple[Path, Any], tmp_path: Path) -> None:
    pairs = [("the cat runs", "the dog sits"), ("a", "paris")]
    first = NLI.from_pretrained(classifier[0], "cpu")
    expected = first.predict(pairs)
    order = [2, 0, 1]
    with torch.no_grad():
        for value in (first.model.classifier.weight, first.model.classifier.bias):
            value.copy_(value[order].clone())
    names = ["contradictory", "entail", "NEUTRAL"]
    first.model.config.id2label = {i: names[k] for i, k in enumerate(order)}
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    for a, b in zip(NLI.from_pretrained(tmp_path, "cpu").predict(pairs), expected, strict=True):
        assert a["label"] == b["label"]
        assert [a[n] for n in ("entailment", "neutral", "contradiction")] == pytest.approx(
            [b[n] for n in ("entailment", "neutral", "contradiction")], abs=1e-6
        )


def test_nli_warns_where_labels_have_no_names(tmp_path: Path) -> None:
    save_head(tmp_path, "BertForSequenceClassification", num_labels=3)
    with pytest.warns(UserWarning, match="names its labels LABEL_0, LABEL_1, LABEL_2, which does not tell which relation"):
        assert NLI.from_pretrained(tmp_path, "cpu").predict([("a", "b")])[0]["label"].startswith("LABEL_")


@pytest.mark.parametrize("several", [False, True])
def test_zero_shot_gives_what_the_pipeline_gives(classifier: tuple[Path, Any], several: bool) -> None:
    labels = ["cat", "paris", "blue"]
    theirs = pipeline("zero-shot-classification", classifier[0])(TEXTS[:1] + TEXTS[2:], labels, multi_label=several)
    ours = NLI.from_pretrained(classifier[0], "cpu").zero_shot(TEXTS[:1] + TEXTS[2:], labels, multi_label=several)
    for a, b in zip(ours, theirs, strict=True):
        assert a["sequence"] == b["sequence"]
        assert a["labels"] == b["labels"]
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)


def test_zero_shot_refuses_what_it_cannot_use(classifier: tuple[Path, Any]) -> None:
    task = NLI.from_pretrained(classifier[0], "cpu")
    with pytest.raises(InputError, match="expected a list of one label or more"):
        task.zero_shot(["a"], [])
    with pytest.raises(InputError, match="has no {} for the label"):
        task.zero_shot(["a"], ["x"], hypothesis_template="nothing")


def test_choices_are_what_transformers_picks(tmp_path: Path) -> None:
    theirs = save_head(tmp_path, "BertForMultipleChoice")
    tok = tokenizer()
    inputs = [("the", ["cat", "paris", "red"]), ("the dog", ["sits", "runs in rome", "a"])]
    for (text, options), found in zip(inputs, MultipleChoice.from_pretrained(tmp_path, "cpu").predict(inputs), strict=True):
        rows = tok([text] * 3, options, padding=True, return_tensors="pt")
        with torch.no_grad():
            scores = theirs(**{name: value[None] for name, value in rows.items()}).logits[0].softmax(0)
        assert found["scores"] == pytest.approx(scores.tolist(), abs=1e-5)
        assert found["choice"] == options[int(scores.argmax())]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("text", "inputs is one string"),
        ([3], r"inputs\[0\] = 3 is neither a text nor a pair"),
        (["a", ("a", "b")], "inputs holds pairs and single texts"),
        ([("a", "b", "c")], r"inputs\[0\] = .* is neither a text nor a pair"),
    ],
)
def test_classifier_refuses_other_inputs(classifier: tuple[Path, Any], inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classifier.from_pretrained(classifier[0], "cpu").predict(inputs)


def test_a_model_without_the_head_is_refused(answerer: tuple[Path, Any]) -> None:
    for task in (Classifier, TokenTagger, MultipleChoice, NextSentence):
        with pytest.raises(CheckpointError, match="has no .* head: it lacks"):
            task.from_pretrained(answerer[0], "cpu")


# -- words ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_tagger_gives_what_the_pipeline_gives(tagger: tuple[Path, Any], aggregation: str) -> None:
    texts = ["the cat runs in paris", "catnip redux, oslonian owls", "rome"]
    theirs = pipeline("token-classification", tagger[0], aggregation_strategy=aggregation)(texts)
    ours = TokenTagger.from_pretrained(tagger[0], "cpu").predict(texts, aggregation)
    key = "entity" if aggregation == "none" else "entity_group"
    for text, a, b in zip(texts, ours, theirs, strict=True):
        assert [(x[key], x["start"], x["end"]) for x in a] == [(x[key], x["start"], x["end"]) for x in b]
        assert [x["score"] for x in a] == pytest.approx([float(x["score"]) for x in b], abs=1e-5)
        assert all(text[x["start"] : x["end"]] == x["word"] for x in a)


def test_offsets_cut_the_words_out_of_any_text(tagger: tuple[Path, Any]) -> None:
    task = TokenTagger.from_pretrained(tagger[0], "cpu")
    text = "Ångström 😀 café 東京 naïve\tfox\u00a0e\u0301 🇫🇷 paris"
    for aggregation in ("none", "simple", "first", "average", "max"):
        for found in task.predict([text], aggregation)[0]:
            assert text[found["start"] : found["end"]] == found["word"]
            assert found["word"].strip() == found["word"] != ""
    words = ["Ångström", "😀", "東京", "e\u0301", "fox"]
    joined = " ".join(words)
    for found in task.predict([words])[0]:
        assert joined[found["start"] : found["end"]] == found["word"]


def test_two_thousand_words_give_two_thousand_tags(tagger: tuple[Path, Any]) -> None:
    task = TokenTagger.from_pretrained(tagger[0], "cpu")
    words = [(ANIMALS + COLOURS + PLACES + OTHERS + ["unheard", "\x00", "", "zebra"])[i % 29] for i in range(2000)]
    tags = task.tag([words, ["cat"], []])
    assert [len(row) for row in tags] == [2000, 1, 0]
    assert tags[0][words.index("\x00")] == "O"
    assert set(tags[0]) <= set(TAGS.values())


def test_a_word_is_judged_in_the_window_that_shows_most_around_it(tagger: tuple[Path, Any]) -> None:
    task = TokenTagger.from_pretrained(tagger[0], "cpu")
    task.overlap = 20
    words = (ANIMALS + COLOURS) * 10
    tags = task.tag([words])[0]
    room, step = 62, 42
    for at in (10, 41, 50, 51, 52, 60, 79):
        start = 0 if at < 52 else step  # 42..61 stand in both; from the middle of them on the second shows more
        window = words[start : start + room]
        assert tags[at] == task.tag([window])[0][at - start], at


# -- questions --------------------------------------------------------------------------------------------------------------


def test_answers_are_the_best_spans_of_transformers_scores(answerer: tuple[Path, Any]) -> None:
    folder, theirs = answerer
    task = QuestionAnswerer.from_pretrained(folder, "cpu")
    question, context = "where ?", "The cat, sits in Paris; the DOG runs in rome and oslo."
    row = tokenizer()(question, context, return_tensors="pt", return_offsets_mapping=False)
    encoding = row.encodings[0]
    with torch.no_grad():
        out = theirs(**row)
    start, end = out.start_logits[0], out.end_logits[0]
    inside = [i for i, owner in enumerate(encoding.sequence_ids) if owner == 1]
    best = max(((float(start[s] + end[e]), s, e) for s in inside for e in inside if s <= e < s + 30), key=lambda x: x[0])
    found = task.predict([{"question": question, "context": context}], 3)[0]
    first, last = encoding.offsets[best[1]][0], encoding.offsets[best[2]][1]
    assert (found[0]["start"], found[0]["end"]) == (first, last)
    assert found[0]["answer"] == context[first:last]
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    assert task.predict([(question, context)])[0] == found[0]


def test_spans_lie_in_the_context_of_five_thousand_words(answerer: tuple[Path, Any]) -> None:
    task = QuestionAnswerer.from_pretrained(answerer[0], "cpu")
    task.doc_stride = 32
    context = " ".join((ANIMALS + PLACES + OTHERS[:9])[i % 17] for i in range(5000))
    found = task.predict([("where is the owl in bern ?", context)], 20)[0]
    assert len(found) == 20
    assert all(context[x["start"] : x["end"]] == x["answer"] != "" for x in found)
    windows = task.frame([("where is the owl in bern ?", context)]).framed
    assert all(column > 1 for column in windows.columns)  # the question stands first and is never among the scores
    assert windows.firsts[:3].tolist() == [0, 32, 64]


def test_a_span_starts_only_where_its_token_has_most_context() -> None:
    offsets = [(i, i + 1) for i in range(8)]
    first = ScoredWindow([0.0] * 5 + [9.0], [0.0] * 5 + [9.0], 0.0, offsets[:6], 0)
    second = ScoredWindow([0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0.0] * 6, 0.0, offsets[2:], 2)
    found = best_answers([first, second], "abcdefgh")
    assert not any(answer.score == 18.0 for answer in found)  # token 5 is at the first window's edge
    assert max(answer.score for answer in found if answer.start == 5) == 1.0
    assert all(answer.end - answer.start <= 30 for answer in found)


def test_a_span_never_ends_before_it_starts_or_is_too_long() -> None:
    offsets = [(i, i + 1) for i in range(6)]
    window = ScoredWindow([0.0, 0, 0, 0, 0, 5], [5.0, 0, 0, 0, 0, 0], 0.0, offsets)
    assert all(answer.start < answer.end for answer in best_answers([window], "abcdef"))
    assert {a.end - a.start for a in best_answers([window], "abcdef", max_tokens=2)} == {1, 2}


def test_no_answer_wins_by_the_threshold(answerer: tuple[Path, Any]) -> None:
    task = QuestionAnswerer.from_pretrained(answerer[0], "cpu")
    pair = ("where ?", "the cat sits in paris")
    task.null_threshold = -1e9
    assert task.predict([pair])[0]["answer"] == ""
    task.null_threshold = 1e9
    assert task.predict([pair])[0]["answer"] != ""
    task.null_threshold = None
    assert task.predict([("where ?", "")])[0] == {"answer": "", "score": 1.0, "start": 0, "end": 0}
    with pytest.raises(InputError, match=r"inputs\[0\] = 'x' is not a question and a context"):
        task.predict(["x"])
