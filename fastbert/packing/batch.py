"""Padded batches to packed ones and back: tokens of all sequences end to end, no padding among them.

    input_ids (B, S) + mask  --pack-->  (T,) tokens, cu_seqlens (B + 1,)  --unpack-->  (B, S, ...)

Sizes: B sequences, S padded length, T real tokens, N hidden size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.inputs import Limits
from fastbert.text.framing import Framed, Ints

IGNORE = -100  # of labels beside a batch: where there is none, as PyTorch's losses have it


@dataclass(frozen=True, eq=False)
class Origin:
    """The framed rows that a batch was packed from, and which of them it holds, (B,)."""

    framed: Framed
    rows: Ints


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
        counted: whether `position_ids` were counted from 0, not given: a model whose positions start elsewhere counts anew.
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
    counted: bool = False
    padded: bool = False
    prefix: Sequence[tuple[Tensor, Tensor]] | None = None
    shown_mask: Tensor | None = None
    origin: Origin | None = field(default=None, repr=False)
    checked: Limits | None = field(default=None, repr=False)  # what it is known to keep, while it stays as it is
    _checked_state: tuple[Any, ...] = field(default=(), repr=False)
    _starts: tuple[Tensor, list[int]] | None = field(default=None, repr=False)  # see `host_starts`
    _derived: tuple[list[int], Any, Any] | None = field(default=None, repr=False)  # see `once`

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

    def clone(self) -> PackedBatch:
        """The same batch in memory of its own."""
        return self._moved(torch.clone)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> PackedBatch:
        """The same values on another device or in other memory; a checked batch stays checked."""
        values = ((name, getattr(self, name)) for name in _CHECKED_FIELDS)
        moved: dict[str, Any] = {name: move(value) if isinstance(value, Tensor) else value for name, value in values}
        made = PackedBatch(**moved)
        made._starts = self._starts  # of use only where the lengths are the same, see `host_starts`
        made.mark_checked(self.checked if self._checked_state == self._state() else None)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """The state that is copied or pickled; the copy counts as checked if this batch does."""
        valid = self.checked is not None and self.is_checked(self.checked)
        state = {name: value for name, value in vars(self).items() if name not in _OWN_STATE}
        return {**state, "checked": self.checked if valid else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        old = "_checked_state" in state  # pickled by an earlier version, perhaps edited after its check
        self._starts = self._derived = None
        vars(self).update({name: value for name, value in state.items() if name not in _OWN_STATE})
        self.mark_checked(None if old else self.checked)

    def know_lengths(self, lengths: Sequence[int]) -> None:
        """Stores the lengths of a batch on a CPU, where attention needs them on the host."""
        if self.device.type == "cpu" and not torch.compiler.is_compiling():
            self._starts = (self.cu_seqlens.clone(), list(accumulate(lengths, initial=0)))

    def host_starts(self) -> list[int]:
        """`cu_seqlens` as Python ints, read again only if its values have changed.

        The values are compared: a tensor made in inference mode, and changes through `.data` or numpy, leave no other trace.
        """
        kept = self._starts
        if kept is None or kept[0].device != self.cu_seqlens.device or not torch.equal(kept[0], self.cu_seqlens):
            kept = self._starts = (self.cu_seqlens.clone(), self.cu_seqlens.tolist())
        return kept[1]

    def once(self, make: Callable[[list[int]], Any]) -> Any:
        """The result of `make(host_starts)`, computed once for the current lengths."""
        starts = self.host_starts()
        if self._derived is None or self._derived[0] is not starts or self._derived[1] != make:
            self._derived = (starts, make, make(starts))
        return self._derived[2]

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
        return take(padded, self.indices)

    def padded_inputs(self) -> dict[str, Tensor | None]:
        """The padded arguments of a model for this batch: ids, segments and positions (B, S), and the mask."""
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
        """Records limits that the batch is known to keep, valid until a field is replaced or changed in place."""
        self.checked, self._checked_state = limits, self._state()

    def is_checked(self, limits: Limits) -> bool:
        """Whether the batch, unchanged since, is known to keep these limits, or lower ones.

        Edits through `.data`, numpy, or in inference mode leave no trace, and are not noticed. While tracing, nothing is known.
        """
        if torch.compiler.is_compiling():
            return False
        known = self.checked is not None and all(map(operator.le, self.checked, limits))
        return known and self._checked_state == self._state()

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


_OWN_STATE = ("_checked_state", "_starts", "_derived")  # of use where the tensors are, and nowhere else


def _identity(value: Tensor) -> tuple[int, int, int]:
    """Identity, address and version of a tensor."""
    place = value.data_ptr() if value.layout == torch.strided else 0
    return id(value), place, -1 if value.is_inference() else value._version


def fixed_budget(batch: PackedBatch, tokens: int, sequences: int, max_seqlen: int) -> PackedBatch:
    """The same batch in a fixed shape that does not depend on its texts, as graph capture needs it.

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
        counted=batch.counted,
    )
    filled.mark_checked(batch.checked if batch.checked is not None and batch.is_checked(batch.checked) else None)
    return filled


def take(padded: Tensor, indices: Tensor | None) -> Tensor:
    """(B, S, ...) -> its rows at `indices`, or all of them: (T, ...)."""
    flat = padded.reshape(-1, *padded.shape[2:])
    return flat if indices is None else flat.index_select(0, indices)
