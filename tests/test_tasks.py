"""Embeddings against sentence-transformers and on STS-B; fill-mask against transformers' pipeline; batches and order."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, make_pair

import fastbert
from fastbert import BertTokenizer
from fastbert.errors import CheckpointError, InputError
from fastbert.model.pooling import MODES, pool
from fastbert.tasks import Embedder, FillMask, NextSentence

TEXTS = [
    "A man is playing a harp.",
    "",
    "Short.",
    "A much longer sentence, with a clause or two in it, to make the batch ragged.",
] * 3


@pytest.fixture(scope="module")
def embedder(minilm: Path) -> Embedder:
    return Embedder.from_pretrained(minilm, device="cpu")


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """A small MLM checkpoint with its tokenizer."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "paris",
        "london",
        "is",
        "the",
        "capital",
        "of",
        "france",
        ".",
        "##s",
        "a",
    ]
    folder = tmp_path_factory.mktemp("masked")
    model, _ = make_pair("BertForMaskedLM", vocab_size=len(words))
    model.save_pretrained(folder)
    BertTokenizer(words, model_max_length=40).save_pretrained(folder)
    return folder


def test_embeddings_equal_sentence_transformers(embedder: Embedder, minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    ours = embedder.encode(TEXTS)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(embedder.encode(TEXTS[0]) - theirs[0]).max() < 1e-5


def test_folders_of_newer_sentence_transformers_are_read(minilm: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")
    model.save_pretrained(str(tmp_path))
    ours = Embedder.from_pretrained(tmp_path, device="cpu")
    assert ours.pooling == ["mean"]
    assert ours.normalize
    assert ours.max_length == 256
    assert np.abs(ours.encode(TEXTS) - model.encode(TEXTS)).max() < 1e-5


def test_encode_takes_the_words_of_sentence_transformers(minilm: Path, embedder: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(minilm), device="cpu", prompts={"query": "query: "})
    ours = Embedder.from_pretrained(minilm, device="cpu")
    ours.prompts = {"query": "query: "}
    options = {"batch_size": 2, "show_progress_bar": False, "normalize_embeddings": True, "prompt_name": "query"}
    found = ours.encode(TEXTS, **options)
    assert np.abs(found - theirs.encode(TEXTS, **options)).max() < 1e-5
    assert np.abs(ours.encode(TEXTS[0], prompt="query: ") - found[0]).max() < 1e-5
    tensor = ours.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (len(TEXTS), 384)
    assert ours.get_sentence_embedding_dimension() == ours.get_embedding_dimension() == 384
    for measure in ("cosine", "dot", "euclidean", "manhattan"):
        theirs.similarity_fn_name, ours.measure = measure, measure
        torch.testing.assert_close(ours.similarity(tensor, tensor[:2]), theirs.similarity(tensor, tensor[:2]))
    assert ours.similarity(found[0], found).shape == (1, len(TEXTS))


def test_words_that_encode_does_not_take_are_refused_by_name(embedder: Embedder) -> None:
    for name, value in (("device", "cpu"), ("pool", None), ("nonsense", 1)):
        with pytest.raises(InputError, match=f"encode does not take {name}; it takes texts, batch_tokens, batch_size"):
            embedder.encode(TEXTS, **{name: value})
    with pytest.raises(InputError, match="convert_to_numpy = False: encode returns an array"):
        embedder.encode(TEXTS, convert_to_numpy=False)
    with pytest.raises(InputError, match="prompt_name = 'passage' is not one of the model's prompts: it has none"):
        embedder.encode(TEXTS, prompt_name="passage")
    with pytest.raises(InputError, match="batch_size = 0 must be at least 1"):
        embedder.encode(TEXTS, batch_size=0)
    with pytest.raises(InputError, match=r"shapes \(1, 3\) and \(2, 4\) cannot be compared"):
        embedder.similarity(np.ones(3), np.ones((2, 4)))
    with pytest.raises(TypeError):
        embedder.encode(TEXTS, 32)  # tokens or texts? by name alone


@pytest.mark.parametrize("modes", [*MODES, ["cls", "mean"], ["max", "mean", "lasttoken"]], ids=str)
def test_pooling_equals_sentence_transformers(modes: str | list[str]) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    lengths = [5, 1, 9]
    hidden = torch.randn(15, 6, generator=torch.Generator().manual_seed(0))
    padded, mask = torch.zeros(3, 9, 6), torch.zeros(3, 9, dtype=torch.long)
    for i, part in enumerate(hidden.split(lengths)):
        padded[i, : len(part)], mask[i, : len(part)] = part, 1
    theirs = Pooling(6, pooling_mode=modes if isinstance(modes, str) else tuple(modes))
    expected = theirs({"token_embeddings": padded, "attention_mask": mask})["sentence_embedding"]
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    torch.testing.assert_close(pool(hidden, cu, modes), expected)


def test_pooling_of_an_empty_text_is_zero() -> None:
    cu = torch.tensor([0, 2, 2], dtype=torch.int32)
    for mode in MODES:
        pooled = pool(torch.ones(2, 3), cu, mode)
        assert pooled[0].all()
        assert not pooled[1].any()


@pytest.mark.parametrize(("split", "expected"), [("test", 0.8203), pytest.param("dev", 0.8672, marks=pytest.mark.thorough)])
def test_sts_b_spearman_through_the_command(minilm: Path, test_data: Path, tmp_path: Path, split: str, expected: float) -> None:
    from scipy.stats import spearmanr

    from fastbert.cli import main

    path = test_data / "stsb" / f"sts-{split}.tsv"
    vectors = []
    for column in ("6", "7"):
        out = tmp_path / f"{column}.npy"
        assert main(["embed", str(path), "-o", str(out), "--column", column, "--model", str(minilm), "--device", "cpu"]) == 0
        vectors.append(np.load(out))
    gold = [float(line.split("\t")[4]) for line in path.read_text(encoding="utf-8").splitlines()]
    cosine = (vectors[0] * vectors[1]).sum(1) / np.linalg.norm(vectors[0], axis=1) / np.linalg.norm(vectors[1], axis=1)
    assert spearmanr(cosine, gold).statistic == pytest.approx(expected, abs=5e-4)


def test_batches_are_bounded_and_order_is_kept(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    forward = fastbert.BertModel.forward
    monkeypatch.setattr(
        fastbert.BertModel, "forward", lambda self, batch, **k: sizes.append(batch.num_tokens) or forward(self, batch, **k)
    )
    texts = [f"number {i} " * (i % 17) for i in range(60)]
    few = embedder.encode(texts, batch_tokens=64)
    assert max(sizes) <= 64
    assert len(sizes) > 5
    many = embedder.encode(texts)
    assert np.abs(few - many).max() < 1e-5
    assert np.abs(few[16] - embedder.encode([texts[16]])[0]).max() < 1e-5


def test_progress_shows_a_rate_and_an_end(embedder: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    embedder.encode(TEXTS, show_progress=True)
    shown = capsys.readouterr().err
    assert "text/s" in shown
    assert "embed: 100%" in shown
    embedder.encode(TEXTS)
    assert capsys.readouterr().err == ""


def test_overlong_texts_are_never_cut_silently(embedder: Embedder) -> None:
    long = "word " * 600
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 256 tokens and were truncated"):
        cut = embedder.encode(["short", long])
    with pytest.raises(InputError, match=r"texts\[1\] has 602 tokens, the limit is 256"):
        embedder.encode(["short", long], overlong="error")
    whole = embedder.encode(["short", long], overlong="window", normalize=False)
    assert np.abs(cut[0] - embedder.encode("short")).max() < 1e-5
    parts = [embedder.encode("word " * n, normalize=False) for n in (254, 254, 92)]
    mean = (256 * parts[0] + 256 * parts[1] + 94 * parts[2]) / 606
    assert np.abs(whole[1] - mean).max() < 1e-5


def test_normalise_and_pooling_by_argument(embedder: Embedder) -> None:
    assert np.allclose(np.linalg.norm(embedder.encode(TEXTS), axis=1), 1, atol=1e-5)
    raw = embedder.encode(TEXTS, normalize=False, pooling=["cls", "mean"])
    assert raw.shape == (12, 768)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-2)
    with pytest.raises(InputError, match="pooling = 'median': the modes are cls, max"):
        embedder.encode(TEXTS, pooling="median")


def test_no_texts_give_an_empty_array(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 384)


def test_unknown_modules_are_refused(minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="has a module 'LSTM'; fastbert knows Transformer, Pooling, Dense, Normalize"):
        Embedder.from_pretrained(folder)


def test_a_plain_bert_is_embedded_by_the_mean(masked: Path) -> None:
    embedder = Embedder.from_pretrained(masked, device="cpu")
    assert embedder.pooling == ["mean"]
    assert not embedder.normalize
    assert embedder.max_length == 40


def test_a_prompt_stands_before_every_text(embedder: Embedder) -> None:
    prompted = Embedder(embedder.model, embedder.tokenizer, prompt="query: ")
    assert np.array_equal(prompted.encode(["a b"]), Embedder(embedder.model, embedder.tokenizer).encode(["query: a b"]))


def test_vocabulary_beyond_the_embedding_is_refused(masked: Path) -> None:
    model = fastbert.BertModel(fastbert.BertConfig(**{**SMALL, "vocab_size": 10}))
    with pytest.raises(InputError, match=r"the tokenizer has ids up to 14, the model has word embeddings for 0..9"):
        Embedder(model, BertTokenizer.from_pretrained(masked))


def test_unusable_device_is_named(minilm: Path) -> None:
    with pytest.raises(InputError, match="device = 'warp' cannot be used here"):
        Embedder.from_pretrained(minilm, device="warp")


# -- fill-mask ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"targets": ["paris", "london"]}])
def test_fill_mask_equals_the_pipeline(masked: Path, options: dict) -> None:
    import transformers

    texts = ["[MASK] is the capital of France.", "Paris is the [MASK] of [MASK].", "the [MASK]"]
    options = {"top_k": 5, **options}
    theirs = transformers.pipeline("fill-mask", str(masked), device="cpu")
    expected = [theirs(text, **options) for text in texts]
    found = FillMask.from_pretrained(masked, device="cpu").predict(texts, **options)

    def flat(answers: list) -> list:
        return [a for part in answers for a in (part if isinstance(part, list) else [part])]

    for a, b in zip(found, expected, strict=True):
        assert len(flat(a)) == len(flat(b))
        assert isinstance(a[0], list) == isinstance(b[0], list)
        for x, y in zip(flat(a), flat(b), strict=True):
            assert x["score"] == pytest.approx(y["score"], rel=1e-4)
            assert {k: x[k] for k in ("token", "token_str", "sequence")} == {
                k: y[k] for k in ("token", "token_str", "sequence")
            }


def test_fill_mask_gives_the_whole_vocabulary_at_most(masked: Path) -> None:
    answers = FillMask.from_pretrained(masked, device="cpu").predict(["the [MASK]"], top_k=50)[0]
    assert len(answers) == 15
    assert sum(a["score"] for a in answers) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["the [MASK]", "no mask"], {}, r"texts\[1\] has no \[MASK\]"),
        (["the [MASK] " * 30], {}, r"texts\[0\] has 62 tokens, the limit is 40"),
        (["[MASK]"], {"targets": ["londons"]}, "target 'londons' is not one entry of the vocabulary but 'london ##s'"),
        (["[MASK]"], {"targets": ["berlin"]}, r"target 'berlin' is not one entry of the vocabulary but '\[UNK\]'"),
        (["[MASK]"], {"targets": []}, "targets is empty"),
        (["[MASK]"], {"top_k": 0}, "top_k = 0 must be at least 1"),
        ("[MASK]", {}, "texts is one string; expected a list"),
    ],
)
def test_fill_mask_refuses(masked: Path, texts, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FillMask.from_pretrained(masked, device="cpu").predict(texts, **options)


def test_fill_mask_needs_the_head(minilm: Path) -> None:
    with pytest.raises(CheckpointError, match="has no masked-language-model head: it lacks cls.predictions"):
        FillMask.from_pretrained(minilm, device="cpu")


# -- next sentence -----------------------------------------------------------------------------------------------------------


def test_next_sentence_equals_transformers_in_order(masked: Path, tmp_path: Path) -> None:
    import transformers

    tokenizer = BertTokenizer.from_pretrained(masked)
    ours, theirs = make_pair("BertForNextSentencePrediction", vocab_size=len(tokenizer))
    ours.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [("paris is the capital", "of france"), ("a", "the capital of france ."), ("london", "is a")] * 4
    found = NextSentence.from_pretrained(tmp_path, device="cpu").predict(pairs, batch_tokens=20)
    split = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for (a, b), answer in zip(pairs, found, strict=True):
        with torch.no_grad():
            follows, random = theirs(**split(a, b, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert answer["next"] == pytest.approx(follows, abs=1e-5)
        assert answer["score"] == pytest.approx(max(follows, random), abs=1e-5)
        assert answer["label"] == ("next" if follows >= random else "random")


def test_next_sentence_refuses(masked: Path, minilm: Path) -> None:
    with pytest.raises(CheckpointError, match="has no next-sentence head: it lacks cls.seq_relationship.weight"):
        NextSentence.from_pretrained(minilm, device="cpu")
    tokenizer = BertTokenizer.from_pretrained(masked)
    model, _ = make_pair("BertForNextSentencePrediction", vocab_size=len(tokenizer))
    with pytest.raises(InputError, match=r"pairs\[1\] = 'ab' is not a pair of texts"):
        NextSentence(model, tokenizer).predict([("a", "b"), "ab"])
    with pytest.raises(InputError, match=r"pairs\[0\] has 63 tokens, the limit is 40"):
        NextSentence(model, tokenizer).predict([("a " * 30, "the " * 30)])


def test_tasks_run_in_half_precision(minilm: Path) -> None:
    half = Embedder.from_pretrained(minilm, device="cpu", dtype=torch.bfloat16)
    full = Embedder.from_pretrained(minilm, device="cpu")
    assert half.model.dtype == torch.bfloat16
    cosine = (half.encode(TEXTS) * full.encode(TEXTS)).sum(1)
    assert cosine.min() > 0.999


def test_import_is_light() -> None:
    """Importing fastbert pulls in nothing of the extras, nor the compiler."""
    import subprocess

    heavy = [
        "torch._dynamo",
        "transformers",
        "sentence_transformers",
        "scipy",
        "sklearn",
        "matplotlib",
        "huggingface_hub.hf_api",
    ]
    code = f"import sys, fastbert; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
