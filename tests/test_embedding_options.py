"""What an Embedder does behind and beside pooling equals sentence-transformers: folders of each kind, each option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as modules
from sentence_transformers.util import quantize_embeddings
from task_cases import save_encoder, tokenizer

from fastbert.errors import CheckpointError, InputError
from fastbert.tasks import Embedder

TEXTS = ["the cat is in paris .", "a dog runs", "red", "where is the white owl ? the owl sits in oslo , not in rome !", ""]
PROMPTS = {"query": "where is ", "passage": "a ", "none": ""}


def saved(folder: Path, *behind: torch.nn.Module, pooling: str = "mean", **options: Any) -> tuple[Embedder, Any]:
    """Our embedder and theirs, from a folder that theirs has written."""
    save_encoder(folder / "bert")
    transformer = modules.Transformer(str(folder / "bert"))
    kwargs = {"include_prompt": options.pop("include_prompt", True)}
    parts = [transformer, modules.Pooling(64, pooling_mode=pooling, **kwargs), *behind]
    theirs = SentenceTransformer(modules=parts, device="cpu", **options)
    theirs.save(str(folder / "saved"))
    again = SentenceTransformer(str(folder / "saved"), device="cpu")
    return Embedder.from_pretrained(folder / "saved", "cpu"), again


def alike(ours: Any, theirs: Any) -> bool:
    assert np.shape(ours) == np.shape(theirs)
    return bool(np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-5)


BEHIND: dict[str, list[Any]] = {
    "a dense layer": [modules.Dense(64, 32)],
    "without bias and activation": [modules.Dense(64, 24, bias=False, activation_function=torch.nn.Identity())],
    "two, and unit length": [
        modules.Dense(64, 48, activation_function=torch.nn.GELU()),
        modules.Dense(48, 8),
        modules.Normalize(),
    ],
    "unit length between": [modules.Normalize(), modules.Dense(64, 16), modules.Normalize()],
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_modules_behind_pooling(behind: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours, theirs = saved(tmp_path, *behind)
    assert alike(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert alike(ours.encode(TEXTS[0]), theirs.encode(TEXTS[0]))
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()


@pytest.mark.parametrize("width", ["the same", "another"])
def test_a_residual_dense_layer(width: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    try:
        dense = modules.Dense(64, 64 if width == "the same" else 16, use_residual=True)
    except TypeError:
        pytest.skip("this version has no residual layers")
    ours, theirs = saved(tmp_path, dense)
    assert alike(ours.encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("whole", [True, False], ids=["prompts pooled", "prompts left out"])
def test_prompts(pooling: str, whole: bool, tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path, pooling=pooling, include_prompt=whole, prompts=PROMPTS, default_prompt_name="passage")
    if pooling == "weightedmean" and not whole:
        pytest.skip("sentence-transformers counts the tokens that are left out in the weights, ours start at 1")
    for options in ({}, {"prompt_name": "query"}, {"prompt": "the red "}, {"prompt": ""}):
        assert alike(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options)), options
    assert alike(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert alike(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))
    assert alike(ours.encode_query(TEXTS, prompt="not "), theirs.encode_query(TEXTS, prompt="not "))


def test_fewer_dimensions(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path, modules.Normalize(), truncate_dim=24)
    assert ours.get_embedding_dimension() == 24
    for options in ({}, {"truncate_dim": 5}, {"normalize_embeddings": True}, {"truncate_dim": 7, "normalize_embeddings": True}):
        assert alike(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options)), options
    assert np.linalg.norm(ours.encode(TEXTS), axis=1).max() < 0.99  # as there, cut vectors are not scaled again unless asked
    for wrong in (0, 65, True, 1.5):
        with pytest.raises(InputError, match="truncate_dim = .* must be a whole number from 1 to 64"):
            ours.encode(TEXTS, truncate_dim=wrong)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits(precision: str, tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path)
    whole = ours.encode(TEXTS)
    wanted = quantize_embeddings(whole, precision=precision)  # of the same floats, whose last bits decide at the steps' ends
    found = ours.encode(TEXTS, precision=precision)
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)
    assert np.abs(found.astype(int) - theirs.encode(TEXTS, precision=precision).astype(int)).max() <= (
        1 if "int" in precision else 0
    )
    if "int" in precision:
        ranges = np.stack([whole.min(0) - 1, whole.max(0) + 1])
        assert np.array_equal(
            ours.encode(TEXTS[0], precision=precision, ranges=ranges),
            quantize_embeddings(whole[:1], precision=precision, ranges=ranges)[0],
        )
        with pytest.raises(InputError, match=f"precision = '{precision}' of 1 vectors needs ranges"):
            ours.encode(TEXTS[0], precision=precision)


def test_half_precision(tmp_path: Path) -> None:
    ours, _ = saved(tmp_path)
    found = ours.encode(TEXTS, precision="float16")
    assert found.dtype == np.float16
    assert np.array_equal(found, ours.encode(TEXTS).astype(np.float16))
    with pytest.raises(InputError, match="precision = 'int4' is not one of float32, float16, int8"):
        ours.encode(TEXTS, precision="int4")


def test_vectors_of_tokens(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path, prompts=PROMPTS)
    for options in ({}, {"prompt_name": "query"}):
        found = ours.encode(TEXTS, output_value="token_embeddings", **options)
        wanted = theirs.encode(TEXTS, output_value="token_embeddings", **options)
        assert len(found) == len(TEXTS)
        assert all(alike(a, b.numpy()) for a, b in zip(found, wanted, strict=True))
    assert alike(
        ours.encode(TEXTS[1], output_value="token_embeddings"), theirs.encode(TEXTS[1], output_value="token_embeddings")
    )
    with pytest.raises(InputError, match="output_value = 'everything'"):
        ours.encode(TEXTS, output_value="everything")


def test_chunks_are_pooled_from_one_forward(tmp_path: Path) -> None:
    """Each chunk is the mean of its own tokens' states in the whole text, special tokens and prompt left out."""
    ours, _ = saved(tmp_path, modules.Dense(64, 16), modules.Normalize(), prompts=PROMPTS)
    text = TEXTS[3]
    cut = text.index("?") + 1
    spans = [(0, cut), (cut, len(text)), (4, 10)]
    for prompt in ("", "where is "):
        offsets = tokenizer()(prompt + text, return_offsets_mapping=True)["offset_mapping"]
        states = ours.encode(text, output_value="token_embeddings", prompt=prompt)
        assert len(offsets) == len(states)
        wanted = []
        for start, end in spans:
            inside = [i for i, (a, b) in enumerate(offsets) if b > a and start <= a - len(prompt) < end]
            vector = ours.layers(torch.from_numpy(states[inside].mean(0)))
            wanted.append(torch.nn.functional.normalize(vector, dim=0).detach().numpy())
        assert alike(ours.encode(text, chunks=spans, prompt=prompt), np.stack(wanted))
        together = ours.encode([TEXTS[0], text], chunks=[[(0, 7)], spans], prompt=prompt)
        assert alike(together[1], np.stack(wanted))
        assert together[0].shape == (1, 16)
    whole = ours.encode(text, chunks=[(0, len(text))], pooling="mean")
    assert whole.shape == (1, 16)
    assert ours.encode(text, chunks=[]).shape == (0, 16)


def test_chunks_of_all_texts_share_their_ranges(tmp_path: Path) -> None:
    ours, _ = saved(tmp_path)
    chunks = [[(0, 7), (8, 21)], [(0, 5)]]
    whole = np.concatenate(ours.encode(TEXTS[:2], chunks=chunks))
    found = ours.encode(TEXTS[:2], chunks=chunks, precision="int8")
    assert [one.shape for one in found] == [(2, 64), (1, 64)]
    assert np.array_equal(np.concatenate(found), quantize_embeddings(whole, precision="int8"))
    for wrong in (np.zeros((2, 3)), [1.0]):
        with pytest.raises(InputError, match=r"ranges has shape .* expected \(2, 64\)"):
            ours.encode(TEXTS, precision="int8", ranges=wrong)


@pytest.mark.filterwarnings("ignore:.*more than")
def test_chunks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    ours, _ = saved(tmp_path)
    long = "the cat runs . " * 30
    for texts, chunks, options, message in (
        (TEXTS[:2], [[(0, 3)]], {}, "chunks has 1 entries; expected one for each of the 2 texts"),
        (TEXTS[:1], [[(0, 99)]], {}, r"chunks\[0\]\[0\] = \(0, 99\) is no \(start, end\) in a text of 21 characters"),
        (TEXTS[:1], [[(3, 3)]], {}, r"chunks\[0\]\[0\] = \(3, 3\) is no"),
        (TEXTS[:1], [[3]], {}, r"chunks\[0\]\[0\] = 3 is no"),
        (TEXTS[:1], [[(0, 3.5)]], {}, r"chunks\[0\]\[0\] = \(0, 3.5\) is no"),
        ([long], [[(0, 5), (400, 420)]], {}, r"chunks\[0\]\[1\] = \(400, 420\) has no token among the 64 that were kept"),
        ([long], [[(0, 5)]], {"overlong": "window"}, "overlong = 'window' reads a text in several rows"),
        ([("a", "b")], [[(0, 1)]], {}, r"texts\[0\] is a pair"),
    ):
        with pytest.raises(InputError, match=message):
            ours.encode(texts, chunks=chunks, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "mine.Swish"}, "activation_function is mine.Swish; fastbert knows Identity, Tanh"),
        ({"module_input_name": "token_embeddings"}, "not for vectors of texts, but for token_embeddings"),
        ({"out_features": 9}, "size mismatch for linear.weight"),
        ({"in_features": -1}, "in_features = -1"),
    ],
)
def test_dense_layers_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, modules.Dense(64, 32))
    path = tmp_path / "saved/2_Dense/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        Embedder.from_pretrained(tmp_path / "saved")
    (tmp_path / "saved/2_Dense/model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        Embedder.from_pretrained(tmp_path / "saved")
