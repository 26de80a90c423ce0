"""SparseEmbedder: the weights of sentence-transformers' SparseEncoder, without ever making the scores of all tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder import models as modules
from task_cases import save_head

from fastbert.errors import CheckpointError, InputError
from fastbert.tasks import SparseEmbedder, sparse_embedder

TEXTS = ["the cat is in paris .", "a dog runs", "red", "where is the white owl ? the owl sits in oslo , not in rome !", ""]
PROMPTS = {"query": "where is ", "document": "a "}


def saved(folder: Path, **pooling: Any) -> tuple[SparseEmbedder, Any]:
    save_head(folder / "bert", "BertForMaskedLM")
    parts = [modules.MLMTransformer(str(folder / "bert")), modules.SpladePooling(**pooling)]
    theirs = SparseEncoder(modules=parts, device="cpu", prompts=PROMPTS)
    theirs.save(str(folder / "saved"))
    return SparseEmbedder.from_pretrained(folder / "saved", "cpu"), theirs


def alike(ours: Any, theirs: Any) -> bool:
    wanted = theirs.to_dense().numpy()
    wanted = wanted[None] if wanted.ndim == 1 else wanted
    assert ours.shape == wanted.shape
    return bool(np.abs(ours.toarray() - wanted).max() < 1e-5 * max(1.0, wanted.max(initial=0.0)))


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_weights_are_those_of_a_sparse_encoder(
    strategy: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = saved(tmp_path, pooling_strategy=strategy, activation_function=activation)
    found = ours.encode(TEXTS)
    assert found.dtype == np.float32
    assert found.has_sorted_indices
    assert 0 < found.nnz < found.shape[0] * found.shape[1]
    assert alike(found, theirs.encode(TEXTS))
    assert alike(ours.encode(TEXTS[0]), theirs.encode(TEXTS[0]))
    assert alike(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert alike(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))
    assert alike(ours.encode(TEXTS, max_active_dims=5), theirs.encode(TEXTS, max_active_dims=5))
    assert alike(ours.encode(TEXTS, batch_size=1), theirs.encode(TEXTS))
    monkeypatch.setattr(sparse_embedder, "_SCORES_AT_ONCE", 3 * ours.get_embedding_dimension())  # chunks that cut texts
    assert alike(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_scores_are_made_for_few_tokens_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = saved(tmp_path)
    monkeypatch.setattr(sparse_embedder, "_SCORES_AT_ONCE", 8 * ours.get_embedding_dimension())
    rows: list[int] = []
    kept = sparse_embedder.dense

    def noted(module: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return kept(module, x)

    monkeypatch.setattr(sparse_embedder, "dense", noted)
    ours.encode(TEXTS * 4)
    assert max(rows) == 8


def test_words_and_similarities(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path)
    found, wanted = ours.encode(TEXTS[:3]), theirs.encode(TEXTS[:3])
    for mine, others in zip(ours.decode(found, top_k=4), theirs.decode(wanted, top_k=4), strict=True):
        assert [word for word, _ in mine] == [word for word, _ in others]
        assert [weight for _, weight in mine] == pytest.approx([weight for _, weight in others], abs=1e-5)
    assert np.abs(ours.similarity(found, found) - theirs.similarity(wanted, wanted).numpy()).max() < 1e-3
    assert ours.encode([]).shape == (0, ours.get_embedding_dimension())


def test_a_plain_bert_with_an_mlm_head(tmp_path: Path) -> None:
    save_head(tmp_path, "BertForMaskedLM")
    parts = [modules.MLMTransformer(str(tmp_path)), modules.SpladePooling()]
    assert alike(SparseEmbedder.from_pretrained(tmp_path, "cpu").encode(TEXTS), SparseEncoder(modules=parts).encode(TEXTS))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    ours, _ = saved(tmp_path)
    for call, message in (
        (lambda: ours.encode(TEXTS, max_active_dims=0), "max_active_dims = 0 must be a whole number from 1"),
        (lambda: ours.encode(TEXTS, overlong="window"), "overlong = 'window'"),
        (lambda: ours.encode(TEXTS, prompt_name="passage"), "prompt_name = 'passage' is not one"),
        (lambda: SparseEmbedder(ours.model, ours.tokenizer, pooling="mean"), "pooling = 'mean' is not one of max, sum"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    path = tmp_path / "saved/modules.json"
    listed = json.loads(path.read_text())
    listed[1]["type"] = "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding"
    path.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match="has a module 'SparseStaticEmbedding'"):
        SparseEmbedder.from_pretrained(tmp_path / "saved")
