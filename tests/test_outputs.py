"""What a forward returns: an ordered dict of the fields that are present, which libraries rebuild, cast and flatten."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
import transformers
from accelerate.utils import convert_to_fp32
from conftest import CLASSES, fields_for, labels_for, make_pair, ragged, with_choices, worst
from torch.utils import _pytree

import fastbert
from fastbert.model.outputs import BertModelOutput, MaskedLMOutput, PreTrainingOutput


@pytest.mark.parametrize("name", CLASSES)
def test_an_output_is_an_ordered_dict_and_transformers_kind(name: str) -> None:
    ours, theirs = make_pair(name, **fields_for(name))
    batch = ragged([11, 11, 11, 11])
    inputs = {**with_choices(name, batch), **labels_for(name, batch), "output_hidden_states": True}
    out, their = ours(**inputs), theirs(**inputs)
    assert isinstance(out, dict)
    assert isinstance(out, OrderedDict)
    assert isinstance(out, Mapping)
    assert isinstance(out, transformers.utils.ModelOutput)
    assert list(out) == list(their)
    assert [*out.values()] == [*out.to_tuple()]
    assert dict(**out).keys() == dict(**their).keys()
    assert out[0] is next(iter(out.values()))
    assert out[:2] == out.to_tuple()[:2]
    assert next(path for path, _ in _pytree.tree_flatten_with_path(out)[0])[0] == _pytree.GetAttrKey(next(iter(out)))


def test_entries_and_attributes_are_one() -> None:
    out = MaskedLMOutput(logits=torch.ones(2))
    out["loss"] = torch.tensor(1.0)
    assert out.loss == out["loss"] == 1
    assert list(out) == ["loss", "logits"]  # at its place, whenever it was set
    out.loss = None
    assert list(out) == ["logits"]
    out["mine"] = 3
    assert (out.mine, list(out)) == (3, ["logits", "mine"])
    out.update(hidden_states=(torch.ones(1),))
    assert list(out) == ["logits", "hidden_states", "mine"] or list(out) == ["logits", "mine", "hidden_states"]
    takes = (out.pop, out.clear, out.popitem, out.setdefault, out.__delitem__)
    for take in takes:
        with pytest.raises(TypeError, match="nothing is taken out of a MaskedLMOutput"):
            take("logits")
    assert out.get("attentions") is None
    with pytest.raises(KeyError):
        out["attentions"]


def test_libraries_rebuild_it() -> None:
    out = PreTrainingOutput(loss=torch.tensor(1.0), prediction_logits=torch.ones(2), nsp_loss=torch.tensor(2.0))
    for made in (
        type(out)(dict(out)),
        type(out)((key, value) for key, value in out.items()),
        type(out)(**out),
        copy.copy(out),
        copy.deepcopy(out),
        out.copy(),
        pickle.loads(pickle.dumps(out)),
    ):
        assert type(made) is PreTrainingOutput
        assert list(made) == ["loss", "prediction_logits"]
        assert made.loss == 1
    assert copy.deepcopy(out).nsp_loss == 2
    empty = type(out)()
    for key, value in out.items():
        empty[key] = value
    assert list(empty) == list(out)
    half = BertModelOutput(last_hidden_state=torch.ones(2, dtype=torch.float16), hidden_states=(torch.ones(1).half(),))
    whole = convert_to_fp32(half)
    assert (type(whole), whole.last_hidden_state.dtype, whole.hidden_states[0].dtype) == (BertModelOutput, *[torch.float32] * 2)
    lone = BertModelOutput(last_hidden_state=torch.ones(2, 3))
    assert _pytree.tree_map(lambda value: value.numpy(), lone).last_hidden_state.shape == (2, 3)
    assert _pytree.tree_map(str, lone)[0].startswith("tensor")
    assert list(BertModelOutput([("last_hidden_state", 1), ("pooler_output", 2)])) == ["last_hidden_state", "pooler_output"]
    doubled = _pytree.tree_map(lambda value: value * 2, out)
    assert (doubled.loss, doubled.nsp_loss) == (2, 4)


@pytest.mark.parametrize("strict", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_exported_programs_return_it_for_any_shape(strict: bool) -> None:
    model, _ = make_pair("BertForSequenceClassification", num_hidden_layers=1)
    batch = ragged([9, 4, 6])
    sizes = {0: torch.export.Dim("batch", min=2, max=16), 1: torch.export.Dim("length", min=2, max=40)}
    names = ("input_ids", "attention_mask")
    program = torch.export.export(
        model, (), {name: batch[name] for name in names}, dynamic_shapes=dict.fromkeys(names, sizes), strict=strict
    )
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    other = ragged([17, 30, 2, 5, 8], seed=1)
    out = torch.export.load(saved).module()(**{name: other[name] for name in names})
    wanted = model(**{name: other[name] for name in names})
    assert type(out) is type(wanted)
    assert torch.allclose(out.logits, wanted.logits, atol=1e-5)


def run_alone(program: str) -> str:
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return found.stdout.strip()


def test_transformers_is_not_loaded_and_becomes_a_base_once_it_is_for_threads_that_join_at_once() -> None:
    program = """
import sys, threading, torch, fastbert
config = fastbert.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
model = fastbert.BertModel(config).eval()
out = model(torch.ones(1, 3, dtype=torch.long))
made = fastbert.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
assert "transformers" not in sys.modules and isinstance(out, dict) and not hasattr(model, "generation_config")
import transformers
sys.setswitchinterval(1e-6)
errors = []
def work():
    try:
        fastbert.BertModel(fastbert.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=0, num_attention_heads=2))
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors
other, again = model(torch.ones(1, 3, dtype=torch.long)), fastbert.BertModel(config)
fastbert.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
assert isinstance(model, transformers.PreTrainedModel) and isinstance(out, transformers.utils.ModelOutput)
assert isinstance(made, transformers.PreTrainedTokenizerBase)
assert type(again) is type(model)
assert torch.equal(out[0], other[0]) and made("a").input_ids == [2, 5, 3]
print(next(base.__name__ for base in type(model).__mro__ if not base.__module__.startswith("fastbert.")))
"""
    assert run_alone(program) == "PreTrainedModel"


def test_a_half_imported_transformers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbert import interop

    class Common:
        pass

    class Base(Common):
        pass

    @interop.joins("a_module_that_comes_later", "Base")
    class Mine(Common):
        pass

    monkeypatch.setitem(sys.modules, "a_module_that_comes_later", type(sys)("a_module_that_comes_later"))
    interop.join(Mine)
    assert Mine.__bases__ != (Base,)
    sys.modules["a_module_that_comes_later"].Base = Base  # type: ignore[attr-defined]
    interop.join(Mine)
    assert Mine.__bases__ == (Base,)


def test_compiled_models_return_it() -> None:
    model, _ = make_pair("BertForMaskedLM", num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    out = compiled(**ragged([5, 3]))
    assert isinstance(out, MaskedLMOutput)
    assert list(out) == ["logits"]
    for lengths, left in (([9, 4, 2], "token_type_ids"), ([6, 5, 1], "")):
        batch = {name: value for name, value in ragged(lengths).items() if name != left}
        out = compiled(**batch)  # with an input that no graph before had, beside sizes that are symbols by now
        shown = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        assert worst(out.logits[shown], model(**batch).logits[shown]) < 1e-5


def test_data_parallel_and_static_graphs_see_inside() -> None:
    model, _ = make_pair("BertModel")
    out = model(**ragged([5, 3]))
    gathered = type(out)((key, torch.cat([out[key], out[key]])) for key in out)
    assert gathered.last_hidden_state.shape[0] == 4
    assert fastbert.BertModel.__name__ == "BertModel"
