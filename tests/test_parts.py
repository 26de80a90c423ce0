"""The parts of a model by themselves: called alone, watched by hooks, replaced, and hidden states that are held on to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CLASSES, fields_for, labels_for, make_pair, ragged, with_choices, worst
from torch import Tensor, nn

import fastbert
from fastbert import packing
from fastbert.errors import ArgumentError
from fastbert.model.encoder import BertLayer

LENGTHS = [11, 7, 3, 1]


def watched(model: nn.Module, seen: dict[str, Any]) -> list[Any]:
    """Hooks on every module that keep what went in and came out."""

    def hook(name: str) -> Any:
        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen.setdefault(name, (args, kwargs, output))

        return keep

    return [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in model.named_modules()]


def first(value: Any) -> Any:
    """The states of an output, whatever stands beside them."""
    if isinstance(value, tuple):
        return value[0]
    return value if isinstance(value, Tensor) else value[0]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_every_module_shows_a_hook_what_transformers_module_shows(name: str, labelled: bool) -> None:
    ours, theirs = make_pair(name, **fields_for(name))
    batch = ragged(LENGTHS)
    if name == "BertForQuestionAnswering" and labelled:  # the softmax of its loss covers padding there
        batch = ragged([11, 11, 11, 11])
    rows = batch["attention_mask"].bool()
    inputs = {**with_choices(name, batch), **(labels_for(name, batch) if labelled else {})}
    if name == "BertForMultipleChoice":
        rows = inputs["attention_mask"].flatten(0, 1).bool()
    inputs["position_ids"] = torch.arange(11).expand(inputs["input_ids"].shape)  # one row for all of them otherwise
    seen: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    watched(ours, seen[0]), watched(theirs, seen[1])
    ours(**inputs), theirs(**inputs)
    # transformers applies its activation as a module and this dropout as a function: ours are the same the other way round.
    unseen = {key for key in seen[1] if key.endswith(("act_fn",))}
    assert seen[0].keys() >= seen[1].keys() - unseen
    for key in seen[1].keys() - unseen:
        (args, _, a), (their_args, _, b) = seen[0][key], seen[1][key]
        a, b = first(a), first(b)
        assert a.shape == b.shape, key
        if a.shape[:2] == rows.shape:
            a, b = a[rows], b[rows]
        assert worst(a, b) < 1e-5, key
        for mine, their in zip(args, their_args, strict=False):
            if isinstance(mine, Tensor) and isinstance(their, Tensor):
                assert mine.shape == their.shape, key


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_a_hook_changes_no_number(name: str, training: bool) -> None:
    model, _ = make_pair(name, num_hidden_layers=2, **fields_for(name))
    model.train(training)
    batch = ragged(LENGTHS)
    inputs = {**with_choices(name, batch), **labels_for(name, batch)}
    if training:  # otherwise the last layer runs on the rows that a head reads, and their dropout is another one
        inputs["output_hidden_states"] = True

    def run() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(3)
        model.zero_grad()
        out = model(**inputs)
        loss = out.loss if out.get("loss") is not None else out[0].pow(2).mean()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss, gradients = run()
    for module in list(model.modules()):
        if isinstance(module, nn.Dropout | nn.LayerNorm | nn.Embedding):
            continue  # a dropout that is called draws its own numbers, from torch's generator
        handle = module.register_forward_hook(lambda *_: None)
        again, others = run()
        assert abs(again - loss) < 1e-6, type(module).__name__
        assert all(worst(a, b) < 1e-5 for a, b in zip(gradients, others, strict=True)), type(module).__name__
        handle.remove()


def test_hooks_may_change_what_goes_through() -> None:
    ours, theirs = make_pair("BertForSequenceClassification")
    batch = ragged(LENGTHS)
    places = [
        "bert.embeddings",
        "bert.encoder.layer.0",
        "bert.encoder.layer.1.attention.output.dense",
        "bert.encoder.layer.2",
        "bert.pooler",
        "classifier",
    ]
    for model in (ours, theirs):
        for place in places:
            model.get_submodule(place).register_forward_hook(lambda _, __, output: output * 1.1)
        layer = model.get_submodule("bert.encoder.layer.1")
        layer.register_forward_pre_hook(lambda _, args: (args[0] * 0.9, *args[1:]))
    assert worst(ours(**batch).logits, theirs(**batch).logits) < 1e-5


def test_a_packed_caller_sees_packed_rows() -> None:
    model, _ = make_pair("BertModel")
    batch = fastbert.pack(ragged(LENGTHS))
    shapes: list[Any] = []
    model.encoder.layer[0].register_forward_hook(lambda _, args, out: shapes.append((args[0].shape, out.shape)))
    model(batch)
    assert shapes == [((22, 48), (22, 48))]


def test_nothing_is_unpacked_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("unpack", "pack"):
        whole = getattr(packing.PackedBatch, name)
        monkeypatch.setattr(packing.PackedBatch, name, lambda *a, n=name, f=whole: (calls.append(n), f(*a))[1])
    model, _ = make_pair("BertModel")
    model(**ragged(LENGTHS))
    assert calls == ["unpack"]  # the last hidden state, for the caller
    model.encoder.layer[0].register_forward_hook(lambda *_: None)
    calls.clear()
    model(**ragged(LENGTHS))
    assert calls == ["unpack", "unpack", "pack", "unpack", "pack", "unpack"]  # the second one is of the mask


@pytest.mark.parametrize("mask", [None, "extended"])
def test_parts_called_alone_give_transformers_values(mask: str | None) -> None:
    ours, theirs = make_pair("BertForMaskedLM")
    other, their_other = make_pair("BertForPreTraining")
    batch = ragged([6, 4])
    ids, types = batch["input_ids"], batch["token_type_ids"]
    bias = None
    if mask:
        bias = (1.0 - batch["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
    hidden = torch.randn(2, 6, 48)
    a, b = ours.bert, theirs.bert
    assert worst(a.embeddings(ids), b.embeddings(ids)) < 1e-5
    assert worst(a.embeddings(input_ids=ids, token_type_ids=types), b.embeddings(input_ids=ids, token_type_ids=types)) < 1e-5
    assert worst(a.embeddings(inputs_embeds=hidden), b.embeddings(inputs_embeds=hidden)) < 1e-5
    behind = b.embeddings(ids, position_ids=torch.arange(3, 9)[None])  # transformers 5.24 has no past_key_values_length here
    assert worst(a.embeddings(ids, past_key_values_length=3), behind) < 1e-5
    assert worst(a.encoder(hidden, bias).last_hidden_state, b.encoder(hidden, bias).last_hidden_state) < 1e-5
    assert worst(a.encoder(hidden, attention_mask=bias)[0], b.encoder(hidden, attention_mask=bias)[0]) < 1e-5
    first_layer, their_layer = a.encoder.layer[0], b.encoder.layer[0]
    assert worst(first_layer(hidden, bias), their_layer(hidden, bias)) < 1e-5
    assert worst(first_layer.attention(hidden, bias)[0], their_layer.attention(hidden, bias)[0]) < 1e-5
    assert worst(first_layer.attention.self(hidden, bias)[0], their_layer.attention.self(hidden, bias)[0]) < 1e-5
    up = first_layer.intermediate(hidden)
    assert worst(up, their_layer.intermediate(hidden)) < 1e-5
    assert worst(first_layer.output(up, hidden), their_layer.output(up, hidden)) < 1e-5
    assert worst(first_layer.attention.output(hidden, hidden), their_layer.attention.output(hidden, hidden)) < 1e-5
    assert worst(ours.cls(hidden), theirs.cls(hidden)) < 1e-5
    assert worst(ours.cls.predictions.transform(hidden), theirs.cls.predictions.transform(hidden)) < 1e-5
    assert worst(other.bert.pooler(hidden), their_other.bert.pooler(hidden)) < 1e-5
    for mine, their in zip(other.cls(hidden, hidden[:, 0]), their_other.cls(hidden, hidden[:, 0]), strict=True):
        assert worst(mine, their) < 1e-5
    nsp, their_nsp = make_pair("BertForNextSentencePrediction")
    assert worst(nsp.cls(hidden[:, 0]), their_nsp.cls(hidden[:, 0])) < 1e-5


def test_parts_called_alone_drop_out_in_training() -> None:
    model, _ = make_pair("BertModel")
    model.train()
    hidden = torch.randn(2, 6, 48)
    parts = [model.encoder, model.encoder.layer[0], model.encoder.layer[0].attention.output]
    for part in parts:
        given = (hidden, hidden) if part is parts[2] else (hidden,)
        torch.manual_seed(1)
        a = first(part(*given))
        assert not torch.equal(a, first(part(*given)))
        torch.manual_seed(1)
        assert torch.equal(a, first(part(*given)))
    with pytest.raises(ArgumentError, match="encoder_hidden_states is not supported"):
        model.encoder.layer[0](hidden, encoder_hidden_states=hidden)


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification"])
def test_gradients_reach_every_hidden_state_as_in_transformers(name: str) -> None:
    ours, theirs = make_pair(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch = ragged(LENGTHS)
    rows = batch["attention_mask"].bool()
    found = []
    for model in (ours, theirs):
        model.train()
        out = model(**batch, output_hidden_states=True)
        loss = out[0].square().sum() if name != "BertModel" else out.last_hidden_state[rows].square().sum()
        by_grad = torch.autograd.grad(loss, out.hidden_states, retain_graph=True)
        for state in out.hidden_states:
            state.retain_grad()
        loss.backward()
        assert all(torch.allclose(state.grad, wanted) for state, wanted in zip(out.hidden_states, by_grad, strict=True))
        found.append(by_grad)
    assert len(found[0]) == len(found[1]) == 4
    for a, b in zip(*found, strict=True):
        assert worst(a, b) < 1e-5 * max(1.0, b.abs().max().item())


def test_attentions_carry_gradients() -> None:
    model, _ = make_pair("BertModel")
    out = model(**ragged(LENGTHS), output_attentions=True)
    for probs in out.attentions:
        probs.retain_grad()
    out.last_hidden_state.square().sum().backward()
    assert all(probs.grad is not None and probs.grad.abs().sum() > 0 for probs in out.attentions)


class Scaled(nn.Module):
    """A layer that somebody wrapped, passing on what it is called with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return 0.5 * self.layer(hidden_states, *args, **kwargs)


class Own(nn.Module):
    """A layer of another make: it knows (B, S, N) and a mask that is added to the scores."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        assert hidden_states.dim() == 3
        weights = torch.zeros(hidden_states.shape[0], 1, hidden_states.shape[1], hidden_states.shape[1])
        weights = (weights if attention_mask is None else weights + attention_mask).softmax(-1)[:, 0]
        return hidden_states + weights @ hidden_states


@pytest.mark.parametrize("kind", ["wrapped", "own", "identity", "theirs"])
def test_replaced_layers_run(kind: str) -> None:
    ours, theirs = make_pair("BertForSequenceClassification")
    for model in (ours, theirs):
        layers = model.bert.encoder.layer
        other = {"wrapped": Scaled(layers[1]), "own": Own(), "identity": Identity(), "theirs": theirs.bert.encoder.layer[0]}
        layers[1] = other[kind]
    batch = ragged(LENGTHS)
    assert worst(ours(**batch).logits, theirs(**batch).logits) < 1e-5


class Halved(BertLayer):
    """A layer of ours with a forward of its own, written as transformers' layers are."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        assert hidden_states.dim() == 3
        return 0.5 * super().forward(hidden_states, attention_mask)


def test_a_layer_with_a_forward_of_its_own_is_called_as_there() -> None:
    ours, theirs = make_pair("BertModel")
    mine = Halved(ours.config)
    mine.load_state_dict(ours.encoder.layer[1].state_dict())
    ours.encoder.layer[1] = mine.eval()
    theirs.encoder.layer[1].register_forward_hook(lambda _, __, output: output * 0.5)
    batch = ragged(LENGTHS)
    rows = batch["attention_mask"].bool()
    assert worst(ours(**batch).last_hidden_state[rows], theirs(**batch).last_hidden_state[rows]) < 1e-5


def test_a_compiled_layer_stays_on_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make_pair("BertModel")
    batch = ragged(LENGTHS)
    wanted = model(**batch).last_hidden_state
    model.encoder.layer[1] = torch.compile(model.encoder.layer[1], backend="eager")
    assert worst(model(**batch).last_hidden_state, wanted) < 1e-5
    unpacked: list[int] = []
    whole = packing.PackedBatch.unpack
    monkeypatch.setattr(packing.PackedBatch, "unpack", lambda *a, **k: (unpacked.append(1), whole(*a, **k))[1])
    model(**batch)
    assert len(unpacked) == 1


class Identity(nn.Module):
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def test_an_encoder_and_a_model_of_another_make_run_inside_a_head() -> None:
    ours, theirs = make_pair("BertForTokenClassification")
    batch = ragged(LENGTHS)
    rows = batch["attention_mask"].bool()
    wanted = theirs(**batch).logits[rows]
    ours.bert.encoder = theirs.bert.encoder
    assert worst(ours(**batch).logits[rows], wanted) < 1e-5
    ours.bert = theirs.bert
    ours.bert.pack_inputs = make_pair("BertModel")[0].pack_inputs
    assert worst(ours(**batch).logits[rows], wanted) < 1e-5


def test_layers_of_the_model_are_what_the_hooks_are_told() -> None:
    model, _ = make_pair("BertModel")
    kinds: list[type] = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda module, *_: kinds.append(type(module)))
    model(**ragged(LENGTHS))
    assert kinds == [BertLayer] * 3


# -- parts that were changed, as transformers would have run them --------------------------------------------------------------


class Recurrent(nn.Module):
    """A classifier that mixes the tokens of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(48, 2, batch_first=True)

    def forward(self, states: Tensor) -> Tensor:
        return self.rnn(states)[0]


def centred(kind: type) -> type:
    """A subclass whose forward, in transformers' words, mixes the tokens of a text."""

    class Centred(kind):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            assert hidden_states.dim() == 3
            out = super().forward(hidden_states, *args, **kwargs)
            return (out[0] * 1.5, *out[1:]) if isinstance(out, tuple) else out * 1.5

    return Centred


def change_class(model: nn.Module, place: str) -> None:
    part = model.get_submodule(place)
    part.__class__ = centred(type(part))


def change_forward(model: nn.Module, place: str) -> None:
    part = model.get_submodule(place)
    whole = part.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = whole(*args, **kwargs)
        if isinstance(out, Tensor):
            return out * 1.5
        if isinstance(out, tuple):
            return (out[0] * 1.5, *out[1:])
        out.last_hidden_state = out.last_hidden_state * 1.5
        return out

    part.forward = forward  # type: ignore[method-assign]


def add_hook(model: nn.Module, place: str) -> None:
    def hook(_: nn.Module, args: Any, out: Any) -> Any:
        if isinstance(out, Tensor):
            return out * 1.5
        if isinstance(out, tuple):
            return (out[0] * 1.5, *out[1:])
        for key in ("last_hidden_state", "pooler_output"):
            if out.get(key) is not None:
                out[key] = out[key] * 1.5
        return out

    model.get_submodule(place).register_forward_hook(hook)


LAYERS = ["bert.encoder.layer.1", "bert.encoder.layer.2"]  # one inside, and the last one, of which heads want some rows
SUBCLASSED = ["", ".attention", ".attention.self", ".attention.output", ".intermediate", ".output"]
SUBCLASSED = ["bert.pooler", *(layer + name for layer in LAYERS for name in SUBCLASSED)]
PLACES = ["bert.embeddings", "bert.encoder", "classifier", *SUBCLASSED, *(f"{layer}.output.dense" for layer in LAYERS)]


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(
    ("change", "place"),
    [
        *((change_class, place) for place in SUBCLASSED),
        *((change_forward, place) for place in PLACES),
        *((add_hook, place) for place in [*PLACES, "bert"]),
    ],
)
def test_a_changed_part_gives_what_it_gives_in_transformers(change: Any, place: str, states: bool) -> None:
    ours, theirs = make_pair("BertForSequenceClassification")
    for model in (ours, theirs):
        change(model, place)
    batch = ragged(LENGTHS)
    a, b = (model(**batch, output_hidden_states=states) for model in (ours, theirs))
    assert worst(a.logits, b.logits) < 1e-5


class Summed(nn.Module):
    """A module that mixes tokens, around the one that stood there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        assert states.dim() == 3
        return self.inner(states.cumsum(1))


@pytest.mark.parametrize(
    "place", ["attention.self.query", "attention.output.dropout", "intermediate.dense", "output.LayerNorm"]
)
@pytest.mark.parametrize("layer", LAYERS)
def test_replaced_modules_of_a_layer_see_one_text_each(layer: str, place: str) -> None:
    ours, theirs = make_pair("BertForSequenceClassification")
    for model in (ours, theirs):
        parent, _, name = f"{layer}.{place}".rpartition(".")
        part = model.get_submodule(parent)
        setattr(part, name, Summed(getattr(part, name)))
    batch = ragged(LENGTHS)
    assert worst(ours(**batch).logits, theirs(**batch).logits) < 1e-5


def test_modules_that_mix_tokens_see_one_text_each() -> None:
    ours, theirs = make_pair("BertForTokenClassification")
    ours.classifier = theirs.classifier = Recurrent()
    batch = ragged(LENGTHS)
    rows = batch["attention_mask"].bool()
    assert worst(ours(**batch).logits[rows], theirs(**batch).logits[rows]) < 1e-5


def test_a_pre_hook_may_change_the_mask() -> None:
    ours, theirs = make_pair("BertModel")
    batch = ragged(LENGTHS)
    rows = batch["attention_mask"].bool()

    def first_token_only(_: nn.Module, args: Any) -> Any:
        mask = torch.full((4, 1, 11, 11), torch.finfo(torch.float32).min)
        mask[..., 0] = 0.0
        return (args[0], mask, *args[2:])

    for model in (ours, theirs):
        model.encoder.layer[1].register_forward_pre_hook(first_token_only)
    assert worst(ours(**batch).last_hidden_state[rows], theirs(**batch).last_hidden_state[rows]) < 1e-5


@pytest.mark.parametrize("place", ["predictions", "predictions.transform"])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_a_changed_head_counts_in_training(name: str, place: str) -> None:
    ours, theirs = make_pair(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for model in (ours, theirs):
        change_class_of_head(model.cls.get_submodule(place))
    batch = ragged(LENGTHS)
    inputs = {**batch, **labels_for(name, batch)}
    for training in (False, True):
        for extra in ({}, {"return_logits": False}):
            wanted = theirs.train(training)(**inputs).loss
            assert worst(ours.train(training)(**inputs, **extra).loss, wanted) < 1e-5


def change_class_of_head(part: nn.Module) -> None:
    class Own(type(part)):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) * 3

    part.__class__ = Own


def test_hooks_under_a_packed_batch_see_every_row() -> None:
    model, _ = make_pair("BertForSequenceClassification")
    batch = fastbert.pack(ragged(LENGTHS))
    plain = model(batch).logits
    shapes: list[Any] = []
    model.bert.encoder.register_forward_hook(lambda _, __, out: shapes.append(out[0].shape))
    model.bert.register_forward_hook(lambda _, __, out: shapes.append(out[0].shape))
    assert worst(model(batch).logits, plain) < 1e-5
    assert shapes == [(22, 48), (22, 48)]
    both, _ = make_pair("BertForPreTraining")
    both.cls.register_forward_hook(lambda _, __, out: shapes.append(out[0].shape))
    both(batch)
    assert shapes[2:] == [(22, 101)]
