"""Text to ids: the call of a tokenizer, padding, and the faster road to ids alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastbert.errors import InputError
from fastbert.text.encoding import (
    PADDED,
    BatchEncoding,
    as_array,
    check_counts,
    check_side,
    check_texts,
    cutting_strategy,
    pad,
    padded_width,
    pads,
)
from fastbert.text.other_names import OtherNames
from fastbert.text.wordpiece import listed


class Calls(OtherNames):
    """The part of `Tokenizer` that encodes and pads."""

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encodes a text, or a list of them, alone or in pairs, in its template: [CLS] A [SEP] B [SEP] for BERT.

        Args:
            text, text_pair: one text or a list, also a list of pairs; with `is_split_into_words` one list of words, a list of
                those, or a list of tuples of two.
            padding: False (ragged lists: `fastbert.pack` takes them as they are), True or "longest", or "max_length".
            truncation: False (nothing is ever cut: the model refuses what is too long), True or "longest_first",
                "only_first" or "only_second", at `truncation_side`. None, as in transformers, is True where `max_length` is
                given and `padding` is not, and False otherwise. What was cut is counted in `num_truncated`.
            max_length: limit of truncation and of padding to "max_length"; None means `model_max_length`.
            stride: tokens that neighbouring overflow windows share.
            return_overflowing_tokens: with truncation, one row for each window instead of cutting; which text each row comes
                from stands in `overflow_to_sample_mapping`.
            padding_side, pad_to_multiple_of: where and how far to pad.
            return_tensors: "pt", "np", or None for lists.
            return_token_type_ids, return_attention_mask: None means if `model_input_names` has them.
            return_offsets_mapping: (start, end) characters of each token in its text.
            return_special_tokens_mask: 1 at [CLS], [SEP] and padding.
            return_length: the length of each row, padding included.
            verbose: taken for transformers' sake.

        Returns:
            `BatchEncoding` with input_ids, token_type_ids, attention_mask and what was asked for.

        Raises:
            InputError: something that is not text, with its place; a limit too small for the special tokens.
        """
        single, inputs = check_texts(text, text_pair, is_split_into_words)
        strategy = cutting_strategy(max_length is not None and not padding if truncation is None else truncation)
        limit = self.model_max_length if max_length is None else max_length
        check_counts(max_length=limit, stride=stride, pad_to_multiple_of=pad_to_multiple_of)
        if strategy and pads(padding) and max_length is not None and pad_to_multiple_of and max_length % pad_to_multiple_of:
            raise InputError(f"max_length = {max_length} is no multiple of pad_to_multiple_of = {pad_to_multiple_of}")
        if limit is None and strategy:
            raise InputError("this tokenizer has no model_max_length: pass max_length")
        cuts = strategy is not None and limit is not None
        if cuts and not return_overflowing_tokens and self.truncation_side == "right" and not is_split_into_words:
            assert limit is not None
            inputs = [self._shortened(one, limit, strategy) for one in inputs]
        rows = [
            [encoding]
            for encoding in self._reading(is_split_into_words).encode_batch(
                inputs, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
            )
        ]
        cut = [0] * len(inputs)
        if cuts and limit is not None and strategy is not None:
            pair = bool(inputs) and isinstance(inputs[0], tuple)
            room = limit - (self.num_special_tokens(pair) if add_special_tokens else 0)
            if room < 1 or not 0 <= stride < room:
                text_of = f"max_length = {limit} with stride = {stride}"
                raise InputError(f"{text_of} leaves no room for text beside the special tokens")
            for i, (full,) in enumerate(rows):
                if len(full.ids) > limit:
                    rows[i] = self._windows(inputs[i], i, is_split_into_words, add_special_tokens, room, strategy, stride)
                    if not return_overflowing_tokens:
                        cut[i] = len(full.ids) - len(rows[i][0].ids)
                        del rows[i][1:]
        flat = [encoding for windows in rows for encoding in windows]
        width = padded_width([e.ids for e in flat], padding, limit, pad_to_multiple_of)
        if width is not None:
            side, token_id, token = check_side(padding_side or self.padding_side), self._padding_id(), self.pad_token
            for encoding in flat:
                encoding.pad(width, direction=side, pad_id=token_id, pad_type_id=0, pad_token=token)
        values: dict[str, Any] = {"input_ids": [e.ids for e in flat]}
        if self._returns("token_type_ids", return_token_type_ids):
            values["token_type_ids"] = [e.type_ids for e in flat]
        if self._returns("attention_mask", return_attention_mask):
            values["attention_mask"] = [e.attention_mask for e in flat]
        if return_special_tokens_mask:
            values["special_tokens_mask"] = [e.special_tokens_mask for e in flat]
        if return_offsets_mapping:
            values["offset_mapping"] = [e.offsets for e in flat]
        if return_length:
            values["length"] = [len(e.ids) for e in flat]
        if return_overflowing_tokens:
            values["overflow_to_sample_mapping"] = [i for i, windows in enumerate(rows) for _ in windows]
        if return_tensors is not None:
            values = {name: as_array(v, name, return_tensors) for name, v in values.items()}
        elif single and not return_overflowing_tokens:
            values = {name: v if name == "length" else v[0] for name, v in values.items()}
        return BatchEncoding(values, flat, cut)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads what calls returned, one by one or together: what transformers' data collators ask of a tokenizer.

        Args:
            encoded_inputs: one example, a mapping of lists, or a list of mappings. Ids, segments and masks are padded; other
                keys keep their values, and their type where tensors are asked for.
            padding, max_length, pad_to_multiple_of, padding_side, return_tensors: as in a call.
            return_attention_mask: None adds a mask where `model_input_names` has one.
            verbose: taken for transformers' sake.

        Raises:
            InputError: no input_ids, examples with different keys, or a value that no tensor can hold, by its key.
        """
        if isinstance(encoded_inputs, Mapping):
            rows: dict[str, Any] = dict(encoded_inputs)
        else:
            examples = list(encoded_inputs)
            names = list(examples[0]) if examples else []
            for i, example in enumerate(examples):
                if set(example) != set(names):
                    odd = sorted(set(example) ^ set(names))
                    raise InputError(f"encoded_inputs[{i}] and encoded_inputs[0] differ in their keys: {', '.join(odd)}")
            rows = {name: [example[name] for example in examples] for name in names}
        if "input_ids" not in rows:
            raise InputError(f"pad needs input_ids; it got {', '.join(map(str, rows)) or 'nothing'}")
        check_counts(max_length=max_length, pad_to_multiple_of=pad_to_multiple_of)
        ids = listed(rows["input_ids"])
        single = bool(ids) and not isinstance(listed(ids[0]), list | tuple)
        lists: dict[str, list[Any]] = {}
        for name in PADDED:
            if name in rows:
                lists[name] = [listed(rows[name])] if single else [listed(row) for row in listed(rows[name])]
        lengths = [len(row) for row in lists["input_ids"]]
        for name, column in lists.items():
            if [len(row) for row in column] != lengths:
                raise InputError(f"{name} and input_ids have rows of different lengths")
        if self._returns("attention_mask", return_attention_mask):
            lists.setdefault("attention_mask", [[1] * length for length in lengths])
        width = padded_width(lists["input_ids"], padding, max_length or self.model_max_length, pad_to_multiple_of)
        side = check_side(padding_side or self.padding_side)
        if width is not None:
            fills = {"input_ids": self._padding_id(), "special_tokens_mask": 1}
            lists = {n: [pad(row, width, fills.get(n, 0), side) for row in column] for n, column in lists.items()}
        values: dict[str, Any] = {**rows, **{name: column[0] if single else column for name, column in lists.items()}}
        if return_tensors is not None:
            values = {
                name: as_array([value] if single and not hasattr(value, "shape") else value, name, return_tensors)
                for name, value in values.items()
            }
        return BatchEncoding(values)

    def encode_ids(
        self,
        texts: Sequence[str],
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """Ids of each text, ragged and not cut; faster than a call, as nothing else is tracked.

        Args:
            texts: to encode.
            add_special_tokens: frame each text by [CLS] and [SEP].
            split_special_tokens: read "[MASK]" and the like in a text as the characters they are.
            max_tokens: how many tokens of a text matter: of one that is many times longer the rest is not read, and its row is
                longer than that all the same.
        """
        _, inputs = check_texts(list(texts), None, False)
        if max_tokens is not None:
            inputs = [self._beginning(text, max_tokens, squeeze=True) for text in inputs]
        tokenizer = self._reading_literally() if split_special_tokens else self._tokenizer
        return [e.ids for e in tokenizer.encode_batch_fast(inputs, add_special_tokens=add_special_tokens)]

    def _padding_id(self) -> int:
        if self.pad_token_id is None:
            raise InputError("padding needs a padding token, and this tokenizer has none: set pad_token")
        return self.pad_token_id

    def _returns(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked
