"""Files: folders in both directions with transformers, old names, two formats, shards, the hub's cache, damage."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import CLASSES, SMALL, make_pair, ragged, worst
from safetensors.torch import load_file, save_file

import fastbert
from fastbert.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from fastbert.model import checkpoint


def run(model: Any, name: str) -> torch.Tensor:
    batch = ragged([6, 6])
    if name == "BertForMultipleChoice":
        batch = {key: value[:, None] for key, value in batch.items()}
    with torch.no_grad():
        return model(**batch)[0]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    model, _ = make_pair("BertForPreTraining")
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("name", CLASSES)
def test_saved_folders_open_in_both_directions(name: str, tmp_path: Path) -> None:
    ours, theirs = make_pair(name)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    there, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    here, names = getattr(fastbert, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(names.values())
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= names.keys() & info.keys()
    assert here.load_report == checkpoint.LoadReport()
    expected = run(ours, name)
    assert worst(run(there, name), expected) < 1e-5
    assert worst(run(here, name), expected) < 1e-6  # not bit-equal: the library's path depends on a tensor's alignment
    assert list(load_file(tmp_path / "ours/model.safetensors")) == list(load_file(tmp_path / "theirs/model.safetensors"))
    assert not here.training


def test_unknown_fields_of_a_config_survive(tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    model.config.extra["my_field"] = {"a": 1}
    model.save_pretrained(tmp_path)
    again = fastbert.BertModel.from_pretrained(tmp_path)
    assert again.config.extra["my_field"] == {"a": 1}
    assert transformers.BertConfig.from_pretrained(tmp_path).my_field == {"a": 1}


def test_labels_of_a_config_survive_and_can_be_replaced(tmp_path: Path) -> None:
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    model, _ = make_pair("BertForSequenceClassification", num_labels=3, id2label=names)
    model.save_pretrained(tmp_path)
    assert transformers.BertConfig.from_pretrained(tmp_path).id2label == names
    again = fastbert.BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == names
    assert again.config.label2id == {v: k for k, v in names.items()}
    five = fastbert.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert five.classifier.out_features == five.config.num_labels == 5


def test_old_names_load_and_are_reported(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    old = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    (folder / "model.safetensors").unlink()
    torch.save(old, folder / "pytorch_model.bin")
    again = fastbert.BertForPreTraining.from_pretrained(folder)
    report = again.load_report
    assert torch.equal(run(again, ""), run(model, ""))
    assert report.renamed["bert.embeddings.LayerNorm.gamma"] == "bert.embeddings.LayerNorm.weight"
    assert not report.missing
    assert not report.unexpected


def test_encoder_and_heads_load_from_each_other(saved: tuple[Any, Path], tmp_path: Path, caplog) -> None:
    model, folder = saved
    encoder, names = fastbert.BertModel.from_pretrained(folder, output_loading_info=True)
    assert names["unexpected_keys"] == set(encoder.load_report.unexpected)
    assert all(name.startswith("cls.") for name in names["unexpected_keys"])
    assert names["unexpected_keys"]
    assert torch.equal(encoder.pooler.dense.weight, model.bert.pooler.dense.weight)
    encoder.save_pretrained(tmp_path / "encoder")
    with caplog.at_level(logging.WARNING, "fastbert"):
        head = fastbert.BertForSequenceClassification.from_pretrained(tmp_path / "encoder")
    assert head.load_report.missing == ["classifier.weight", "classifier.bias"]
    assert "newly initialised: classifier.weight, classifier.bias" in caplog.text
    assert torch.equal(head.bert.pooler.dense.weight, encoder.pooler.dense.weight)
    assert not head.classifier.bias.any()
    assert 0 < float(head.classifier.weight.detach().std()) < 1
    masked = fastbert.BertForMaskedLM.from_pretrained(tmp_path / "encoder")
    assert masked.cls.predictions.decoder.weight is masked.get_input_embeddings().weight


def test_foreign_tensors_are_named(saved: tuple[Any, Path], caplog) -> None:
    _, folder = saved
    state = load_file(folder / "model.safetensors")
    save_file({**state, "bert.encoder.layer.7.surprise": torch.ones(1)}, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, "fastbert"):
        model = fastbert.BertForPreTraining.from_pretrained(folder)
    assert model.load_report.unexpected == ["bert.encoder.layer.7.surprise"]
    assert "bert.encoder.layer.7.surprise" in caplog.text


def test_shapes_that_differ_are_named(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 120}))
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight: \(101, 48\) in the file, \(120, 48\) in the model"):
        fastbert.BertForPreTraining.from_pretrained(folder)


def test_another_models_tensors_are_refused(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    save_file({"wte.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none of the checkpoint's 1 tensors belongs to this model.*wte.weight"):
        fastbert.BertModel.from_pretrained(folder)


def test_shards_load(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": list(state)[::2], "model-00002-of-00002.safetensors": list(state)[1::2]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(run(fastbert.BertForPreTraining.from_pretrained(folder), ""), run(model, ""))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match="model-00002-of-00002.safetensors, which its index names"):
        fastbert.BertForPreTraining.from_pretrained(folder)


def test_dtype_is_kept_or_chosen(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    assert fastbert.BertModel.from_pretrained(folder).dtype == torch.float32
    assert fastbert.BertModel.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    model.half().save_pretrained(folder)
    assert fastbert.BertModel.from_pretrained(folder).dtype == torch.float16
    assert fastbert.BertModel.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ConfigError, match="dtype = 'int8' is not one of torch.float32"):
        fastbert.BertModel.from_pretrained(folder, dtype="int8")


def test_truncated_and_foreign_files_are_named(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        fastbert.BertModel.from_pretrained(folder)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="pytorch_model.bin is damaged or not a checkpoint"):
        fastbert.BertModel.from_pretrained(folder)


def test_a_pickle_that_runs_code_is_refused(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path("/tmp")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        fastbert.BertModel.from_pretrained(folder)


def test_directories_without_config_or_weights_are_named(saved: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = saved
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match=r"empty has no config.json"):
        fastbert.BertModel.from_pretrained(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds none of model.safetensors"):
        fastbert.BertModel.from_pretrained(folder)
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        fastbert.BertModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ConfigError, match="model_type = 'roberta'"):
        fastbert.BertModel.from_pretrained(folder)
    for absent in ("./nothing", str(tmp_path / "nothing"), "a/b/c"):
        with pytest.raises(CheckpointNotFoundError, match="there is no directory"):
            fastbert.BertModel.from_pretrained(absent)


def test_unknown_option_is_refused(saved: tuple[Any, Path]) -> None:
    with pytest.raises(ConfigError, match="hiden_dropout_prob = 0.2: neither an option nor a field"):
        fastbert.BertModel.from_pretrained(saved[1], hiden_dropout_prob=0.2)


def make_hub_cache(folder: Path, cache: Path) -> None:
    """The hub client's own layout: a ref that names a snapshot."""
    repo = cache / "models--someone--small-bert"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc123")
    (repo / "snapshots").mkdir()
    folder.rename(repo / "snapshots/abc123")


def test_hub_ids_come_from_the_cache_and_are_missed_clearly(saved: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = saved
    make_hub_cache(folder, tmp_path / "hub")
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    again = fastbert.BertForPreTraining.from_pretrained("someone/small-bert", **options)
    assert torch.equal(run(again, ""), run(model, ""))
    assert fastbert.BertConfig.from_pretrained("someone/small-bert", **options).vocab_size == 101
    with pytest.raises(CheckpointNotFoundError, match="someone/else, and as a hub id: local_files_only is set"):
        fastbert.BertModel.from_pretrained("someone/else", **options)


def test_an_unreachable_hub_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointNotFoundError, match=r"the hub did not provide it .* \(ConnectionError\)"):
        fastbert.BertModel.from_pretrained("someone/else", cache_dir=tmp_path)


def test_saving_is_atomic(saved: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = saved
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"], "a part was left behind"


def test_saving_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    model, _ = make_pair("BertModel")
    with pytest.raises(CheckpointError, match="taken: it is a file"):
        model.save_pretrained(tmp_path / "taken")


def test_a_transformers_config_object_is_taken() -> None:
    config = transformers.BertConfig(**SMALL, num_labels=4)
    model = fastbert.BertForTokenClassification(config)
    assert model.classifier.out_features == 4
    assert isinstance(model.config, fastbert.BertConfig)


def test_real_checkpoint_loads_without_a_word(minilm: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "fastbert"):
        model = fastbert.BertModel.from_pretrained(minilm)
    assert model.num_parameters() == 22_713_216
    assert model.load_report == checkpoint.LoadReport()
    assert not caplog.records


def test_torch_dtype_is_the_older_name_of_dtype(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    assert fastbert.BertModel.from_pretrained(folder, torch_dtype=torch.float16).dtype == torch.float16
    assert fastbert.BertConfig.from_pretrained(folder, torch_dtype="bfloat16").dtype == torch.bfloat16
    assert fastbert.BertConfig(torch_dtype="float16").torch_dtype == torch.float16
    assert fastbert.BertConfig(torch_dtype=torch.float16).to_dict()["dtype"] == "float16"


def test_none_and_false_for_foreign_options_mean_nothing(saved: tuple[Any, Path]) -> None:
    model = fastbert.BertModel.from_pretrained(saved[1], quantization_config=None, trust_remote_code=False)
    assert "trust_remote_code" not in model.config.extra


def test_config_saves_itself_and_gives_its_unknown_fields(tmp_path: Path) -> None:
    config = fastbert.BertConfig(hidden_size=24, num_attention_heads=2, my_field=7)
    assert config.my_field == 7
    config.save_pretrained(tmp_path / "new")
    assert fastbert.BertConfig.from_pretrained(tmp_path / "new") == config
    with pytest.raises(AttributeError, match="no field 'other'"):
        _ = config.other


def test_links_are_written_through_and_devices_refused(tmp_path: Path) -> None:
    from fastbert import files

    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        files.write_text(tmp_path / "pipe", "new")
