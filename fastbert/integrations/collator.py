"""A collator without padding for Trainer: classification with one label a sequence, and labels by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batch import IGNORE


class FlatteningCollator:
    """Puts the sequences of a batch end to end in one row (1, T), for fastbert's models and patched ones.

    It differs from transformers' DataCollatorWithFlattening in that a label of a sequence stays one, labels (B,), so that heads
    of sequences train without padding; and in that segments stay. Labels by token are (1, T), with -100 at each first token as
    there if `separate` is true.

    Args:
        separate: whether the first token of each sequence has no label, as models that predict the next token need.
    """

    def __init__(self, *, separate: bool = False) -> None:
        self.separate = separate

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Examples with `input_ids`, and maybe `token_type_ids` and `labels`, `label` or `label_ids`, -> arguments of a model.

        An `attention_mask` says which entries are padding, which is left out. Several labels of a sequence are floats.

        Raises:
            InputError: no example, one without tokens, one with another number of entries, or labels that are no numbers.
        """
        if not examples:
            raise InputError("examples is empty; expected at least one")
        examples = [_without_padding(example) for example in examples]
        rows = [_listed(example["input_ids"]) for example in examples]
        empty = next((i for i, row in enumerate(rows) if not row), None)
        if empty is not None:
            raise InputError(f"examples[{empty}] has no input_ids")
        lengths = [len(row) for row in rows]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        batch: dict[str, Any] = {"input_ids": _joined(rows)}
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = _joined(self._of("token_type_ids", examples, lengths))
        batch |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
        batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        name = next((name for name in ("labels", "label", "label_ids") if examples[0].get(name) is not None), None)
        if name is not None:
            batch["labels"] = self._labels(name, examples, lengths)
        return batch

    def _labels(self, name: str, examples: Sequence[Mapping[str, Any]], lengths: list[int]) -> Tensor:
        first = _listed(examples[0][name])
        if not isinstance(first, list) or (first and isinstance(first[0], float)):  # one or several a sequence
            try:
                return torch.tensor([_listed(example[name]) for example in examples])
            except (TypeError, ValueError) as error:
                raise InputError(f"{name} of the examples are no numbers of one shape: {error}") from None
        rows = self._of(name, examples, lengths)
        return _joined([[IGNORE, *row[1:]] if self.separate else row for row in rows])

    def _of(self, name: str, examples: Sequence[Mapping[str, Any]], lengths: list[int]) -> list[list[int]]:
        """A field of all examples, one entry a token."""
        rows = [_listed(example[name]) for example in examples]
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if len(row) != length:
                raise InputError(f"examples[{i}] has {len(row)} {name} and {length} input_ids")
        return rows


def _without_padding(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """An example without the entries whose mask is 0, in every field with one entry a token."""
    mask = _listed(example.get("attention_mask"))
    if mask is None or all(mask):
        return example
    fields = {name: _listed(value) for name, value in example.items()}
    by_token = (name for name, value in fields.items() if isinstance(value, list) and len(value) == len(mask))
    return {**fields, **{name: [v for v, real in zip(fields[name], mask, strict=True) if real] for name in by_token}}


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _joined(rows: list[list[int]]) -> Tensor:
    return torch.tensor([entry for row in rows for entry in row])[None]
