"""CUDA graphs: a whole forward, or a whole training step, replayed in one launch. Small batches are bound by launches.

A graph has fixed shapes and fixed addresses. `CapturedModel` keeps one for each bucket of (tokens, sequences, longest length),
fills a batch up to its bucket with a tail that belongs to no sequence, copies it in, replays, copies the result out.
`CapturedStep` does so for a function that trains on batches of one fixed budget (`packing.fixed_budget`).
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import eq, is_
from typing import Any

import torch
from torch import Tensor

from fastbert import ops
from fastbert.errors import BackendError, InputError
from fastbert.model.outputs import BertModelOutput
from fastbert.ops import fp8
from fastbert.packing import PackedBatch, deferred, fixed_budget

_PER_TOKEN = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "inputs_embeds")
_TENSORS = (*_PER_TOKEN, "indices")
_WARM_UP = 3  # runs before a capture: kernels are compiled, libraries choose their algorithms


class Bucket(tuple[int, int, int]):
    """(tokens, sequences, longest length) that a graph is captured for."""

    @classmethod
    def of(cls, batch: PackedBatch) -> Bucket:
        """The smallest bucket that holds a batch. Tokens rise in eighths of a power of two: at most an eighth is filled up."""
        tokens = max(batch.num_tokens, 16)
        step = max(16, 1 << max(tokens.bit_length() - 4, 0))
        return cls((-(-tokens // step) * step, _power(batch.batch_size), max(32, _power(batch.max_seqlen))))


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()


class _Turns:
    """One call at a time on static buffers: other threads wait for a lock, other streams for the end of the call before."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._lock = device, threading.Lock()
        self._ended = torch.cuda.Event() if device.type == "cuda" else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The block may write to the buffers, replay, and read results, all on the current stream."""
        with self._lock:
            if self._ended is None:
                yield
                return
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(self._ended)  # returns at once where nothing was recorded yet
            try:
                yield
            finally:
                self._ended.record(stream)


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: PackedBatch
    output: BertModelOutput


class CapturedModel:
    """The encoder of a model, for inference on packed batches, as CUDA graphs.

    Args:
        model: a `BertModel` (or a model class that has one), in evaluation mode, on a CUDA device, with kernels for its type.
        max_graphs: graphs kept; beyond it the least recently used is evicted. All share one pool of memory.

    Threads and streams may share it; their calls run one after the other. Weights may be changed in place (an optimiser,
    `load_state_dict`). After `.to`, `.half()` or new Parameter objects the graphs are captured again automatically, by the next
    call, which also frees the weights' old memory.
    `fastbert.prepack(model)` before it makes short texts faster.
    """

    def __init__(self, model: Any, max_graphs: int = 32) -> None:
        encoder = model.base_model
        _need_cuda([encoder.device], "the model is")
        if max_graphs < 1:
            raise InputError(f"max_graphs = {max_graphs} must be at least 1")
        self.encoder = encoder
        self.max_graphs = max_graphs
        self._graphs: OrderedDict[tuple[Any, ...], _Captured] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._weights = _Weights(encoder)
        self._turns = _Turns(encoder.device)

    def __call__(self, batch: PackedBatch) -> BertModelOutput:
        """The output of an eager forward, in fresh tensors: hidden states (T, N), pooled (B, N) where there is a pooler.

        Raises:
            InputError: the batch does not fit the model, or is not on its device.
            BackendError: the model is in training mode, or an op of it has no kernel that can be captured.
        """
        if self.encoder.training:
            raise BackendError("CapturedModel runs models in evaluation mode; call model.eval() first")
        with self._turns.turn():
            result = self._run(batch)
            if not self._weights.are_as_captured():  # asked while the GPU computes
                self._forget()
                result = self._run(batch)
            return result

    def _forget(self) -> None:
        """Drops graphs that read weights which were moved or replaced since."""
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # a pool without a user cannot be captured into again
        self._weights = _Weights(self.encoder)

    def _run(self, batch: PackedBatch) -> BertModelOutput:
        if not self._weights.take(batch):
            batch = self.encoder.pack_inputs(batch)
        deferred.poll()
        if batch.attention_bias is not None or batch.tail:
            raise InputError("CapturedModel takes batches with 2-D masks, without a tail")
        bucket = Bucket.of(batch)
        limit = max(batch.max_seqlen, self.encoder.config.max_position_embeddings)
        bucket = Bucket((bucket[0], bucket[1], min(bucket[2], limit)))
        key = (bucket, batch.inputs_embeds is not None, *_surroundings())
        captured = self._graphs.get(key)
        if captured is None:
            if not self._weights.are_as_captured():
                self._forget()
                return self._run(batch)  # whose check was against the weights of before
            with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written to outside that mode
                captured = self._capture(batch, bucket)
            self._graphs[key] = captured
            if len(self._graphs) > self.max_graphs:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        _fill_up(captured.batch, batch)
        captured.graph.replay()
        states, pooled = captured.output.last_hidden_state, captured.output.pooler_output
        assert states is not None
        return BertModelOutput(
            last_hidden_state=states[: batch.num_tokens].clone(),
            pooler_output=None if pooled is None else pooled[: batch.batch_size].clone(),
        )

    def _capture(self, batch: PackedBatch, bucket: Bucket) -> _Captured:
        static = _in_bucket(batch, bucket).clone()
        static.mark_checked(self.encoder.limits)

        def run() -> Any:
            return self.encoder(static, return_dict=True)

        graph, output = _capture(run, self._pool, self.encoder.device)
        return _Captured(graph, static, output)


class CapturedStep:
    """A training step of one fixed shape as a CUDA graph: forward, backward and optimiser in one launch.

    Args:
        step: called as `step(**inputs)`; does all of a step and returns tensors, the loss among them. It must not wait for the
            device: batches by `packing.fixed_budget`, labels by `scored_rows`, optimisers with `capturable=True`, gradients
            zeroed with `set_to_none=True` inside.
        inputs: example inputs, tensors and PackedBatches, whose shapes every later call must have.
        beside: a step captured before, of another shape, whose memory this one uses as well; their calls take turns. So batches
            of many lengths need not all be filled up to the largest: `Bucket.of(batch)` gives the shape to capture for. What a
            step leaves behind, gradients included, is valid until another one is called; `.grad` is that of the last captured.

    Runs `step` three times before the capture, which trains on the example; copy the state before that if it matters. The graph
    uses the parameters where they are: nothing may move them afterwards (`.to`, `fastbert.prepack`). Layers that run in fp8
    inside it keep the copies of then. Threads and streams may
    share a captured step; their calls run one after the other.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        inputs: Mapping[str, Tensor | PackedBatch],
        beside: CapturedStep | None = None,
    ) -> None:
        _need_cuda([value.device for value in inputs.values()], "inputs are")
        self._static = {name: value.clone() for name, value in inputs.items()}
        for value in self._static.values():
            if isinstance(value, PackedBatch) and value.checked is None:
                raise InputError("pack the example batch with limits=, or run it once: its check cannot be captured")
        device = next(iter(inputs.values())).device
        if beside is not None and beside._turns.device != device:
            raise InputError(f"the step beside was captured on {beside._turns.device}; these inputs are on {device}")
        self._turns: _Turns = _Turns(device) if beside is None else beside._turns
        self._pool: Any = torch.cuda.graph_pool_handle() if beside is None else beside._pool
        with self._turns.turn():
            self._graph, self._result = _capture(lambda: step(**self._static), self._pool, device)
        self._copies = fp8.all_of()  # which the graph may read

    def __call__(self, **inputs: Tensor | PackedBatch) -> Any:
        """Runs the step on new inputs and returns copies of its results.

        Raises:
            InputError: an input is missing or has another shape than the example.
        """
        if inputs.keys() != self._static.keys():
            raise InputError(f"the step was captured for {sorted(self._static)}; got {sorted(inputs)}")
        with self._turns.turn():
            for name, value in inputs.items():
                static = self._static[name]
                if isinstance(static, PackedBatch) and isinstance(value, PackedBatch):
                    _fill(static, value, name)
                elif isinstance(static, Tensor) and isinstance(value, Tensor):
                    _copy(static, value, name)
                else:
                    kinds = type(value).__name__, type(static).__name__
                    raise InputError(f"{name} is a {kinds[0]}; the step was captured with a {kinds[1]}")
            self._graph.replay()
            return torch.utils._pytree.tree_map_only(Tensor, torch.clone, self._result)


def _need_cuda(devices: Iterable[torch.device], what: str) -> None:
    for device in devices:
        if device.type != "cuda":
            raise BackendError(f"CUDA graphs need a CUDA device; {what} on {device}")


def _surroundings() -> tuple[Any, ...]:
    """The global settings, beside the inputs, that a forward depends on."""
    return ops.current_backend(), torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def _capture(run: Callable[[], Any], pool: Any, device: torch.device) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Warms up on a separate stream, as PyTorch requires, then captures.

    Autocast's cache of cast weights is off meanwhile: the graph would go on reading stale copies.
    """
    _, enabled, dtype = _surroundings()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.autocast("cuda", dtype, enabled, cache_enabled=False):
        here, beside = torch.cuda.current_stream(), _warm_up_stream(device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            with ops.recording() as decisions:
                run()  # op by op, which says what runs each of them
            for _ in range(_WARM_UP - 1):
                run()  # as it will be captured
        here.wait_stream(beside)
        slow = sorted({f"{d.op}: {d.reason}" for d in decisions if d.path != "triton" and d.op != "linear"})
        if slow:
            raise BackendError(f"this cannot be captured as a CUDA graph: {'; '.join(slow)}")
        try:
            # The outer block brings the stream back where a capture that failed does not. Other threads may do as they like.
            with torch.cuda.stream(here), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                result = run()
        except RuntimeError as error:
            raise BackendError(f"this cannot be captured as a CUDA graph: {error}") from error
    return graph, result


@functools.cache
def _warm_up_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _in_bucket(batch: PackedBatch, bucket: Bucket) -> PackedBatch:
    """A batch filled up to its bucket, without its padded form: results stay packed, and the caller's batch unpacks them."""
    filled = fixed_budget(batch, *bucket)
    filled.indices, filled.padded_length = None, bucket[2]
    return filled


def _fill_up(static: PackedBatch, batch: PackedBatch) -> None:
    """Copies a batch into the front of a larger one, whose remaining sequences become empty.

    The remaining rows keep the valid ids of an earlier batch; they belong to no sequence now.
    """
    given = {field: value.detach() for field in _PER_TOKEN if (value := getattr(batch, field)) is not None}
    for types in {value.dtype for value in given.values()}:  # those of one type are one launch
        alike = {field: value for field, value in given.items() if value.dtype == types}
        torch._foreach_copy_([getattr(static, field)[: len(value)] for field, value in alike.items()], [*alike.values()])
    if static.batch_size > batch.batch_size:
        static.cu_seqlens[batch.batch_size + 1 :].fill_(batch.num_tokens)


class _Weights:
    """The addresses of a model's parameters, which a captured graph reads, and the limits of its tables.

    Changes in place are allowed, unless copies in fp8 were captured; `.to`, `.half()`, new Parameter objects, new modules and
    new copies are noticed. The memory that was captured is kept until then, as a graph may read it once more.
    """

    def __init__(self, encoder: Any) -> None:
        modules = [*encoder.modules()]
        self._modules = [part._modules for part in modules if part._modules]
        self._as_they_were = [*map(dict, self._modules)]
        self._tables = [part._parameters for part in modules if part._parameters]
        self._parameters = [*self._current_parameters()]
        self._stored = [p for p in self._parameters if isinstance(p, Tensor)]
        self._memory = [p.detach() for p in self._stored]
        self._addresses = [*map(Tensor.data_ptr, self._stored)]
        self._copies = fp8.Seen(self._stored)
        self._limits, self._device = encoder.limits, encoder.device

    def are_as_captured(self) -> bool:
        """Whether every module and parameter is where it was."""
        return (
            self._modules == self._as_they_were
            and all(map(is_, self._current_parameters(), self._parameters))
            and all(map(eq, map(Tensor.data_ptr, self._stored), self._addresses))
            and self._copies.are_current()
        )

    def take(self, batch: Any) -> bool:
        """Whether a batch of ids is known to fit them, and is on their device."""
        known = type(batch) is PackedBatch and batch.inputs_embeds is None and batch.is_checked(self._limits)
        return known and batch.device == self._device

    def _current_parameters(self) -> Iterator[Any]:
        """The parameters that there are, and an end that none of them is."""
        return chain(chain.from_iterable(map(dict.values, self._tables)), (self._tables,))


def _fill(static: PackedBatch, batch: PackedBatch, name: str = "batch") -> None:
    """Copies a batch into the tensors of another of the same shape."""
    if batch.attention_bias is not None or batch.padded_length != static.padded_length:
        raise InputError(f"{name} has another padded form than the captured batch, or a dense mask: use packing.fixed_budget")
    if batch.max_seqlen > static.max_seqlen:
        raise InputError(f"{name}.max_seqlen = {batch.max_seqlen}; it was captured for at most {static.max_seqlen}")
    for field in _TENSORS:
        target, value = getattr(static, field), getattr(batch, field)
        if (target is None) != (value is None):
            raise InputError(f"{name}.{field} is {'missing' if value is None else 'there'}, unlike in the captured batch")
        if target is not None:
            _copy(target, value, f"{name}.{field}")


def _copy(target: Tensor, value: Tensor, name: str) -> None:
    if target.shape != value.shape:
        raise InputError(f"{name} has shape {tuple(value.shape)}; it was captured with {tuple(target.shape)}")
    target.copy_(value, non_blocking=True)
