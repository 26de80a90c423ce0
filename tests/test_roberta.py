"""RoBERTa and XLM-R: every head against transformers' from the same files, positions, limits, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, worst
from torch import Tensor

import fastbert
from fastbert.errors import ConfigError, InputError

FAMILIES = ("Roberta", "XLMRoberta")
HEADS = (
    "Model",
    "ForMaskedLM",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
MODELS = [family + head for family in FAMILIES for head in HEADS]
FIELDS: dict[str, Any] = {**SMALL, "pad_token_id": 1, "type_vocab_size": 1, "initializer_range": 0.2}
LENGTHS = (11, 5, 8, 1)


def model_of(name: str, **fields: Any) -> Any:
    """A model of transformers without dropout, with biases and LayerNorms away from 0 and 1."""
    torch.manual_seed(0)
    values = {**FIELDS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **fields}
    if name.endswith("ForCausalLM"):
        values.update(is_decoder=True, use_cache=False)
    config = getattr(transformers, f"{name[: name.index('Roberta') + 7]}Config")(**values)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def pair_of(name: str, folder: Path, **fields: Any) -> tuple[Any, Any]:
    """A model of ours with the weights of a model of transformers, read from its files; and that model."""
    theirs = model_of(name, **fields)
    theirs.save_pretrained(folder)
    return getattr(fastbert, name).from_pretrained(folder), theirs


def inputs_of(name: str, side: str = "right", lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """A padded batch, and labels."""
    generator = torch.Generator().manual_seed(1)
    size, width = len(lengths), max(lengths)
    columns, count = torch.arange(width).expand(size, width), torch.tensor(lengths)[:, None]
    mask = columns < count if side == "right" else columns >= width - count
    ids = torch.randint(2, 101, (size, width), generator=generator).where(mask, 1)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    marks = torch.randint(0, 2, (size, width), generator=generator).masked_fill(~mask, -100)
    ones = torch.ones(size, dtype=torch.long)
    labels: dict[str, dict[str, Tensor]] = {
        "ForMaskedLM": {"labels": marks},
        "ForCausalLM": {"labels": marks},
        "ForSequenceClassification": {"labels": ones},
        "ForTokenClassification": {"labels": marks},
        "ForQuestionAnswering": {"start_positions": ones * 0, "end_positions": ones * 0},
        "ForMultipleChoice": {"labels": torch.tensor([1, 0])},
    }
    if name.endswith("ForMultipleChoice"):
        inputs = {key: value.view(2, 2, width) for key, value in inputs.items()}
    return {**inputs, **next((one for head, one in labels.items() if name.endswith(head)), {})}


def real(output: Any, key: str, mask: Tensor) -> Tensor:
    """An output without what stands at padding, where only transformers computes something."""
    value = output[key].detach()
    return value[mask.bool()] if value.shape[:2] == mask.shape and mask.dim() == 2 and value.dim() > 1 else value


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_every_head_equals_transformers_with_loss_and_gradients(name: str, side: str, tmp_path: Path) -> None:
    if side == "left" and (name.endswith(("Model", "ForCausalLM")) or "Sequence" in name or "Choice" in name):
        side = "right"  # transformers' heads read the first column
    ours, theirs = pair_of(name, tmp_path)
    batch = inputs_of(name, side)
    if name.endswith("ForQuestionAnswering"):  # whose softmax covers padding there
        batch = inputs_of(name, lengths=(9, 9))
    a, b = ours(**batch), theirs(**batch)
    for key in a:
        if isinstance(a[key], Tensor):
            assert worst(real(a, key, batch["attention_mask"]), real(b, key, batch["attention_mask"])) < 1e-5, key
    for output in (a, b):
        (
            output.loss if "loss" in output else output.last_hidden_state[batch["attention_mask"].bool()].square().mean()
        ).backward()
    wanted = dict(theirs.named_parameters(remove_duplicate=False))
    assert set(wanted) == set(dict(ours.named_parameters(remove_duplicate=False)))
    for key, parameter in ours.named_parameters():
        if wanted[key].grad is None:
            assert parameter.grad is None or not parameter.grad.any(), key
        else:
            assert worst(parameter.grad, wanted[key].grad) < 1e-5, key


@pytest.mark.parametrize("name", MODELS)
def test_ragged_lists_and_packed_batches_give_what_padding_gives(name: str, tmp_path: Path) -> None:
    ours, _ = pair_of(name, tmp_path)
    batch = inputs_of(name)
    batch = {key: value for key, value in batch.items() if key in ("input_ids", "attention_mask")}
    flat = {key: value.view(-1, value.shape[-1]) for key, value in batch.items()}
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(flat["input_ids"], flat["attention_mask"], strict=True)]
    rows[1][2] = 1  # the padding token inside a text has no position of its own
    flat["input_ids"][1, 2] = 1
    packed = fastbert.pack(rows)
    choices = {"num_choices": 2} if "Choice" in name else {}
    with torch.no_grad():
        a, b = ours(**batch), ours(packed, **choices)
        again = ours(packed, **choices)
    for key in a:
        if isinstance(a[key], Tensor):
            wanted = real(a, key, batch["attention_mask"])
            assert worst(wanted.reshape(b[key].shape), b[key]) < 1e-5, key
            assert torch.equal(b[key], again[key])


def test_a_fully_masked_row_is_classified_as_zeros(tmp_path: Path) -> None:
    model, _ = pair_of("RobertaForSequenceClassification", tmp_path)
    batch = {name: inputs_of("RobertaForSequenceClassification")[name] for name in ("input_ids", "attention_mask")}
    batch["attention_mask"][2] = 0
    batch["input_ids"][2] = 1
    with torch.no_grad():
        wanted = model.classifier(torch.zeros(1, model.config.hidden_size))
        assert worst(model(**batch).logits[2:3], wanted) < 1e-6
        compiled = torch.compile(model, fullgraph=True, backend="eager")(**batch).logits
        assert worst(compiled, model(**batch).logits) < 1e-5


def test_positions_follow_ids_masks_and_what_is_given(tmp_path: Path) -> None:
    ours, theirs = pair_of("RobertaModel", tmp_path)
    batch = inputs_of("RobertaModel", "left")
    mask = batch["attention_mask"].bool()
    holes = {**batch, "attention_mask": batch["attention_mask"] * (torch.arange(11) != 8)}
    embeds = ours.get_input_embeddings()(batch["input_ids"])
    explicit = torch.arange(4, 15).expand(4, 11)
    cases: list[dict[str, Any]] = [
        batch,
        holes,
        {"inputs_embeds": embeds, "attention_mask": batch["attention_mask"]},
        {**batch, "position_ids": explicit},
        {"input_ids": batch["input_ids"]},
    ]
    for case in cases:
        shown = case.get("attention_mask", torch.ones_like(mask)).bool()
        with torch.no_grad():
            a, b = ours(**case).last_hidden_state, theirs(**case).last_hidden_state
        assert worst(a[shown], b[shown]) < 1e-5, sorted(case)
        with torch.no_grad():
            alone = ours.embeddings(**{name: value for name, value in case.items() if name != "attention_mask"})
            other = theirs.embeddings(**{name: value for name, value in case.items() if name != "attention_mask"})
        assert worst(alone, other) < 1e-5, sorted(case)
    counted = {**batch, "position_ids": "from_mask"}
    with torch.no_grad():
        assert torch.equal(ours(**counted).last_hidden_state, ours(**batch).last_hidden_state)


def test_keys_before_the_tokens_shift_their_positions(tmp_path: Path) -> None:
    ours, theirs = pair_of("RobertaModel", tmp_path, is_decoder=True, use_cache=True)
    ids = torch.randint(2, 101, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        cache = theirs(ids[:, :4], use_cache=True).past_key_values
        pairs = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
        whole = theirs(ids, use_cache=False).last_hidden_state
        after = ours(ids[:, 4:], past_key_values=pairs, attention_mask=torch.ones(2, 9, dtype=torch.long)).last_hidden_state
    assert worst(after, whole[:, 4:]) < 1e-5


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "XLMRobertaForSequenceClassification", "RobertaForMultipleChoice"])
def test_what_is_saved_opens_in_transformers(name: str, tmp_path: Path) -> None:
    theirs = getattr(transformers, name)
    values = {**FIELDS, "num_labels": 3}
    config = getattr(fastbert, f"{name[: name.index('For')]}Config")(**values)
    torch.manual_seed(5)
    ours = getattr(fastbert, name)(config)
    ours.save_pretrained(tmp_path)
    opened, report = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert opened.config.architectures == [name]
    batch = {key: value for key, value in inputs_of(name).items() if key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mask = batch["attention_mask"]
        assert worst(real(ours.eval()(**batch), "logits", mask), real(opened.eval()(**batch), "logits", mask)) < 1e-5
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), type(ours).from_pretrained(tmp_path)):
        assert torch.equal(copied(**batch).logits, ours(**batch).logits)


def test_the_decoder_is_tied_and_grows_with_the_vocabulary(tmp_path: Path) -> None:
    model, _ = pair_of("RobertaForMaskedLM", tmp_path)
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    assert model.lm_head.decoder.bias is model.lm_head.bias
    model.resize_token_embeddings(120)
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    assert model(**inputs_of("RobertaForMaskedLM")).logits.shape[-1] == 120
    encoder = fastbert.RobertaModel.from_pretrained(tmp_path, add_pooling_layer=False)  # a head's file
    assert not encoder.load_report.missing
    head = fastbert.RobertaForTokenClassification.from_pretrained(tmp_path)
    assert sorted(head.load_report.missing) == ["classifier.bias", "classifier.weight"]


def test_hooks_see_what_transformers_shows_them(tmp_path: Path) -> None:
    for name, place in (("RobertaForSequenceClassification", "classifier"), ("RobertaForMaskedLM", "lm_head")):
        ours, theirs = pair_of(name, tmp_path / name)
        batch = inputs_of(name)
        seen: list[Tensor] = []
        for model in (ours, theirs):
            getattr(model, place).register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].detach()))
            with torch.no_grad():
                model(**batch)
        assert seen[0].shape == seen[1].shape
        shown = batch["attention_mask"].bool()
        assert worst(seen[0][shown], seen[1][shown]) < 1e-5


def test_dropout_and_checkpointing_train(tmp_path: Path) -> None:
    """Bits of two trainings from one seed, of which one computes its layers again."""
    losses = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = fastbert.RobertaForSequenceClassification(fastbert.RobertaConfig(**FIELDS)).train()
        if recomputes:
            model.gradient_checkpointing_enable()
        torch.manual_seed(1)
        loss = model(**inputs_of("RobertaForSequenceClassification")).loss
        loss.backward()
        losses.append((float(loss.detach()), [p.grad for p in model.parameters()]))
    assert losses[0][0] == losses[1][0]
    assert all(torch.equal(a, b) for a, b in zip(losses[0][1], losses[1][1], strict=True) if a is not None)


def test_the_last_position_is_used_and_one_more_is_refused(tmp_path: Path) -> None:
    ours, theirs = pair_of("RobertaModel", tmp_path)
    assert ours.config.longest_sequence == 38
    ids = torch.full((1, 38), 7)
    with torch.no_grad():
        assert worst(ours(ids).last_hidden_state, theirs(ids).last_hidden_state) < 1e-5
    for longer in (torch.full((1, 39), 7), fastbert.pack([[7] * 39])):
        with pytest.raises(InputError, match=r"the input is longer than the position table: position_ids\[.*38\] = 40"):
            ours(longer)


def test_families_are_not_mixed_up(tmp_path: Path) -> None:
    pair_of("RobertaModel", tmp_path)
    with pytest.raises(ConfigError, match=r"model_type = 'roberta' is not 'bert': the classes that begin with Roberta run it"):
        fastbert.BertModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'roberta' is not 'xlm-roberta': the classes that begin with Roberta run it"):
        fastbert.XLMRobertaModel(fastbert.RobertaConfig(**FIELDS))
    with pytest.raises(ConfigError, match=r"'bert' is not 'roberta': the classes that begin with Bert run it"):
        fastbert.RobertaModel(fastbert.BertConfig(**SMALL))
    with pytest.raises(ConfigError, match=r"'t5' is not 'bert': fastbert runs bert, roberta, xlm-roberta"):
        fastbert.BertConfig.from_dict({"model_type": "t5"})
    with pytest.raises(ConfigError, match=r"pad_token_id = None: RoBERTa counts its positions from"):
        fastbert.RobertaModel(fastbert.RobertaConfig(**{**FIELDS, "pad_token_id": None}))
    with pytest.raises(ConfigError, match=r"max_position_embeddings = 2 leaves no position"):
        fastbert.RobertaModel(fastbert.RobertaConfig(**{**FIELDS, "max_position_embeddings": 2}))


@pytest.mark.parametrize("family", FAMILIES)
def test_configurations_have_transformers_defaults(family: str) -> None:
    ours, theirs = getattr(fastbert, f"{family}Config")(), getattr(transformers, f"{family}Config")()
    wanted = theirs.to_dict()
    for name, value in ours.to_dict().items():
        if name in wanted and name not in ("dtype", "architectures"):
            assert value == wanted[name] or name in ("id2label", "label2id"), name
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


def test_parameters_are_counted() -> None:
    for name in ("RobertaModel", "RobertaForMaskedLM", "XLMRobertaForSequenceClassification", "RobertaForTokenClassification"):
        config = getattr(fastbert, f"{name.partition('For')[0].removesuffix('Model')}Config")(**FIELDS)
        counted = fastbert.count_parameters(config, name)
        assert counted.total == getattr(fastbert, name)(config).num_parameters(), name
        assert counted.head == name
        assert "the paper" not in counted.table()


def test_the_model_compiles_to_one_graph_and_runs_on_kernels(tmp_path: Path) -> None:
    ours, _ = pair_of("RobertaForSequenceClassification", tmp_path, hidden_size=64)
    batch = inputs_of("RobertaForSequenceClassification")
    with torch.no_grad():
        plain = ours(**batch).logits
        compiled = torch.compile(ours, fullgraph=True, backend="eager")(**batch).logits
        with fastbert.backend("triton"):
            kernels = ours(**batch).logits
    assert worst(compiled, plain) < 1e-5
    assert worst(kernels, plain) < 1e-4


def test_flattened_batches_count_anew(tmp_path: Path) -> None:
    ours, _ = pair_of("RobertaModel", tmp_path)
    rows = [[5, 6, 7], [8, 9, 10, 11]]
    flat = torch.tensor([[*rows[0], *rows[1]]])
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    with torch.no_grad():
        a = ours(input_ids=flat, cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=4, max_length_k=4)
        b = ours(fastbert.pack(rows))
    assert torch.equal(a.last_hidden_state[0], b.last_hidden_state)
