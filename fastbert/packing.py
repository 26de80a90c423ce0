"""Padded batches to packed ones and back: tokens of all sequences end to end, no padding among them.

    input_ids (B, S) + mask  --pack-->  (T,) tokens, cu_seqlens (B + 1,)  --unpack-->  (B, S, ...)

`pack` is the only place where the host waits for the device: it needs the lengths, and it reads the validity checks in the
same transfer. Sizes: B sequences, S padded length, T real tokens, N hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbert import late
from fastbert.errors import InputError
from fastbert.inputs import (
    Limits,
    as_bool_mask,
    as_index,
    check_integers,
    check_limits,
    check_source,
    check_tensor,
    lengths_and_checks,
    per_token,
    positions_of,
)


class Origin:
    """The set of rows that a batch was packed from, and the numbers of its own among them."""

    def __init__(self, framed: Any, rows: Any) -> None:
        self.framed, self.rows = framed, rows


@dataclass
class PackedBatch:
    """A batch without padding.

    Attributes:
        input_ids, token_type_ids, position_ids: (T,) integer tensors; `input_ids` is None where `inputs_embeds` is given.
        cu_seqlens: (B + 1,) int32, the row at which each sequence starts, and T. Empty sequences are fine.
        max_seqlen: the longest length, a Python int.
        padded_length: S of the padded form, to which `unpack` returns.
        indices: (T,) place of each token in the flattened padded form, the tail's one behind it; None where nothing is padded.
        inputs_embeds: (T, N) word embeddings computed elsewhere.
        attention_bias: (B or 1, H or 1, S, S) added to the attention scores: masks that packing cannot express.
        valid: (T,) bool, only while a graph is traced: the tokens that are real, as the traced form keeps the padding.
        tail: rows at the end that belong to no sequence; see `fixed_budget`.
        prefix: keys and values (B, H, P, D) of each layer that stand before the tokens, from `past_key_values`.
        shown_mask: the mask that hooks on parts see; set by a model.
        padded: whether the caller of a model passed the padded form, which hooks on its parts are shown then.
        origin: where its sequences come from, if they were framed by this library.
    """

    input_ids: Tensor | None
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    padded_length: int
    indices: Tensor | None = None
    inputs_embeds: Tensor | None = None
    attention_bias: Tensor | None = None
    valid: Tensor | None = None
    tail: int = 0
    padded: bool = False
    prefix: Sequence[tuple[Tensor, Tensor]] | None = None
    shown_mask: Tensor | None = None
    origin: Origin | None = field(default=None, repr=False)
    checked: Limits | None = field(default=None, repr=False)  # what it was checked against, while it stays as it is
    _checked_state: tuple[Any, ...] = field(default=(), repr=False)
    _starts: tuple[Any, list[int]] | None = field(default=None, repr=False)  # see `host_starts`
    _derived: tuple[Any, Any] | None = field(default=None, repr=False)  # see `once`

    @property
    def batch_size(self) -> int:
        """B, empty sequences included."""
        return self.cu_seqlens.shape[0] - 1

    @property
    def num_tokens(self) -> int:
        """T, the tail included."""
        return self.position_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens in each sequence."""
        return self.cu_seqlens.diff()

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.position_ids.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The same batch on another device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory; `DataLoader(pin_memory=True)` calls it."""
        return self._moved(Tensor.pin_memory)

    def map(self, change: Callable[[Tensor], Tensor]) -> PackedBatch:
        """The same batch with every tensor changed."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith(("checked", "_"))}
        changed: dict[str, Any] = {name: change(v) if isinstance(v, Tensor) else v for name, v in values.items()}
        return PackedBatch(**changed)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> PackedBatch:
        """The same values elsewhere: what was checked stays checked."""
        made = self.map(move)
        made.mark_checked(self.checked if self._checked_state == self._state() else None)
        if self._starts is not None and self._starts[0] == _identity(self.cu_seqlens):
            made._starts = (_identity(made.cu_seqlens), self._starts[1])
        return made

    def know_lengths(self, lengths: Sequence[int]) -> None:
        """Tells the batch what `cu_seqlens` holds, so that nobody needs to ask the device."""
        self._starts = (_identity(self.cu_seqlens), list(accumulate(lengths, initial=0)))

    def host_starts(self) -> list[int]:
        """`cu_seqlens` as Python ints. They leave the device once, and again only where the tensor was changed."""
        state = _identity(self.cu_seqlens)
        if self._starts is None or self._starts[0] != state:
            self._starts = (state, self.cu_seqlens.tolist())
        return self._starts[1]

    def once(self, make: Callable[[list[int]], Any]) -> Any:
        """What `make` derives from `host_starts`, made once for the lengths as they stand."""
        key = (make, _identity(self.cu_seqlens))
        if self._derived is None or self._derived[0] != key:
            self._derived = (key, make(self.host_starts()))
        return self._derived[1]

    def unpack(self, packed: Tensor, fill: float = 0.0) -> Tensor:
        """(T, ...) per token -> (B, S, ...), with `fill` where there is no token."""
        shape = (self.batch_size, self.padded_length, *packed.shape[1:])
        if self.valid is not None:
            valid = self.valid.view(-1, *([1] * (packed.dim() - 1)))
            return packed.masked_fill(~valid, fill).view(shape)
        if self.indices is None:
            if shape[0] * shape[1] != packed.shape[0]:
                raise InputError(f"{packed.shape[0]} rows have no padded form {shape[:2]} without indices")
            return packed.view(shape)
        places = shape[0] * shape[1]
        flat = packed.new_full((places + (self.tail > 0), *packed.shape[1:]), fill)  # the tail goes to one place behind
        return flat.index_copy(0, self.indices.long(), packed)[:places].view(shape)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, S, ...) -> the rows of its real tokens (T, ...), zeros in the tail."""
        if self.tail:
            padded = padded.reshape(-1, *padded.shape[2:])
            padded = torch.cat([padded, padded.new_zeros(1, *padded.shape[1:])])[None]
        return _take(padded, self.indices)

    def padded_inputs(self) -> dict[str, Tensor | None]:
        """What a model is called with to compute this batch: ids, segments and positions (B, S), and the mask."""
        ones = torch.ones(self.num_tokens, dtype=torch.long, device=self.device)
        values = {
            "input_ids": self.input_ids,
            "token_type_ids": self.token_type_ids,
            "position_ids": self.position_ids,
            "inputs_embeds": self.inputs_embeds,
        }
        inputs = {name: None if value is None else self.unpack(value) for name, value in values.items()}
        return {**inputs, "attention_mask": self.unpack(ones) if self.attention_bias is None else self.attention_bias}

    def first_rows(self) -> Tensor:
        """(B,) packed row of each sequence's first token ([CLS]). For an empty sequence some row: see `blank_empty`."""
        if self.valid is not None:
            first = self.valid.view(self.batch_size, self.padded_length).int().argmax(1)
            return self.cu_seqlens[:-1].long() + first
        return self.cu_seqlens[:-1].long().clamp(0, self.num_tokens - 1)

    def blank_empty(self, per_sequence: Tensor) -> Tensor:
        """(B, ...) with zeros at empty sequences."""
        filled = self.lengths > 0
        if self.valid is not None:
            filled = self.valid.view(self.batch_size, self.padded_length).any(1)
        return per_sequence * filled.view(-1, *([1] * (per_sequence.dim() - 1))).to(per_sequence.dtype)

    def mark_checked(self, limits: Limits | None) -> None:
        """Remembers what the batch was checked against; it counts until a field is replaced or changed in place."""
        self.checked, self._checked_state = limits, self._state()

    def is_checked(self, limits: Limits) -> bool:
        """Whether the batch, as it stands, was checked against these limits."""
        return self.checked == limits and self._checked_state == self._state()

    def _state(self) -> tuple[Any, ...]:
        values = [getattr(self, name) for name in _CHECKED_FIELDS]
        return tuple(_identity(value) if isinstance(value, Tensor) else value for value in values)

    def place(self, row: int) -> tuple[int, ...]:
        """Where token `row` stands in what the caller passed: (sequence, column) if that was padded, else (row,)."""
        if self.indices is None and self.padded_length * self.batch_size != self.num_tokens:
            return (row,)
        flat = row if self.indices is None else int(self.indices[row])
        return divmod(flat, self.padded_length)


_CHECKED_FIELDS = tuple(f.name for f in fields(PackedBatch) if not f.name.startswith(("checked", "_")))


def _identity(value: Tensor) -> tuple[int, int, int]:
    """Which tensor it is, where its values are, and how often they were changed."""
    place = value.data_ptr() if value.layout == torch.strided else 0
    return id(value), place, -1 if value.is_inference() else value._version


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
    """Packs a padded batch, ragged lists of ids, or what a tokenizer returned.

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
    if types is None:
        types = torch.zeros(shape, dtype=torch.long, device=device)
    if torch.compiler.is_compiling():
        return _pack_traced(input_ids, inputs_embeds, types, positions, mask)

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
        input_ids=None if input_ids is None else _take(as_index(input_ids), indices),
        token_type_ids=_take(as_index(types), indices),
        position_ids=_take(as_index(positions), indices),
        cu_seqlens=_starts(mask, shape, device),
        max_seqlen=max(lengths),
        padded_length=shape[1],
        indices=indices,
        inputs_embeds=None if inputs_embeds is None else _take(inputs_embeds, indices),
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
    input_ids: Tensor | None, inputs_embeds: Tensor | None, types: Tensor, positions: Tensor, mask: Tensor | None
) -> PackedBatch:
    """The form of a batch while a graph is traced: all places stay, as their number must not depend on the values."""
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
    )


_WIDEST = 64  # times the position table: no padded form is wider
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def _take(padded: Tensor, indices: Tensor | None) -> Tensor:
    """(B, S, ...) -> its rows at `indices`, or all of them: (T, ...)."""
    flat = padded.reshape(-1, *padded.shape[2:])
    return flat if indices is None else flat.index_select(0, indices)


def mask_to_bias(mask: Tensor) -> Tensor:
    """A bool mask (True = may be attended) -> float32 bias, 0 or -inf."""
    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill(~mask, float("-inf"))


def check_packed(batch: PackedBatch, limits: Limits, wait: bool = True) -> PackedBatch:
    """Checks a batch that the caller packed against the tables, once a batch: `checked` remembers it.

    Without `wait` nothing waits for the device: what is wrong is raised at a later call, or by `fastbert.check()`.
    """
    if torch.compiler.is_compiling() or late.capturing() or batch.is_checked(limits):
        return batch
    _check_form(batch, limits)
    for name in ("input_ids", "token_type_ids", "position_ids", "indices"):
        value = getattr(batch, name)
        if value is not None and value.dtype not in (torch.int32, torch.int64):
            setattr(batch, name, as_index(value))
    tokens = batch.num_tokens
    if wait:
        _check_bounds(batch)
    else:
        starts = batch.cu_seqlens
        wrong = (starts[0] != 0) | (starts[-1] != tokens - batch.tail) | (starts.diff() < 0).any()
        wrong = wrong | (starts.diff() > batch.max_seqlen).any()
        late.defer(wrong[None], lambda _: _check_bounds(batch))
    check_limits(batch.input_ids, batch.token_type_ids, batch.position_ids, batch.place, limits, wait)
    batch.mark_checked(limits)
    return batch


def _check_form(batch: PackedBatch, limits: Limits) -> None:
    """That every field of a batch is what the class says, in type and shape; nothing of it waits for the device."""
    for name in ("position_ids", "token_type_ids", "input_ids", "cu_seqlens", "indices"):
        value = getattr(batch, name)
        if value is None and name in ("input_ids", "indices"):
            continue
        check_tensor(value, name)
        check_integers(value, name)
        if value.dim() != 1 or value.device != batch.position_ids.device:
            raise InputError(
                f"{name} has shape {tuple(value.shape)} on {value.device}; a packed batch has one dimension, one device"
            )
    tokens = batch.num_tokens
    if (batch.input_ids is None) == (batch.inputs_embeds is None):
        got = "neither" if batch.input_ids is None else "both"
        raise InputError(f"a packed batch has exactly one of input_ids and inputs_embeds; it has {got}")
    if batch.inputs_embeds is not None:
        check_tensor(batch.inputs_embeds, "inputs_embeds")
        if batch.inputs_embeds.dim() != 2 or not batch.inputs_embeds.is_floating_point():
            raise InputError(f"inputs_embeds has shape {tuple(batch.inputs_embeds.shape)}; a packed batch has (tokens, hidden)")
    for name in ("input_ids", "token_type_ids", "inputs_embeds", "indices"):
        value = getattr(batch, name)
        if value is not None and value.shape[0] != tokens:
            raise InputError(f"{name} has {value.shape[0]} rows, position_ids has {tokens}: a packed batch needs one a token")
    if batch.cu_seqlens.dtype != torch.int32 or batch.batch_size < 1:
        shape, dtype = tuple(batch.cu_seqlens.shape), batch.cu_seqlens.dtype
        raise InputError(f"cu_seqlens has shape {shape} and type {dtype}; expected (B + 1,) int32")
    widest = _WIDEST * max(limits.max_position_embeddings, 1)
    for name, low, high in (("max_seqlen", 0, widest), ("padded_length", 0, widest), ("tail", 0, tokens)):
        value = getattr(batch, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} = {str(value)[:40]} must be a whole number from {low} to {high}")
    if not isinstance(batch.padded, bool):
        raise InputError(f"padded = {str(batch.padded)[:40]} must be True or False")
    if batch.prefix is not None or batch.shown_mask is not None:
        raise InputError("prefix and shown_mask are set by a model, from past_key_values and for hooks")
    if batch.valid is not None:
        raise InputError("valid is set while a graph is traced, and is None otherwise")
    if batch.attention_bias is not None:
        check_tensor(batch.attention_bias, "attention_bias")
        size, width, shape = batch.batch_size, batch.padded_length, tuple(batch.attention_bias.shape)
        if len(shape) != 4 or shape[0] not in (1, size) or shape[2] not in (1, width) or shape[3] != width:
            raise InputError(f"attention_bias has shape {shape}; expected ({size}, heads, {width}, {width})")
        if not batch.attention_bias.is_floating_point():
            raise InputError(f"attention_bias has type {batch.attention_bias.dtype}; expected floats")


def _check_bounds(batch: PackedBatch) -> None:
    """That the sequences follow one another from row 0 to the tail, none longer than `max_seqlen`."""
    starts, tokens = batch.host_starts(), batch.num_tokens - batch.tail
    lengths = [b - a for a, b in pairwise(starts)]
    if starts[0] != 0 or starts[-1] != tokens or min(lengths) < 0:
        raise InputError(f"cu_seqlens must rise from 0 to the {tokens} tokens; it goes from {starts[0]} to {starts[-1]}")
    if batch.indices is not None and tokens:
        places = batch.batch_size * batch.padded_length
        low, high = int(batch.indices.min()), int(batch.indices.max())
        if low < 0 or high >= places + (batch.tail > 0):
            raise InputError(f"indices go from {low} to {high}; the padded form has the places 0..{places - 1}")
    if max(lengths) > batch.max_seqlen:
        raise InputError(f"max_seqlen = {batch.max_seqlen} is below the longest sequence, {max(lengths)} tokens")


def fixed_budget(batch: PackedBatch, tokens: int, sequences: int, max_seqlen: int) -> PackedBatch:
    """The same batch in a shape that does not depend on its texts, as graph capture wants it.

    Args:
        batch: what is to be run.
        tokens: rows of the result; those behind the last token are a tail of zeros that belongs to no sequence.
        sequences: sequences of the result; the further ones are empty.
        max_seqlen: the longest length that kernels are launched for. The padded form becomes (sequences, max_seqlen), or
            stays as wide as it was where left padding or holes made it wider.

    Raises:
        InputError: the batch is larger than the budget.
    """
    sizes = {"tokens": (batch.num_tokens, tokens), "sequences": (batch.batch_size, sequences)}
    for name, (size, limit) in {**sizes, "max_seqlen": (batch.max_seqlen, max_seqlen)}.items():
        if size > limit:
            raise InputError(f"the batch has {name} = {size}; the budget is {limit}")
    if batch.attention_bias is not None or batch.valid is not None:
        raise InputError("a fixed budget takes batches with 2-D masks only")
    missing = tokens - batch.num_tokens

    def longer(values: Tensor | None) -> Tensor | None:
        if values is None or not missing:
            return values
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])

    real = batch.num_tokens - batch.tail
    width = max(max_seqlen, batch.padded_length)
    places = batch.indices
    if places is None and real == batch.batch_size * batch.padded_length:
        places = torch.arange(real, device=batch.device)
    if places is not None:
        places = places[:real] // batch.padded_length * width + places[:real] % batch.padded_length
        places = torch.cat([places, places.new_full((tokens - real,), sequences * width)])
    ends = batch.cu_seqlens[-1:].expand(sequences - batch.batch_size)
    types, positions = longer(batch.token_type_ids), longer(batch.position_ids)
    assert types is not None
    assert positions is not None
    filled = PackedBatch(
        input_ids=longer(batch.input_ids),
        token_type_ids=types,
        position_ids=positions,
        cu_seqlens=torch.cat([batch.cu_seqlens, ends]),
        max_seqlen=max_seqlen,
        padded_length=width,
        indices=places,
        inputs_embeds=longer(batch.inputs_embeds),
        tail=batch.tail + missing,
    )
    filled.mark_checked(batch.checked if batch.checked is not None and batch.is_checked(batch.checked) else None)
    return filled


def token_budget_batches(lengths: Sequence[int] | NDArray[Any], batch_tokens: int) -> list[NDArray[Any]]:
    """Groups sequences into batches of at most `batch_tokens` tokens, longest first; one longer than that goes alone.

    Args:
        lengths: tokens in each sequence.
        batch_tokens: the limit, in real tokens.

    Returns:
        Indices into `lengths`, batch by batch. Equal lengths stay in their order.
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens = {batch_tokens} must be at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    before = np.concatenate([[0], np.asarray(lengths, dtype=np.int64)[order].cumsum()])
    cuts = [0]
    while cuts[-1] < len(order):
        last = np.searchsorted(before, before[cuts[-1]] + batch_tokens, "right") - 1
        cuts.append(max(int(last), cuts[-1] + 1))
    return [order[low:high] for low, high in pairwise(cuts)]


def _pack_lists(
    input_ids: Sequence[Sequence[int]], mask: Any, types: Any, positions: Any, limits: Limits | None
) -> PackedBatch:
    """Ragged lists; lists that were padded, with a mask that says so, go the way of tensors."""
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
    batch = PackedBatch(
        input_ids=flat,
        token_type_ids=torch.zeros_like(flat) if types is None else _flat_integers(types, "token_type_ids"),
        position_ids=torch.cat([torch.arange(n) for n in lengths]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        max_seqlen=longest,
        padded_length=longest,
    )
    batch.know_lengths(lengths)
    if min(lengths) != longest:
        batch.indices = torch.cat([torch.arange(n) + row * longest for row, n in enumerate(lengths)])
    return batch if limits is None else check_packed(batch, limits)


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
    entries = [entry for row in rows for entry in (row.tolist() if hasattr(row, "tolist") else row)]
    try:
        flat = torch.tensor(entries, dtype=None if entries else torch.long)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} holds something other than integers: {str(error).splitlines()[0]}") from None
    check_integers(flat, name)
    if flat.dim() != 1:
        raise InputError(f"{name} is nested too deeply; expected a list of lists of ids")
    return flat.long()
