"""Encoders with other heads: layers, poolings, BiLSTM, frozen or not; and the cache of their features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from task_cases import TEXTS_FOR_FEATURES, save_encoder, tokenizer

import fastbert
from fastbert import BertModel
from fastbert.errors import CheckpointError, InputError
from fastbert.finetuning.feature_cache import FeatureCache
from fastbert.model.composed import LAYERS, ComposedModel, HeadOptions, is_composed, layer_numbers
from fastbert.model.pooling import pool
from fastbert.packing import pack
from fastbert.packing.batching import pack_rows
from fastbert.tasks.features import extract_features, write_features
from fastbert.text.framing import frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), layers=5)


def encoder(folder: Path) -> BertModel:
    return BertModel.from_pretrained(folder, add_pooling_layer=False)


def batch() -> fastbert.PackedBatch:
    return pack(tokenizer()(TEXTS_FOR_FEATURES))


def test_layers_are_those_of_table_7() -> None:
    assert [layer_numbers(name, 12) for name in LAYERS] == [
        [0],
        [11],
        [12],
        [9, 10, 11, 12],
        [9, 10, 11, 12],
        list(range(1, 13)),
    ]
    with pytest.raises(InputError, match="wants 4 hidden states; the model has 3"):
        layer_numbers("concat-last-4", 2)


@pytest.mark.parametrize("layers", LAYERS)
def test_features_are_the_chosen_hidden_states(folder: Path, layers: str) -> None:
    model = ComposedModel(encoder(folder), HeadOptions("token", 3, layers=layers)).eval()
    packed = batch()
    with torch.no_grad():
        states = model.encoder(packed, output_hidden_states=True).hidden_states
        numbers = layer_numbers(layers, 5)
        found = model.features(packed)
        assert all(torch.equal(a, states[n]) for a, n in zip(found, numbers, strict=True))
        if LAYERS[layers][1]:
            model.mix.copy_(torch.arange(len(numbers)).float())
            weights = torch.arange(len(numbers)).float().softmax(0)
            x = sum(w * states[n] for w, n in zip(weights, numbers, strict=True))
        else:
            x = torch.cat([states[n] for n in numbers], -1)
        assert torch.allclose(model(packed).logits, model.classifier(x), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken"])
def test_texts_are_pooled_and_gradients_reach_the_encoder(folder: Path, pooling: str) -> None:
    model = ComposedModel(encoder(folder), HeadOptions("sequence", 2, pooling=pooling, frozen=False, dropout=0.0)).train()
    model.encoder.eval()
    packed = batch()
    out = model(packed, labels=torch.tensor([0, 1, 1]))
    state = model.encoder(packed).last_hidden_state
    assert torch.allclose(out.logits, model.classifier(pool(state, packed.cu_seqlens, pooling)), atol=1e-5)
    out.loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.encoder.named_parameters() if "key.bias" not in n
    )


@pytest.mark.parametrize("kind", ["sequence", "token", "span"])
def test_a_frozen_encoder_is_not_touched_by_training(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = ComposedModel(encoder(folder), HeadOptions(kind, 2, layers="sum-last-4", bilstm=2)).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    assert not model.encoder.training
    packed = batch()
    columns = torch.tensor([1, 2, 1])
    labels = {"span": {"start_positions": columns, "end_positions": columns}}.get(kind)
    if labels is None:
        labels = {"labels": torch.tensor([0, 1, 1]) if kind == "sequence" else torch.zeros(packed.num_tokens, dtype=torch.long)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(3):
        loss = model(packed, **labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all(p.grad is None for p in model.encoder.parameters())


def test_a_bilstm_sees_both_sides_and_no_other_text(folder: Path) -> None:
    torch.manual_seed(0)
    model = ComposedModel(encoder(folder), HeadOptions("token", 2, layers="embeddings", bilstm=1)).eval()
    tok = tokenizer()
    with torch.no_grad():
        alone = model(pack(tok(["the cat runs"]))).logits
        among = model(pack(tok(["a", "the cat runs", "paris is in rome"]))).logits[3:8]
        other = model(pack(tok(["the cat sits"]))).logits
    assert torch.allclose(alone, among, atol=1e-6)
    assert not torch.allclose(alone[1], other[1], atol=1e-6)  # "the" sees what comes behind it


def test_saved_models_come_back_and_the_encoder_opens_in_transformers(folder: Path, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    model = ComposedModel(encoder(folder), HeadOptions("token", 3, layers="sum-all", bilstm=2)).eval()
    with torch.no_grad():
        model.mix.normal_()
    model.save_pretrained(tmp_path)
    assert is_composed(tmp_path)
    assert not is_composed(folder)
    again = ComposedModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(batch()).logits, again(batch()).logits)
    theirs = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert torch.equal(theirs.state_dict()["encoder.layer.0.attention.self.query.weight"].float(),
                       model.encoder.encoder.layer[0].attention.self.query.weight)  # fmt: skip
    (tmp_path / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"head\.safetensors is damaged"):
        ComposedModel.from_pretrained(tmp_path)


# -- the cache --------------------------------------------------------------------------------------------------------------


def prepared(folder: Path, cache: Path, layers: str = "concat-last-4", kind: str = "token", change: bool = False):
    model = ComposedModel(encoder(folder), HeadOptions(kind, 2, layers=layers)).eval()
    if change:
        with torch.no_grad():
            model.encoder.encoder.layer[2].output.dense.bias[3] += 1e-3
    said: list[str] = []
    store = FeatureCache(cache, model, tokenizer(), said.append)
    framed = frame(tokenizer(), TEXTS_FOR_FEATURES, max_length=64)
    store.prepare(framed, False)
    return model, store, said, framed


def test_cached_features_are_the_models_own(folder: Path, tmp_path: Path) -> None:
    for kind in ("token", "sequence"):
        model, store, _, framed = prepared(folder, tmp_path, kind=kind)
        packed = pack_rows(framed, [2, 0])
        with torch.no_grad():
            plain = model(packed).logits
            model.cache = store
            calls: list[int] = []
            model.encoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            assert torch.allclose(model(packed).logits, plain, atol=1e-5)
            assert not calls  # the encoder did not run
            model(pack(tokenizer()(["a text that nobody has cached"])))
            assert calls


def test_the_cache_is_used_again_and_refused_after_a_change(folder: Path, tmp_path: Path) -> None:
    said = prepared(folder, tmp_path)[2]
    assert "features of 3 sequences: 4 layers" in said[0]
    said = prepared(folder, tmp_path)[2]
    assert said[0].startswith("features of 3 sequences found")
    said = prepared(folder, tmp_path, "sum-all")[2]
    assert "1 layers" in said[0]  # only what is missing
    model, store, said, framed = prepared(folder, tmp_path, change=True)
    assert "are refused: the weights changed" in said[0]
    packed = pack_rows(framed, range(3))
    found = store.lookup(packed, model.layers)
    with torch.no_grad():
        assert torch.allclose(found[0], model.features(packed)[0], atol=1e-5)


def test_a_disk_without_room_is_said_before_the_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(CheckpointError, match=r"the cache of features needs 0\.\d MiB in .*, and 0\.0 MiB are free"):
        prepared(folder, tmp_path)


# -- features in files ------------------------------------------------------------------------------------------------------


def test_features_of_every_token_go_to_files(folder: Path, tmp_path: Path) -> None:
    import json

    model, tok = encoder(folder), tokenizer()
    found = extract_features(model, tok, TEXTS_FOR_FEATURES, [-1, 0], show_progress=False)
    assert [one.index for one in found] == [0, 1, 2]
    assert found[0].tokens == ["[CLS]", "the", "cat", "runs", "[SEP]"]
    with torch.no_grad():
        states = model(**tok(TEXTS_FOR_FEATURES[0:1], return_tensors="pt"), output_hidden_states=True).hidden_states
    assert np.allclose(found[0].layers[0], states[-1][0], atol=1e-5)
    assert np.allclose(found[0].layers[1], states[0][0], atol=1e-5)
    write_features(tmp_path / "a.npz", found, [-1, 0])
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["layer_-1"].shape == (arrays["starts"][-1], 64)
        assert list(arrays["tokens"][: arrays["starts"][1]]) == found[0].tokens
    write_features(tmp_path / "a.jsonl", found, [-1, 0])
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["linex_index"] for row in rows] == [0, 1, 2]
    assert [layer["index"] for layer in rows[0]["features"][0]["layers"]] == [-1, 0]
    assert np.allclose(rows[0]["features"][1]["layers"][0]["values"], found[0].layers[0][1], atol=1e-5)
    with pytest.raises(InputError, match=r"layer = 6 is not one of the 6 hidden states: -6\.\.5"):
        extract_features(model, tok, ["a"], [6])
