"""int8 on a CPU: the gate, what it takes and refuses, and that nothing of it outlives a change of the weights."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import fastbert
from fastbert import ops
from fastbert.cli import main
from fastbert.errors import BackendError, InputError
from fastbert.model import quantizing
from fastbert.ops import int8, onednn
from fastbert.tasks import Embedder

pytestmark = pytest.mark.skipif(not (int8.AVAILABLE and onednn.AVAILABLE), reason="PyTorch has no quantised linear here")
TEXTS = [
    "BERT reads a sentence in both directions at once.",
    "A tokenizer cuts words into pieces; the pieces are entries of a vocabulary.",
    "Short.",
    "Masked words are guessed from what stands on either side of them, which is why it is good at understanding.",
] * 3


@pytest.fixture
def embedder(minilm: Path) -> Embedder:
    return Embedder.from_pretrained(minilm, "cpu")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any speed will do: these tests are about values."""
    monkeypatch.setattr(quantizing, "MIN_GAIN", 0.0)
    monkeypatch.setattr(quantizing, "_ROUNDS", 1)


def spearman_on_sts_b(embedder: Embedder, folder: Path) -> float:
    """In points, on every third pair of the test split."""
    rows = [line.split("\t") for line in (folder / "stsb/sts-test.tsv").read_text(encoding="utf-8").splitlines()][::3]
    first, second = (embedder.encode([row[column] for row in rows], normalize=True) for column in (5, 6))
    return 100 * float(spearmanr((first * second).sum(1), [float(row[4]) for row in rows]).statistic)


def ids(embedder: Embedder) -> Any:
    return embedder.tokenizer(TEXTS)["input_ids"]


def quantised(model: torch.nn.Module) -> int:
    return sum(parameter in int8._quantized for parameter in model.parameters())


def test_the_page_names_the_limits_of_the_gate() -> None:
    page = " ".join((Path(__file__).parents[1] / "docs/embedding.md").read_text(encoding="utf-8").split())
    assert f"at least {quantizing.MIN_GAIN} times as fast as float32" in page
    assert f"a mean cosine of at least {quantizing.MIN_COSINE} with float32's" in page


@pytest.mark.thorough
def test_a_real_model_keeps_its_accuracy(
    embedder: Embedder, fast: None, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = spearman_on_sts_b(embedder, test_data)
    assert fastbert.prepack(embedder.model, "int8", ids(embedder)) is embedder.model
    printed = capsys.readouterr().err
    assert "int8 on 12 texts of the sample, " in printed
    assert printed.rstrip().endswith(": taken")
    assert quantised(embedder.model) >= 2 * 6
    assert abs(spearman_on_sts_b(embedder, test_data) - wanted) <= 0.3


def test_vectors_are_close_and_float32_comes_back(embedder: Embedder, fast: None) -> None:
    wanted = embedder.encode(TEXTS)
    fastbert.prepack(embedder.model, "int8", ids(embedder))
    found = embedder.encode(TEXTS)
    assert not np.array_equal(found, wanted)
    assert (found * wanted).sum(1).min() > 0.98
    fastbert.prepack(embedder.model, "int8", ids(embedder))  # measured against float32 again, not against itself
    assert np.array_equal(embedder.encode(TEXTS), found)
    fastbert.prepack(embedder.model)
    assert quantised(embedder.model) == 0
    assert np.abs(embedder.encode(TEXTS) - wanted).max() < 1e-5


@pytest.mark.parametrize("change", ["train", "edit", "load", "half and back"])
def test_a_change_of_the_weights_is_seen(embedder: Embedder, fast: None, change: str) -> None:
    model = fastbert.prepack(embedder.model, "int8", ids(embedder))
    if change == "train":
        model.train().eval()
    elif change == "edit":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0)
    elif change == "load":
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    else:
        model.half().float()
    other = copy.deepcopy(model)
    with torch.no_grad():
        batch = fastbert.pack(ids(embedder)[:4])
        assert torch.allclose(model(batch).last_hidden_state, other(batch).last_hidden_state, atol=1e-5)
    assert quantised(other) == 0


def test_training_saving_and_copies_are_those_of_float32(embedder: Embedder, fast: None, tmp_path: Path) -> None:
    plain = copy.deepcopy(embedder.model)
    model = fastbert.prepack(embedder.model, "int8", ids(embedder))
    batch = fastbert.pack(ids(embedder)[:4])
    gradients = []
    for one in (plain, model):
        one(batch).last_hidden_state.square().mean().backward()  # in evaluation mode, with gradients
        gradients.append([p.grad.clone() for p in one.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    model.save_pretrained(tmp_path)
    again = fastbert.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert len(pickle.loads(pickle.dumps(model)).state_dict()) == len(model.state_dict())


def test_what_is_slower_or_less_accurate_is_refused(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = embedder.encode(TEXTS)
    monkeypatch.setattr(quantizing, "_ROUNDS", 1)
    for gain, cosine, why in ((1e9, 0.0, "gain below"), (0.0, 1.1, "cosine below")):
        with monkeypatch.context() as patched:
            patched.setattr(quantizing, "MIN_GAIN", gain)
            patched.setattr(quantizing, "MIN_COSINE", cosine)
            with pytest.raises(
                BackendError, match=rf"int8 is refused: all linears of the layers: {why}.*; those of attention: {why}"
            ):
                fastbert.prepack(embedder.model, "int8", ids(embedder))
        assert capsys.readouterr().err.count(why) == 3
        assert quantised(embedder.model) == 0
        assert np.abs(embedder.encode(TEXTS) - wanted).max() < 1e-5


def test_what_int8_needs_is_said(embedder: Embedder) -> None:
    with pytest.raises(InputError, match=r"dtype = 'int8' needs sample: token ids of some of your texts"):
        fastbert.prepack(embedder.model, "int8")
    with pytest.raises(InputError, match=r"dtype = 'int4' is not 'int8', 'fp8' or None"):
        fastbert.prepack(embedder.model, "int4")
    with pytest.raises(InputError, match=r"this one is torch.bfloat16 on cpu"):
        fastbert.prepack(embedder.model.bfloat16(), "int8", ids(embedder))
    with pytest.raises(InputError, match=r"this one is of another library"):
        fastbert.prepack(torch.nn.Linear(2, 2), "int8", [[1]])


@pytest.mark.parametrize("form", ["call", "padded", "one", "long"])
def test_a_sample_has_any_form_of_a_tokenizers(
    embedder: Embedder, fast: None, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = embedder.tokenizer
    texts = [TEXTS[0], TEXTS[2]]
    samples: dict[str, Any] = {
        "call": tokenizer(texts),
        "padded": tokenizer(texts, padding=True, return_tensors="pt")["input_ids"],
        "one": tokenizer(texts[0])["input_ids"],
        "long": tokenizer(["word " * 600])["input_ids"],
    }
    tokens = {"one": len(tokenizer(texts[0])["input_ids"]), "long": 512}.get(form, sum(map(len, tokenizer(texts)["input_ids"])))
    fastbert.prepack(embedder.model, "int8", samples[form])
    assert f"of the sample, {tokens} tokens" in capsys.readouterr().err


def test_a_linear_without_a_bias_stays_float32_and_a_bad_id_is_named(embedder: Embedder, fast: None) -> None:
    embedder.model.encoder.layer[0].output.dense = torch.nn.Linear(1536, 384, bias=False)
    fastbert.prepack(embedder.model.eval(), "int8", ids(embedder))
    assert embedder.model.encoder.layer[0].output.dense.weight not in int8._quantized
    for wrong, why in (
        ([[5], [40_000]], r"sample\[1\] = \[40000\] is no list of ids from 0 to 30521"),
        (["a"], r"sample\[0\] = 'a' is no list of ids"),
    ):
        with pytest.raises(InputError, match=why):
            fastbert.prepack(embedder.model, "int8", wrong)


def test_the_commands_take_it(minilm: Path, fast: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "v.npy"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    assert main(["embed", str(texts), "-o", str(out), "--model", str(minilm), "--device", "cpu", "--int8"]) == 0
    assert ": taken" in capsys.readouterr().err
    vectors = np.load(out)
    wanted = Embedder.from_pretrained(minilm, "cpu").encode(TEXTS)
    assert 0.98 < (vectors * wanted).sum(1).min() < 0.99999


def test_no_rows_are_added_beside_int8() -> None:
    """They would have a say in the scale of a product's input."""
    weight, bias, states = torch.randn(8, 8), torch.zeros(8), torch.randn(5, 8)
    assert ops.with_spare_rows(states).shape == (8, 8)
    ops.quantize([weight], [bias])
    assert ops.with_spare_rows(states) is states
    ops.forget_copies(weight)
    assert ops.with_spare_rows(states).shape == (8, 8)
