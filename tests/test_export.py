"""ONNX files of the encoder and of heads: ONNX Runtime gives the model's values at shapes that nobody showed the exporter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from any_tokenizer import folder_of
from conftest import SMALL, make_pair, worst

import fastbert
from fastbert.cli import main
from fastbert.errors import BackendError, InputError
from fastbert.integrations import onnx as exporting
from fastbert.integrations.onnx import export_onnx

MODELS = {
    "BertModel": ("last_hidden_state", "pooler_output"),
    "BertForSequenceClassification": ("logits",),
    "BertForQuestionAnswering": ("start_logits", "end_logits"),
    "BertForMultipleChoice": ("logits",),
    "RobertaForTokenClassification": ("logits",),
    "XLMRobertaForMaskedLM": ("logits",),
}


def model_of(name: str) -> Any:
    if name.startswith("Bert"):
        return make_pair(name, num_hidden_layers=1)[0]
    torch.manual_seed(0)
    fields = {**SMALL, "num_hidden_layers": 1, "pad_token_id": 1, "type_vocab_size": 1, "initializer_range": 0.2}
    config = getattr(fastbert, f"{name.partition('For')[0]}Config")(**fields)
    return getattr(fastbert, name)(config).eval()


# The command exports a fourth head.
THOROUGH = ("BertForSequenceClassification", "BertForMultipleChoice", "XLMRobertaForMaskedLM", "BertForQuestionAnswering")
THOROUGH += ("RobertaForTokenClassification",)  # the command's test exports an XLM-R with a head


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.thorough) if n in THOROUGH else n for n in MODELS])
def test_onnx_runtime_gives_the_models_values(name: str, tmp_path: Path) -> None:
    model = model_of(name).train()
    found = export_onnx(model, tmp_path / "out")
    assert model.training
    assert found.outputs == MODELS[name]
    assert found.error < 1e-5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.onnx"]
    graph = onnx.load(found.path)
    onnx.checker.check_model(graph)
    assert found.opset == graph.opset_import[0].version >= 18
    axes = [[size.dim_param for size in one.type.tensor_type.shape.dim] for one in graph.graph.input]
    assert axes == [["batch", "choices", "length"] if "Choice" in name else ["batch", "length"]] * len(found.inputs)
    session = onnxruntime.InferenceSession(str(found.path))
    for shape in ((4, 19), (1, 3), (7, 2)):
        size = (shape[0], 2, shape[1]) if "Choice" in name else shape
        generator = torch.Generator().manual_seed(sum(shape))
        inputs = {
            "input_ids": torch.randint(2, 101, size, generator=generator),
            "attention_mask": torch.ones(size, dtype=torch.long),
        }
        inputs["attention_mask"][0, ..., shape[1] - 1 :] = 0
        if "token_type_ids" in found.inputs:
            inputs["token_type_ids"] = torch.randint(0, 2, size, generator=generator)
        values = session.run(list(found.outputs), {key: inputs[key].numpy() for key in found.inputs})
        with torch.no_grad():
            wanted = model.eval()(**inputs, return_dict=True)
        shown = inputs["attention_mask"].bool()
        for key, value in zip(found.outputs, map(torch.from_numpy, values), strict=True):
            one = wanted[key]
            by_token = value.shape[: shown.dim()] == shown.shape
            assert worst(value[shown] if by_token else value, one[shown] if by_token else one) < 1e-5, (key, shape)


def test_the_command_writes_what_opens_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "model", tmp_path / "onnx"
    folder_of("unigram", source)
    torch.manual_seed(0)
    fields = {**SMALL, "num_hidden_layers": 1, "pad_token_id": 1, "vocab_size": 500, "max_position_embeddings": 70}
    fastbert.XLMRobertaForSequenceClassification(fastbert.XLMRobertaConfig(**fields, num_labels=3)).save_pretrained(source)
    assert main(["export", "onnx", str(source), "-o", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == "XLMRobertaForSequenceClassification"
    assert found["path"] == f"{out}/model.onnx"
    assert found["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert found["outputs"] == ["logits"]
    values = {**found, "path": Path(found["path"]), "inputs": tuple(found["inputs"]), "outputs": tuple(found["outputs"])}
    printed = str(exporting.Exported(**{name: value for name, value in values.items() if name != "class"}))
    assert printed.startswith(f"{out}/model.onnx: opset ")
    assert "input_ids, attention_mask, token_type_ids -> logits, for any batch size and length; ONNX Runtime " in printed
    tokenizer = fastbert.Tokenizer.from_pretrained(out)
    batch = tokenizer(["a text", "another, longer text"], padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    segments = {"token_type_ids": batch["input_ids"] * 0}
    (scores,) = session.run(None, {**batch, **segments})
    ours = fastbert.XLMRobertaForSequenceClassification.from_pretrained(source)
    wanted = ours(**tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt")).logits
    assert worst(torch.from_numpy(scores), wanted.detach()) < 1e-5


def test_the_page_names_the_limit() -> None:
    page = " ".join((Path(__file__).parents[1] / "docs/integrations.md").read_text(encoding="utf-8").split())
    assert f"a value is further than {exporting.TOLERANCE:g}".replace("e-05", "e-5") in page


def test_what_cannot_be_exported_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = model_of("BertModel"), tmp_path / "out"
    with pytest.raises(InputError, match=r"the model is torch.bfloat16 on cpu: export takes float32 on the CPU"):
        export_onnx(model.to(torch.bfloat16), out)
    model = model_of("BertModel")
    with pytest.raises(InputError, match=r"model is a Linear; export takes the model classes of fastbert"):
        export_onnx(torch.nn.Linear(2, 2), out)  # type: ignore[arg-type]
    monkeypatch.setattr(exporting, "_export", lambda *_: None)
    monkeypatch.setattr(exporting, "_compare", lambda *_: 0.5)
    with pytest.raises(BackendError, match=r"differ by 5.0e-01 \(at most 1e-05\): nothing was written"):
        export_onnx(model, out)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"export needs the package onnxscript: pip install 'fastbert-triton\[onnx\]'"):
        export_onnx(model, out)
    assert not out.exists()
    model.save_pretrained(tmp_path / "m")
    folder_of("bpe", tmp_path / "m")
    assert main(["export", "onnx", str(tmp_path / "m"), "-o", str(out), "--head", "BertForNothing"]) == 2
    assert "--head 'BertForNothing' is not one of BertForMaskedLM, " in capsys.readouterr().err
