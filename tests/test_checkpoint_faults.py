"""Checkpoints that are not what they say: differing tied tensors, missing ones, foreign files and types, absurd sizes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_pair, ragged, worst
from safetensors.torch import load_file, save_file
from task_cases import save_encoder, save_head, texts

import fastbert
from fastbert import cli, tasks
from fastbert.errors import CheckpointError, ConfigError
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.model.composed import ComposedModel, HeadOptions
from fastbert.model.config import BertConfig

WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Edits the tensors of a saved model."""
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


# -- tied names with values of their own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("untied", [[DECODER], [DECODER_BIAS], [DECODER, DECODER_BIAS], []])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel"])
def test_a_decoder_of_its_own_stays_its_own(
    name: str, untied: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_pair(name)[0].save_pretrained(tmp_path)

    def both(state: dict[str, torch.Tensor]) -> None:
        state[DECODER], state[DECODER_BIAS] = state[WORDS].clone(), state[BIAS].clone()
        for second in untied:
            state[second] += torch.randn_like(state[second])

    change(tmp_path, both)
    kind = getattr(fastbert, name)
    theirs = getattr(transformers, name).from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = ragged([7, 4])
    for attempt in range(2):  # as it stands, and written by us
        with caplog.at_level(logging.WARNING, "fastbert"):
            caplog.clear()
            ours = kind.from_pretrained(tmp_path)
        assert ours.load_report.untied == untied or (attempt and DECODER not in ours.load_report.untied)
        assert worst(ours(**batch)[0][0], theirs(**batch)[0][0]) < 1e-5
        ours.tie_weights()  # does not undo it
        assert worst(ours(**batch)[0][0], theirs(**batch)[0][0]) < 1e-5
        head = ours.cls.predictions
        assert (head.decoder.weight is ours.get_input_embeddings().weight) == (DECODER not in untied)
        if not attempt:
            assert all(second in caplog.text for second in untied)
        ours.save_pretrained(tmp_path)
    ours.resize_token_embeddings(120)
    assert torch.isfinite(ours(**batch)[0]).all()
    assert head.decoder.bias.shape == head.bias.shape == (120,)
    again = getattr(transformers, name).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert worst(again(**batch)[0][0], theirs(**batch)[0][0]) < 1e-5


def test_a_state_dict_can_be_written_as_it_is(tmp_path: Path) -> None:
    model, theirs = make_pair("BertForMaskedLM")
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")  # refuses tensors that share memory
    assert state.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(state, strict=True)
    model.load_state_dict(state, strict=True)
    assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight
    assert model.state_dict(keep_vars=True)[DECODER] is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert DECODER not in load_file(tmp_path / "model.safetensors")


# -- what is missing ----------------------------------------------------------------------------------------------------------

HEADS = {
    "Classifier": "BertForSequenceClassification",
    "NLI": "BertForSequenceClassification",
    "MultipleChoice": "BertForMultipleChoice",
    "TokenTagger": "BertForTokenClassification",
    "QuestionAnswerer": "BertForQuestionAnswering",
    "FillMask": "BertForMaskedLM",
    "NextSentence": "BertForNextSentencePrediction",
    "Embedder": "BertModel",
}
GONE = ["embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("name", HEADS)
def test_a_task_refuses_an_incomplete_checkpoint(name: str, gone: str, tmp_path: Path) -> None:
    save_head(tmp_path, HEADS[name])
    prefix = "" if name == "Embedder" else "bert."
    change(tmp_path, lambda state: state.pop(prefix + gone))
    if name == "FillMask" and "word_embeddings" in gone:
        change(tmp_path, lambda state: state.pop(DECODER, None))
    with pytest.raises(CheckpointError, match=rf"is incomplete: it lacks {prefix}{gone}"):
        getattr(tasks, name).from_pretrained(tmp_path, "cpu")


def test_commands_and_fine_tuning_refuse_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_encoder(tmp_path / "model")
    change(folder, lambda state: state.pop("encoder.layer.0.attention.self.query.weight"))
    (tmp_path / "in.txt").write_text("the cat\n")
    for command in (
        ["embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy")],
        ["features", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npz")],
    ):
        assert cli.main([*command, "--model", str(folder), "--device", "cpu"]) == 2
        assert "is incomplete: it lacks encoder.layer.0.attention.self.query.weight" in capsys.readouterr().err
    for options in (FineTuneOptions(epochs=1), FineTuneOptions(mode="features", epochs=1)):
        with pytest.raises(CheckpointError, match="is incomplete"):
            finetune("classify", folder, texts(8, 0), output=tmp_path / options.mode, options=options, device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "model"]


def test_a_pooler_may_be_new_and_a_composed_model_is_whole(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "model")
    change(folder, lambda state: [state.pop(name) for name in list(state) if name.startswith("pooler.")])
    finetune("classify", folder, texts(8, 0), output=tmp_path / "run", options=FineTuneOptions(epochs=1), device="cpu")
    encoder = fastbert.BertModel.from_pretrained(folder, add_pooling_layer=False)
    ComposedModel(encoder, HeadOptions("sequence", 2)).save_pretrained(tmp_path / "composed")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "composed" / name).write_bytes((folder / name).read_bytes())
    tasks.Classifier.from_pretrained(tmp_path / "composed", "cpu")
    change(tmp_path / "composed", lambda state: state.pop("encoder.layer.0.output.dense.bias"))
    with pytest.raises(CheckpointError, match="is incomplete: it lacks encoder.layer.0.output.dense.bias"):
        tasks.Classifier.from_pretrained(tmp_path / "composed", "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_in_weights_is_said(value: float, kind: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_head(tmp_path, "BertForSequenceClassification")
    model = fastbert.BertForSequenceClassification.from_pretrained(tmp_path, dtype=kind)
    assert model.load_report.not_finite == []
    model.bert.encoder.layer[0].output.dense.bias.data[3] = value
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "fastbert"):
        fastbert.BertForSequenceClassification.from_pretrained(tmp_path)
    assert "NaN or infinity in bert.encoder.layer.0.output.dense.bias" in caplog.text
    with pytest.warns(UserWarning, match="holds NaN or infinity in bert.encoder.layer.0.output.dense.bias"):
        tasks.Classifier.from_pretrained(tmp_path, "cpu")


# -- shards and links ---------------------------------------------------------------------------------------------------------


def sharded(folder: Path) -> dict[str, Any]:
    """A model in two shards; returns its index."""
    model, _ = make_pair("BertModel")
    model.config.save_pretrained(folder)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    names = sorted(state)
    index: dict[str, str] = {}
    for number, part in enumerate((names[:20], names[20:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    edit_json(folder / "model.safetensors.index.json", weight_map=index)
    return index


def test_shards_are_files_of_their_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    index = sharded(folder)
    fastbert.BertModel.from_pretrained(folder)
    path, first = folder / "model.safetensors.index.json", "model-00001-of-00002.safetensors"
    (folder / first).rename(other / first)
    for named in (f"../b/{first}", str(other / first), "..", "", ".", "a/b", "a\\b", None, 7):
        edit_json(path, weight_map={name: named if shard == first else shard for name, shard in index.items()})
        with pytest.raises(CheckpointError, match="is no file of its folder"):
            fastbert.BertModel.from_pretrained(folder)
    edit_json(path, weight_map=index)
    (folder / first).symlink_to(other / first)
    with pytest.raises(CheckpointError, match="is no file of its folder"):
        fastbert.BertModel.from_pretrained(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    sharded(snapshot)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), snapshot))
    fastbert.BertModel.from_pretrained(snapshot)


def test_a_shard_holds_what_its_index_names(tmp_path: Path) -> None:
    sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    state = load_file(shard)
    gone = sorted(state)[3]
    del state[gone]
    save_file(state, shard)
    with pytest.raises(CheckpointError, match=f"lacks what its index names: .*{gone}"):
        fastbert.BertModel.from_pretrained(tmp_path)


# -- types, sizes -------------------------------------------------------------------------------------------------------------

UNUSABLE = [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("kind", UNUSABLE)
def test_types_that_cannot_run_are_refused_by_name(kind: torch.dtype, tmp_path: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(tmp_path)
    name = "encoder.layer.1.output.dense.weight"
    change(tmp_path, lambda state: state.update({name: state[name].to(kind)}))
    with pytest.raises(CheckpointError, match=f"{name} is of type {kind}: no forward can use it"):
        fastbert.BertModel.from_pretrained(tmp_path)


def test_meta_sparse_and_quantised_tensors_are_refused_by_name(tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    model.config.save_pretrained(tmp_path)
    name = "encoder.layer.1.output.dense.weight"
    weight = model.state_dict()[name]
    for bad, why in (
        (weight.to("meta"), "a meta tensor without values"),
        (weight.to_sparse(), "quantised or of layout torch.sparse_coo"),
        (torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "quantised or of layout"),
    ):
        torch.save({**model.state_dict(), name: bad}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=f"{name} is {why}"):
            fastbert.BertModel.from_pretrained(tmp_path)


def test_parameters_in_a_file_are_tensors_and_a_given_configuration_stays_as_it_is(tmp_path: Path) -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.config.save_pretrained(tmp_path)
    torch.save(dict(model.named_parameters()), tmp_path / "pytorch_model.bin")
    config = BertConfig.from_pretrained(tmp_path)
    before = config.to_dict()
    loaded = fastbert.BertForMaskedLM.from_pretrained(tmp_path, config=config, dtype="bfloat16")
    assert config.to_dict() == before
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight.bfloat16())


def test_a_pickle_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    model.config.save_pretrained(tmp_path)

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("exit 3",)

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="files that would run code when they are read are not opened") as caught:
        fastbert.BertModel.from_pretrained(tmp_path)
    assert not {"weights_only", "add_safe_globals", "trust"} & set(str(caught.value).replace("=", " ").split())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 9999}, "says num_hidden_layers = 9999, the weights have 3 layers"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000 must be an integer of 0 or more, at most 10000"),
        ({"vocab_size": 10**12}, "vocab_size = 1000000000000 must be a positive integer"),
        ({"vocab_size": 2 * 10**9}, "shapes differ .*word_embeddings"),
        ({"num_labels": 10**9, "id2label": None}, "num_labels = 1000000000 must be a positive integer, at most 1048576"),
        ({"hidden_size": 48 * 10**6}, "shapes differ"),
        ({"is_decoder": 1}, "is_decoder = 1 must be true or false"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps = nan must be above 0"),
        ({"hidden_act": ["gelu"]}, r"hidden_act = \['gelu'\] must be one of"),
        ({"self": 1}, "no field 'self'"),
        ({"extra": 3}, "extra = 3 must be an object"),
        ({"dtype": "float8_e4m3fn"}, "dtype = torch.float8_e4m3fn is not one of torch.float32"),
    ],
)
def test_sizes_are_held_against_the_weights_before_anything_is_built(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_pair("BertForSequenceClassification")[0].save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", **fields)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        fastbert.BertForSequenceClassification.from_pretrained(tmp_path)


def test_null_in_a_configuration_means_the_default(tmp_path: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", return_dict=None, is_decoder=None, output_attentions=None)
    assert fastbert.BertModel.from_pretrained(tmp_path)(torch.ones(1, 3, dtype=torch.long)).last_hidden_state.shape == (
        1,
        3,
        48,
    )


def test_what_a_file_lacks_is_in_proportion_to_what_it_has(tmp_path: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", intermediate_size=10**9)
    change(
        tmp_path, lambda state: [state.pop(name) for name in list(state) if "intermediate" in name or "output.dense" in name]
    )
    with pytest.raises(CheckpointError, match="values and lacks .*: it belongs to another model"):
        fastbert.BertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bilstm": 50}, "says bilstm = 50, the weights beside it have 1"),
        ({"bilstm": 10**9}, "bilstm = 1000000000 must be a whole number from 0 to 100"),
        ({"num_labels": 7}, "says num_labels = 7, the weights beside it have 2"),
        ({"layers": "all"}, "layers = 'all' must be one of"),
        ({"dropout": None}, "dropout = None must be a probability"),
        ({"surprise": 1}, "has an unknown entry 'surprise'"),
        ({"kind": ["sequence"]}, r"kind = \['sequence'\] must be one of"),
    ],
)
def test_the_head_beside_an_encoder_is_described(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    ComposedModel(make_pair("BertModel")[0], HeadOptions("sequence", 2, bilstm=1)).save_pretrained(tmp_path)
    ComposedModel.from_pretrained(tmp_path)
    edit_json(tmp_path / "head.json", **fields)
    with pytest.raises(CheckpointError, match=message):
        ComposedModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("QuestionAnswerer", {"doc_stride": 0}, "doc_stride = 0 must be a whole number from 1"),
        ("QuestionAnswerer", {"max_question": -2}, "max_question = -2 must be a whole number from 1"),
        ("QuestionAnswerer", {"null_threshold": "high"}, "null_threshold = 'high' must be a number"),
        ("QuestionAnswerer", {"max_length": 9000}, "max_length = 9000 is above the 64 tokens"),
        ("Classifier", {"overlap": -1}, "overlap = -1 must be a whole number from 0"),
        ("Classifier", {"on_long": "ignore"}, "on_long = 'ignore' must be one of"),
        ("Classifier", {"overlong": "ignore"}, "overlong = 'ignore' must be one of"),
        ("Classifier", {"window_scores": True}, "window_scores = True must be one of"),
        ("TokenTagger", {"max_length": 3}, "max_length = 3 must be a whole number from 5"),
        ("TokenTagger", {"max_length": True}, "max_length = True must be a whole number"),
    ],
)
def test_what_fine_tuning_wrote_is_checked_as_the_constructor_checks(
    name: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_head(tmp_path, HEADS[name])
    edit_json(tmp_path / "fastbert_task.json", **fields)
    with pytest.raises(CheckpointError, match=message):
        getattr(tasks, name).from_pretrained(tmp_path, "cpu")


def test_labels_may_be_numbered_from_1_or_with_a_gap(tmp_path: Path) -> None:
    for names in ({1: "bad", 2: "good"}, {0: "bad", 5: "good"}):
        theirs = save_head(tmp_path, "BertForSequenceClassification", id2label=names)
        config = BertConfig.from_pretrained(tmp_path)
        assert (config.id2label, config.num_labels) == (names, theirs.config.num_labels)
        assert config.label_names == [names.get(i, f"LABEL_{i}") for i in range(2)]
        found = tasks.Classifier.from_pretrained(tmp_path, "cpu").predict(["the cat"], top_k=None)[0]
        assert {row["label"] for row in found} == set(config.label_names)
        config.save_pretrained(tmp_path / "again")
        assert transformers.BertConfig.from_pretrained(tmp_path / "again").id2label == names
