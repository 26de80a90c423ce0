"""Padded batches, ragged lists and tokenizer outputs to packed batches.

`pack` is the only place where the host waits for the device: it needs the lengths, and it reads the validity checks in the
same transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batch import PackedBatch, take
from fastbert.packing.checks import check_packed
from fastbert.packing.inputs import (
    Limits,
    as_bool_mask,
    as_index,
    check_integers,
    check_limits,
    check_source,
    lengths_and_checks,
    per_token,
    positions_of,
)


def pack(
    input_ids: Tensor | Sequence[Sequence[int]] | Mapping[str, Any] | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | Sequence[Sequence[int]] | None = None,
    position_ids: Tensor | str | None = None,
    *,
    inputs_embeds: Tensor | None = None,
    limits: Limits | None = None,
    wait: bool = True,
) -> PackedBatch:
    """Packs a padded batch, ragged lists of ids, or the output of a tokenizer.

    Args:
        input_ids: (B, S) integers; or a list of lists of ids, which needs no mask; or a mapping with these arguments.
        attention_mask: (B, S), 1 or True at tokens, with padding at either side or holes; None means that all are tokens.
        token_type_ids: like `input_ids`; None means 0.
        position_ids: (S,), (1, S) or (B, S); None means the column 0..S-1, as in transformers; ``"from_mask"`` counts only
            tokens, so that left-padded rows start at 0.
        inputs_embeds: (B, S, N) in place of `input_ids`.
        limits: table sizes to check the ids against.
        wait: False puts a check of the ids alone off, see `fastbert.check`. With a mask the lengths are needed anyway.

    Raises:
        InputError: a wrong shape or type, a mask with values other than 0 and 1, or an id outside its table, with its place.
    """
    if isinstance(input_ids, Mapping):
        return pack(
            **{name: input_ids[name] for name in _MODEL_INPUTS if input_ids.get(name) is not None}, limits=limits, wait=wait
        )
    if input_ids is not None and not isinstance(input_ids, Tensor):
        if inputs_embeds is not None:
            raise InputError("pass exactly one of input_ids and inputs_embeds; got both")
        return _pack_lists(input_ids, attention_mask, token_type_ids, position_ids, limits)
    source, name = (inputs_embeds, "inputs_embeds") if input_ids is None else (input_ids, "input_ids")
    if source is None or (input_ids is not None and inputs_embeds is not None):
        got = "neither" if source is None else "both"
        raise InputError(f"pass exactly one of input_ids and inputs_embeds; got {got}")
    check_source(source, name)
    shape, device = (source.shape[0], source.shape[1]), source.device
    mask = as_bool_mask(attention_mask, shape, device)
    types = per_token(token_type_ids, "token_type_ids", shape, device)
    positions = positions_of(position_ids, mask, shape, device)
    counted = not isinstance(position_ids, Tensor)
    if types is None:
        types = torch.zeros(shape, dtype=torch.long, device=device)
    if torch.compiler.is_compiling():
        return _pack_traced(input_ids, inputs_embeds, types, positions, mask, counted)

    lengths = [shape[1]] * shape[0]
    if mask is not None:
        lengths = lengths_and_checks(attention_mask, mask, input_ids, types, positions, limits)
    elif limits is not None:
        check_limits(input_ids, types, positions, None, limits, wait)
    tokens = sum(lengths)
    indices = None
    if mask is not None and tokens < shape[0] * shape[1]:
        indices = torch.nonzero_static(mask.reshape(-1), size=tokens).view(-1)
    batch = PackedBatch(
        input_ids=None if input_ids is None else take(as_index(input_ids), indices),
        token_type_ids=take(as_index(types), indices),
        position_ids=take(as_index(positions), indices),
        cu_seqlens=_starts(mask, shape, device),
        max_seqlen=max(lengths),
        padded_length=shape[1],
        indices=indices,
        inputs_embeds=None if inputs_embeds is None else take(inputs_embeds, indices),
        counted=counted,
    )
    batch.know_lengths(lengths)
    batch.mark_checked(limits)
    return batch


def _starts(mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """(B + 1,) int32, made on the device: a copy from the host would wait."""
    if mask is None:
        return torch.arange(shape[0] + 1, dtype=torch.int32, device=device) * shape[1]
    return torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()


def _pack_traced(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    types: Tensor,
    positions: Tensor,
    mask: Tensor | None,
    counted: bool,
) -> PackedBatch:
    """A batch while a graph is traced: padding is kept, as the number of rows must not depend on the values."""
    size, length = types.shape
    return PackedBatch(
        input_ids=None if input_ids is None else input_ids.reshape(-1),
        token_type_ids=types.reshape(-1),
        position_ids=positions.reshape(-1),
        cu_seqlens=(torch.arange(size + 1, device=types.device) * length).int(),
        max_seqlen=length,
        padded_length=length,
        inputs_embeds=None if inputs_embeds is None else inputs_embeds.flatten(0, 1),
        attention_bias=None if mask is None else mask_to_bias(mask[:, None, None, :]),
        valid=None if mask is None else mask.reshape(-1),
        counted=counted,
    )


_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def mask_to_bias(mask: Tensor) -> Tensor:
    """A bool mask (True = may be attended) -> float32 bias, 0 or -inf."""
    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill(~mask, float("-inf"))


def _pack_lists(
    input_ids: Sequence[Sequence[int]], mask: Any, types: Any, positions: Any, limits: Limits | None
) -> PackedBatch:
    """Packs ragged lists; lists padded with a mask are packed as tensors."""
    if not hasattr(input_ids, "__len__") or not hasattr(input_ids, "__getitem__") or isinstance(input_ids, str | bytes):
        kind = type(input_ids).__name__
        raise InputError(f"input_ids is a {kind}; expected a tensor, a list of lists of ids, or a PackedBatch")
    if len(input_ids) == 0:
        raise InputError("input_ids is an empty list; expected at least one sequence")
    if all(isinstance(i, int) for i in input_ids):  # one sequence: what a tokenizer returns for one text
        single: list[Any] = [None if value is None else [value] for value in (input_ids, mask, types)]
        return _pack_lists(single[0], single[1], single[2], positions, limits)
    if not all(map(_is_row, input_ids)):
        raise InputError("input_ids mixes ids and lists; expected a list of lists of ids")
    lengths = [len(ids) for ids in input_ids]
    for name, rows in (("token_type_ids", types), ("attention_mask", mask)):
        if rows is not None and not (
            hasattr(rows, "__len__") and all(map(_is_row, rows)) and [len(r) for r in rows] == lengths
        ):
            raise InputError(f"{name} must have as many entries as input_ids, row by row")
    if positions is not None or (mask is not None and any(value != 1 for row in mask for value in row)):
        if len(set(lengths)) > 1:
            raise InputError("lists of different lengths take neither position_ids nor a mask with zeros; pass tensors")
        named = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types, "position_ids": positions}
        return pack(**{name: _as_given(value, name) for name, value in named.items()}, limits=limits)
    flat = _flat_integers(input_ids, "input_ids")
    longest = max(lengths)
    counts = torch.tensor(lengths)
    columns = torch.arange(len(flat)) - _repeated(counts.cumsum(0) - counts, lengths)
    batch = PackedBatch(
        input_ids=flat,
        token_type_ids=torch.zeros_like(flat) if types is None else _flat_integers(types, "token_type_ids"),
        position_ids=columns,
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        max_seqlen=longest,
        padded_length=longest,
        counted=True,
    )
    batch.know_lengths(lengths)
    if min(lengths) != longest:
        batch.indices = columns + _repeated(torch.arange(len(lengths)) * longest, lengths)
    return batch if limits is None else check_packed(batch, limits)


def _repeated(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Each value repeated by its count."""
    if torch.compiler.is_compiling() or values.device.type != "cpu":  # a graph knows the counts, and a GPU would be waited for
        return torch.cat([values[i].expand(count) for i, count in enumerate(counts)])
    return values.repeat_interleave(torch.tensor(counts))


def _is_row(row: Any) -> bool:
    """Whether a value is a list of ids, or a tensor or array of them."""
    return hasattr(row, "__len__") and not isinstance(row, str | bytes | Mapping) and getattr(row, "ndim", 1) == 1


def _as_given(value: Any, name: str) -> Any:
    """Lists as a tensor; None, words and tensors as they are."""
    if value is None or isinstance(value, str | Tensor):
        return value
    try:
        return torch.as_tensor([row.tolist() if hasattr(row, "tolist") else row for row in value])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no list of numbers: {str(error).splitlines()[0]}") from None


def _flat_integers(rows: Sequence[Sequence[int]], name: str) -> Tensor:
    """All entries of lists, int64."""
    entries = list(chain.from_iterable(row.tolist() if hasattr(row, "tolist") else row for row in rows))
    if not torch.compiler.is_compiling() and torch.get_default_device().type == "cpu":
        try:
            found = np.asarray(entries)
            if found.dtype == np.int64 and found.ndim == 1:  # a third of the time that torch takes for a list
                return torch.from_numpy(found)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass  # torch says what is wrong
    try:
        flat = torch.tensor(entries, dtype=None if entries else torch.long)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} holds something other than integers: {str(error).splitlines()[0]}") from None
    check_integers(flat, name)
    if flat.dim() != 1:
        raise InputError(f"{name} is nested too deeply; expected a list of lists of ids")
    return flat.long()
