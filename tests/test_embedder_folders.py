"""Folders of sentence-transformers: limits, prompts, cases, places and pairs, each with its own vectors beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_cases import save_encoder, save_head, tokenizer

from fastbert import BertTokenizer, tasks
from fastbert.errors import CheckpointError, InputError
from fastbert.tasks import Embedder

TEXTS = ["The Cat runs in PARIS and the dog sits not in Rome", "a red dog", "the [MASK] runs"]


def sentence_folder(folder: Path, place: str = "", cased: bool = False, **files: dict[str, Any]) -> Path:
    """A sentence-transformers folder: mean pooling, and whatever other files are given, by name."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    save_encoder(folder / place)
    if cased:
        BertTokenizer(list(tokenizer().get_vocab()), do_lower_case=False, model_max_length=64).save_pretrained(folder / place)
    pooling = folder / "1_Pooling"
    pooling.mkdir(exist_ok=True)
    (pooling / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}))
    modules = [("0", place, "Transformer"), ("1", "1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [{"idx": int(i), "name": i, "path": p, "type": f"sentence_transformers.models.{kind}"} for i, p, kind in modules]
        )
    )
    for name, content in files.items():
        where = folder / place if name.startswith("sentence_") or name == "tokenizer_config" else folder
        path = where / f"{name}.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **content}))
    return folder


def same_vectors(folder: Path, texts: list[Any], atol: float = 1e-5) -> None:
    import sentence_transformers

    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = Embedder.from_pretrained(folder, "cpu")
    found = ours.encode(texts)
    # One by one: padding at the left would move the positions there, by as much as the batch is padded.
    wanted = np.stack([theirs.encode([text], show_progress_bar=False)[0] for text in texts])
    assert np.abs(found - wanted).max() < atol


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a limit above the tokenizer's": {
        "sentence_bert_config": {"max_seq_length": 12},
        "tokenizer_config": {"model_max_length": 6},
    },
    "a limit below": {"sentence_bert_config": {"max_seq_length": 6}, "tokenizer_config": {"model_max_length": 12}},
    "the tokenizer's alone": {"tokenizer_config": {"model_max_length": 7}},
    "a limit by another name": {"sentence_roberta_config": {"max_seq_length": 7}},
    "cut at the left": {"sentence_bert_config": {"max_seq_length": 7}, "tokenizer_config": {"truncation_side": "left"}},
    "padded at the left": {"tokenizer_config": {"padding_side": "left"}},
    "a prompt": {"config_sentence_transformers": {"prompts": {"q": "Where Is: "}, "default_prompt_name": "q"}},
    "lower case": {"cased": True, "sentence_bert_config": {"do_lower_case": True}},
    "lower case and a prompt": {
        "cased": True,
        "sentence_bert_config": {"do_lower_case": True},
        "config_sentence_transformers": {"prompts": {"q": "WHERE Is: "}, "default_prompt_name": "q"},
    },
    "in a folder of its own": {"place": "0_Transformer", "sentence_bert_config": {"max_seq_length": 9}},
}


@pytest.mark.filterwarnings("ignore:.*more than")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_folder_gives_sentence_transformers_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    same_vectors(sentence_folder(tmp_path, **case), TEXTS)


@pytest.mark.filterwarnings("ignore:.*more than")
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_have_two_segments(side: str, tmp_path: Path) -> None:
    pairs = [("the cat", "a dog runs"), (TEXTS[0], TEXTS[0] + " " + TEXTS[1]), ("", "red")]
    settings = {"sentence_bert_config": {"max_seq_length": 15}, "tokenizer_config": {"truncation_side": side}}
    folder = sentence_folder(tmp_path, **settings)
    same_vectors(folder, pairs)
    same_vectors(folder, [list(pair) for pair in pairs])
    with pytest.raises(InputError, match="texts holds pairs and single texts"):
        Embedder.from_pretrained(folder, "cpu").encode([pairs[0], "one"])
    with pytest.raises(InputError, match=r"texts\[1\] is a pair of \d+ tokens: windows are for single texts"):
        Embedder.from_pretrained(folder, "cpu").encode(pairs, overlong="window")


@pytest.mark.filterwarnings("ignore:.*more than")
def test_very_long_pairs_are_cut_as_the_tokenizer_cuts_them(tmp_path: Path) -> None:
    """The longer text keeps the odd token: which one that is, a beginning of both does not tell."""
    embedder = Embedder.from_pretrained(sentence_folder(tmp_path), "cpu")
    embedder.max_length = 10
    pairs = [("cat " * 900, "a " * 600), ("a " * 600, "cat " * 900)]
    found = embedder.frame(pairs)
    expected = embedder.tokenizer(pairs, truncation=True, max_length=10)["input_ids"]
    assert [found.row(i).tolist() for i in range(2)] == expected
    with pytest.raises(InputError, match=r"texts\[0\] is a pair of 1503 tokens: windows are for single texts"):
        embedder.encode(pairs, overlong="window")
    embedder.max_length = 4
    with pytest.raises(InputError, match=r"texts\[1\]: max_length = 4 leaves nothing of one of its texts"):
        embedder.encode([("", "cat"), ("cat", "dog")])


def test_segments_that_a_tokenizer_leaves_out_stay_out(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer_config={"model_input_names": ["input_ids", "attention_mask"]})
    same_vectors(folder, [("the cat", "a dog runs")])


def test_fill_mask_reads_pairs_as_the_model_does(tmp_path: Path) -> None:
    theirs = save_head(tmp_path, "BertForMaskedLM")
    filler = tasks.FillMask.from_pretrained(tmp_path, "cpu")
    pair = ("the [MASK] runs", "in [MASK]")
    encoded = tokenizer()([pair], return_tensors="pt")
    assert encoded["token_type_ids"].max() == 1
    with torch.no_grad():
        logits = theirs(**encoded).logits[0]
    wanted = logits[encoded["input_ids"][0] == 4].softmax(-1)
    for row, answers in zip(wanted, filler.predict([pair], top_k=3)[0], strict=True):
        values, ids = row.topk(3)
        assert [answer["token"] for answer in answers] == ids.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(values.tolist(), abs=1e-5)


def test_fill_mask_takes_any_entry_as_a_target_and_masks_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_head(tmp_path, "BertForMaskedLM")
    filler = tasks.FillMask.from_pretrained(tmp_path, "cpu")
    found = filler.predict(["the [MASK] runs"], targets=["##a", "cat"])[0]
    assert {row["token_str"] for row in found} == {"##a", "cat"}
    texts = ["the [MASK] [MASK] runs in [MASK]"] * 30
    wanted = filler.predict(texts)
    rows = []
    monkeypatch.setattr("fastbert.tasks.fill_mask._SCORES_AT_ONCE", 4 * filler.model.config.vocab_size)
    forward = filler.model.cls.predictions.forward
    monkeypatch.setattr(filler.model.cls.predictions, "forward", lambda x: (rows.append(len(x)), forward(x))[1])
    assert [[[c["token"] for c in m] for m in t] for t in filler.predict(texts)] == [
        [[c["token"] for c in m] for m in t] for t in wanted
    ]
    assert max(rows) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "config_sentence_transformers",
            {"default_prompt_name": "q", "prompts": {"p": "x"}},
            "'q' is not one of its prompts: 'p'",
        ),
        ("config_sentence_transformers", {"default_prompt_name": "q"}, "'q' is not one of its prompts: none"),
        ("config_sentence_transformers", {"prompts": ["x"]}, r"prompts = \['x'\] must be an object"),
        ("sentence_bert_config", {"max_seq_length": 0}, "max_seq_length = 0 must be a whole number from 1"),
        ("sentence_bert_config", {"max_seq_length": "long"}, "max_seq_length = 'long' must be a whole number"),
        ("sentence_bert_config", {"do_lower_case": 1}, "do_lower_case = 1 must be true or false"),
    ],
)
def test_files_that_do_not_fit_are_refused(name: str, content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        Embedder.from_pretrained(sentence_folder(tmp_path, **{name: content}), "cpu")


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_modules_lie_in_their_folder(path: str, tmp_path: Path) -> None:
    sentence_folder(tmp_path)
    modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="outside its folder"):
        Embedder.from_pretrained(tmp_path, "cpu")


@pytest.mark.filterwarnings("ignore:.*more than")
@pytest.mark.parametrize("side", ["right", "left"])
def test_classifiers_cut_at_the_side_of_their_tokenizer(side: str, tmp_path: Path) -> None:
    theirs = save_head(tmp_path, "BertForSequenceClassification")
    ours = BertTokenizer.from_pretrained(tmp_path)
    ours.truncation_side, ours.model_max_length = side, 8
    ours.save_pretrained(tmp_path)
    encoded = ours(TEXTS[0], truncation=True, return_tensors="pt")
    assert encoded["input_ids"].shape == (1, 8)
    with torch.no_grad():
        wanted = float(theirs(**encoded).logits.softmax(-1).max())
    found = tasks.Classifier.from_pretrained(tmp_path, "cpu").predict([TEXTS[0]])[0]
    assert found["score"] == pytest.approx(wanted, abs=1e-5)


def test_the_bar_moves_while_texts_are_still_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = Embedder.from_pretrained(sentence_folder(tmp_path), "cpu")
    monkeypatch.setattr("fastbert.text.framing.TEXTS_AT_ONCE", 3)
    sizes = []
    encode = embedder.tokenizer.encode_ids
    monkeypatch.setattr(embedder.tokenizer, "encode_ids", lambda texts, **o: (sizes.append(len(texts)), encode(texts, **o))[1])
    found = embedder.encode(TEXTS * 3, show_progress=True)
    assert sizes == [3, 3, 3]
    assert "tokenize" in capsys.readouterr().err
    assert np.allclose(found[:3], embedder.encode(TEXTS), atol=1e-6)
