"""Copies of weights never outlive the weights: after any edit, through any task, results are those of a model loaded anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pair
from task_cases import save_encoder, save_head, tokenizer
from torch import nn

import fastbert
from fastbert import tasks
from fastbert.ops import onednn

TEXTS = ["the cat runs in paris", "a red dog"]
PAIRS = [("the cat", "a dog runs"), ("paris", "is red")]
# What people run, and the scores to compare.
TASKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Embedder": ("BertModel", lambda task: task.encode(TEXTS)),
    "Classifier": ("BertForSequenceClassification", lambda task: [r["score"] for r in task.predict(TEXTS, top_k=1)]),
    "NLI": ("BertForSequenceClassification", lambda task: [r["score"] for r in task.predict(PAIRS)]),
    "MultipleChoice": ("BertForMultipleChoice", lambda task: task.predict([("the", ["cat", "dog", "paris"])])[0]["scores"]),
    "TokenTagger": (
        "BertForTokenClassification",
        lambda task: [e["score"] for t in task.predict(TEXTS, aggregation="none") for e in t],
    ),
    "QuestionAnswerer": (
        "BertForQuestionAnswering",
        lambda task: [r["score"] for r in task.predict([("where ?", TEXTS[0])], top_k=3)[0]],
    ),
    "FillMask": ("BertForMaskedLM", lambda task: [r["score"] for r in task.predict(["the [MASK] runs"])[0]]),
    "NextSentence": ("BertForNextSentencePrediction", lambda task: [r["next"] for r in task.predict(PAIRS)]),
}


def loaded(name: str, folder: Path) -> Any:
    kind, _ = TASKS[name]
    fields = {"num_labels": 3} if name in ("Classifier", "NLI", "TokenTagger") else {}
    if name == "Embedder":
        save_encoder(folder)
    else:
        names = ["entailment", "neutral", "contradiction"]
        save_head(folder, kind, **fields, **({"id2label": dict(enumerate(names))} if fields else {}))
    return getattr(tasks, name).from_pretrained(folder, "cpu")


def edit_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def replace_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.1


def train_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=True)
    out = model(torch.tensor([[[2, 7, 8, 3]]] if "Choice" in type(model).__name__ else [[2, 7, 8, 3]]))
    sum(value.float().pow(2).sum() for value in out.to_tuple() if isinstance(value, torch.Tensor)).backward()
    optimizer.step()


def to_half_and_back(model: nn.Module) -> None:
    model.half()
    model.float()
    edit_data(model)


def swap(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in list(model.parameters()):
            torch.utils.swap_tensors(parameter, nn.Parameter(parameter.detach() * 1.1))


def replace_linears(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, copy.deepcopy(child))
                edit_data(getattr(module, name))


class Adapter(nn.Module):
    """A low-rank addition to a linear, merged by editing its data, as PEFT's `merge_and_unload` does."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def merge_adapters(model: nn.Module) -> None:
    torch.manual_seed(1)
    found = [(m, n) for m in model.modules() for n in ("query", "value") if type(getattr(m, n, None)) is nn.Linear]
    for module, name in found:
        setattr(module, name, Adapter(getattr(module, name)))
    model(torch.tensor([[[2, 7, 3]]] if "Choice" in type(model).__name__ else [[2, 7, 3]]))
    for module, name in found:
        adapter = getattr(module, name)
        adapter.base.weight.data += adapter.up.weight.data @ adapter.down.weight.data
        setattr(module, name, adapter.base)


EDITS = [edit_data, replace_data, train_a_step, to_half_and_back, swap, replace_linears, merge_adapters]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_never_uses_weights_that_are_gone(name: str, edit: Callable[[nn.Module], None], tmp_path: Path) -> None:
    task, run = loaded(name, tmp_path), TASKS[name][1]
    before = np.asarray(run(task), dtype=np.float64)
    edit(task.model)
    task.model.eval()
    after = np.asarray(run(task), dtype=np.float64)
    task.model = copy.deepcopy(task.model)  # nothing of a copy can be kept anywhere
    assert np.allclose(after, np.asarray(run(task), dtype=np.float64), atol=1e-6)
    assert before.shape != after.shape or not np.allclose(before, after, atol=1e-6)


def test_nothing_is_prepacked_unasked(tmp_path: Path) -> None:
    embedder = loaded("Embedder", tmp_path)
    embedder.encode(TEXTS)
    assert not any(parameter in onednn._prepacked for parameter in embedder.model.parameters())


def test_an_address_that_is_used_again_is_another_weight() -> None:
    model, _ = make_pair("BertModel", hidden_size=64, intermediate_size=64)
    batch = fastbert.pack([[2, 7, 8, 3]])
    for number in range(30):
        fastbert.prepack(model.eval())
        model.half()
        model.float()
        with torch.no_grad():
            for layer in model.encoder.layer:
                layer.output.dense.weight.data = layer.output.dense.weight.data * (
                    1.5 - number % 2
                )  # may land where the old ones were
            kept = model(batch).last_hidden_state
            assert torch.allclose(kept, copy.deepcopy(model)(batch).last_hidden_state, atol=1e-5)


def test_the_embedder_of_a_tokenizer_in_hand_is_not_changed() -> None:
    cased = fastbert.BertTokenizer(list(tokenizer().get_vocab()), do_lower_case=False)
    model, _ = make_pair("BertModel", vocab_size=len(cased))
    embedder = tasks.Embedder(model, cased, do_lower_case=True)
    assert cased("The")["input_ids"] != embedder.tokenizer("The")["input_ids"] == cased("the")["input_ids"]
