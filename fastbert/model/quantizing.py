"""int8 inference on a CPU, taken only where it is faster and as good: the gate, and what it found.

Of three sets of the layers' linears, largest first, the first one is taken that passes on a sample of real texts:

    all of them  ->  all but the second one of the feed-forward block, whose inputs reach furthest  ->  those of attention

A set passes if the encoder is at least `MIN_GAIN` times as fast as with prepacked float32 weights, and if the mean cosine
between the texts' vectors (means of their tokens' states) in int8 and in float32 is at least `MIN_COSINE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import schema
from fastbert.errors import BackendError, InputError
from fastbert.model.calling import evaluating
from fastbert.model.config import BertConfig
from fastbert.model.pooling import pool
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.model.products import prepack_group, product_groups, quantize_group
from fastbert.ops import int8
from fastbert.packing import PackedBatch
from fastbert.packing.batching import list_batches

MIN_GAIN, MIN_COSINE = 1.1, 0.995
_ROUNDS = 5
_MOST_TOKENS = 8192  # of the sample that are run
_SETS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("all linears of the layers", lambda name: True),
    ("all but the second of the feed-forward block", lambda name: not name.endswith("output.dense") or "attention" in name),
    ("those of attention", lambda name: "attention" in name),
)


@dataclass(frozen=True)
class Trial:
    """What was measured of one set of linears.

    Attributes:
        what: the set.
        gain: how many times as fast as float32 the encoder was.
        cosine: mean cosine between the vectors of int8 and of float32.
    """

    what: str
    gain: float
    cosine: float

    @property
    def why_not(self) -> str:
        """Why it was not taken; "" where it was."""
        if self.cosine < MIN_COSINE:
            return f"cosine below {MIN_COSINE}"
        return f"gain below {MIN_GAIN}" if self.gain < MIN_GAIN else ""

    def __str__(self) -> str:
        return f"{self.what}: {self.gain:.2f}x float32, cosine {self.cosine:.4f}: {self.why_not or 'taken'}"


def quantize(model: BertPreTrainedModel, sample: Any, say: Callable[[str], None]) -> None:
    """Keeps int8 copies of the weights of the first set of linears that passes the gate.

    Args:
        model: in float32 on a CPU, with prepacked weights.
        sample: what a tokenizer's call returns for real texts, or its input_ids.
        say: called with a line for each set that was tried.

    Raises:
        InputError: no sample, or a model of another type or device. BackendError: no set passes, or PyTorch has no such product
            here; the model stays as it was.
    """
    if not isinstance(model, BertPreTrainedModel) or model.dtype != torch.float32 or model.device.type != "cpu":
        where = f"{model.dtype} on {model.device}" if isinstance(model, BertPreTrainedModel) else "of another library"
        raise InputError(f"dtype = 'int8' is for fastbert's models in float32 on a CPU; this one is {where}")
    rows = _rows(sample, model.config)
    if not rows:
        raise InputError(
            "dtype = 'int8' needs sample: token ids of some of your texts, on which speed and accuracy are measured"
        )
    if not int8.AVAILABLE:
        raise BackendError("int8 cannot run here: this PyTorch has no quantised linear")
    some = _some(rows)
    trials = []
    with evaluating(model), torch.inference_mode():
        packed = list_batches(some)
        tokens = sum(batch.num_tokens for batch in packed)
        say(f"int8 on {len(some)} texts of the sample, {tokens} tokens, {torch.get_num_threads()} threads")
        groups = [
            (name, linears)
            for name, linears in product_groups(model.base_model)
            if ".layer." in name and all(linear.bias is not None for linear in linears)
        ]
        wanted = _vectors(model.base_model, packed)
        try:
            for what, takes in _SETS:
                chosen = [linears for name, linears in groups if takes(name)]
                trials.append(_tried(model.base_model, what, chosen, packed, wanted))
                say(str(trials[-1]))
                if not trials[-1].why_not:
                    return
                _apply(prepack_group, chosen)
        except BaseException:
            _apply(prepack_group, [linears for _, linears in groups])
            raise
    raise BackendError(f"int8 is refused: {'; '.join(f'{trial.what}: {trial.why_not}' for trial in trials)}")


def _rows(sample: Any, config: BertConfig) -> list[list[int]]:
    """The rows of a sample without padding, cut to the model's positions.

    Raises:
        InputError: something else than ids of the vocabulary, with its place.
    """
    sample = sample["input_ids"] if isinstance(sample, Mapping) and "input_ids" in sample else sample
    values = sample.tolist() if hasattr(sample, "tolist") else list(sample)
    if values and all(isinstance(value, int) for value in values):
        values = [values]  # one text
    rows = []
    for number, row in enumerate(values):
        row = row.tolist() if hasattr(row, "tolist") else row
        good = isinstance(row, list | tuple) and all(isinstance(i, int) and 0 <= i < config.vocab_size for i in row)
        if not good:
            raise InputError(f"sample[{number}] = {schema.shown(row)} is no list of ids from 0 to {config.vocab_size - 1}")
        ids = [i for i in row if i != config.pad_token_id]
        rows.append(ids[: config.longest_sequence])
    return [row for row in rows if row]


def _some(rows: Sequence[list[int]]) -> list[list[int]]:
    """Rows from all over, of at most `_MOST_TOKENS` together, but at least one."""
    step = max(1, -(-sum(map(len, rows)) // _MOST_TOKENS))
    return list(rows[::step])


def _tried(
    encoder: nn.Module,
    what: str,
    groups: Sequence[Sequence[nn.Linear]],
    packed: Sequence[PackedBatch],
    wanted: Tensor,
) -> Trial:
    """Measures a set, whose int8 copies are kept at the end. The two forms run in turns, as other work comes and goes."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS):
        for in_int8 in (False, True):
            _apply(quantize_group if in_int8 else prepack_group, groups)
            encoder(packed[-1])  # what is made once
            started = time.perf_counter()
            for batch in packed:
                encoder(batch)
            seconds[in_int8].append(time.perf_counter() - started)
    cosine = torch.nn.functional.cosine_similarity(_vectors(encoder, packed), wanted).mean()
    return Trial(what, median(seconds[False]) / median(seconds[True]), float(cosine))


def _apply(lay_out: Callable[[Sequence[nn.Linear]], None], groups: Sequence[Sequence[nn.Linear]]) -> None:
    for linears in groups:
        lay_out(linears)


def _vectors(encoder: nn.Module, packed: Sequence[PackedBatch]) -> Tensor:
    """(texts, N) means of the tokens' states, in the order of the batches."""
    states = ((encoder(batch, return_dict=True).last_hidden_state, batch) for batch in packed)
    return torch.cat([pool(one, batch.cu_seqlens, "mean") for one, batch in states])
