"""What transformers' users and libraries expect of the names around a model: loading, saving, configuration, pipelines."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import accelerate
import numpy
import pytest
import torch
import transformers
from conftest import CLASSES, SMALL, fields_for, make_pair, ragged, with_choices, worst
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

import fastbert
from fastbert.errors import CheckpointError, CheckpointNotFoundError, ConfigError, InputError, SizeMismatchError

# -- the configuration -------------------------------------------------------------------------------------------------------


def test_what_is_set_later_is_saved(tmp_path: Path) -> None:
    config = fastbert.BertConfig(**SMALL)
    config.my_field = [1, 2]
    config.hidden_size = 24
    config.update({"other": "x", "pad_token_id": 3})
    config.torch_dtype = "float16"
    config._private = object()
    config.save_pretrained(tmp_path)
    again = fastbert.BertConfig.from_pretrained(tmp_path)
    assert (again.my_field, again.hidden_size, again.other, again.pad_token_id) == ([1, 2], 24, "x", 3)
    assert again.dtype is again.torch_dtype is torch.float16
    assert not hasattr(again, "_private")
    assert transformers.BertConfig.from_pretrained(tmp_path).my_field == [1, 2]
    del again.my_field
    assert "my_field" not in again
    config._private = None
    assert copy.deepcopy(config).my_field == pickle.loads(pickle.dumps(config)).my_field == [1, 2]


def test_a_configuration_is_what_libraries_ask() -> None:
    config, theirs = fastbert.BertConfig(**SMALL), transformers.BertConfig(**SMALL)
    for name in ("is_encoder_decoder", "use_cache", "add_cross_attention", "chunk_size_feed_forward", "bos_token_id"):
        assert getattr(config, name) == getattr(theirs, name)
        assert name not in config.to_dict()
    assert config.get_text_config() is config
    assert config.gradient_checkpointing is False
    assert "hidden_size" in config
    assert {"vocab_size", "id2label", "dtype"} <= set(config)
    assert config.to_diff_dict() == {**SMALL, "model_type": "bert"}
    assert json.loads(config.to_json_string(use_diff=True)) == {**SMALL, "model_type": "bert"}
    assert getattr(config, "no_such_field", 5) == 5
    assert not hasattr(config, "hidden_sizes")
    with pytest.raises(AttributeError, match="BertConfig has no field 'hidden_sizes'; did you mean 'hidden_size'"):
        _ = config.hidden_sizes
    assert fastbert.BertConfig(hidden_size=30).hidden_size == 30  # a model is refused, as in transformers
    with pytest.raises(ConfigError, match="hidden_size = 30 is not a multiple of num_attention_heads = 12"):
        fastbert.BertModel(fastbert.BertConfig(hidden_size=30))
    config.hidden_act = "mish"
    with pytest.raises(ConfigError, match="hidden_act = 'mish' must be"):
        fastbert.BertModel(config)


def test_a_shallow_copy_has_fields_of_its_own() -> None:
    config = fastbert.BertConfig(pooling="cls", **SMALL)
    other = copy.copy(config)
    other.pooling, other.hidden_size = "mean", 24
    assert (config.pooling, config.hidden_size) == ("cls", 48)


def test_a_configuration_knows_its_files(tmp_path: Path) -> None:
    config = fastbert.BertConfig(**SMALL)
    config.to_json_file(tmp_path / "one.json")
    assert fastbert.BertConfig.from_json_file(tmp_path / "one.json").to_dict() == config.to_dict()
    config.save_pretrained(save_directory=tmp_path / "model" / "inner")
    again = fastbert.BertConfig.from_pretrained(pretrained_model_name_or_path=tmp_path / "model", subfolder="inner")
    assert again.to_dict() == config.to_dict()
    assert again.name_or_path == again._name_or_path == str(tmp_path / "model")
    again, unused = fastbert.BertConfig.from_pretrained(tmp_path / "model", subfolder="inner", return_unused_kwargs=True)
    assert (again.vocab_size, unused) == (101, {})
    for place in ("absent", "../model/inner", "/model/inner"):
        with pytest.raises(CheckpointNotFoundError, match=r"has no folder absent|is not inside"):
            fastbert.BertConfig.from_pretrained(tmp_path / "model", subfolder=place)


# -- loading and saving ------------------------------------------------------------------------------------------------------


def test_parameters_have_transformers_names() -> None:
    for ours, theirs, names in (
        (fastbert.BertModel.from_pretrained, transformers.BertModel.from_pretrained, ["pretrained_model_name_or_path"]),
        (fastbert.BertModel.save_pretrained, transformers.BertModel.save_pretrained, ["save_directory", "is_main_process"]),
        (fastbert.BertModel.resize_token_embeddings, transformers.BertModel.resize_token_embeddings, ["new_num_tokens"]),
        (fastbert.BertConfig.save_pretrained, transformers.BertConfig.save_pretrained, ["save_directory"]),
        (fastbert.BertTokenizer.from_pretrained, transformers.BertTokenizer.from_pretrained, ["pretrained_model_name_or_path"]),
        (fastbert.BertTokenizer.save_pretrained, transformers.BertTokenizer.save_pretrained, ["save_directory"]),
        (fastbert.BertTokenizer.decode, transformers.BertTokenizer.decode, ["token_ids", "skip_special_tokens"]),
    ):
        mine, their = (list(inspect.signature(call).parameters) for call in (ours, theirs))
        assert [name for name in mine if name in names] == [name for name in their if name in names] == names
    for name in CLASSES:
        mine, their = (list(inspect.signature(getattr(kit, name).forward).parameters) for kit in (fastbert, transformers))
        shared = [key for key in their if key in mine and key != "past_key_values"]
        assert shared == [key for key in mine if key in shared]
        assert "kwargs" not in mine
        assert "refused" not in mine
        model = make_pair(name)[0]
        assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())


def test_labels_may_be_passed_by_position() -> None:
    model, _ = make_pair("BertForSequenceClassification")
    batch = ragged([5, 3])
    given = (batch["input_ids"], batch["attention_mask"], None, None, None, torch.tensor([0, 1]))
    assert model(*given).loss == model(*given[:2], labels=given[-1]).loss


def test_keywords_that_change_nothing_are_taken(tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    model.save_pretrained(tmp_path / "all" / "model")
    again = fastbert.BertModel.from_pretrained(
        pretrained_model_name_or_path=tmp_path / "all",
        subfolder="model",
        use_safetensors=True,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        weights_only=True,
        force_download=False,
        torch_dtype=torch.float32,
        device_map="cpu",
        attn_implementation="sdpa",
    )
    assert torch.equal(again(**ragged([5, 3]))[0], model(**ragged([5, 3]))[0])
    assert again.name_or_path == again.config.name_or_path == str(tmp_path / "all")


def test_weights_and_a_configuration_without_a_folder(tmp_path: Path) -> None:
    model, _ = make_pair("BertForMaskedLM")
    again = fastbert.BertForMaskedLM.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(again(**ragged([5, 3]))[0], model(**ragged([5, 3]))[0])
    model.save_pretrained(tmp_path)
    other = fastbert.BertForMaskedLM.from_pretrained(tmp_path, config=str(tmp_path))
    assert torch.equal(other(**ragged([5, 3]))[0], model(**ragged([5, 3]))[0])
    with pytest.raises(InputError, match="None needs both config and state_dict"):
        fastbert.BertForMaskedLM.from_pretrained(None, config=model.config)


def test_other_sizes_are_a_runtime_error(tmp_path: Path) -> None:
    make_pair("BertForSequenceClassification", num_labels=3)[0].save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"classifier.weight: \(3, 48\) in the file, \(5, 48\) in the model") as caught:
        fastbert.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert isinstance(caught.value, SizeMismatchError)
    assert isinstance(caught.value, ValueError)
    ours, theirs = (
        kit.BertForSequenceClassification.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
        )[1]
        for kit in (fastbert, transformers)
    )
    assert set(ours["mismatched_keys"]) == {(n, tuple(a), tuple(b)) for n, a, b in theirs["mismatched_keys"]}
    assert ours["missing_keys"] == set(theirs["missing_keys"])


@pytest.mark.parametrize("size", ["20KB", 20_000])
def test_weights_are_split_into_shards(size: Any, tmp_path: Path) -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size=size)
    shards = sorted(path.name for path in tmp_path.glob("model*.safetensors"))
    assert len(shards) > 2
    assert "model.safetensors" not in shards  # an older file of weights would be read in their place
    for kit in (fastbert, transformers):
        again = kit.BertForMaskedLM.from_pretrained(tmp_path).eval()
        assert worst(again(**ragged([5, 5])).logits, model(**ragged([5, 5])).logits) < 1e-6
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(InputError, match="max_shard_size = 'big'"):
        model.save_pretrained(tmp_path, max_shard_size="big")
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()


def test_weights_are_drawn_once_and_again_when_asked() -> None:
    class Mine(fastbert.BertForSequenceClassification):
        def __init__(self, config: fastbert.BertConfig) -> None:
            super().__init__(config)
            self.more = torch.nn.Linear(8, 8)
            torch.nn.init.constant_(self.more.weight, 7.0)
            self.post_init()

    torch.manual_seed(0)
    model = Mine(fastbert.BertConfig(**SMALL))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.more.weight.std() < 0.1
    model.post_init()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.init_weights()
    after = model.state_dict()
    drawn = [name for name in before if before[name].dim() == 2]
    assert drawn
    assert not any(torch.equal(after[name], before[name]) for name in drawn)
    with torch.device("meta"):
        empty = fastbert.BertForMaskedLM(fastbert.BertConfig(**SMALL))
    empty.to_empty(device="cpu")
    empty.init_weights()
    assert empty.cls.predictions.decoder.weight is empty.get_input_embeddings().weight
    assert (empty.get_input_embeddings().weight[0] == 0).all()  # padding
    assert torch.isfinite(empty.eval()(**ragged([5, 3])).logits).all()


class Own(fastbert.BertForTokenClassification):
    """A user's model: other modules beside BERT's, and a constant of its own."""

    def __init__(self, config: fastbert.BertConfig) -> None:
        super().__init__(config)
        self.lstm = torch.nn.LSTM(48, 24)
        self.batch_norm, self.group_norm = torch.nn.BatchNorm1d(48), torch.nn.GroupNorm(4, 48)
        self.heads = torch.nn.MultiheadAttention(48, 4)
        self.register_buffer("steps", torch.arange(5), persistent=False)
        self.extra = torch.nn.Linear(48, 2)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "extra", None):
            torch.nn.init.constant_(module.weight, 7.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_of_a_users_own_start_save_and_load(dtype: torch.dtype, tmp_path: Path) -> None:
    model = Own(fastbert.BertConfig(**SMALL))
    assert model.lstm.weight_hh_l0.std() > 0.05
    assert model.heads.in_proj_weight.std() > 0.05
    assert (model.batch_norm.weight == 1).all()
    assert (model.group_norm.weight == 1).all()
    assert (model.extra.weight == 7).all()
    model.save_pretrained(tmp_path / "own")
    again = Own.from_pretrained(tmp_path / "own", dtype=dtype)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.to(again.state_dict()[name].dtype)), name
    fastbert.BertModel(fastbert.BertConfig(**SMALL)).save_pretrained(tmp_path / "plain")
    started = Own.from_pretrained(tmp_path / "plain", dtype=dtype)
    assert started.steps.tolist() == [0, 1, 2, 3, 4]
    assert (started.extra.weight == 7).all()
    assert (started.batch_norm.running_var == 1).all()
    assert started.lstm.weight_hh_l0.std() > 0.05
    assert {value.dtype for value in started.parameters()} == {dtype}


def test_what_trainers_ask_of_a_model() -> None:
    ours, theirs = make_pair("BertForMaskedLM")
    assert ours.get_memory_footprint() == sum(p.numel() * 4 for p in ours.parameters())
    assert not ours.can_generate()
    assert not fastbert.BertForMaskedLM.can_generate()
    assert ours.vocab_size == 101
    assert not ours.is_activation_checkpointing
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False}, every_n_layers=2, offload=False)
    assert ours.is_activation_checkpointing
    assert ours.is_gradient_checkpointing
    ours.activation_checkpointing_disable()
    assert not ours.is_gradient_checkpointing
    assert fastbert.BertModel(fastbert.BertConfig(gradient_checkpointing=True, **SMALL)).is_activation_checkpointing
    for model in (ours, theirs):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.enable_input_require_grads()
        assert model(**ragged([5, 3])).logits.requires_grad
        model.disable_input_require_grads()
        assert not model(**ragged([5, 3])).logits.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", CLASSES)
def test_training_without_gradients_repeats_training_with_them(name: str, dropout: float) -> None:
    fields = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, **fields_for(name)}
    model = make_pair(name, hidden_size=64, intermediate_size=256, **fields)[0].train()
    inputs = with_choices(name, ragged([11, 7, 3, 1]))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = model(**inputs)[0]
    assert torch.equal(torch.get_rng_state(), state) == (dropout == 0)
    torch.set_rng_state(state)
    again = model(**inputs)[0]
    assert again.requires_grad
    assert torch.equal(first, again)


# -- libraries around it -----------------------------------------------------------------------------------------------------

LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
TASKS = {
    "feature-extraction": ("BertModel", ["a text", "another and longer text"], {}),
    "fill-mask": ("BertForMaskedLM", ["the [MASK] is red", "a [MASK] and a longer text than that"], {}),
    "text-classification": ("BertForSequenceClassification", ["good", "a bad and longer film"], {}),
    "token-classification": ("BertForTokenClassification", ["John lives in Berlin", "Mary too"], {}),
    "zero-shot-classification": ("BertForSequenceClassification", ["football", "rain again"], {"candidate_labels": ["a", "b"]}),
}


def numbers(value: Any) -> list[Any]:
    """What a pipeline returned as one list, padding of feature extraction left out by the caller."""
    if isinstance(value, dict):
        return [entry for key in sorted(value) for entry in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [entry for part in value for entry in numbers(part)]
    return numbers(value.tolist()) if hasattr(value, "tolist") else [value]


@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.parametrize("task", TASKS)
def test_pipelines_run_single_and_batched(task: str, whose: str, minilm: Path) -> None:
    name, texts, options = TASKS[task]
    ours, theirs = make_pair(name, vocab_size=30522, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
    their_tokenizer = transformers.BertTokenizer.from_pretrained(minilm)
    tokenizer = fastbert.BertTokenizer.from_pretrained(minilm) if whose == "ours" else their_tokenizer
    mine = transformers.pipeline(task, model=ours, tokenizer=tokenizer)
    their = transformers.pipeline(task, model=theirs, tokenizer=their_tokenizer)
    for given in (texts[0], texts):
        for batch_size in (1, 2):
            found, wanted = (run(given, batch_size=batch_size, **options) for run in (mine, their))
            if task == "feature-extraction" and batch_size == 2 and given is texts:
                found, wanted = ([numpy.array(one)[0, : 4 + 2 * i] for i, one in enumerate(every)] for every in (found, wanted))
            found, wanted = numbers(found), numbers(wanted)
            assert len(found) == len(wanted) > 0
            for a, b in zip(found, wanted, strict=True):
                assert a == (b if isinstance(b, str) or b is None else pytest.approx(b, abs=1e-4, rel=1e-4))


def test_weights_may_stay_elsewhere(tmp_path: Path) -> None:
    batch = ragged([5, 3])
    for number, offload in enumerate((accelerate.cpu_offload, lambda m, **k: accelerate.disk_offload(m, tmp_path, **k))):
        model, theirs = make_pair("BertForMaskedLM")
        offload(model, execution_device=torch.device("cpu"))
        assert model.device.type == "meta", number
        assert worst(model(**batch).logits[0], theirs(**batch).logits[0]) < 1e-5
    model, theirs = make_pair("BertForMaskedLM")
    model.save_pretrained(tmp_path / "model")
    with accelerate.init_empty_weights():
        empty = fastbert.BertForMaskedLM(model.config)
    empty.tie_weights()
    filled = accelerate.load_checkpoint_and_dispatch(empty, tmp_path / "model", device_map={"": "cpu"})
    assert worst(filled.eval()(**batch).logits[0], theirs(**batch).logits[0]) < 1e-5


def test_sentence_transformers_takes_our_models(minilm: Path, tmp_path: Path) -> None:
    texts = ["a text", "another text that is much longer", "third"]
    model = SentenceTransformer(str(minilm))
    wanted = model.encode(texts)
    model[0].model = fastbert.BertModel.from_pretrained(minilm)
    assert worst(torch.from_numpy(model.encode(texts)), torch.from_numpy(wanted)) < 1e-5
    model.save_pretrained(str(tmp_path / "st"))
    assert worst(torch.from_numpy(SentenceTransformer(str(tmp_path / "st")).encode(texts)), torch.from_numpy(wanted)) < 1e-5
    pool = model.encode(texts, output_value="token_embeddings")
    assert [len(one) for one in pool] == [4, 8, 3]
    assert model.has_peft_compatible_model()

    tokenizer = transformers.BertTokenizer.from_pretrained(minilm)
    for name in ("BertForSequenceClassification", "BertForMaskedLM"):
        ours, theirs = make_pair(name, vocab_size=30522, num_labels=1 if name != "BertForMaskedLM" else 2)
        theirs.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        pairs = [("a", text) for text in texts]
        if name == "BertForMaskedLM":
            sparse = SparseEncoder(str(tmp_path / name))
            before = sparse.encode(texts).to_dense()
            sparse[0].model = ours
            assert worst(sparse.encode(texts).to_dense(), before) < 1e-4
        else:
            ranker = CrossEncoder(str(tmp_path / name))
            scores = torch.from_numpy(ranker.predict(pairs))
            ranker[0].model = ours
            assert worst(torch.from_numpy(ranker.predict(pairs)), scores) < 1e-4


def test_a_folder_of_another_kind_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "bert"}))
    with pytest.raises(CheckpointError, match="holds none of"):
        fastbert.BertModel.from_pretrained(tmp_path)
    model, _ = make_pair("BertModel")
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
