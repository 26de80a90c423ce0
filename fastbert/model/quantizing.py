"""Inference with products in 8 bits, taken only where it is faster and as good: the gate, and what it found.

int8 is for float32 on a CPU. Of three sets of the layers' linears, largest first, the first one is taken that passes on a
sample of real texts:

    all of them  ->  all but the second one of the feed-forward block, whose inputs reach furthest  ->  those of attention

fp8 is for 16 bit on a GPU, and for all linears of the layers or none. A form passes if the encoder is at least `MIN_GAIN` times
as fast as in the model's own type, and if the mean cosine between the texts' vectors (means of their tokens' states) in both is
at least `MIN_COSINE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import ops, schema
from fastbert.errors import BackendError, InputError
from fastbert.model import plain_layer
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
_MOST_TOKENS = 8192  # of the sample that are run on a CPU
_GPU_TOKENS = 65_536  # that are run on a GPU, in two batches: of fewer the host would be measured
_SETS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("all linears of the layers", lambda name: True),
    ("all but the second of the feed-forward block", lambda name: not name.endswith("output.dense") or "attention" in name),
    ("those of attention", lambda name: "attention" in name),
)


@dataclass(frozen=True)
class Trial:
    """What was measured of one form.

    Attributes:
        what: the linears that were run in 8 bits.
        usual: the model's own type.
        gain: how many times as fast as in that type the encoder was.
        cosine: mean cosine between the vectors of both.
    """

    what: str
    usual: str
    gain: float
    cosine: float

    @property
    def why_not(self) -> str:
        """Why it was not taken; "" where it was."""
        if not self.cosine >= MIN_COSINE:  # NaN as well
            return f"cosine below {MIN_COSINE}"
        return f"gain below {MIN_GAIN}" if self.gain < MIN_GAIN else ""

    def __str__(self) -> str:
        return f"{self.what}: {self.gain:.2f}x {self.usual}, cosine {self.cosine:.4f}: {self.why_not or 'taken'}"


@dataclass(frozen=True)
class _Form:
    """Some linears in 8 bits: `keep` makes the copies of their weights, `drop` brings the model's own type back."""

    what: str
    keep: Callable[[], None]
    drop: Callable[[], None]


def quantize(model: BertPreTrainedModel, dtype: str, sample: Any, say: Callable[[str], None]) -> None:
    """Keeps 8-bit copies of the weights of the first form that passes the gate.

    Args:
        model: with prepacked weights; for int8 in float32 on a CPU, for fp8 in 16 bit on a GPU.
        dtype: "int8" or "fp8".
        sample: what a tokenizer's call returns for real texts, or its input_ids.
        say: called with a line for each form that was tried.

    Raises:
        InputError: no sample, or a model of another type or device. BackendError: no form passes, or PyTorch or the GPU has no
            such product; the model stays as it was.
    """
    if not isinstance(model, BertPreTrainedModel):
        raise InputError(f"dtype = {dtype!r} is for fastbert's models; this one is of another library")
    forms = [*(_int8_forms(model) if dtype == "int8" else _fp8_forms(model))]
    rows = _rows(sample, model.config)
    if not rows:
        raise InputError(
            f"dtype = {dtype!r} needs sample: token ids of some of your texts, on which speed and accuracy are measured"
        )
    encoder, usual, trials = model.base_model, str(model.dtype).removeprefix("torch."), []
    with evaluating(model), torch.inference_mode():
        packed = _batches(rows, model.device)
        texts, tokens = min(len(rows), sum(b.batch_size for b in packed)), sum(batch.num_tokens for batch in packed)
        say(f"{dtype} on {texts} texts of the sample, {tokens} tokens, {_where(model.device)}")
        wanted = _vectors(encoder, packed)
        try:
            for form in forms:
                seconds = _alternated(encoder, form, packed)
                cosine = torch.nn.functional.cosine_similarity(_vectors(encoder, packed), wanted).mean()
                trials.append(Trial(form.what, usual, seconds[0] / seconds[1], float(cosine)))
                say(str(trials[-1]))
                if not trials[-1].why_not:
                    return
                form.drop()
        except BaseException:
            for form in forms:
                form.drop()
            raise
    raise BackendError(f"{dtype} is refused: {'; '.join(f'{trial.what}: {trial.why_not}' for trial in trials)}")


def _int8_forms(model: BertPreTrainedModel) -> Iterator[_Form]:
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise InputError(f"int8 is for models in float32 on a CPU; this one is {model.dtype} on {model.device}")
    if not int8.AVAILABLE:
        raise BackendError("int8 cannot run here: this PyTorch has no quantised linear")
    groups = [
        (name, linears)
        for name, linears in product_groups(model.base_model)
        if ".layer." in name and all(linear.bias is not None for linear in linears)
    ]
    for what, takes in _SETS:
        chosen = [linears for name, linears in groups if takes(name)]
        yield _Form(what, partial(_each, quantize_group, chosen), partial(_each, prepack_group, chosen))


def _fp8_forms(model: BertPreTrainedModel) -> Iterator[_Form]:
    weight = model.get_input_embeddings().weight
    why = ops.fp8_obstacle(weight)
    if why:
        kind = InputError if weight.dtype == torch.float32 or not weight.is_cuda else BackendError
        raise kind(f"fp8 cannot run here: {why}")
    layers = [plain_layer.read(layer) for layer in model.base_model.encoder.layer]
    plain = [layer for layer in layers if layer is not None]
    if len(plain) < len(layers):
        which = layers.index(None)
        raise InputError(f"fp8 is for layers without adapters, hooks and replaced parts; layer {which} has some")
    for number, layer in enumerate(plain):
        sizes = layer.qkv_weights[0].shape[0], *layer.up_weight.shape
        if any(size % 16 for size in sizes):
            raise InputError(f"fp8 needs linears whose sizes are multiples of 16; layer {number} has {sizes}")
        with torch.inference_mode():
            if layer.head_size != plain[0].head_size or ops.for_layers(weight[:1], layer.head_size) is None:
                raise BackendError(f"fp8 cannot run here: no kernels run layer {number}, whose head size is {layer.head_size}")
    weights = [layer.qkv_weights[0] for layer in plain]
    yield _Form("all linears of the layers", partial(_each, ops.keep_fp8, plain), partial(_each, ops.forget_copies, weights))


def _each(call: Callable[[Any], None], values: Sequence[Any]) -> None:
    for value in values:
        call(value)


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


def _batches(rows: Sequence[list[int]], device: torch.device) -> list[PackedBatch]:
    """Rows from all over: of at most `_MOST_TOKENS` together, but at least one; on a GPU repeated up to `_GPU_TOKENS`."""
    total = sum(map(len, rows))
    if device.type == "cpu":
        return list_batches(rows[:: max(1, -(-total // _MOST_TOKENS))], _MOST_TOKENS, device)
    count = max(1, _GPU_TOKENS * len(rows) // total)
    step = -(-len(rows) // count)
    return list_batches([*islice(cycle(rows[::step]), count)], _GPU_TOKENS // 2, device)


def _where(device: torch.device) -> str:
    """What the trial runs on."""
    return f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _alternated(encoder: nn.Module, form: _Form, packed: Sequence[PackedBatch]) -> tuple[float, float]:
    """Median seconds without and with a form, which is kept at the end. Both run in turns, as other work comes and goes."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS):
        for in_8_bits in (False, True):
            (form.keep if in_8_bits else form.drop)()
            encoder(packed[-1])  # what is made once
            _synchronise(packed[0].device)
            started = time.perf_counter()
            for batch in packed:
                encoder(batch)
            _synchronise(packed[0].device)
            seconds[in_8_bits].append(time.perf_counter() - started)
    return median(seconds[False]), median(seconds[True])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _vectors(encoder: nn.Module, packed: Sequence[PackedBatch]) -> Tensor:
    """(texts, N) means of the tokens' states, float32, in the order of the batches."""
    states = ((encoder(batch, return_dict=True).last_hidden_state, batch) for batch in packed)
    return torch.cat([pool(one, batch.cu_seqlens, "mean").float() for one, batch in states])
