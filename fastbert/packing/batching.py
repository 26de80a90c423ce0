"""From framed rows to batches and back: the one loop that runs a model over many texts.

    rows, longest first -> PackedBatch of at most so many tokens -> model -> results by row number

While a GPU computes a batch, the next one is packed into page-locked memory and sent, and the results of the one before are
brought back: nothing waits for the device but the reading of results that have already arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batch import Origin, PackedBatch
from fastbert.packing.inputs import Limits
from fastbert.packing.packer import pack
from fastbert.progress import Show, progress
from fastbert.text.framing import Framed, Ints

# More tokens at once only push the activations out of a CPU's caches: measured, 2,048 run a tenth faster than 8,192.
CPU_BATCH_TOKENS = 2048
BATCH_TOKENS = 16384

Step = Callable[[PackedBatch], Sequence[Tensor]]
SharedLoop = Callable[[Framed, Step, Hashable], Iterator[tuple[Ints, list[Tensor]]]]
_shared: ContextVar[SharedLoop | None] = ContextVar("fastbert_shared_loop", default=None)


def run(
    framed: Framed,
    step: Step,
    device: torch.device,
    batch_tokens: int = BATCH_TOKENS,
    *,
    most: int | None = None,
    name: str,
    show: Show = False,
    advance: Callable[[int], object] | None = None,
    key: Hashable = None,
) -> Iterator[tuple[Ints, list[Tensor]]]:
    """Runs all rows in batches: yields the row numbers of each batch, and the results of `step` for it, on the CPU.

    Args:
        framed: the rows.
        step: from a batch on the device to results on the device.
        device: of the model.
        batch_tokens: real tokens of a batch; a CPU takes at most `CPU_BATCH_TOKENS`.
        most: rows of a batch; None for any number.
        name: of the work, for the bar.
        show: see `fastbert.progress`.
        advance: called with the number of texts that each batch completes.
        key: what `step` depends on beside the batch: where a loop is shared, steps of one name and key share batches; None for
            a step that no other one equals.
    """
    shared = _shared.get()
    if shared is not None:
        yield from shared(framed, step, None if key is None else (name, key))
        return
    owners = np.asarray(framed.owners, dtype=np.int64)
    done, rows_left = 0, np.bincount(owners, minlength=framed.num_texts)
    with progress(framed.num_texts, "text", name, show) as bar:
        started = (
            (rows, batch.num_tokens, bring_back(step(batch), device))
            for rows, batch in batches(framed, batch_tokens, device, most)
        )
        for one, _ in pairwise(chain(started, [None])):  # the next batch is started before this one's results are read
            assert one is not None
            rows, tokens, results = one
            yield rows, results()
            done += tokens
            bar.work = done / framed.num_tokens  # long texts come first: counts of texts alone would overrate what is left
            np.subtract.at(rows_left, owners[rows], 1)
            completed = int(np.count_nonzero(rows_left[np.unique(owners[rows])] == 0))
            bar.update(completed)
            if advance is not None:
                advance(completed)


@contextmanager
def sharing(loop: SharedLoop) -> Iterator[None]:
    """In this context and thread, `run` gives its rows to a loop that others use as well, such as a server's."""
    token = _shared.set(loop)
    try:
        yield
    finally:
        _shared.reset(token)


def batches(
    framed: Framed, batch_tokens: int, device: torch.device, most: int | None = None
) -> Iterator[tuple[Ints, PackedBatch]]:
    """The rows in packed batches of at most `batch_tokens` on a device, longest first, each with the numbers of its rows."""
    for rows in token_budget_batches(framed.lengths, tokens_at_once(batch_tokens, device), most):
        yield rows, pack_rows(framed, rows, device, own=True)


def tokens_at_once(batch_tokens: int, device: torch.device) -> int:
    """Tokens of a batch on a device."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens


def list_batches(rows: Sequence[Sequence[int]], batch_tokens: int, device: torch.device) -> list[PackedBatch]:
    """Lists of ids in packed batches of at most `batch_tokens` on a device, longest first."""
    groups = token_budget_batches([len(row) for row in rows], tokens_at_once(batch_tokens, device))
    return [pack([rows[i] for i in group]).to(device) for group in groups]


def token_budget_batches(
    lengths: Sequence[int] | NDArray[Any], batch_tokens: int, most: int | None = None
) -> list[NDArray[Any]]:
    """Groups sequences into batches of at most `batch_tokens` tokens, longest first; one longer than that goes alone.

    Args:
        lengths: tokens in each sequence.
        batch_tokens: the limit, in real tokens.
        most: a limit of sequences as well; None for none.

    Returns:
        Indices into `lengths`, batch by batch. Equal lengths stay in their order.
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens = {batch_tokens} must be at least 1")
    if most is not None and most < 1:
        raise InputError(f"batch_size = {most} must be at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    before = np.concatenate([[0], np.asarray(lengths, dtype=np.int64)[order].cumsum()])
    cuts = [0]
    while cuts[-1] < len(order):
        last = np.searchsorted(before, before[cuts[-1]] + batch_tokens, "right") - 1
        end = max(int(last), cuts[-1] + 1)
        cuts.append(end if most is None else min(end, cuts[-1] + most))
    return [order[low:high] for low, high in pairwise(cuts)]


def pack_rows(
    framed: Framed, rows: Sequence[int] | Ints, device: torch.device | str = "cpu", *, own: bool = False
) -> PackedBatch:
    """Some of the rows, in the order given, as a batch on a device; its ids, segments, ... are parts of one int32 tensor.

    For a GPU that tensor is page-locked and sent without waiting; torch keeps it until it has been read. Each part starts at a
    multiple of 16 bytes: Triton compiles a kernel anew for pointers that do not. The batch knows the tables that its ids need,
    so that a model with such tables need not look for bad ids. In inference mode, where edits leave no trace, only batches that
    the caller keeps to itself (`own`) do.
    """
    device, rows = torch.device(device), np.asarray(rows, dtype=np.int64)
    lengths = framed.lengths[rows]
    longest, tokens = int(lengths.max()), int(lengths.sum())
    ends = lengths.cumsum()
    positions = np.arange(tokens) - np.repeat(ends - lengths, lengths)
    places = positions + np.repeat(framed.starts[rows], lengths)
    parts: list[NDArray[Any]] = [framed.ids[places], framed.segments[places], positions, np.append(0, ends)]
    if lengths.min() < longest:
        parts.append(positions + np.repeat(np.arange(len(rows)) * longest, lengths))
    rooms = [-(-len(part) // 4) * 4 for part in parts]
    joined = torch.empty(sum(rooms), dtype=torch.int32, pin_memory=device.type == "cuda")
    for room, part in zip(joined.split(rooms), parts, strict=True):
        room.numpy()[: len(part)] = part
    sent = joined.to(device, non_blocking=True).split(rooms)
    sent_ids, sent_segments, columns, starts, *indices = (room[: len(part)] for room, part in zip(sent, parts, strict=True))
    batch = PackedBatch(
        input_ids=sent_ids,
        token_type_ids=sent_segments,
        position_ids=columns,
        cu_seqlens=starts,
        max_seqlen=longest,
        padded_length=longest,
        indices=indices[0] if indices else None,
        counted=True,
        origin=Origin(framed, rows),
    )
    batch.know_lengths(lengths.tolist())
    ids, segments = parts[0], parts[1]
    if tokens and (own or not torch.is_inference_mode_enabled()) and min(ids.min(), segments.min()) >= 0:
        batch.mark_checked(Limits(int(ids.max()) + 1, int(segments.max()) + 1, longest))
    return batch


def bring_back(results: Sequence[Tensor], device: torch.device) -> Callable[[], list[Tensor]]:
    """Starts copying results to the host; the returned function waits for them."""
    if device.type != "cuda":
        return lambda: [result.cpu() for result in results]
    copies = [torch.empty(r.shape, dtype=r.dtype, pin_memory=True).copy_(r, non_blocking=True) for r in results]
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(device))

    def wait() -> list[Tensor]:
        arrived.synchronize()
        return [copy.clone() for copy in copies]  # callers keep results for long: page-locked memory is not for that

    return wait
