"""What a tokenizer puts around texts: [CLS] A [SEP] B [SEP] of BERT, <s> A </s></s> B </s> of RoBERTa, or another one's own."""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Tokenizer

from fastbert.errors import InputError


class Template(NamedTuple):
    """What a tokenizer puts around texts: ids and segments in front, between, behind; the segments of A and B."""

    parts: tuple[list[int], list[int], list[int]]
    segments: tuple[bytes, bytes, bytes]
    a: int
    b: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, probe: str, pair: bool, segments_pairs: bool = True) -> Template:
        """The template as the library's tokenizer applies it to a text, or to a pair.

        Args:
            tokenizer: the library's.
            probe: a text of one token or more.
            pair: which of the two templates.
            segments_pairs: False gives everything segment 0.
        """
        encoding = tokenizer.encode(probe, probe if pair else None)
        ids, segments, texts = encoding.ids, encoding.type_ids, encoding.sequence_ids
        if not segments_pairs:
            segments = [0] * len(ids)
        if pair and 1 in texts[: len(texts) - texts[::-1].index(0)]:
            raise InputError("the tokenizer puts the second text of a pair before the first: such pairs are not supported")
        begin = texts.index(0)
        end = len(texts) - texts[::-1].index(0)
        second = texts.index(1) if pair else len(texts)
        behind = len(texts) - texts[::-1].index(1) if pair else end
        spans = ((0, begin), (end, second if pair else end), (behind, len(ids)))
        return cls(
            tuple(ids[low:high] for low, high in spans),  # type: ignore[arg-type]
            tuple(bytes(segments[low:high]) for low, high in spans),  # type: ignore[arg-type]
            segments[begin],
            segments[second] if pair else 0,
        )

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.parts))
