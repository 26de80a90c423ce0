"""`fastbert.patch`: transformers' own models give the same numbers by fastbert as without it, and lose nothing by it."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, worst
from torch import Tensor, nn

import fastbert
from fastbert.errors import BackendError, InputError
from fastbert.integrations.patched import PatchedForward

FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {**SMALL},
    "Roberta": {**SMALL, "pad_token_id": 1, "type_vocab_size": 1},
    "XLMRoberta": {**SMALL, "pad_token_id": 1},
    "Camembert": {**SMALL, "pad_token_id": 1},
    "Electra": {**SMALL, "embedding_size": 24},
    "DistilBert": {
        **{name: SMALL[name] for name in ("vocab_size", "max_position_embeddings")},
        "dim": 48,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 80,
    },
}
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
]
MODELS = [f"{family}{head}" for family in FAMILIES for head in HEADS]
MODELS += ["BertForPreTraining", "BertForNextSentencePrediction", "BertLMHeadModel", "ElectraForPreTraining"]
LENGTHS = (12, 7, 1, 4)


def family_of(name: str) -> str:
    return next(family for family in sorted(FAMILIES, key=len, reverse=True) if name.startswith(family))


def model_of(name: str, dropout: float = 0.0, **fields: Any) -> Any:
    """A model of transformers in training mode, with biases and LayerNorms away from 0 and 1."""
    family = family_of(name)
    torch.manual_seed(0)
    drops = (
        ("dropout", "attention_dropout") if family == "DistilBert" else ("hidden_dropout_prob", "attention_probs_dropout_prob")
    )
    values = {"initializer_range": 0.2, **FAMILIES[family], **dict.fromkeys((*drops, "classifier_dropout"), dropout), **fields}
    if name == "BertLMHeadModel":
        values.update(is_decoder=True, use_cache=False)
    model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    for part in model.modules():  # those that heads have fields of their own for
        if isinstance(part, nn.Dropout):
            part.p = dropout
    return model.train()


def inputs_of(name: str, model: Any, lengths: tuple[int, ...] = LENGTHS, side: str = "right") -> dict[str, Tensor]:
    """A padded batch with a hole in a mask, and labels."""
    generator = torch.Generator().manual_seed(1)
    size, width = len(lengths), max(lengths)
    columns, count = torch.arange(width).expand(size, width), torch.tensor(lengths)[:, None]
    mask = columns < count if side == "right" else columns >= width - count
    if lengths == LENGTHS:
        mask = mask & ~((columns == 3) & (count == 7))
    ids = torch.randint(2, 101, (size, width), generator=generator).where(mask, model.config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    marks = torch.randint(0, 2, (size, width), generator=generator).masked_fill(~mask, -100)
    labels: dict[str, dict[str, Tensor]] = {
        "ForMaskedLM": {"labels": marks},
        "BertLMHeadModel": {"labels": marks},
        "ForTokenClassification": {"labels": marks},
        "ElectraForPreTraining": {"labels": marks},
        "ForSequenceClassification": {"labels": marks[:, 0]},
        "ForNextSentencePrediction": {"labels": marks[:, 0]},
        "ForQuestionAnswering": {"start_positions": marks[:, 0], "end_positions": marks[:, 0]},
        "ForMultipleChoice": {"labels": marks[: size // 2, 0]},
        "BertForPreTraining": {"labels": marks, "next_sentence_label": marks[:, 0]},
    }
    if "ForMultipleChoice" in name:
        inputs = {key: value.view(size // 2, 2, width) for key, value in inputs.items()}
    return {**inputs, **next((found for ending, found in labels.items() if name.endswith(ending)), {})}


def outcome(model: Any, inputs: dict[str, Tensor], **asked: Any) -> tuple[Any, dict[str, Tensor]]:
    """The output, and the gradients of its loss, or of random weights of its states at real tokens."""
    model.zero_grad()
    output = model(**inputs, **asked)
    loss = output.loss if "loss" in output else None
    if loss is None:
        states, mask = output[0], inputs["attention_mask"]
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2)) * mask[..., None]
        loss = (states * weights).sum()
        if output.get("pooler_output") is not None:
            loss = loss + (output.pooler_output * weights[:, 0]).sum()
    loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@contextmanager
def said(*reasons: str) -> Iterator[None]:
    """Checks that exactly these reasons are given for running transformers' own forward."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    texts = [str(one.message) for one in found if "own forward" in str(one.message)]
    assert len(texts) == len(reasons), texts
    for text, reason in zip(texts, reasons, strict=True):
        assert text.startswith(reason), texts


def tokens_run(model: Any, inputs: dict[str, Tensor]) -> int:
    return fastbert.explain(model, **inputs).tokens


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], limit: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = max(float(theirs[name].abs().max()), 1e-2)
        assert float((ours[name] - theirs[name]).abs().max()) < limit * scale, name


# -- the same numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_outputs_losses_and_gradients_are_those_of_the_unpatched(name: str) -> None:
    model = model_of(name)
    inputs = inputs_of(name, model)
    wanted, gradients = outcome(model, inputs, output_hidden_states=True)
    patched = fastbert.patch(model)
    assert patched is model
    reasons = ["a head whose softmax covers padding"] if "QuestionAnswering" in name else []
    reasons += ["a decoder's mask with holes"] if "LMHead" in name else []
    with said(*reasons):
        got, found = outcome(model, inputs, output_hidden_states=True)
    assert type(got) is type(wanted)
    assert got.keys() == wanted.keys()
    mask = inputs["attention_mask"].view(-1, inputs["attention_mask"].shape[-1]).bool()
    for key in wanted:
        values = zip(got[key], wanted[key], strict=True) if key == "hidden_states" else [(got[key], wanted[key])]
        for ours, theirs in values:
            real = mask if ours.shape[:2] == mask.shape else ...
            assert worst(ours[real], theirs[real]) < 1e-5, key
    assert_alike(found, gradients, 1e-3)
    if not reasons:
        assert tokens_run(model, inputs) == int(mask.sum())


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("BertForQuestionAnswering", (9, 9)), ("RobertaForQuestionAnswering", (9, 9)), ("BertLMHeadModel", (9, 5, 2))],
)
def test_what_heads_read_decides_what_is_run_packed(name: str, lengths: tuple[int, ...]) -> None:
    model = model_of(name)
    inputs = inputs_of(name, model, lengths)
    wanted, gradients = outcome(model, inputs)
    with said():
        got, found = outcome(fastbert.patch(model), inputs)
    assert worst(got.loss, wanted.loss) < 1e-5
    assert_alike(found, gradients, 1e-3)
    assert tokens_run(model, inputs) == sum(lengths)


@pytest.mark.parametrize("name", ["BertModel", "RobertaForSequenceClassification", "DistilBertForMaskedLM"])
def test_left_padding_is_left_to_transformers(name: str) -> None:
    model = model_of(name)
    inputs = inputs_of(name, model, (12, 7, 1), side="left")
    wanted, gradients = outcome(model, inputs)
    fastbert.patch(model)
    with said("a mask that starts with padding"):
        for _ in range(2):  # said once
            got, found = outcome(model, inputs)
    assert torch.equal(got[0], wanted[0])
    assert_alike(found, gradients, 1e-6)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_inputs_that_people_pass(family: str) -> None:
    """No mask, positions of one's own, word embeddings, a tuple, positional arguments, a token that is the padding id."""
    model = model_of(f"{family}Model").eval()
    ids = torch.randint(2, 101, (3, 8), generator=torch.Generator().manual_seed(4))
    ids[1, 4] = model.config.pad_token_id
    embeds = model.get_input_embeddings()(ids).detach()
    mask = torch.ones(3, 8)
    mask[2, 5:] = 0
    positions = torch.arange(10, 18)[None]
    cases: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((ids,), {}),
        ((ids, mask.bool()), {}),
        ((), {"inputs_embeds": embeds, "attention_mask": mask}),
        ((ids,), {"return_dict": False}),
        ((), {"input_ids": ids.int(), "attention_mask": mask.long(), "output_hidden_states": True}),
    ]
    if int(transformers.__version__.split(".")[0]) > 4:
        cases += [((ids, mask), {"output_hidden_states": which}) for which in (1, [-1, 0])]
    if family != "DistilBert":
        cases.append(((), {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}))
    if "position_ids" in inspect.signature(model.forward).parameters:  # DistilBERT's in transformers 5
        cases.append(((), {"input_ids": ids, "attention_mask": mask, "position_ids": positions}))
    wanted = [model(*args, **kwargs) for args, kwargs in cases]
    fastbert.patch(model)
    with said():
        for (args, kwargs), theirs in zip(cases, wanted, strict=True):
            ours = model(*args, **kwargs)
            assert type(ours) is type(theirs)
            if kwargs.get("output_hidden_states"):
                assert [one is None for one in ours.hidden_states] == [one is None for one in theirs.hidden_states]
            real = (kwargs.get("attention_mask", args[1] if len(args) > 1 else torch.ones(3, 8)) != 0) & True
            assert worst(ours[0][real], theirs[0][real]) < 1e-5


def test_a_padding_id_inside_a_text_gets_no_gradient_in_the_position_table() -> None:
    model = model_of("RobertaModel")
    inputs = inputs_of("RobertaModel", model, (9, 9))
    inputs["input_ids"][0, 4] = 1
    _, gradients = outcome(model, inputs)
    _, found = outcome(fastbert.patch(model), inputs)
    assert_alike(found, gradients, 1e-3)
    assert not found["embeddings.position_embeddings.weight"][1].any()


@pytest.mark.parametrize("act", ["gelu_new", "gelu_pytorch_tanh", "relu", "silu", "gelu_fast"])
def test_other_activations(act: str) -> None:
    model = model_of("BertModel", hidden_act=act)
    inputs = inputs_of("BertModel", model)
    wanted, gradients = outcome(model, inputs)
    with said():
        got, found = outcome(fastbert.patch(model), inputs)
    real = inputs["attention_mask"].bool()
    assert worst(got[0][real], wanted[0][real]) < 1e-5
    assert_alike(found, gradients, 1e-3)


def test_half_precision_and_autocast() -> None:
    model = model_of("BertModel").eval()
    inputs = inputs_of("BertModel", model)
    real = inputs["attention_mask"].bool()
    exact = model(**inputs)[0][real]
    with torch.autocast("cpu", torch.bfloat16):
        theirs = model(**inputs)[0][real]
        ours = fastbert.patch(model)(**inputs)[0][real]
    assert ours.dtype == theirs.dtype
    assert worst(ours, exact) < 2 * worst(theirs, exact) + 1e-3
    fastbert.unpatch(model)
    theirs = model.to(torch.bfloat16)(**inputs)[0][real]
    ours = fastbert.patch(model)(**inputs)[0][real]
    assert ours.dtype == torch.bfloat16
    assert worst(ours.float(), exact) < 2 * worst(theirs.float(), exact) + 1e-3


# -- training -----------------------------------------------------------------------------------------------------------------


def test_dropout_is_drawn_and_repeats_from_a_seed() -> None:
    model = fastbert.patch(model_of("RobertaForSequenceClassification", dropout=0.3))
    inputs = inputs_of("RobertaForSequenceClassification", model)

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(**inputs).logits.detach()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    first = logits(1)
    with torch.no_grad():  # gradient caching runs a batch without gradients, and again with them
        assert torch.equal(first, logits(1))


def test_dropout_of_every_site_has_its_share() -> None:
    """The variance over seeds of one output is transformers' own: a site that is forgotten, or one too many, shows."""
    model = model_of("DistilBertModel", dropout=0.2)
    inputs = inputs_of("DistilBertModel", model, (6, 6))

    def spread() -> Tensor:
        with torch.no_grad():
            return torch.stack([model(**inputs)[0] for _ in range(400)]).var(0).mean()

    theirs = spread()
    ours = spread() if fastbert.patch(model) else theirs
    assert abs(float(ours / theirs) - 1) < 0.05


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_transformers_own(reentrant: bool) -> None:
    model = fastbert.patch(model_of("BertForSequenceClassification", dropout=0.2))
    inputs = inputs_of("BertForSequenceClassification", model)
    for part in (model.bert.embeddings, model):
        part.dropout.p = 0.0  # drawn by torch, in another order
    torch.manual_seed(3)
    _, gradients = outcome(model, inputs)
    runs: list[str] = []
    model.bert.encoder.layer[1].output.dense.register_forward_hook(lambda *_: runs.append("run"))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.manual_seed(3)
    with said():
        _, found = outcome(model, inputs)
    assert len(runs) == 2
    assert_alike(found, gradients, 1e-4)


def test_an_adapter_is_trained_and_merged() -> None:
    peft = pytest.importorskip("peft")
    model = fastbert.patch(model_of("BertForSequenceClassification"))
    config = peft.LoraConfig(target_modules=["query", "value", "output.dense", "word_embeddings"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    inputs = inputs_of("BertForSequenceClassification", model)
    with said():
        got, found = outcome(adapted, inputs)
    assert tokens_run(adapted, inputs) == int(inputs["attention_mask"].sum())
    fastbert.unpatch(adapted)
    wanted, gradients = outcome(adapted, inputs)
    assert worst(got.logits, wanted.logits) < 1e-5
    assert_alike(found, gradients, 1e-3)
    assert all("default" in name for name in gradients)
    merged = fastbert.patch(adapted.merge_and_unload().eval())
    with torch.no_grad():
        assert worst(merged(**inputs).logits, wanted.logits) < 1e-5


# -- what stays transformers' -------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_unpatch() -> None:
    model = model_of("BertForSequenceClassification").eval()
    inputs = inputs_of("BertForSequenceClassification", model)
    states = {id(part): dict(part.__dict__) for part in model.modules()}
    wanted = model(**inputs).logits
    fastbert.patch(fastbert.patch(model))  # twice is once
    assert not torch.equal(model(**inputs).logits, wanted) or tokens_run(model, inputs)
    assert fastbert.unpatch(model) is model
    fastbert.unpatch(model)
    assert torch.equal(model(**inputs).logits, wanted)
    assert {id(part): dict(part.__dict__) for part in model.modules()} == states


def test_copies_files_and_state_are_as_ever(tmp_path: Path) -> None:
    model = model_of("RobertaForMaskedLM").eval()
    inputs = inputs_of("RobertaForMaskedLM", model)
    names = list(model.state_dict())
    logits = fastbert.patch(model)(**inputs).logits
    assert list(model.state_dict()) == names
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        forward = other.roberta.__dict__["forward"]
        assert isinstance(forward, PatchedForward)
        assert forward.module is other.roberta  # and not the first model
        assert torch.equal(other(**inputs).logits, logits)
        with torch.no_grad():
            other.roberta.embeddings.LayerNorm.weight.mul_(2)
        assert not torch.equal(other(**inputs).logits, logits)
        assert torch.equal(model(**inputs).logits, logits)
    model.save_pretrained(tmp_path)
    assert "fastbert" not in (tmp_path / "config.json").read_text()
    again = fastbert.patch(transformers.RobertaForMaskedLM.from_pretrained(tmp_path).eval())
    assert torch.equal(again(**inputs).logits, logits)
    model.resize_token_embeddings(120)
    inputs["input_ids"][0, 0] = 119
    assert model(**inputs).logits.shape[-1] == 120


def test_hooks_see_the_padded_form() -> None:
    model = fastbert.patch(model_of("BertModel").eval())
    inputs = inputs_of("BertModel", model)
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda module, given, out: seen.update({name: tuple((out if isinstance(out, Tensor) else out[0]).shape)})

    leaves = {"dense": model.encoder.layer[1].output.dense, "norm": model.encoder.layer[0].attention.output.LayerNorm}
    leaves |= {"pooler": model.pooler, "word": model.embeddings.word_embeddings, "model": model}
    handles = [part.register_forward_hook(note(name)) for name, part in leaves.items()]
    with said():
        model(**inputs)
    assert seen == {"dense": (4, 12, 48), "norm": (4, 12, 48), "pooler": (4, 48), "word": (4, 12, 48), "model": (4, 12, 48)}
    for handle in handles:
        handle.remove()
    model.encoder.layer[2].register_forward_hook(note("layer"))
    with said("a hook on encoder.layer.2"):
        model(**inputs)
        model(**inputs)
    assert seen["layer"] == (4, 12, 48)


def test_calls_that_fastbert_does_not_serve() -> None:
    model = model_of("BertModel", attn_implementation="eager").eval()
    inputs = inputs_of("BertModel", model)
    square = inputs["attention_mask"][:, :, None] * inputs["attention_mask"][:, None, :]
    if int(transformers.__version__.split(".")[0]) > 4:  # before, a mask for each head was refused
        square = (square[:, None] != 0) | torch.eye(12).bool()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("output_attentions", {**inputs, "output_attentions": True}),
        ("an attention mask that is not", {**inputs, "attention_mask": square}),
        ("a mask with values other than 0 and 1", {**inputs, "attention_mask": inputs["attention_mask"] * 2.0}),
    ]
    for reason, given in cases:
        wanted = model(**given)
        fastbert.patch(model)
        with said(reason):
            got = model(**given)
        assert torch.equal(got[0], wanted[0])
        assert got.keys() == wanted.keys()
        with said():
            assert tokens_run(model, inputs) == int(inputs["attention_mask"].sum())
        fastbert.unpatch(model)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        fastbert.patch(model)()


def test_a_decoder_with_a_cache_is_left_to_transformers() -> None:
    model = fastbert.patch(model_of("BertLMHeadModel").eval())
    inputs = inputs_of("BertLMHeadModel", model)
    with said("a key-value cache"):
        assert model.bert(inputs["input_ids"], inputs["attention_mask"], use_cache=True).past_key_values is not None


def test_compiled_models_are_transformers_own() -> None:
    model = model_of("BertModel", num_hidden_layers=1).eval()
    inputs = inputs_of("BertModel", model)
    wanted = model(**inputs)[0]
    compiled = torch.compile(fastbert.patch(model), backend="eager", fullgraph=True)
    with said():
        assert torch.equal(compiled(**inputs)[0], wanted)


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_models_that_are_not_known_are_refused() -> None:
    class Mine(transformers.BertModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    config = transformers.BertConfig(**SMALL)
    for model in (nn.Linear(2, 2), fastbert.BertModel(fastbert.BertConfig(**SMALL)), Mine(config), "a name"):
        with pytest.raises(InputError, match="BertModel, RobertaModel|neither a torch module"):
            fastbert.patch(model)
    with pytest.raises(InputError, match="not patched"):
        fastbert.explain(transformers.BertModel(config), input_ids=torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(BackendError, match="'fast' is not one of"):
        fastbert.patch(transformers.BertModel(config), backend="fast")


def test_a_difference_is_found_and_the_model_left_alone() -> None:
    model = model_of("BertForMaskedLM")
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn.act = torch.relu
    with pytest.raises(BackendError, match=r"bert: hidden states by fastbert and by transformers differ by"):
        fastbert.patch(model)
    assert "forward" not in model.bert.__dict__
    assert model.training
    fastbert.patch(model, validate=False)


def test_an_encoder_that_something_has_wrapped_is_refused_and_one_wrapped_later_stays_patched() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    model = model_of("BertModel").eval()
    inputs = inputs_of("BertModel", model)
    wanted = model(**inputs)[0]
    add_hook_to_module(model, ModelHook())
    with pytest.raises(InputError, match="BertModel has a forward of its own, as accelerate and autocast put in: patch before"):
        fastbert.patch(model)
    remove_hook_from_module(model)
    model.__dict__.pop("forward", None)  # accelerate leaves the class's own there
    fastbert.patch(model)
    add_hook_to_module(model, ModelHook())
    fastbert.patch(model, backend="reference")  # finds the forward inside
    assert model._old_forward.backend == "reference"
    fastbert.unpatch(model)
    assert torch.equal(model(**inputs)[0], wanted)
    remove_hook_from_module(model)
    assert not any(isinstance(value, PatchedForward) for value in model.__dict__.values())


def test_models_that_score_masked_tokens_keep_their_states() -> None:
    """As ColBERT does, whose queries are filled up with [MASK] that nobody attends to."""
    model = model_of("BertModel").eval()
    inputs = inputs_of("BertModel", model)
    wanted = model(**inputs)[0]
    holder = nn.Sequential(model)
    holder.query_expansion = {"attend": False}
    fastbert.patch(holder)
    with said("a head whose softmax covers padding"):
        assert torch.equal(model(**inputs)[0], wanted)


def test_segments_for_all_rows_at_once() -> None:
    model = model_of("BertModel").eval()
    inputs = {"input_ids": torch.randint(2, 101, (2, 6)), "token_type_ids": torch.tensor([0, 0, 1, 1, 1, 0])}
    wanted = model(**inputs)[0]
    with said():
        assert worst(fastbert.patch(model)(**inputs)[0], wanted) < 1e-5


def test_ids_out_of_range_are_named() -> None:
    model = fastbert.patch(model_of("BertModel"))
    with pytest.raises(InputError, match=r"input_ids\[0, 1\] = 101 is outside the vocabulary"):
        model(torch.tensor([[1, 101, 2]]))


# -- the backend --------------------------------------------------------------------------------------------------------------


def test_kernels_run_under_the_backend_of_a_patch() -> None:
    fields = {"hidden_size": 64, "num_hidden_layers": 1}
    model = model_of("BertModel", **fields).eval()
    inputs = inputs_of("BertModel", model, (5, 2))
    wanted = model(**inputs)[0]
    fastbert.patch(model, backend="triton")
    assert {row[3] for row in fastbert.explain(model, **inputs).rows if row[0] != "linear"} == {"triton"}
    got = model(**inputs)[0]
    real = inputs["attention_mask"].bool()
    assert worst(got[real], wanted[real]) < 1e-4
    fastbert.patch(model, backend="reference")
    assert {row[3] for row in fastbert.explain(model, **inputs).rows} == {"reference"}


def test_prepacked_weights_serve_a_patched_model() -> None:
    model = fastbert.prepack(fastbert.patch(model_of("DistilBertModel").eval()))
    inputs = inputs_of("DistilBertModel", model)
    with torch.no_grad():
        packed = model(**inputs)[0]
        fastbert.unpatch(model)
        real = inputs["attention_mask"].bool()
        assert worst(packed[real], model(**inputs)[0][real]) < 1e-5


# -- inside other libraries ---------------------------------------------------------------------------------------------------


def test_sentence_transformers_and_cross_encoders(minilm: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    texts = ["One text.", "Another one, which is rather longer than the first.", "Three"] * 3
    model = SentenceTransformer(str(minilm), device="cpu")
    wanted = model.encode(texts)
    with said():
        assert worst(torch.from_numpy(fastbert.patch(model).encode(texts)), torch.from_numpy(wanted)) < 1e-5
    model.save(str(tmp_path / "saved"))
    assert torch.equal(
        torch.from_numpy(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts)), torch.from_numpy(wanted)
    )
    cross = CrossEncoder(str(minilm), num_labels=1, device="cpu")
    pairs = [(texts[0], texts[1]), (texts[1], texts[2] * 9), (texts[2], texts[0])]
    wanted = cross.predict(pairs)
    with said():
        assert worst(torch.from_numpy(fastbert.patch(cross).predict(pairs)), torch.from_numpy(wanted)) < 1e-5


def test_pipelines(minilm: Path) -> None:
    pipe = transformers.pipeline("feature-extraction", model=str(minilm), device="cpu")
    wanted = pipe("A text for a pipeline.")
    assert worst(torch.tensor(fastbert.patch(pipe)("A text for a pipeline.")), torch.tensor(wanted)) < 1e-5
    assert isinstance(pipe.model.__dict__["forward"], PatchedForward)
