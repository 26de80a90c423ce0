"""The model on a CUDA device, against the same model on the CPU. `pytest -m gpu` runs these."""

from __future__ import annotations

import pytest
import torch
from conftest import CLASSES, make_pair, ragged, worst

import fastbert
from fastbert.errors import InputError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:fastbert runs"),
]
LENGTHS = [11, 5, 8, 1]


def batch_for(name: str) -> dict[str, torch.Tensor]:
    batch = ragged(LENGTHS)
    return {key: value.view(2, 2, -1) for key, value in batch.items()} if name == "BertForMultipleChoice" else batch


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_equals_the_cpu(name: str) -> None:
    model, _ = make_pair(name)
    batch = batch_for(name)
    with torch.no_grad():
        expected = model(**batch)
        model.cuda()
        found = model(**{key: value.cuda() for key, value in batch.items()})
    for key in expected.keys():
        assert worst(found[key].cpu(), expected[key]) < 1e-4, key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_float32(dtype: torch.dtype) -> None:
    model, _ = make_pair("BertModel", initializer_range=0.05)
    batch = fastbert.pack(**ragged(LENGTHS))
    with torch.no_grad():
        expected = model(batch).last_hidden_state
        found = model.to("cuda", dtype)(batch.to("cuda")).last_hidden_state.float().cpu()
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.999


def test_training_step_has_the_gradients_of_the_cpu() -> None:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, _ = make_pair("BertForPreTraining", **off)
    batch = ragged(LENGTHS)
    batch = {**batch, "labels": batch["input_ids"].clone(), "next_sentence_label": torch.tensor([0, 1, 1, 0])}
    gradients = []
    for device in ("cpu", "cuda"):
        model.to(device).train()
        model.zero_grad()
        model(**{key: value.to(device) for key, value in batch.items()}).loss.backward()
        gradients.append([p.grad.cpu().clone() for p in model.parameters()])
    assert max(worst(a, b) for a, b in zip(*gradients, strict=True)) < 1e-3


def test_dropout_follows_the_seed() -> None:
    model, _ = make_pair("BertModel")
    model.cuda().train()
    batch = fastbert.pack(**ragged(LENGTHS)).to("cuda")
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(model(batch).last_hidden_state.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("packed", [False, True])
def test_out_of_range_ids_raise_and_leave_the_device_alive(packed: bool) -> None:
    model, _ = make_pair("BertModel")
    model.cuda()
    ids = torch.full((2, 5), 500)
    batch = fastbert.pack(ids).to("cuda") if packed else ids.cuda()
    with pytest.raises(InputError, match="= 500 is outside the vocabulary"):
        model(batch)
    torch.cuda.synchronize()
    assert model(torch.ones(1, 3, dtype=torch.long, device="cuda")).last_hidden_state.isfinite().all()


def test_a_missing_kernel_is_said_once() -> None:
    from fastbert import ops

    ops._warned.clear()
    model, _ = make_pair("BertModel")
    with pytest.warns(UserWarning, match="without a kernel") as caught:
        model.cuda()(torch.ones(1, 3, dtype=torch.long, device="cuda"))
    assert len([w for w in caught if "without a kernel" in str(w.message)]) == 1
