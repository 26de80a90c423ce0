"""Tasks on RoBERTa, on XLM-R, and on a BERT with XLM-R's tokenizer: what transformers' and sentence-transformers' own give."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from any_tokenizer import KINDS, TEXTS, folder_of

import fastbert
from fastbert import Tokenizer
from fastbert.cli import main
from fastbert.errors import InputError
from fastbert.tasks import (
    Classifier,
    Embedder,
    FillMask,
    MultipleChoice,
    NextSentence,
    QuestionAnswerer,
    Reranker,
    SparseEmbedder,
    TokenTagger,
)
from fastbert.tasks.features import extract_features

TAGS = {0: "O", 1: "B-A", 2: "I-A", 3: "B-B"}


def saved(folder: Path, head: str, kind: str = "unigram", family: str = "XLMRoberta", **fields: Any) -> Path:
    """A model of transformers with random weights beside a tokenizer of the kind."""
    folder_of(kind, folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    values = {"vocab_size": 500, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, **sizes, **fields}
    config = getattr(transformers, f"{family}Config")(initializer_range=0.2, **values)
    getattr(transformers, family + head)(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[("XLMRoberta", "unigram"), ("Roberta", "byte-level bpe")])
def form(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(zip(("family", "kind"), request.param, strict=True))


def test_classifier_and_reranker(form: dict[str, str], tmp_path: Path) -> None:
    folder = saved(tmp_path, "ForSequenceClassification", num_labels=3, **form)
    theirs = transformers.pipeline("text-classification", str(folder), device="cpu", top_k=None)
    pairs = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    for inputs in (TEXTS, pairs):
        wanted = theirs([dict(one) if isinstance(one, dict) else one for one in inputs], truncation=True, max_length=64)
        for a, b in zip(Classifier.from_pretrained(folder, "cpu").predict(inputs, None), wanted, strict=True):
            assert [one["label"] for one in a] == [one["label"] for one in b]
            assert [one["score"] for one in a] == pytest.approx([one["score"] for one in b], abs=1e-5)
    from sentence_transformers import CrossEncoder

    both = [(one["text"], one["text_pair"]) for one in pairs]
    found = Reranker.from_pretrained(folder, "cpu").predict(both)
    assert np.abs(found - CrossEncoder(str(folder), device="cpu", max_length=64).predict(both)).max() < 1e-5


def test_fill_mask(form: dict[str, str], tmp_path: Path) -> None:
    folder = saved(tmp_path, "ForMaskedLM", **form)
    texts = ["BERT reads a <mask> in both directions.", "the <mask> of the <mask>"]
    theirs = transformers.pipeline("fill-mask", str(folder), device="cpu", top_k=4)(texts)
    for a, b in zip(FillMask.from_pretrained(folder, "cpu").predict(texts, top_k=4), theirs, strict=True):
        for one, other in zip(a if isinstance(a[0], list) else [a], b if isinstance(b[0], list) else [b], strict=True):
            assert [x["token"] for x in one] == [x["token"] for x in other]
            assert [x["sequence"] for x in one] == [x["sequence"] for x in other]
            assert [x["token_str"] for x in one] == [x["token_str"] for x in other]
            assert [x["score"] for x in one] == pytest.approx([x["score"] for x in other], abs=1e-5)
    with pytest.raises(InputError, match=r"texts\[0\] has no <mask>"):
        FillMask.from_pretrained(folder, "cpu").predict(["[MASK]"])
    from sentence_transformers import SparseEncoder

    wanted = SparseEncoder(str(folder), device="cpu").encode(TEXTS[:3], convert_to_tensor=True).to_dense()
    assert np.abs(SparseEmbedder.from_pretrained(folder, "cpu").encode(TEXTS[:3]).toarray() - wanted.numpy()).max() < 1e-4


def test_tagger(form: dict[str, str], tmp_path: Path) -> None:
    names = {"id2label": TAGS, "label2id": {name: i for i, name in TAGS.items()}}
    folder = saved(tmp_path, "ForTokenClassification", **names, **form)
    ours, texts = TokenTagger.from_pretrained(folder, "cpu"), [TEXTS[0], TEXTS[2], TEXTS[4]]
    theirs = transformers.pipeline("token-classification", str(folder), device="cpu", aggregation_strategy="none")(texts)
    for text, a, b in zip(texts, ours.predict(texts, "none"), theirs, strict=True):
        assert [one["entity"] for one in a] == [one["entity"] for one in b]
        assert [one["score"] for one in a] == pytest.approx([one["score"] for one in b], abs=1e-5)
        assert all(text[one["start"] : one["end"]] == one["word"] == one["word"].strip() for one in a)
    for text, found in zip(texts, ours.predict(texts), strict=True):
        assert all(text[one["start"] : one["end"]] == one["word"].strip() for one in found)
    words = [text.split() for text in texts]
    assert [len(tags) for tags in ours.tag(words)] == [len(one) for one in words]
    tokenizer = Tokenizer.from_pretrained(folder)
    encoded = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        best = getattr(fastbert, f"{form['family']}ForTokenClassification").from_pretrained(folder)(**encoded).logits.argmax(-1)
    for i, tags in enumerate(ours.tag(words)):
        owners = encoded.word_ids(i)
        assert tags == [TAGS[int(best[i, owners.index(word)])] for word in range(len(words[i]))]


def test_questions(form: dict[str, str], tmp_path: Path) -> None:
    folder = saved(tmp_path, "ForQuestionAnswering", **form)
    context = " ".join(TEXTS[:1] + TEXTS[2:3] + TEXTS[4:])
    found = QuestionAnswerer.from_pretrained(folder, "cpu").predict([("What is cut into pieces?", context)] * 2)
    assert found[0] == found[1]
    assert context[found[0]["start"] : found[0]["end"]] == found[0]["answer"]
    theirs = getattr(transformers, f"{form['family']}ForQuestionAnswering").from_pretrained(folder).eval()
    ours = getattr(fastbert, f"{form['family']}ForQuestionAnswering").from_pretrained(folder)
    row = Tokenizer.from_pretrained(folder)("What?", "BERT reads a sentence.", return_tensors="pt")
    with torch.no_grad():
        assert (ours(**row).start_logits - theirs(**row).start_logits).abs().max() < 1e-5


def test_embedder_and_features(form: dict[str, str], tmp_path: Path) -> None:
    folder = saved(tmp_path, "Model", **form)
    from sentence_transformers import SentenceTransformer

    theirs, ours = SentenceTransformer(str(folder), device="cpu"), Embedder.from_pretrained(folder, "cpu")
    assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() < 1e-5
    assert ours.max_length == 64
    with pytest.warns(UserWarning, match=r"1 of 2 texts have more than 64 tokens"):
        ours.encode(["a " * 100, "b"])
    features = extract_features(ours.model, ours.tokenizer, TEXTS[:2], [-1])
    assert features[0].tokens[0] == "<s>"


def test_choices_and_what_only_bert_was_trained_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "choice", "ForMultipleChoice")
    found = MultipleChoice.from_pretrained(folder, "cpu").predict([("BERT reads", ["a sentence", "nothing", "words"])])
    assert len(found) == 1
    with pytest.raises(InputError, match=r"there is no XLMRobertaForNextSentencePrediction: only BERT was trained"):
        NextSentence.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bert_with_another_tokenizer_takes_its_padding(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """multilingual-e5-small says pad_token_id = 0, which is the first token of every text; its tokenizer pads with 1."""
    folder = saved(tmp_path, "Model", kind, "Bert", pad_token_id=0, type_vocab_size=2)
    from sentence_transformers import SentenceTransformer

    with caplog.at_level(logging.WARNING):
        ours = Embedder.from_pretrained(folder, "cpu")
    assert "config.json says pad_token_id = 0, the tokenizer's <pad> has the id 1: the tokenizer's is used" in caplog.text
    assert ours.model.config.pad_token_id == 1
    assert ours.model.get_input_embeddings().padding_idx == 1
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(ours.encode(TEXTS) - wanted).max() < 1e-5
    batch = ours.tokenizer(TEXTS, padding=True, return_tensors="pt")
    ours.model.train()(**batch).last_hidden_state.sum().backward()
    gradient = ours.model.get_input_embeddings().weight.grad
    assert gradient[0].any()
    assert not gradient[1].any()


def test_positions_and_padding_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Model", pad_token_id=3)
    with pytest.raises(InputError, match=r"pad_token_id = 3, the tokenizer's <pad> has the id 1: they do not belong together"):
        Embedder.from_pretrained(folder, "cpu")


def test_fine_tuning_and_the_commands_that_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "model", "ForMaskedLM", "byte-level bpe", "Roberta")
    rows = [("one tokenizer cuts words", "x"), ("masked words are guessed", "y")] * 8
    table = tmp_path / "train.csv"
    table.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    run, quick = tmp_path / "run", ["--epochs", "12", "--batch-size", "8", "--lr", "1e-3", "--device", "cpu"]
    given = ["finetune", "classify", "--model", str(folder), "--train", str(table), "--dev", str(table), "-o", str(run), *quick]
    assert main(given) == 0
    written = json.loads((run / "model" / "config.json").read_text())
    assert (written["architectures"], written["model_type"]) == (["RobertaForSequenceClassification"], "roberta")
    assert json.loads((run / "metrics.json").read_text())
    capsys.readouterr()
    out = tmp_path / "found.jsonl"
    assert main(["predict", str(table), "--model", str(run), "-o", str(out), "--device", "cpu"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["label"] for one in found] == [label for _, label in rows]
    assert main(["eval", str(table), "--model", str(run), "--device", "cpu"]) == 0
    theirs = transformers.pipeline("text-classification", str(run / "model"), device="cpu")
    assert theirs(rows[0][0])[0]["label"] == "x"
    for command in (["params", "--model", str(folder)], ["explain", *TEXTS[:2], "--model", str(folder), "--device", "cpu"]):
        assert main(command) == 0
    assert main(["verify", "a text", "--model", str(folder), "--device", "cpu"]) == 0
    assert "RobertaModel: V = 500" in capsys.readouterr().out
    features = ["--mode", "features", "--layers", "last", "--epochs", "1", "--device", "cpu"]
    again = ["finetune", "classify", "--model", str(folder), "--train", str(table), "-o", str(tmp_path / "frozen"), *features]
    assert main(again) == 0
    assert main(["predict", str(table), "--model", str(tmp_path / "frozen"), "-o", str(out), "--device", "cpu"]) == 0
