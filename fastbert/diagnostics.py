"""Counts parameters and FLOPs, and reports the path that each op takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastbert import ops
from fastbert.choices import SIZES
from fastbert.errors import InputError
from fastbert.model.calling import evaluating
from fastbert.model.config import BertConfig
from fastbert.model.config_fields import FAMILIES
from fastbert.model.families import bert_name
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.packing import PackedBatch
from fastbert.terminal import align

NOTES_VOCABULARY = 30_000
PAPER = {"base": 110_000_000, "large": 340_000_000}  # section 3
_SYMBOLS = (
    "V entries of the vocabulary, P positions, types of segments, N width of the states (hidden size), F width of the\n"
    "feed-forward block, L layers, C labels."
)
_WITHOUT_POOLER = ("BertForMaskedLM", "BertLMHeadModel", "BertForTokenClassification", "BertForQuestionAnswering")


@dataclass
class ParameterCount:
    """The number of parameters of a model class by term, in closed form.

    Attributes:
        config: the model sizes.
        head: the class name.
        terms: (name, formula, count) of each part; shared parameters are counted once.
    """

    config: BertConfig
    head: str
    terms: list[tuple[str, str, int]]

    @property
    def total(self) -> int:
        """Total number of parameters."""
        return sum(count for _, _, count in self.terms)

    @property
    def notes_estimate(self) -> int:
        """The estimate by the short formula 30000 N + 12 N^2 L, which counts only the large matrices."""
        n = self.config.hidden_size
        return NOTES_VOCABULARY * n + 12 * n * n * self.config.num_hidden_layers

    def table(self) -> str:
        """The terms, the total, and beside it the short formula's and the paper's figures, as text; shares are of the total."""
        rows = [*self.terms, ("total", "", self.total), ("short formula", "30000 N + 12 N^2 L", self.notes_estimate)]
        rows.append(("difference", "", self.total - self.notes_estimate))
        shape = self.config.num_hidden_layers, self.config.hidden_size
        papers = PAPER.items() if self.config.model_type == "bert" else ()
        rows += [(f"the paper, BERT {size}", "", count) for size, count in papers if SIZES[size] == shape]
        shown = [(name, formula, f"{count:,}", f"{count / self.total:6.1%}") for name, formula, count in rows]
        lines = [f"{self.head}: {_sizes(self.config)}", *align(shown), "", _SYMBOLS, ""]
        lines.append(
            "The short formula rounds the vocabulary to 30000 and leaves out positions, segments, biases, LayerNorm, the\n"
            "pooler and the heads. The embedding stands once, below the layers: multiplying it by L as well would count a\n"
            "table for each layer, and the model has one."
        )
        return "\n".join(lines)


def count_parameters(config: BertConfig, head: str | None = None) -> ParameterCount:
    """Counts parameters in closed form, without building the model.

    (V + P + types) N + 2N + L (4 N^2 + 4N + 2 N F + F + N + 4N) + N^2 + N for `BertModel`, plus the parameters of the head.

    Args:
        config: the model sizes.
        head: a class name such as "BertForMaskedLM"; None means the encoder, with its pooler.
    """
    named = head or f"{FAMILIES[config.model_type]}Model"
    head = bert_name(named)
    v, n, f, layers = config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers
    c = config.num_labels
    heads: dict[str, list[Any]] = {
        "BertModel": [],
        "BertForPreTraining": ["mlm", ("next sentence", "2N + 2", 2 * n + 2)],
        "BertForMaskedLM": ["mlm"],
        "BertLMHeadModel": ["mlm"],
        "BertForNextSentencePrediction": [("next sentence", "2N + 2", 2 * n + 2)],
        "BertForSequenceClassification": [("classifier", "C N + C", c * n + c)],
        "BertForMultipleChoice": [("classifier", "N + 1", n + 1)],
        "BertForTokenClassification": [("classifier", "C N + C", c * n + c)],
        "BertForQuestionAnswering": [("start and end", "2N + 2", 2 * n + 2)],
    }
    if head not in heads:
        raise InputError(f"head = {named!r} is not one of {', '.join(heads)}")
    terms = [
        ("word embeddings", "V N", v * n),
        ("position embeddings", "P N", config.max_position_embeddings * n),
        ("segment embeddings", "types N", config.type_vocab_size * n),
        ("embedding LayerNorm", "2N", 2 * n),
        ("attention", "L (4 N^2 + 4 N)", layers * (4 * n * n + 4 * n)),
        ("feed-forward", "L (2 N F + F + N)", layers * (2 * n * f + f + n)),
        ("layer LayerNorms", "L 4 N", layers * 4 * n),
    ]
    if head not in _WITHOUT_POOLER:
        own = config.model_type != "bert" and head == "BertForSequenceClassification"  # a linear of the classifier's instead
        terms.append(("classifier, first linear" if own else "pooler", "N^2 + N", n * n + n))
    for part in heads[head]:
        if isinstance(part, tuple):
            terms.append(part)
            continue
        terms.append(("MLM transform", "N^2 + 3 N", n * n + 3 * n))
        terms.append(("MLM bias", "V", v))
        if not config.tie_word_embeddings:
            terms.append(("MLM decoder", "V N + V", v * n + v))
    return ParameterCount(config, named, terms)


def encoder_flops(config: BertConfig, lengths: Sequence[int]) -> int:
    """FLOPs of the encoder's matrix products in one forward pass: the sum of L (8 N^2 + 4 N F + 4 S N) S over sequences.

    Args:
        config: the model sizes.
        lengths: number of real tokens of each sequence, S.
    """
    n, f = config.hidden_size, config.intermediate_size
    return sum(config.num_hidden_layers * (8 * n * n + 4 * n * f + 4 * s * n) * s for s in lengths)


@dataclass
class Explanation:
    """The path that each op of a forward pass took.

    Attributes:
        rows: (op, calls, shape of the first call, path, reason), in the order of the first call.
        tokens: number of real tokens.
        places: number of positions in the padded form: tokens and padding.
    """

    rows: list[tuple[str, int, tuple[int, ...], str, str]]
    tokens: int
    places: int

    @property
    def padding_share(self) -> float:
        """The fraction of the padded form that is padding, which packing saves: 0 to 1."""
        return 1 - self.tokens / self.places if self.places else 0.0

    def __str__(self) -> str:
        rows = [("op", "calls", "shape", "path", "why not the kernel")]
        rows += [(op, str(calls), str(shape), path, reason) for op, calls, shape, path, reason in self.rows]
        padding = f"{self.tokens:,} tokens packed, padding left out: {self.padding_share:.1%} of {self.places:,} positions"
        return "\n".join([f"torch {torch.__version__}, backend {ops.current_backend()!r}", *align(rows), padding])


def explain(model: nn.Module, *args: Any, **inputs: Any) -> Explanation:
    """Runs one forward pass in evaluation mode and reports the path of every op.

    Args:
        model: any model of fastbert, or one that `fastbert.patch` was given.
        args, inputs: the arguments of the model's forward.

    Raises:
        InputError: the model is neither.
    """
    with evaluating(model), torch.no_grad(), ops.recording() as decisions, packed_batches(model) as batches:
        model(*args, **inputs)
    tokens = sum(batch.num_tokens for batch in batches)
    places = sum(batch.batch_size * batch.padded_length for batch in batches)
    calls = Counter((d.op, d.path, d.reason) for d in decisions)
    shapes = {(d.op, d.path, d.reason): d.shape for d in reversed(decisions)}
    order = dict.fromkeys((d.op, d.path, d.reason) for d in decisions)
    rows = [(op, calls[op, path, why], shapes[op, path, why], path, why) for op, path, why in order]
    return Explanation(rows, tokens, places)


@contextmanager
def packed_batches(model: nn.Module) -> Iterator[list[PackedBatch]]:
    """Collects the packed batches that the model's encoders run on, inside the block."""
    batches: list[PackedBatch] = []

    def noting(pack_inputs: Callable[..., PackedBatch]) -> Callable[..., PackedBatch]:
        def noted(*args: Any, **inputs: Any) -> PackedBatch:
            batch = pack_inputs(*args, **inputs)
            if not any(one is batch for one in batches):  # the head packs first; the encoder then gets the packed batch
                batches.append(batch)
            return batch

        return noted

    packers = _packers(model)
    for packer in packers:
        packer.pack_inputs = noting(packer.pack_inputs)  # not a forward hook, which would change how the model runs
    try:
        yield batches
    finally:
        for packer in packers:
            del packer.pack_inputs


def _packers(model: nn.Module) -> list[Any]:
    """What packs the inputs of a model: its encoder, or the forwards that `fastbert.patch` put in."""
    if isinstance(model, BertPreTrainedModel):
        return [model.base_model]
    found = [part.__dict__.get("forward") for part in model.modules()]
    packers = [forward for forward in found if hasattr(forward, "pack_inputs")]
    if not packers:
        raise InputError(f"{type(model).__name__} is no model of fastbert, and not patched: see fastbert.patch")
    return packers


def _sizes(config: BertConfig) -> str:
    return (
        f"V = {config.vocab_size}, P = {config.max_position_embeddings}, N = {config.hidden_size}, "
        f"F = {config.intermediate_size}, L = {config.num_hidden_layers}, C = {config.num_labels}"
    )
