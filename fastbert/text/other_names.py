"""transformers' other tokenizer methods, each in terms of `__call__` or of the special tokens around texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastbert.errors import InputError
from fastbert.text.cutting import CutTexts
from fastbert.text.encoding import (
    BatchEncoding,
)
from fastbert.text.template import Template
from fastbert.text.wordpiece import listed


class OtherNames(CutTexts):
    """transformers' other methods of `Tokenizer`."""

    __call__: Any
    template: Callable[[bool], Template]

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """Ids of one text or pair; `options` as of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """As a call, by transformers' older name."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """As a call with several texts or pairs, by transformers' older name."""
        return self(list(batch_text_or_text_pairs), **options)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The word pieces of a text; `options` as of a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens, 0 elsewhere: what transformers' masking collator asks.

        Args:
            token_ids_0, token_ids_1: ids of a text, or of a pair.
            already_has_special_tokens: they are framed by [CLS] and [SEP], in `token_ids_0` alone; otherwise the mask is of
                the framed form.
        """
        if not already_has_special_tokens:
            front, between, behind = self.template(token_ids_1 is not None).parts
            first = [*[1] * len(front), *[0] * len(token_ids_0), *[1] * len(between)]
            return [*first, *[0] * len(token_ids_1 or ()), *[1] * len(behind)]
        if token_ids_1 is not None:
            raise InputError("token_ids_1 has no place where token_ids_0 has its special tokens already")
        special = set(self.all_special_ids)
        return [int(i in special) for i in listed(token_ids_0)]

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Ids of a text, or of a pair, with the special tokens around them."""
        front, between, behind = self.template(token_ids_1 is not None).parts
        return [*front, *token_ids_0, *between, *(token_ids_1 or ()), *behind]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Segments of what `build_inputs_with_special_tokens` gives."""
        template = self.template(token_ids_1 is not None)
        front, between, behind = template.segments
        inner = [*[template.a] * len(token_ids_0), *between, *[template.b] * len(token_ids_1 or ())]
        return [*front, *inner, *behind]

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens frame a text or a pair."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """As `num_special_tokens`, by transformers' name."""
        return self.num_special_tokens(pair)
