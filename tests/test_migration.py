"""docs/migration.md, line by line: everything that it says is different, refused or absent is so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, make_pair, ragged, worst
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastbert
from fastbert import ops
from fastbert.errors import ArgumentError, BackendError, CheckpointError, ConfigError, FastbertError, InputError

PAGE = Path(__file__).parents[1] / "docs/migration.md"
LISTS = ("Different", "Rejected with an error", "Not supported")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##d"]
CASES: dict[str, Callable[[Path], None]] = {}


def case(line: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Decorator of the test of one line, by its bold words."""

    def add(test: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES[line] = test
        return test

    return add


def lines() -> list[str]:
    """The bold words that begin the lines of the three lists."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [key for name in LISTS for key in re.findall(r"^- \*\*(.+?)\*\*: ", sections[name], flags=re.MULTILINE)]


def test_every_line_has_a_test_and_every_test_a_line() -> None:
    assert sorted(lines()) == sorted(CASES)


@pytest.mark.parametrize("line", lines())
def test_the_line_is_true(line: str, tmp_path: Path) -> None:
    CASES[line](tmp_path)


def tokenizer(**settings: Any) -> fastbert.BertTokenizer:
    return fastbert.BertTokenizer(WORDS, **settings)


def refused(kind: type[Exception], message: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(*args, **kwargs)
    assert isinstance(caught.value, FastbertError)


# -- different ---------------------------------------------------------------------------------------------------------------


@case("zeros under the mask")
def _(_: Path) -> None:
    batch = ragged([5, 2])
    padding = ~batch["attention_mask"].bool()
    ours, theirs = make_pair("BertForMaskedLM")
    assert (ours(**batch).logits[padding] == 0).all()
    assert (ours.bert(**batch).last_hidden_state[padding] == 0).all()
    assert (theirs(**batch).logits[padding] != 0).all()


@case("answer scores under the mask")
def _(_: Path) -> None:
    batch = ragged([5, 2])
    out = make_pair("BertForQuestionAnswering")[0](**batch)
    assert (out.start_logits[~batch["attention_mask"].bool()] == torch.finfo(torch.float32).min).all()
    assert worst(out.start_logits.softmax(-1)[1, :2].sum(), torch.tensor(1.0)) < 1e-6


@case("pooling a left-padded row")
def _(_: Path) -> None:
    model, theirs = make_pair("BertModel")
    left, alone = ragged([5, 2], side="left"), {}
    alone = {name: value[1:, 3:] for name, value in left.items()}
    positions = torch.arange(3, 5)[None]
    pooled = model(**left).pooler_output[1:]
    assert worst(pooled, model(**alone, position_ids=positions).pooler_output) < 1e-5
    assert worst(pooled, theirs(**left).pooler_output[1:]) > 1e-3


@case("labels under the mask")
def _(_: Path) -> None:
    batch = ragged([5, 2])
    ours, theirs = make_pair("BertForTokenClassification", num_labels=3)
    labels = torch.ones(2, 5, dtype=torch.long)
    other = labels.masked_fill(~batch["attention_mask"].bool(), 2)
    assert ours(**batch, labels=labels).loss == ours(**batch, labels=other).loss
    assert theirs(**batch, labels=labels).loss != theirs(**batch, labels=other).loss


@case("a fully masked row")
def _(_: Path) -> None:
    batch = ragged([5, 0])
    out = make_pair("BertModel")[0](**batch)
    assert (out.last_hidden_state[1] == 0).all()
    assert (out.pooler_output[1] == 0).all()


@case("scores in training")
def _(_: Path) -> None:
    batch = ragged([5, 2])
    for name in ("BertForMaskedLM", "BertForPreTraining"):
        model = make_pair(name)[0].train()
        key = "logits" if name == "BertForMaskedLM" else "prediction_logits"
        assert getattr(model(**batch, labels=batch["input_ids"]), key) is None
        assert getattr(model(**batch, labels=batch["input_ids"], return_logits=True), key) is not None


@case("rows that a head reads")
def _(_: Path) -> None:
    model, _ = make_pair("BertForSequenceClassification")
    batch, sizes = ragged([5, 2]), []
    real = ops.ffn_join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "ffn_join", lambda x, *args, **rest: (sizes.append(len(x.residual)), real(x, *args, **rest))[1])
        model(**batch)
        model(**batch, output_hidden_states=True)
        model.bert.encoder.layer[-1].register_forward_hook(lambda *_: None)
        model(**batch)
    assert sizes[2::3] == [2, 7, 7], "of the last of three layers"


@case("a loss without labels")
def _(_: Path) -> None:
    ours, theirs = make_pair("BertForMaskedLM")
    batch = ragged([5, 2])
    nothing = torch.full((2, 5), -100)
    assert ours(**batch, labels=nothing).loss == 0
    assert theirs(**batch, labels=nothing).loss.isnan()


@case("one of two pre-training labels")
def _(_: Path) -> None:
    ours, theirs = make_pair("BertForPreTraining")
    batch = ragged([5, 2])
    out = ours(**batch, labels=batch["input_ids"])
    assert out.loss == out.mlm_loss
    assert theirs(**batch, labels=batch["input_ids"]).loss is None


@case("parts of the loss")
def _(_: Path) -> None:
    batch = ragged([5, 2])
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"].bool(), -100)
    out = make_pair("BertForPreTraining")[0](**batch, labels=labels, next_sentence_label=torch.tensor([0, 1]))
    assert out.loss == out.mlm_loss + out.nsp_loss
    assert (out.num_mlm_labels, out.num_nsp_labels) == (7, 2)
    assert "mlm_loss" not in out


@case("dropout")
def _(_: Path) -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged([5])
    found = []
    for model in (ours, ours, theirs):
        torch.manual_seed(3)
        found.append(model.train()(**batch).last_hidden_state)
    assert torch.equal(found[0], found[1])
    assert worst(found[0], found[2]) > 1e-3


@case("the first token of a left-padded row")
def _(_: Path) -> None:
    model, _ = make_pair("BertLMHeadModel")
    left = ragged([5, 2], side="left")
    out = model(**left, labels=left["input_ids"].masked_fill(~left["attention_mask"].bool(), -100))
    assert out.num_mlm_labels == 4 + 1


@case("replaced linears")
def _(_: Path) -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            shapes.append(input.shape)
            return super().forward(input)

    class Rows(nn.Module):
        def forward(self, states: Tensor) -> Tensor:
            shapes.append(states.shape)
            return states

    shapes: list[Any] = []
    model, _ = make_pair("BertForTokenClassification")
    model.bert.encoder.layer[0].attention.self.query = Own(48, 48)
    model.dropout = Rows()
    model(**ragged([5, 2]))
    assert shapes == [(7, 48), (2, 5, 48)]


@case("parts called alone")
def _(_: Path) -> None:
    layer, hidden = make_pair("BertModel")[0].encoder.layer[0], torch.randn(1, 3, 48)
    assert layer(hidden, torch.zeros(1, 1, 1, 3)).shape == hidden.shape
    refused(ArgumentError, "encoder_hidden_states is not supported", layer, hidden, encoder_hidden_states=hidden)
    with pytest.raises(TypeError):
        layer(hidden, None, None)


@case("activations")
def _(_: Path) -> None:
    ours, theirs = make_pair("BertModel", hidden_act="relu")
    assert not hasattr(ours.encoder.layer[0].intermediate, "intermediate_act_fn")
    assert ours.encoder.layer[0].intermediate.hidden_act == "relu"
    assert hasattr(theirs.encoder.layer[0].intermediate, "intermediate_act_fn")


@case("the class itself")
def _(_: Path) -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    model, _ = make_pair("BertModel")
    assert isinstance(model, transformers.PreTrainedModel)
    assert not isinstance(model, transformers.BertModel)
    assert not any(isinstance(part, GradientCheckpointingLayer) for part in model.modules())


@case("attention implementations")
def _(folder: Path) -> None:
    model, _ = make_pair("BertModel")
    model.save_pretrained(folder)
    batch = ragged([5, 2])
    for name in ("eager", "sdpa", "flash_attention_2"):
        again = fastbert.BertModel.from_pretrained(folder, attn_implementation=name)
        assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)


@case("label numbers")
def _(_: Path) -> None:
    assert fastbert.BertConfig(id2label={"0": "x"}, label2id={"x": "0"}).label2id == {"x": 0}


@case("cutting")
def _(folder: Path) -> None:
    made = tokenizer(model_max_length=6)
    made.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    content["padding"]["pad_to_multiple_of"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    again = fastbert.BertTokenizer.from_pretrained(folder)
    assert len(again("a b c a b c").input_ids) == 8
    cut = again("a b c a b c", truncation=True)
    assert (len(cut.input_ids), cut.num_truncated) == (6, [2])


@case("padding to a limit")
def _(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    lengths = []
    for kit in (fastbert, transformers):
        made = kit.BertTokenizer.from_pretrained(folder)
        lengths.append([len(row) for row in made(["a b c d", "a"], padding="max_length", max_length=4).input_ids])
    assert lengths == [[6, 6], [6, 4]]


@case("added tokens")
def _(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({"[X]": 12, "[Y]": 20}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["[X]"]}))
    made = fastbert.BertTokenizer.from_pretrained(folder)
    assert made("[X] [Y]", add_special_tokens=False).input_ids == [12, 20]
    assert made.all_special_tokens[-1] == "[X]"


@case("len(tokenizer)")
def _(folder: Path) -> None:
    made = fastbert.BertTokenizer({**{word: i for i, word in enumerate(WORDS)}, "far": 40})
    assert len(made) == 41


@case("setting a special token")
def _(_: Path) -> None:
    made = tokenizer()
    made.pad_token = "a"
    assert (made.pad_token, made.pad_token_id) == ("a", 5)
    with pytest.raises(InputError, match=r"pad_token = '<pad>' is not in the vocabulary: add_special_tokens"):
        made.pad_token = "<pad>"
    made.add_special_tokens({"pad_token": "<pad>"})
    assert made("a", padding="max_length", max_length=4).input_ids[-1] == made.pad_token_id == 10


@case("left padding and vectors")
def _(_: Path) -> None:
    from fastbert.tasks import Embedder

    model, _ = make_pair("BertModel", vocab_size=len(WORDS))
    right, left = (Embedder(model, tokenizer(padding_side=side)).encode(["a", "a b c d"]) for side in ("right", "left"))
    assert worst(torch.as_tensor(left), torch.as_tensor(right)) < 1e-6


@case("what a checkpoint holds")
def _(folder: Path) -> None:
    model, _ = make_pair("BertModel")
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["pooler.dense.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    assert fastbert.BertModel.from_pretrained(folder).load_report.not_finite == ["pooler.dense.bias"]
    state["pooler.dense.bias"] = state["pooler.dense.bias"].nan_to_num().long()
    save_file(state, folder / "model.safetensors")
    refused(CheckpointError, "pooler.dense.bias is of type torch.int64", fastbert.BertModel.from_pretrained, folder)


@case("untied decoders")
def _(folder: Path) -> None:
    model, _ = make_pair("BertForMaskedLM")
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["cls.predictions.decoder.weight"] = torch.randn(101, 48)
    save_file(state, folder / "model.safetensors")
    again = fastbert.BertForMaskedLM.from_pretrained(folder)
    assert again.load_report.untied == ["cls.predictions.decoder.weight"]
    assert not again.config.tie_word_embeddings


# -- refused -----------------------------------------------------------------------------------------------------------------


@case("cross-attention")
def _(_: Path) -> None:
    refused(ConfigError, "add_cross_attention = True", fastbert.BertConfig, add_cross_attention=True)
    model, batch = make_pair("BertModel")[0], ragged([3])
    for name in ("encoder_hidden_states", "encoder_attention_mask"):
        refused(ArgumentError, f"{name} is not supported", model, **batch, **{name: torch.ones(1, 3, 48)})


@case("a key-value cache")
def _(_: Path) -> None:
    model, batch = make_pair("BertForMaskedLM")[0], ragged([3])
    refused(ArgumentError, "use_cache is not supported", model, **batch, use_cache=True)
    refused(ArgumentError, "past_key_values is not supported", model, **batch, past_key_values=((), ()))
    refused(InputError, "past_key_values has 1 layers; the model has 3", model.bert, **batch, past_key_values=[pair(4)])
    one = [pair(4)] * 2 + [pair(5)]
    refused(InputError, r"keys \(1, 4, 5, 12\) in layer 2; expected \(1, 4, 4, 12\)", model.bert, **batch, past_key_values=one)
    assert torch.isfinite(model.bert(batch["input_ids"], past_key_values=[pair(4)] * 3).last_hidden_state).all()


def pair(length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(1, 4, length, 12), torch.randn(1, 4, length, 12)


@case("head masks and pruned heads")
def _(_: Path) -> None:
    refused(ArgumentError, "head_mask is not supported", make_pair("BertModel")[0], **ragged([3]), head_mask=torch.ones(4))
    refused(ConfigError, "pruned_heads", fastbert.BertConfig, pruned_heads={0: [1]})


@case("relative positions")
def _(_: Path) -> None:
    refused(ConfigError, "position_embedding_type", fastbert.BertConfig, position_embedding_type="relative_key")


@case("other activations")
def _(_: Path) -> None:
    for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"):
        assert torch.isfinite(make_pair("BertModel", hidden_act=name)[0](**ragged([3])).last_hidden_state).all()
    refused(ConfigError, "hidden_act = 'mish' must be", fastbert.BertConfig, hidden_act="mish")


@case("dropout of 1")
def _(_: Path) -> None:
    refused(ConfigError, r"hidden_dropout_prob = 1.0 must be a probability", fastbert.BertConfig, hidden_dropout_prob=1.0)


@case("tracing")
def _(folder: Path) -> None:
    model, batch = make_pair("BertModel")[0], ragged([3, 3])
    advice = r"use torch.export, and torch.onnx.export with dynamo=True"
    refused(BackendError, advice, torch.jit.trace, model, (batch["input_ids"],), strict=False)
    legacy = {"dynamo": False}
    refused(BackendError, advice, torch.onnx.export, model, (batch["input_ids"],), str(folder / "model.onnx"), **legacy)
    program = torch.export.export(model, (batch["input_ids"],), strict=True)
    assert worst(program.module()(batch["input_ids"])[0], model(batch["input_ids"])[0]) < 1e-5


@case("masks of other shapes")
def _(_: Path) -> None:
    model, ids = make_pair("BertModel")[0], torch.ones(2, 6, dtype=torch.long)
    for shape in ((2, 6), (1, 6), (2, 6, 6), (1, 1, 1, 6), (2, 4, 6, 6)):
        assert torch.isfinite(model(ids, torch.ones(shape)).last_hidden_state).all()
    for shape in ((6,), (2, 5), (1, 6, 6), (2, 3, 6, 6)):
        refused(InputError, "attention_mask has shape", model, ids, torch.ones(shape))


@case("an empty batch")
def _(_: Path) -> None:
    for shape in ((0, 5), (2, 0)):
        refused(InputError, "the batch is empty", make_pair("BertModel")[0], torch.ones(shape, dtype=torch.long))


@case("word embeddings that change the number of tokens")
def _(_: Path) -> None:
    class Longer(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return torch.cat([super().forward(input)] * 2, dim=1)

    model, _ = make_pair("BertModel")
    model.set_input_embeddings(Longer(101, 48))
    refused(InputError, "goes in as inputs_embeds", model, **ragged([3]))


@case("ids and labels out of range")
def _(_: Path) -> None:
    model, _ = make_pair("BertForTokenClassification", num_labels=3)
    ids = torch.tensor([[5, 101, 7]])
    refused(InputError, r"input_ids\[0, 1\] = 101", model, ids)
    refused(InputError, r"labels\[0, 2\] = 3", model, ids.clamp(max=100), labels=torch.tensor([[0, 1, 3]]))


@case("unknown keywords")
def _(folder: Path) -> None:
    model, _ = make_pair("BertModel")
    refused(ArgumentError, "did you mean 'attention_mask'", model, ragged([3])["input_ids"], attn_mask=None)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    refused(ConfigError, "got quantise = True", fastbert.BertModel.from_pretrained, folder, quantise=True)
    refused(InputError, "unknown keyword 'lower'", fastbert.BertTokenizer.from_pretrained, folder, lower=True)


@case("other tokenizers")
def _(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    for setting, value in (("tokenizer_class", "BertJapaneseTokenizer"), ("do_basic_tokenize", False)):
        (folder / "tokenizer_config.json").write_text(json.dumps({setting: value}))
        refused(CheckpointError, "is not implemented", fastbert.BertTokenizer.from_pretrained, folder)


@case("another model's checkpoint")
def _(folder: Path) -> None:
    fastbert.BertConfig(**SMALL).save_pretrained(folder)
    save_file({"tensor": torch.ones(3)}, folder / "model.safetensors")
    refused(CheckpointError, "none of the checkpoint's 1 tensors belongs", fastbert.BertModel.from_pretrained, folder)
    refused(ConfigError, "model_type = 'gpt2'", fastbert.BertConfig.from_dict, {"model_type": "gpt2"})


@case("loading on the meta device")
def _(folder: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(folder)
    with torch.device("meta"):
        refused(BackendError, "would give weights without values", fastbert.BertModel.from_pretrained, folder)


@case("several devices")
def _(folder: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(folder)
    assert fastbert.BertModel.from_pretrained(folder, device_map={"": "cpu"}).device.type == "cpu"
    both = {"embeddings": "cpu", "encoder": "cuda:0"}
    refused(InputError, "names no single device", fastbert.BertModel.from_pretrained, folder, device_map=both)


# -- absent ------------------------------------------------------------------------------------------------------------------


@case("generation")
def _(_: Path) -> None:
    model, _ = make_pair("BertLMHeadModel")
    assert not model.can_generate()
    assert not hasattr(model, "generate")


@case("chat templates")
def _(folder: Path) -> None:
    tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    made = fastbert.BertTokenizer.from_pretrained(folder)
    assert made.chat_template is None
    made.save_pretrained(folder / "again")
    assert not (folder / "again" / "chat_template.jinja").exists()


@case("text_target")
def _(_: Path) -> None:
    with pytest.raises(TypeError, match="text_target"):
        tokenizer()("a", text_target="b")


@case("prepare_for_model")
def _(_: Path) -> None:
    assert not hasattr(tokenizer(), "prepare_for_model")


@case("other frameworks")
def _(_: Path) -> None:
    refused(InputError, "return_tensors = 'tf' is not 'pt', 'np' or None", tokenizer(), "a", return_tensors="tf")


@case("quantization_config")
def _(folder: Path) -> None:
    make_pair("BertModel")[0].save_pretrained(folder)
    given = {"quantization_config": {"load_in_8bit": True}}
    refused(ConfigError, "quantization_config", fastbert.BertModel.from_pretrained, folder, **given)
