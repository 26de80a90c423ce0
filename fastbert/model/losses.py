"""Labels: their checks, their packed forms, and the losses that are not one cross entropy.

Labels that are -100, and labels of tokens under mask 0, do not count; a loss without any label is 0 and still attached to the
graph. Sizes: B sequences, S padded length, T packed tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.errors import InputError
from fastbert.ops.reference import cross_entropy_of_logits
from fastbert.packing import PackedBatch, deferred
from fastbert.packing.batch import IGNORE
from fastbert.packing.inputs import check_tensor


def sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """MSE, cross entropy or binary cross entropy, by the problem's type."""
    check_tensor(labels, "labels")
    size, count = logits.shape
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if problem_type is None:
        problem_type = "multi_label_classification"
        if count == 1:
            problem_type = "regression"
        elif whole:
            problem_type = "single_label_classification"
    if problem_type == "single_label_classification":
        return cross_entropy_of_logits(logits, sequence_labels(labels, "labels", size, count))
    if labels.numel() != logits.numel() or labels.shape[:1] != (size,):
        raise InputError(f"labels has shape {tuple(labels.shape)}; {problem_type} expects ({size}, {count})")
    targets = labels.view(size, count).to(logits.dtype)
    if problem_type == "regression":
        return F.mse_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)


def sequence_labels(labels: Tensor, name: str, size: int, count: int) -> Tensor:
    """(B,) labels, one a sequence, checked to be below `count`."""
    check_tensor(labels, name)
    if labels.is_floating_point() or labels.is_complex() or labels.numel() != size:
        got = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{name} has {got}; expected ({size},) integers")
    return _checked(labels.reshape(-1).long(), lambda bad: (bad,), name, count)


def token_labels(labels: Tensor, batch: PackedBatch, padded: bool, count: int) -> Tensor:
    """(T,) labels from (B, S) or (T,), checked to be below `count`; -100 at tokens that are not real."""
    check_tensor(labels, "labels")
    shape = (batch.batch_size, batch.padded_length) if padded else (batch.num_tokens,)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.shape != shape:
        got = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"labels has {got}; expected {shape} integers")
    packed = (batch.pack(labels) if padded else labels).long()
    if batch.valid is not None:
        packed = packed.masked_fill(~batch.valid, IGNORE)
    return _checked(packed, lambda bad: batch.place(bad) if padded else (bad,), "labels", count)


def _checked(flat: Tensor, place: Callable[[int], tuple[int, ...]], name: str, count: int) -> Tensor:
    """Labels that are all -100 or below `count`. On a GPU nobody waits: wrong ones do not count, and are raised late."""
    if torch.compiler.is_compiling():
        return flat
    wrong = ((flat < 0) | (flat >= count)) & (flat != IGNORE)

    def report(_: list[bool]) -> None:
        bad = int(wrong.nonzero()[0])
        where = ", ".join(map(str, place(bad)))
        raise InputError(f"{name}[{where}] = {int(flat[bad])} is neither {IGNORE} nor in 0..{count - 1}")

    if flat.device.type == "cuda":
        deferred.defer(wrong.any()[None], report)
        return flat.masked_fill(wrong, IGNORE)
    if bool(wrong.any()):
        report([True])
    return flat


def labelled_rows(
    labels: Tensor, scored_rows: Tensor | None, batch: PackedBatch, padded: bool, vocab_size: int, shifted: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The packed rows that are scored (M,), their labels (M,), and how many labels count.

    Without `scored_rows` they are looked for, for which the host waits. With it they are as given: labels (M,) of those rows,
    -100 where a row only fills a fixed number up.
    """
    if scored_rows is None:
        scored = token_labels(labels, batch, padded, vocab_size)
        scored = shift(scored, batch) if shifted else scored
        rows = (scored != IGNORE).nonzero().view(-1)
        return rows, scored.index_select(0, rows), torch.tensor(rows.shape[0], device=rows.device)
    check_tensor(labels, "labels")
    check_tensor(scored_rows, "scored_rows")
    if labels.dim() != 1 or labels.shape != scored_rows.shape:
        shapes = f"labels {tuple(labels.shape)}, scored_rows {tuple(scored_rows.shape)}"
        raise InputError(f"with scored_rows both are (M,): one label a row; got {shapes}")
    last = batch.num_tokens - 1
    outside = (scored_rows < 0) | (scored_rows > last)

    def report(_: list[bool]) -> None:
        bad = int(outside.nonzero()[0])
        raise InputError(f"scored_rows[{bad}] = {int(scored_rows[bad])} is not in 0..{last}")

    if not torch.compiler.is_compiling():
        deferred.defer(outside.any()[None], report)
        if labels.device.type == "cpu":
            deferred.check()
    wanted = _checked(labels.long(), lambda bad: (bad,), "labels", vocab_size)
    return scored_rows.clamp(0, last), wanted, (wanted != IGNORE).sum()


def shift(labels: Tensor, batch: PackedBatch) -> Tensor:
    """(T,) labels moved to the token before, within each sequence; its last token predicts nothing."""
    starts = torch.zeros(labels.shape[0] + 1, dtype=torch.bool, device=labels.device)
    starts = starts.index_fill(0, batch.cu_seqlens.long().clamp(0, labels.shape[0]), True)
    return F.pad(labels, (0, 1), value=IGNORE)[1:].masked_fill(starts[1:], IGNORE)


def answer_labels(positions: Tensor, name: str, batch: PackedBatch) -> Tensor:
    """(B,) columns; -100 where one lies at or beyond S or on no token. Negative ones count as 0, as in transformers."""
    columns = _flat_positions(positions, name, batch.batch_size).clamp(0, batch.padded_length)
    real = batch.unpack(torch.ones(batch.num_tokens, device=batch.device)) > 0
    real = F.pad(real, (0, 1))
    return columns.masked_fill(~real.gather(1, columns[:, None]).squeeze(1), IGNORE)


def _flat_positions(positions: Tensor, name: str, size: int) -> Tensor:
    check_tensor(positions, name)
    if positions.is_floating_point() or positions.numel() != size:
        got = f"shape {tuple(positions.shape)} and type {positions.dtype}"
        raise InputError(f"{name} has {got}; expected ({size},) integers")
    return positions.reshape(-1).long()
