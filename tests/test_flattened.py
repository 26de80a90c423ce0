"""Flattened batches, as other libraries make them, are packed ones; and our own collator trains classifiers without padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, make_pair, worst
from torch import Tensor

import fastbert
from fastbert.errors import InputError

LENGTHS = [9, 4, 1, 12]
TOKENS = sum(LENGTHS)
NEW = int(transformers.__version__.split(".")[0]) > 4


def examples(labels: str = "none") -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(2, 101, (length,), generator=generator).tolist() for length in LENGTHS]
    marks = {"none": None, "one": [0, 1, 1, 0], "tokens": [[i % 2 for i in row] for row in rows]}[labels]
    return [{"input_ids": row, **({} if marks is None else {"labels": marks[i]})} for i, row in enumerate(rows)]


def padded(rows: list[dict[str, Any]], padding: int = 0) -> dict[str, Tensor]:
    width = max(LENGTHS)
    ids = torch.tensor([row["input_ids"] + [padding] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).long()}


def flattened(kind: str, rows: list[dict[str, Any]], start: int = 0) -> dict[str, Any]:
    """What collators hand to a model: ours, and transformers' in its forms."""
    if kind == "ours":
        return fastbert.FlatteningCollator()(rows)
    options = {"cu_seq_lens": {"return_flash_attn_kwargs": True}, "seq_idx": {"return_seq_idx": True}, "positions": {}}[kind]
    made = dict(transformers.DataCollatorWithFlattening(return_tensors="pt", **options)(rows))
    made.pop("labels", None)
    made["position_ids"] = made["position_ids"] + start
    return made


@pytest.mark.parametrize("kind", ["ours", "cu_seq_lens", "seq_idx", "positions"])
@pytest.mark.parametrize(
    "name", ["BertModel", "BertForTokenClassification", "BertForMaskedLM", "BertForSequenceClassification"]
)
def test_a_flattened_batch_gives_what_a_padded_one_gives(name: str, kind: str) -> None:
    model, _ = make_pair(name)
    inputs = padded(examples())
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**inputs, output_hidden_states=True)
        got = model(**flattened(kind, examples()), output_hidden_states=True)
        in_tuple = model(**flattened(kind, examples()), return_dict=False)
    assert got.keys() == wanted.keys()
    assert isinstance(in_tuple, tuple)
    assert torch.equal(in_tuple[0], got[0])
    for key in wanted:
        pairs = zip(got[key], wanted[key], strict=True) if key == "hidden_states" else [(got[key], wanted[key])]
        for ours, theirs in pairs:
            if theirs.shape[:2] == real.shape:
                assert ours.shape == (1, TOKENS, *theirs.shape[2:])
                ours, theirs = ours[0], theirs[real]
            assert worst(ours, theirs) < 1e-5, key


def test_losses_and_gradients_are_those_of_padding() -> None:
    for name, labels in (("BertForSequenceClassification", "one"), ("BertForTokenClassification", "tokens")):
        model, _ = make_pair(name)
        rows = examples(labels)
        inputs = padded(rows)
        if labels == "one":
            inputs["labels"] = torch.tensor([row["labels"] for row in rows])
        else:
            inputs["labels"] = torch.full((4, max(LENGTHS)), -100)
            inputs["labels"][inputs["attention_mask"].bool()] = torch.tensor([mark for row in rows for mark in row["labels"]])
        found = []
        for given in (inputs, fastbert.FlatteningCollator()(rows)):
            model.zero_grad()
            loss = model.train()(**given).loss
            loss.backward()
            found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
            if given is inputs:  # once more, now without dropout
                model.zero_grad()
                loss = model(**given).loss
                loss.backward()
                found[0] = (loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert worst(found[1][0], found[0][0]) < 1e-5
        assert worst(found[1][1], found[0][1]) < 1e-4


@pytest.mark.skipif(not NEW, reason="models of transformers 4 pass no such arguments on")
@pytest.mark.parametrize("kind", ["ours", "cu_seq_lens", "seq_idx"])
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_patched_models_take_them(family: str, kind: str) -> None:
    fields: dict[str, Any] = {**SMALL, "initializer_range": 0.2}
    if family == "Roberta":
        fields["pad_token_id"] = 1
    if family == "DistilBert":
        fields = {"vocab_size": 101, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}
    config = getattr(transformers, f"{family}Config")(**fields)
    padding = config.pad_token_id
    for head in ("Model", "ForSequenceClassification", "ForTokenClassification"):
        torch.manual_seed(0)
        model = fastbert.patch(getattr(transformers, f"{family}{head}")(config).eval())
        inputs = padded(examples(), padding)
        real = inputs["attention_mask"].bool()
        given = flattened(kind, examples(), padding + 1 if family == "Roberta" else 0)
        with torch.no_grad():
            wanted, got = model(**inputs)[0], model(**given)[0]
        if wanted.shape[:2] == real.shape:
            got, wanted = got[0], wanted[real]
        assert worst(got, wanted) < 1e-5, head
        assert fastbert.explain(model, **given).tokens == TOKENS


@pytest.mark.skipif(not NEW, reason="models of transformers 4 pass no such arguments on")
@pytest.mark.parametrize("library", ["fastbert", pytest.param("transformers", marks=pytest.mark.thorough)])
def test_trainer_trains_a_classifier_without_padding(library: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields = {**SMALL, "num_labels": 2, "num_hidden_layers": 2}
    if library == "fastbert":
        model: Any = fastbert.BertForSequenceClassification(fastbert.BertConfig(**fields))
    else:
        model = fastbert.patch(transformers.BertForSequenceClassification(transformers.BertConfig(**fields)))
    generator = torch.Generator().manual_seed(1)
    rows = []
    for i in range(64):
        label = i % 2
        length = int(torch.randint(3, 20, (1,), generator=generator))
        ids = torch.randint(10, 50, (length,), generator=generator) + 50 * label
        rows.append({"input_ids": ids.tolist(), "labels": label})
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, per_device_eval_batch_size=6, num_train_epochs=12, learning_rate=2e-3,
        report_to=[], disable_tqdm=True, save_strategy="no", use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=fastbert.FlatteningCollator(),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    trainer.train()
    assert trainer.predict(rows).predictions.shape == (64, 2)
    assert trainer.evaluate()["eval_accuracy"] > 0.95


def test_what_is_no_flattened_batch_stays_as_it_was() -> None:
    model, theirs = make_pair("BertModel")
    ids = torch.randint(2, 101, (1, 8), generator=torch.Generator().manual_seed(1))
    plain, zeros, mixed, later = torch.arange(8), torch.zeros(8), torch.tensor([0, 1, 2, 5, 6, 3, 2, 1]), torch.arange(3, 11)
    for positions in (row[None].long() for row in (plain, zeros, mixed, later)):
        with torch.no_grad():
            assert worst(model(ids, position_ids=positions)[0], theirs(ids, position_ids=positions)[0]) < 1e-5
    two, positions = ids.view(2, 4), torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    with torch.no_grad():
        assert worst(model(two, position_ids=positions)[0], theirs(two, position_ids=positions)[0]) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 9, 27], dtype=torch.int32)}, "rise from 0 to the 26 tokens; it is"),
        ({"cu_seq_lens_q": torch.tensor([0, 9, 4, 26], dtype=torch.int32)}, "rise from 0 to the 26 tokens"),
        ({"cu_seq_lens_q": torch.tensor([0.0, 26.0])}, "cu_seq_lens_q"),
        ({"cu_seq_lens_k": torch.tensor([0, 26], dtype=torch.int32)}, "cu_seq_lens_k differs"),
        ({"attention_mask": torch.zeros(1, TOKENS)}, "no padding to mask"),
        ({"token_type_ids": torch.zeros(1, 3).long()}, r"token_type_ids has shape \(1, 3\); expected \(1, 26\)"),
        ({"input_ids": torch.ones(2, 13).long()}, "all its tokens in one row"),
        ({"max_length_q": 5}, "max_length_q = 5 is no number, or below the longest sequence"),
        ({"max_length_q": "x"}, "max_length_q = 'x' is no number"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    model, _ = make_pair("BertModel")
    with pytest.raises(InputError, match=message):
        model(**{**fastbert.FlatteningCollator()(examples()), **change})


def test_the_collator_refuses_what_does_not_fit() -> None:
    collator = fastbert.FlatteningCollator(separate=True)
    labels = collator([{"input_ids": [5, 6, 7], "labels": [1, 2, 3]}, {"input_ids": [8], "labels": [4]}])["labels"]
    assert labels.tolist() == [[-100, 2, 3, -100]]
    assert collator([{"input_ids": torch.tensor([5]), "label": 0.5}])["labels"].dtype == torch.float32
    assert collator([{"input_ids": [5, 6, 7], "labels": [0.0, 1.0]}])["labels"].shape == (1, 2)
    with pytest.raises(InputError, match=r"examples\[1\] has 2 labels and 1 input_ids"):
        collator([{"input_ids": [5], "labels": [1]}, {"input_ids": [5], "labels": [1, 2]}])
    with pytest.raises(InputError, match=r"examples\[0\] has no input_ids"):
        collator([{"input_ids": []}])
    with pytest.raises(InputError, match="examples is empty"):
        collator([])
    with pytest.raises(InputError, match="label of the examples are no numbers"):
        collator([{"input_ids": [1, 2], "label": "a"}])


def test_the_collator_leaves_padding_out() -> None:
    padded_one = {
        "input_ids": [5, 6, 0, 0],
        "attention_mask": [1, 1, 0, 0],
        "labels": [1, 0, -100, -100],
        "token_type_ids": [0, 1, 0, 0],
    }
    batch = fastbert.FlatteningCollator()([padded_one, {**padded_one, "attention_mask": [0, 1, 1, 0]}])
    assert batch["input_ids"].tolist() == [[5, 6, 6, 0]]
    assert batch["labels"].tolist() == [[1, 0, 0, -100]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1, 0]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 2, 4]


@pytest.mark.parametrize("kind", ["sdpa", "flash"])
def test_positions_alone_flatten_a_patched_model_only_where_flash_attention_runs(kind: str) -> None:
    """With PyTorch's attention transformers lets such a row attend as a whole."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SMALL)).eval()
    ids, positions = torch.arange(5, 11)[None], torch.tensor([[0, 1, 2, 0, 1, 2]])
    with torch.no_grad():
        wanted = model(ids, position_ids=positions)
        fastbert.patch(model)
        if kind == "flash":
            model.config._attn_implementation_internal = "flash_attention_2"
        got = model(ids, position_ids=positions)
    assert got.pooler_output.shape == ((2, 48) if kind == "flash" else (1, 48))
    if kind == "sdpa":
        assert worst(got.last_hidden_state, wanted.last_hidden_state) < 1e-5
