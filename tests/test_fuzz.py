"""Random inputs and damaged folders: the right result, or one clear sentence; never a raw error, a hang or a flood of memory.

Two doors are fuzzed, from tables of what goes wrong there: the call of a model, held against transformers with the same
weights, and the folder of a checkpoint. All is seeded, so that the same cases run every time.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import resource
import shutil
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import make_pair, worst
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from task_cases import WORDS, save_head, tokenizer
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import fastbert
from fastbert import tasks
from fastbert.errors import FastbertError
from fastbert.model.composed import ComposedModel, HeadOptions

CALLS, EDITS, FOLDERS = 300, 500, 250  # examples
LONGEST = 500  # characters of a message
SECONDS = 10.0  # that one folder may take
MEMORY = 64 << 20  # bytes that one folder of some 100 KB may need beside what the process already has
# Without shrinking: what fails is small already, and a failing run should end in time as well.
HOW = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check_message(error: FastbertError) -> None:
    """One sentence that any terminal may show."""
    message = str(error)
    assert 0 < len(message) < LONGEST, f"{len(message)} characters: {message!r}"
    strange = [c for c in message if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not strange, f"{strange!r} in {message!r}"


# -- the call of a model -----------------------------------------------------------------------------------------------------

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NAMES = (
    "BertModel",
    "BertForMaskedLM",
    "BertForTokenClassification",
    "BertForSequenceClassification",
    "BertForNextSentencePrediction",
    "BertForQuestionAnswering",
)
SHAPES = ((1, 8), (2, 16), (4, 24), (3, 48))  # heads, width
MASKS = ("none", "right", "left", "holes", "row", "3-D", "4-D", "4-D of heads", "additive")
VOCAB, POSITIONS, TYPES = 101, 40, 2


def zeros_where_blind(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention for transformers in which a row that may attend to nothing gives zeros, as it does here."""
    probs = torch.softmax(q @ k.transpose(2, 3) * scaling + mask, dim=-1).nan_to_num(0.0)
    return (probs @ v).transpose(1, 2).contiguous(), probs


ALL_ATTENTION_FUNCTIONS.register("zeros_where_blind", zeros_where_blind)


@cache
def models(name: str, shape: tuple[int, int], layers: int, activation: str, causal: bool, pad: int | None) -> tuple[Any, Any]:
    """A fastbert model and transformers', small enough to be made for each case."""
    ours, theirs = make_pair(
        name,
        num_attention_heads=shape[0],
        hidden_size=shape[1],
        num_hidden_layers=layers,
        intermediate_size=20,
        hidden_act=activation,
        is_decoder=causal,
        pad_token_id=pad,
    )
    theirs.config._attn_implementation = "zeros_where_blind"
    return ours, theirs


def described(value: Any) -> str:
    """A value for a report."""
    if not isinstance(value, Tensor):
        return repr(value)
    content = value.tolist() if value.layout == torch.strided and value.device.type == "cpu" and value.dim() < 4 else "..."
    return f"{tuple(value.shape)} {value.dtype} {value.layout} {content}"


@dataclass
class Call:
    """A call, and what is known of its answer.

    Attributes:
        models: the pair that is called.
        inputs: keywords of the call.
        clean: what transformers takes for the same: ids or embeddings, types, positions, and the scores' additive mask.
        keep: (B, S), where there are tokens.
        packed: whether `fastbert.pack` stands before the model.
        verdict: "equal" to transformers, "refused", or "either" of a sentence and any answer.
    """

    models: tuple[Any, Any]
    inputs: dict[str, Any]
    clean: dict[str, Tensor]
    keep: Tensor
    packed: bool = False
    verdict: str = "equal"
    said: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        shown = {name: described(value) for name, value in self.inputs.items()}
        config = self.models[0].config
        how = f"layers={config.num_hidden_layers}, heads={config.num_attention_heads}, width={config.hidden_size}, "
        how += f"{config.hidden_act}, is_decoder={config.is_decoder}, pad={config.pad_token_id}"
        return f"{type(self.models[0]).__name__}({how}) {'packed ' * self.packed}{self.verdict} {self.said}: {shown}"


@st.composite
def calls(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> Call:
    """A good call, which in half of the cases is then damaged in one place."""
    activation = draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "tanh", "gelu_pytorch_tanh", "swish"]))
    causal, pad = draw(st.booleans()), draw(st.sampled_from([0, None, 3, VOCAB - 1]))
    name = draw(st.sampled_from(names))
    pair = models(name, draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2)), activation, causal, pad)
    size, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    random_ = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random_)

    ids, types = integers(0, VOCAB, size, length), integers(0, TYPES, size, length)
    keep = torch.ones(size, length, dtype=torch.bool)
    form = draw(st.sampled_from(MASKS))
    heads = pair[0].config.num_attention_heads
    columns = torch.arange(length)
    if form in ("right", "left"):
        count = integers(0, length + 1, size, 1)
        keep = columns < count if form == "right" else columns >= length - count
    elif form in ("holes", "row"):
        keep = integers(0, 2, size if form == "holes" else 1, length).bool().expand(size, length)
    bias = torch.zeros(size, 1, length, length).masked_fill(~keep[:, None, None, :], float("-inf"))
    inputs: dict[str, Any] = {}
    if form in ("right", "left", "holes", "row"):
        mask = keep[:1] if form == "row" else keep
        inputs["attention_mask"] = mask.to(draw(st.sampled_from([torch.bool, *INTEGERS, *FLOATS])))
    elif form == "additive":
        dtype = draw(st.sampled_from(FLOATS))
        values = torch.tensor([0.0, 0.5, -100.0, float("-inf"), torch.finfo(dtype).min], dtype=dtype)
        mask = values[integers(0, 5, size, draw(st.sampled_from([1, heads])), length, length)]
        inputs["attention_mask"] = mask
        bias = mask.masked_fill(mask == torch.finfo(dtype).min, float("-inf")).float()
    elif form != "none":
        allowed = integers(0, 2, size, heads if form == "4-D of heads" else 1, length, length).bool()
        whole = [torch.bool, *INTEGERS]
        mask = allowed.to(draw(st.sampled_from([*whole, *FLOATS] if form == "3-D" else whole)))
        inputs["attention_mask"] = mask[:, 0] if form == "3-D" else mask
        bias = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
    if causal and (form in ("none", "right", "left", "holes", "row")):
        bias = bias.masked_fill(columns[:, None] < columns, float("-inf"))

    positions = columns.expand(size, length)
    chosen = draw(st.sampled_from(["none", "from_mask", "(S,)", "(1, S)", "(B, S)"]))
    if chosen == "from_mask":
        inputs["position_ids"] = chosen
        positions = (keep.long().cumsum(1) - 1).clamp(min=0)
    elif chosen != "none":
        positions = integers(0, POSITIONS, size if chosen == "(B, S)" else 1, length)
        given_ = positions[0] if chosen == "(S,)" else positions
        inputs["position_ids"] = given_.to(draw(st.sampled_from(INTEGERS)))
        positions = positions.expand(size, length)
    types = types if draw(st.booleans()) else torch.zeros_like(types)
    if types.any():
        inputs["token_type_ids"] = types.to(draw(st.sampled_from(INTEGERS)))
    clean = {"token_type_ids": types, "position_ids": positions, "attention_mask": bias}
    if draw(st.integers(0, 4)) == 0:
        embeds = torch.randn(size, length, pair[0].config.hidden_size, generator=random_)
        inputs["inputs_embeds"] = clean["inputs_embeds"] = embeds
    else:
        dtype = draw(st.sampled_from(INTEGERS))
        clean["input_ids"] = ids
        # What stands under mask 0 is never read.
        inputs["input_ids"] = (ids if draw(st.booleans()) else ids.masked_fill(~keep, 127)).to(dtype)
    for name in ("output_attentions", "output_hidden_states"):
        if draw(st.integers(0, 7)) == 0:
            inputs[name] = True
    call = Call(pair, inputs, clean, keep, packed=draw(st.booleans()) and draw(st.booleans()))
    if call.packed:
        inputs.pop("output_attentions", None), inputs.pop("output_hidden_states", None)
        if form not in ("none", "right", "left", "holes", "row"):
            call.verdict = "refused"  # packing cannot express it
    if draw(st.booleans()):
        keys = [key for key in DAMAGE if call.packed is False or key != "keyword"]
        key = draw(st.sampled_from(keys))
        damage, verdict = draw(st.sampled_from(DAMAGE[key]))(call, random_)
        call.inputs, call.verdict = damage, verdict
        call.said.append(key)
    return call


Damage = Callable[[Call, torch.Generator], tuple[dict[str, Any], str]]


def put(name: str, make: Callable[[Tensor], Any], verdict: str = "refused") -> Damage:
    """Replaces an input by what `make` makes of good ids (B, S)."""

    def damage(call: Call, _: torch.Generator) -> tuple[dict[str, Any], str]:
        inputs = dict(call.inputs)
        if name == "input_ids":
            inputs.pop("inputs_embeds", None)
        if name == "inputs_embeds":
            inputs.pop("input_ids", None)
        inputs[name] = make(torch.ones(call.keep.shape, dtype=torch.long))
        return inputs, verdict

    return damage


def wrong_mask_shape(call: Call, random_: torch.Generator) -> tuple[dict[str, Any], str]:
    """Any shape but the ones that are taken, in zeros and ones of any type."""
    (size, length), heads = call.keep.shape, call.models[0].config.num_attention_heads
    right = {(size, length), (1, length), (size, length, length)}
    right |= set(itertools.product((1, size), (1, heads), (1, length), (length,)))
    sides = sorted({0, 1, size, length, heads, length + 1, size + 1})
    shapes = [shape for n in range(6) for shape in itertools.product(sides, repeat=n) if shape not in right]
    wide = {(1, length, length), (size, 1, length), (size, 2, length, length), (size, heads, length, 1)}
    pick = [sorted(wide - right), shapes][int(torch.randint(2, (), generator=random_))] or shapes
    shape = pick[int(torch.randint(len(pick), (), generator=random_))]
    dtype = (torch.bool, torch.int64, torch.float32)[int(torch.randint(3, (), generator=random_))]
    return {**call.inputs, "attention_mask": torch.ones(shape, dtype=dtype)}, "refused"


def at_last(value: int, dtype: torch.dtype = torch.int64) -> Callable[[Tensor], Tensor]:
    """Ones with another value in the last place."""

    def make(ones: Tensor) -> Tensor:
        changed = ones.to(dtype)
        changed[-1, -1] = value
        return changed

    return make


def id_at_a_token(value: int, dtype: torch.dtype) -> Damage:
    """An id outside its table; under a 2-D mask it is not read, so the mask goes."""

    def damage(call: Call, _: torch.Generator) -> tuple[dict[str, Any], str]:
        kept = {k: v for k, v in call.inputs.items() if k not in ("attention_mask", "inputs_embeds")}
        return {**kept, "input_ids": at_last(value, dtype)(torch.ones(call.keep.shape, dtype=torch.long))}, "refused"

    return damage


def without_mask(name: str, make: Callable[[Tensor], Any]) -> Damage:
    """Replaces an input, every place of which is read."""

    def damage(call: Call, _: torch.Generator) -> tuple[dict[str, Any], str]:
        kept = {k: v for k, v in call.inputs.items() if k != "attention_mask"}
        return {**kept, name: make(torch.ones(call.keep.shape, dtype=torch.long))}, "refused"

    return damage


def lists(call: Call, _: torch.Generator) -> tuple[dict[str, Any], str]:
    """Ids as lists, all of them tokens, which need no mask."""
    ids = call.clean.get("input_ids", torch.ones(call.keep.shape, dtype=torch.long))
    length = ids.shape[1]
    bias = torch.zeros(1, 1, length, length)
    if call.models[0].config.is_decoder:
        bias = bias.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    places = torch.arange(length).expand(ids.shape)
    call.keep = torch.ones_like(call.keep)
    call.clean = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "position_ids": places}
    call.clean["attention_mask"] = bias.expand(len(ids), -1, -1, -1)
    return {"input_ids": ids.tolist()}, "equal"


def both(call: Call, _: torch.Generator) -> tuple[dict[str, Any], str]:
    """Ids as lists beside embeddings: which of them counts?"""
    embeds = torch.ones(*call.keep.shape, call.models[0].config.hidden_size)
    return {"input_ids": torch.ones_like(call.keep).long().tolist(), "inputs_embeds": embeds}, "refused"


OBJECTS: list[Any] = [
    "x",
    7,
    1.5,
    True,
    {},
    {"input_ids": [[1]]},
    [],
    [[]],
    [[], []],
    [[1], 2],
    [["a"]],
    [[1.5]],
    [[None]],
    [[[1]]],
]
OBJECTS += [
    [1, 2],
    [[10**30]],
    [None],
    object(),
    set(),
    np.ones((1, 2), dtype=np.int64),
    np.array(1),
    torch.nn.Linear(1, 1),
    b"ab",
]
OBJECTS += [
    [torch.tensor(1)],
    [torch.tensor([1, 2])],
    torch.Size((1, 2)),
    range(3),
    ("a", "b"),
    [[True]],
    [[1, 2], [3]],
    float("nan"),
]
STRANGE: list[Callable[[Tensor], Any]] = [
    lambda ones: ones.to(torch.complex64),
    lambda ones: ones.float().to(torch.float8_e4m3fn),
    lambda ones: ones.to_sparse(),
    lambda ones: ones.to("meta"),
    lambda ones: ones.to(torch.uint16),
    lambda ones: ones.to(torch.uint64),
]
OTHER_SHAPES: list[Callable[[Tensor], Tensor]] = [
    lambda ones: ones[0, 0],
    lambda ones: ones[..., None],
    lambda ones: ones[:0],
    lambda ones: ones[:, :0],
    lambda ones: torch.cat([ones, ones], dim=1),
    lambda ones: torch.cat([ones, ones, ones, ones], dim=0),
]
DAMAGE: dict[str, list[Damage]] = {
    "input_ids": [
        *(id_at_a_token(value, dtype) for dtype in INTEGERS for value in (VOCAB, 127)),
        *(id_at_a_token(value, torch.int64) for value in (-1, 2**31, 2**32 + 1, -(2**63), 2**63 - 1)),
        id_at_a_token(-1, torch.int8),
        *(put("input_ids", make) for make in (Tensor.float, Tensor.bool, Tensor.half, *OTHER_SHAPES[:4], lambda ones: ones[0])),
        *(put("input_ids", make, "either") for make in STRANGE),
        *(put("input_ids", lambda ones, value=value: value, "either") for value in OBJECTS),
        put("input_ids", lambda ones: None, "either"),
        *[lists] * 4,
        both,
    ],
    "inputs_embeds": [
        lambda call, _: (
            {**call.inputs, "input_ids": torch.ones(1, 1).long(), "inputs_embeds": torch.ones(1, 1, 8)},
            "refused",
        ),
        lambda call, _: ({k: v for k, v in call.inputs.items() if k not in ("input_ids", "inputs_embeds")}, "refused"),
        *(put("inputs_embeds", lambda ones, width=width: torch.ones(*ones.shape, width)) for width in (0, 1, 7, 49)),
        put("inputs_embeds", lambda ones: ones),
        *(
            put("inputs_embeds", lambda ones, width=width, kind=kind: torch.ones(*ones.shape, width).to(kind), "either")
            for width in (8, 16, 24, 48)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)
        ),
        *(put("inputs_embeds", lambda ones, value=value: value, "either") for value in OBJECTS),
        *(put("inputs_embeds", lambda ones, make=make: make(torch.ones(*ones.shape, 16)), "either") for make in STRANGE),
    ],
    "attention_mask": [
        *[wrong_mask_shape] * 24,
        *(put("attention_mask", at_last(value, torch.float32)) for value in (2, -1, float("nan"), float("inf"), -10000)),
        *(put("attention_mask", at_last(value, torch.int64)) for value in (2, -1, 2**40)),
        put("attention_mask", lambda ones: at_last(2)(ones)[:, None].expand(-1, ones.shape[1], -1)),
        put("attention_mask", lambda ones: at_last(2)(ones)[:, None, None].expand(-1, 1, ones.shape[1], -1)),
        put(
            "attention_mask",
            lambda ones: at_last(float("nan"), torch.float32)(ones)[:, None, None].expand(-1, 1, ones.shape[1], -1),
            "either",
        ),
        *(put("attention_mask", make, "either") for make in STRANGE),
        *(put("attention_mask", lambda ones, value=value: value, "either") for value in OBJECTS),
    ],
    "position_ids": [
        *(without_mask("position_ids", at_last(value)) for value in (-1, POSITIONS, 10**6, 2**40)),
        *(put("position_ids", make) for make in (Tensor.float, Tensor.bool, *OTHER_SHAPES)),
        *(put("position_ids", make, "either") for make in STRANGE),
        *(put("position_ids", lambda ones, value=value: value, "either") for value in OBJECTS),
        put("position_ids", lambda ones: "from_mask\x1b[31m" * 99),
    ],
    "token_type_ids": [
        *(without_mask("token_type_ids", at_last(value)) for value in (-1, TYPES, 10**6)),
        *(put("token_type_ids", make) for make in (Tensor.float, Tensor.bool, lambda ones: ones[0], *OTHER_SHAPES)),
        *(put("token_type_ids", make, "either") for make in STRANGE),
        *(put("token_type_ids", lambda ones, value=value: value, "either") for value in OBJECTS),
    ],
    "keyword": [
        lambda call, _: ({**call.inputs, "use_cache": True}, "refused"),
        lambda call, _: ({**call.inputs, "atention_mask\x1b[31m" * 50: None}, "refused"),
        *(
            lambda call, _, value=value: ({**call.inputs, "labels": value}, "either")
            for value in (*OBJECTS, torch.ones(1), torch.ones(3, 7), torch.tensor(3), torch.ones(1, 1).to("meta"))
        ),
    ],
}


@torch.no_grad()
def expected(call: Call) -> dict[str, Tensor]:
    """What transformers' layers make of the clean inputs, in the form in which they come out here."""
    theirs = call.models[1]
    encoder = getattr(theirs, "bert", theirs)
    states = encoder(**call.clean, return_dict=True).last_hidden_state
    first = call.keep.int().argmax(1)
    rows = torch.arange(len(first))
    filled = call.keep.any(1)
    name = type(theirs).__name__
    if name == "BertForMaskedLM":
        return {"logits": theirs.cls(states)}
    if name == "BertForTokenClassification":
        return {"logits": theirs.classifier(states)}
    if name == "BertForQuestionAnswering":
        start, end = theirs.qa_outputs(states).unbind(-1)
        return {"start_logits": start, "end_logits": end}
    pooled = encoder.pooler(states[rows, first][:, None]) * filled[:, None]
    if name == "BertModel":
        return {"last_hidden_state": states.masked_fill(~call.keep[..., None], 0.0), "pooler_output": pooled}
    head = theirs.classifier if name == "BertForSequenceClassification" else theirs.cls
    return {"logits": head(pooled)}


def run_call(call: Call) -> None:
    """Calls the model and looks at the answer."""
    ours, output, refusal = call.models[0], None, ""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            inputs = {"input_ids": fastbert.pack(**call.inputs)} if call.packed else call.inputs
            output = ours(**inputs)
    except FastbertError as error:
        check_message(error)
        refusal = str(error)
    if output is None:
        assert call.verdict != "equal", f"a good call was refused: {refusal}"
        return
    assert call.verdict != "refused", "a bad call was taken"
    if call.verdict == "either":
        return
    for name, wanted in expected(call).items():
        got = output[name]
        if call.packed and got.shape != wanted.shape:
            got = inputs["input_ids"].unpack(got)
        assert got.shape == wanted.shape, name
        if got.shape[:2] == call.keep.shape and name != "last_hidden_state" and name != "pooler_output":
            outside = ~call.keep.view(*call.keep.shape, *[1] * (got.dim() - 2))
            got, wanted = got.masked_fill(outside, 0.0), wanted.masked_fill(outside, 0.0)
        assert worst(got, wanted) < 1e-4, name


@settings(HOW, max_examples=CALLS)
@given(calls())
def test_a_call_gives_transformers_result_or_one_sentence(call: Call) -> None:
    run_call(call)


# -- a packed batch that was edited --------------------------------------------------------------------------------------------

EDITED = tuple(f.name for f in fields(fastbert.PackedBatch) if not f.name.startswith(("checked", "_")))
VALUES: list[Any] = [None, -1, 0, 1, 5, 10**6, 10**30, 1.5, float("nan"), "x", [], [0, 3, 5], True, {}, object()]
TENSORS: dict[str, Callable[[int], Tensor]] = {
    "scalar": lambda tokens: torch.tensor(1),
    "short": lambda tokens: torch.zeros(max(tokens - 1, 0), dtype=torch.long),
    "long": lambda tokens: torch.zeros(tokens + 3, dtype=torch.long),
    "column": lambda tokens: torch.zeros(tokens, 1, dtype=torch.long),
    "floats": lambda tokens: torch.zeros(tokens),
    "bools": lambda tokens: torch.ones(tokens, dtype=torch.bool),
    "bytes": lambda tokens: torch.ones(tokens, dtype=torch.uint8),
    "int32": lambda tokens: torch.ones(tokens, dtype=torch.int32),
    "zeros": lambda tokens: torch.zeros(tokens, dtype=torch.long),
    "far": lambda tokens: torch.full((tokens,), 10**6),
    "below": lambda tokens: torch.full((tokens,), -5),
    "meta": lambda tokens: torch.zeros(tokens, dtype=torch.long, device="meta"),
    "sparse": lambda tokens: torch.ones(tokens).to_sparse(),
    "embeds": lambda tokens: torch.zeros(tokens, 16),
    "starts": lambda tokens: torch.tensor([0, tokens], dtype=torch.int32),
    "falling": lambda tokens: torch.tensor([0, tokens + 4, tokens], dtype=torch.int32),
    "bias": lambda tokens: torch.zeros(2, 1, 4, 4),
}


def in_place(value: int) -> Callable[[Tensor], None]:
    return lambda tensor: tensor.reshape(-1)[-1:].fill_(value)


EDIT_VALUES: list[tuple[str, Any]] = [
    *(("value", value) for value in VALUES),
    *(("tensor", name) for name in TENSORS),
    *(("in place", value) for value in (-1, 0, 1, 101, 10**6)),
]


def run_edit(name: str, edit: tuple[str, Any], checked_before: bool, attentions: bool) -> None:
    """Edits a batch of 2 x 4 places and 5 tokens; an answer has a row for each token and is finite."""
    ours, _ = models("BertModel", (2, 16), 1, "gelu", False, 0)
    keep = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]])
    batch = fastbert.pack(torch.tensor([[5, 6, 7, 0], [0, 8, 9, 0]]), keep)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if checked_before:
                ours(batch)
            kind, value = edit
            before = getattr(batch, name)
            if kind == "in place":
                if not isinstance(before, Tensor):
                    return
                in_place(value)(before)
            else:
                setattr(batch, name, TENSORS[value](5) if kind == "tensor" else value)
            states = ours(batch, output_attentions=attentions).last_hidden_state
    except FastbertError as error:
        check_message(error)
        return
    assert states.shape == (5, 16)
    assert states.isfinite().all()


@settings(HOW, max_examples=EDITS)
@example("indices", ("tensor", "int32"), False, True)
@given(st.sampled_from(EDITED), st.sampled_from(EDIT_VALUES), st.booleans(), st.booleans())
def test_an_edited_batch_is_checked_again(name: str, edit: tuple[str, Any], checked_before: bool, attentions: bool) -> None:
    run_edit(name, edit, checked_before, attentions)


# -- folders -----------------------------------------------------------------------------------------------------------------

MARK = "@@mark@@"
DEEP = 2000
HOSTILE = {
    **{text: text for text in ("null", "true", "false", "0", "-1", "1", "2", "1.5", "1e400", "NaN", "Infinity", "-Infinity")},
    "10**6": "1000000",
    "10**9": "1000000000",
    "10**30": "1" + "0" * 30,
    "10**5000": "1" + "0" * 5000,
    "-10**30": "-1" + "0" * 30,
    "no text": '""',
    "blank": '" "',
    "x": '"x"',
    "long text": json.dumps("long " * 20_000),
    "escapes": json.dumps("\x1b[31mred\x1b[0m\x07\x9b"),
    "lines": json.dumps("one\ntwo\r\nthree\u2028four"),
    "surrogate": r'"\ud800"',
    "zero byte": json.dumps("a\0b"),
    "right to left": json.dumps("\u202eabc"),
    "up": '"../x"',
    "root": '"/etc/passwd"',
    "here": '"."',
    "digits": '"12"',
    "no list": "[]",
    "no object": "{}",
    "nulls": "[null]",
    "numbers": "[1, 1]",
    "texts": '["a", "a"]',
    "objects": '[{"a": 1}]',
    "twice": '{"a": 1, "a": 2}',
    "no name": '{"": null}',
    "escaped name": '{"\\u001b[31m": 5}',
    "token": '{"content": "[SEP]", "lstrip": 3}',
    "deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "wide list": "[" + "0," * 50_000 + "0]",
}
WHOLE: dict[str, Callable[[bytes], bytes | None]] = {
    "absent": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "first bytes": lambda content: content[:5],
    "noise": lambda content: random.Random(0).randbytes(max(len(content), 64)),
    "zeros": lambda content: bytes(len(content)),
    "middle": lambda content: content[: len(content) // 3] + b"\xff\xfe\x00" + content[len(content) // 3 + 3 :],
    "mark": lambda content: b"\xef\xbb\xbf" + content,
    "twice": lambda content: content + content,
    **{
        name: (lambda content, text=text: text.encode())
        for name, text in {
            "list": "[]",
            "number": "7",
            "text": '"x"',
            "null": "null",
            "object": "{}",
            "list of numbers": "[1, 2]",
            "list of objects": "[{}]",
            "NaN": "NaN",
            "deep": HOSTILE["deep list"],
            "lines": "\n" * 1000,
            "escape": '{"\\u001b[31m": \x1b}',
        }.items()
    },
}


class Move:
    """One damage to one file; no dataclass, whose every field hypothesis would print."""

    def __init__(self, file: str, what: str, change: Callable[[bytes], bytes | None]) -> None:
        self.file, self.what, self.change = file, what, change

    def __repr__(self) -> str:
        return f"{self.file}: {self.what}"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all parts of a JSON value; of large lists and objects a few."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in list(value)[: 4 if len(value) > 40 else None]:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield from places(value[i], (*path, i))


def at(content: bytes, path: tuple[Any, ...], text: str | None, twice: bool = False) -> bytes:
    """JSON with a part replaced by a text, given a second time with it, or left out."""
    value = json.loads(content)
    inside = value
    for step in path[:-1]:
        inside = inside[step]
    if text is None:
        del inside[path[-1]]
        return json.dumps(value).encode()
    old = json.dumps(inside[path[-1]])
    inside[path[-1]] = MARK
    dumped = json.dumps(value)
    if twice and isinstance(path[-1], str):
        text = f"{old}, {json.dumps(path[-1])}: {text}"
    return dumped.replace(json.dumps(MARK), text, 1).encode()


def json_moves(name: str, content: bytes) -> Iterator[Move]:
    for path in places(json.loads(content)):
        where = ".".join(map(str, path))
        yield Move(name, f"{where} left out", lambda content, path=path: at(content, path, None))
        for label, text in HOSTILE.items():
            yield Move(name, f"{where} = {label}", lambda content, path=path, text=text: at(content, path, text))
        yield Move(name, f"{where} given twice", lambda content, path=path: at(content, path, "[]", True))
    for key, text in itertools.product(
        ("new", "content", "__type", "self", "num_labels", "return_dict"), ("null", "[]", "7", '"x"')
    ):
        yield Move(
            name,
            f"with {key} = {text}",
            lambda content, key=key, text=text: content.replace(b"{", f'{{"{key}": {text}, '.encode(), 1),
        )


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[bytes], bytes]:
    """Rewrites a safetensors file."""

    def rewrite(content: bytes) -> bytes:
        state = safetensors.torch.load(content)
        change(state)
        return safetensors.torch.save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"})

    return rewrite


def header(path: tuple[Any, ...], text: str | None) -> Callable[[bytes], bytes]:
    """Changes the JSON at the head of a safetensors file."""

    def rewrite(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        changed = at(content[8 : 8 + size], path, text)
        return len(changed).to_bytes(8, "little") + changed + content[8 + size :]

    return rewrite


def weight_moves(name: str, content: bytes) -> Iterator[Move]:
    state = safetensors.torch.load(content)
    kinds = [torch.int64, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.float16, torch.float64]
    for key in state:
        yield Move(name, f"{key} left out", tensors(lambda state, key=key: state.pop(key)))
        for kind in kinds:
            yield Move(
                name, f"{key} {kind}", tensors(lambda state, key=key, kind=kind: state.update({key: state[key].to(kind)}))
            )
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "flat": lambda old: old.flatten(),
            "short": lambda old: old[:-1],
            "one more axis": lambda old: old[None],
            "twice": lambda old: torch.cat([old, old]),
            "empty": lambda old: old[:0],
            "scalar": lambda old: old.flatten()[0],
            "NaN": lambda old: torch.full_like(old, float("nan")),
        }
        for form, make in forms.items():
            yield Move(name, f"{key} {form}", tensors(lambda state, key=key, make=make: state.update({key: make(state[key])})))
    for kind in kinds:
        change = tensors(lambda state, kind=kind: state.update({key: value.to(kind) for key, value in state.items()}))
        yield Move(name, f"all {kind}", change)
    yield Move(name, "no tensors", tensors(lambda state: state.clear()))
    yield Move(name, "other tensors", tensors(lambda state: (state.clear(), state.update({"x\x1b[31m\n" * 30: torch.ones(2)}))))
    yield Move(name, "many others", tensors(lambda state: state.update({f"x{i}": torch.ones(1) for i in range(2000)})))
    yield Move(
        name,
        "a layer too many",
        tensors(lambda state: state.update({"bert.encoder.layer.999999.output.dense.bias": torch.ones(2)})),
    )
    first = next(iter(state))
    hostile = ("null", "-1", "10**9", "10**30", "long text", "escapes", "surrogate", "no list", "numbers", "deep list", "x")
    for path in (
        (first,),
        (first, "dtype"),
        (first, "shape"),
        (first, "data_offsets"),
        (first, "shape", 0),
        (first, "data_offsets", 1),
    ):
        yield Move(name, f"header {path} left out", header(path, None))
        for label in hostile:
            yield Move(name, f"header {path} = {label}", header(path, HOSTILE[label]))
    for size in (0, 1, 10**6, 2**40, 2**64 - 1):
        yield Move(name, f"header of {size}", lambda content, size=size: size.to_bytes(8, "little") + content[8:])


def vocab_moves(name: str, content: bytes) -> Iterator[Move]:
    changes: dict[str, Callable[[list[bytes]], list[bytes]]] = {
        "one line": lambda lines: lines[:1],
        "no [CLS]": lambda lines: [line for line in lines if line != b"[CLS]"],
        "no [UNK]": lambda lines: [line for line in lines if line != b"[UNK]"],
        "each twice": lambda lines: lines + lines,
        "[PAD] everywhere": lambda lines: [*lines[:5], *[b"[PAD]"] * len(lines)],
        "blank lines": lambda lines: [*lines, *[b""] * 50],
        "blank first": lambda lines: [b"", *lines],
        "long line": lambda lines: [*lines, b"x" * 100_000],
        "escapes": lambda lines: [*lines, b"\x1b[31m"],
        "latin": lambda lines: [*lines, b"\xe9"],
        "zero": lambda lines: [*lines, b"\0"],
        "windows": lambda lines: [line + b"\r" for line in lines],
        "more than the model": lambda lines: [*lines, *(b"w%d" % i for i in range(500))],
        "only specials": lambda lines: lines[:5],
    }
    for what, change in changes.items():
        yield Move(name, what, lambda content, change=change: b"\n".join(change(content.rstrip(b"\n").split(b"\n"))) + b"\n")


def moves_of(name: str, content: bytes) -> list[Move]:
    """All that may happen to a file."""
    found = [Move(name, f"whole: {what}", change) for what, change in WHOLE.items()]
    kinds = {".json": json_moves, ".safetensors": weight_moves, ".txt": vocab_moves}
    return [*found, *kinds[Path(name).suffix](name, content)]


def use_tokenizer(folder: Path) -> None:
    loaded = fastbert.BertTokenizer.from_pretrained(folder)
    rows = loaded(["the cat", "a dog runs"], padding=True)["input_ids"]
    loaded.batch_decode(rows)
    loaded(["the cat sits in rome"], ["and ."], truncation=True)


def use_model(folder: Path) -> None:
    model = fastbert.BertModel.from_pretrained(folder)
    model(torch.tensor([[2, 3]]))


def use_composed(folder: Path) -> None:
    model = ComposedModel.from_pretrained(folder)
    model(fastbert.pack([[2, 3], [1]]))


LOADERS: dict[str, Callable[[Path], object]] = {
    "tokenizer": use_tokenizer,
    "config": fastbert.BertConfig.from_pretrained,
    "model": use_model,
    "composed": use_composed,
    "Embedder": lambda folder: tasks.Embedder.from_pretrained(folder, "cpu").encode(["the cat", "a"]),
    "Classifier": lambda folder: tasks.Classifier.from_pretrained(folder, "cpu").predict(["the cat"]),
    "NLI": lambda folder: tasks.NLI.from_pretrained(folder, "cpu").predict([("the cat", "a dog")]),
    "FillMask": lambda folder: tasks.FillMask.from_pretrained(folder, "cpu").predict(["the [MASK]"]),
    "TokenTagger": lambda folder: tasks.TokenTagger.from_pretrained(folder, "cpu").predict(["the cat"]),
    "QuestionAnswerer": lambda folder: tasks.QuestionAnswerer.from_pretrained(folder, "cpu").predict([("who", "the cat runs")]),
    "MultipleChoice": lambda folder: tasks.MultipleChoice.from_pretrained(folder, "cpu").predict([("the", ["cat", "dog"])]),
    "NextSentence": lambda folder: tasks.NextSentence.from_pretrained(folder, "cpu").predict([("the cat", "a dog")]),
}
# Folders, with the class in them and what opens them.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encoder": ("BertModel", ("tokenizer", "config", "model", "Embedder")),
    "older": ("BertModel", ("tokenizer", "Embedder")),
    "shards": ("BertModel", ("model", "Embedder")),
    "classifier": ("BertForSequenceClassification", ("Classifier",)),
    "relations": ("BertForSequenceClassification", ("NLI",)),
    "words": ("BertForMaskedLM", ("FillMask",)),
    "tags": ("BertForTokenClassification", ("TokenTagger",)),
    "answers": ("BertForQuestionAnswering", ("QuestionAnswerer",)),
    "choices": ("BertForMultipleChoice", ("MultipleChoice",)),
    "next": ("BertForNextSentencePrediction", ("NextSentence",)),
    "composed": ("BertModel", ("composed", "Classifier")),
}
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS) + 4,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}
SENTENCE_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "2.0.0"},
        "prompts": {"query": "the "},
        "default_prompt_name": "query",
        "similarity_fn_name": "cosine",
        "truncate_dim": None,
    },
    "1_Pooling/config.json": {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "include_prompt": True,
    },
}
TASK_SETTINGS: dict[str, dict[str, Any]] = {
    "classifier": {"task": "classify", "max_length": 32, "on_long": "truncate", "window_scores": "mean", "overlap": 4},
    "relations": {"task": "nli", "max_length": 32, "on_long": "error"},
    "tags": {"task": "ner", "max_length": 32, "overlap": 8},
    "answers": {"task": "qa", "max_length": 32, "max_question": 8, "doc_stride": 8, "null_threshold": 0.0},
    "choices": {"task": "choice", "max_length": 32},
}


def make_folder(kind: str, folder: Path) -> None:
    """A good folder, with all the files that such a folder may have."""
    if kind == "composed":
        encoder = make_pair("BertModel", **SIZES)[0]
        ComposedModel(encoder, HeadOptions("sequence", 2, layers="sum-all", bilstm=1)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    else:
        names = ("entailment", "neutral", "contradiction") if kind == "relations" else ("LABEL_0", "LABEL_1")
        save_head(folder, KINDS[kind][0], **SIZES, id2label=dict(enumerate(names)))
    others: dict[str, Any] = {}
    if kind in TASK_SETTINGS:
        others["fastbert_task.json"] = TASK_SETTINGS[kind]
    if kind == "encoder":
        others |= SENTENCE_FILES
    if kind == "older":
        (folder / "tokenizer.json").unlink()
        others["tokenizer_config.json"] = {
            "do_lower_case": True,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": 64,
            "tokenizer_class": "BertTokenizer",
            "never_split": None,
            "padding_side": "right",
            "cls_token": "[CLS]",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        }
        others["special_tokens_map.json"] = {
            "unk_token": {"content": "[UNK]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
            "sep_token": "[SEP]",
            "additional_special_tokens": ["[E1]", "[E2]"],
        }
        others["added_tokens.json"] = {"[E1]": len(WORDS), "[E2]": len(WORDS) + 1}
    if kind == "shards":
        state = safetensors.torch.load((folder / "model.safetensors").read_bytes())
        (folder / "model.safetensors").unlink()
        shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
        for shard in set(shards.values()):
            part = {name: value for name, value in state.items() if shards[name] == shard}
            safetensors.torch.save_file(part, folder / shard, {"format": "pt"})
        others["model.safetensors.index.json"] = {"metadata": {"total_size": 1000}, "weight_map": shards}
    for name, content in others.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


class Good:
    """The files of a good folder, and what may happen to each."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.moves = {name: moves_of(name, content) for name, content in files.items()}

    def __repr__(self) -> str:
        return f"{len(self.files)} files"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def good_folders(place: Path) -> dict[str, Good]:
    """Every kind of folder, opened once by all that open it."""
    found = {}
    for kind, (_, loaders) in KINDS.items():
        folder = place / kind
        make_folder(kind, folder)
        for loader in loaders:
            LOADERS[loader](folder)
        contents = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        found[kind] = Good(contents)
    return found


@pytest.fixture(scope="module")
def good(place: Path) -> dict[str, Good]:
    return good_folders(place)


def memory(line: str) -> int:
    """A line of /proc/self/status, in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    match = re.search(rf"{line}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(match[1]) << 10 if match else 0


@contextmanager
def within_limits() -> Iterator[None]:
    """Holds what runs inside to a time and to memory: both that is reserved, by refusing it, and that is used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    reserved = memory("VmSize")
    if reserved:
        resource.setrlimit(resource.RLIMIT_AS, (reserved + (4 << 30), hard))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    seconds, used = time.perf_counter() - start, memory("VmHWM") - before
    assert seconds < SECONDS, f"it took {seconds:.1f} s"
    assert used < MEMORY, f"it took {used >> 20} MiB"


def run_folder(place: Path, files: dict[str, bytes], move: Move, loader: str, second: Move | None = None) -> None:
    """Opens a folder of which one file was damaged, or two."""
    folder = place / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        changed = move.change(content) if name == move.file else content
        if second is not None and name == second.file != move.file:
            changed = second.change(content)
        if changed is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(changed)
    with within_limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            LOADERS[loader](folder)
        except FastbertError as error:
            check_message(error)


@settings(HOW, max_examples=FOLDERS)
@given(st.data())
def test_a_damaged_folder_opens_or_gives_one_sentence(place: Path, good: dict[str, Good], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)), "folder")
    moves = good[kind].moves
    file = data.draw(st.sampled_from(sorted(moves)), "file")
    move = data.draw(st.sampled_from(moves[file]), "damage")
    loader = data.draw(st.sampled_from(KINDS[kind][1]), "loader")
    second = None
    if data.draw(st.integers(0, 3), "second damage") == 0:
        second = data.draw(st.sampled_from(moves[data.draw(st.sampled_from(sorted(moves)), "second file")]), "and")
    run_folder(place, good[kind].files, move, loader, second)
