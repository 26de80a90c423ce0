"""Truncation: how much of a long text is read, and its windows."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from tokenizers import Encoding, Tokenizer

from fastbert.errors import InputError
from fastbert.text.byte_level import prefixes_spaces, trims_offsets, with_prefix_space, without_post_processor
from fastbert.text.encoding import (
    pair_lengths,
)
from fastbert.text.saved import SavedTokenizer

# Texts of more characters a token of the limit than this are cut before they are read.
_CHARACTERS_A_TOKEN = 64
_RUN = re.compile(r"[0-9A-Za-z]{2048,}")
_BLANKS = re.compile(r"[ \t\n\r]{2048,}")


class CutTexts(SavedTokenizer):
    """The part of `Tokenizer` that cuts."""

    def _reading_literally(self) -> Tokenizer:
        """The tokenizer that reads special tokens in a text as the characters they are."""
        if self._literal is None:
            literal = Tokenizer.from_str(self._tokenizer.to_str())
            literal.encode_special_tokens = True
            self._literal = literal
        return self._literal

    def _reading(self, words: bool, bare: bool = False) -> Tokenizer:
        """The tokenizer of texts, or of words that a text was split into before.

        Byte-level BPE writes the space before a word into its first token, so that a word alone is read with a space. Its
        post-processor takes that space out of the offsets, which must not happen twice: a `bare` tokenizer has none.
        """
        if (words, bare) not in self._forms:
            made = self._tokenizer
            if words and not prefixes_spaces(made):
                made = with_prefix_space(made, True)
            if bare and trims_offsets(made):
                made = without_post_processor(made)
            made.encode_special_tokens = self._tokenizer.encode_special_tokens
            self._forms[words, bare] = made
        return self._forms[words, bare]

    def _beginning(self, text: str, tokens: int, squeeze: bool = False) -> str:
        """A beginning of a text that has its first `tokens` tokens and more, or the whole text.

        The last word of what is read, and what an added token could reach across, may be cut differently: they do not count.

        Args:
            squeeze: shorten endless words and blanks, which keeps the ids but moves the characters.
        """
        size = _CHARACTERS_A_TOKEN * (tokens + 16)
        if len(text) <= size:
            return text
        margin = 1 + max((len(token.content) for token in self.added_tokens_decoder.values()), default=0)
        if squeeze and len(text) > 1 << 16:
            longest = getattr(self._tokenizer.model, "max_input_chars_per_word", 1 << 20)
            if longest < 1024 and margin < 1024:  # both stay [UNK], and nothing that is matched reaches across
                text = _BLANKS.sub(" ", _RUN.sub(lambda run: run[0][:1024], text))
        while size < len(text):
            read = self._tokenizer.encode(text[:size], add_special_tokens=False)
            words = read.word_ids
            sure = sum(word != words[-1] and end <= size - margin for word, (_, end) in zip(words, read.offsets, strict=True))
            if sure > tokens:
                return text[:size]
            size *= 4
        return text

    def _shortened(self, given: Any, limit: int, strategy: str | None) -> Any:
        """An input without text that truncation would remove in any case; see `_beginning`."""
        if not isinstance(given, tuple):
            return self._beginning(given, limit)
        first, second = given
        if strategy == "longest_first" and min(len(first), len(second)) > _CHARACTERS_A_TOKEN * limit:
            return given  # which of two long texts is the longer one decides about a token
        return (
            first if strategy == "only_second" else self._beginning(first, limit),
            second if strategy == "only_first" else self._beginning(second, limit),
        )

    def _windows(
        self, given: Any, place: int, split: bool, special: bool, room: int, strategy: str, stride: int
    ) -> list[Encoding]:
        """The framed windows of an input that is too long, `room` tokens of text in each; cutting keeps the first one."""
        parts = given if isinstance(given, tuple) else (given,)
        if strategy == "only_second" and len(parts) == 1:
            raise InputError(f"truncation = 'only_second' cannot shorten text[{place}]: it is a single text")
        encode = partial(self._reading(split, bare=True).encode, is_pretokenized=split, add_special_tokens=False)
        first = encode(parts[0])
        # The second one beside an empty first one: then its windows have its segment.
        second = [encode([] if split else "", part) for part in parts[1:]]
        lengths = (
            (min(room, len(first.ids)), 0) if not second else (pair_lengths(len(first.ids), len(second[0].ids), room, strategy))
        )
        for name, encoding, length in zip(("first", "second"), (first, *second), lengths, strict=False):
            if length == len(encoding.ids):
                continue
            if length < 1 or stride >= length:
                raise InputError(
                    f"text[{place}]: truncation = {strategy!r} to {room} tokens of text leaves {max(length, 0)} of the "
                    f"{len(encoding.ids)} tokens of its {name} text" + (f", not more than stride = {stride}" if stride else "")
                )
            encoding.truncate(length, stride=stride, direction=self.truncation_side)
        if second and not second[0].overflowing:
            second = [encode(parts[1])]
        framed = self._reading(split).post_process(first, second[0] if second else None, add_special_tokens=special)
        return [framed, *framed.overflowing]
