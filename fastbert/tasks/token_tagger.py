"""TokenTagger: tags every word and finds entities with their character spans, in texts of any length.

A text that exceeds the model's limit is read in overlapping windows; each piece of a word gets its scores from the window in
which it has the most context. No word is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fastbert.data.tags import OUTSIDE, spans
from fastbert.errors import InputError
from fastbert.model.heads import BertForTokenClassification
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks.loading import HeadTask, check_overlap, checked_length
from fastbert.text.encoding import check_text
from fastbert.text.framing import Framed, Framer, Place, place_of
from fastbert.text.tokenizer import Tokenizer
from fastbert.text.windows import most_context

AGGREGATIONS = ("none", "simple", "first", "average", "max")
OVERLAP = 128


@dataclass(frozen=True)
class Pieces:
    """The word pieces of a text.

    Attributes:
        ids: token ids, without special tokens.
        words: for each piece, the index of its word; ascending.
        offsets: for each piece, its character span in the text.
        num_words: number of words; some may have no piece.
    """

    ids: list[int]
    words: list[int]
    offsets: list[tuple[int, int]]
    num_words: int

    @property
    def first(self) -> list[int]:
        """The indices of pieces that start a word."""
        return [at for at, word in enumerate(self.words) if not at or word != self.words[at - 1]]


def split_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], place: Place | str = "inputs") -> list[Pieces]:
    """The word pieces of texts given as lists of words; offsets refer to the words joined by spaces."""
    sentences = [list(words) for words in sentences]
    for number, words in enumerate(sentences):
        for word in words:
            check_text(word, place_of(place)(number))
    encoded = tokenizer(sentences, is_split_into_words=True, add_special_tokens=False).encodings if sentences else []
    found = []
    for words, encoding in zip(sentences, encoded, strict=True):
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        owners = [w for w in encoding.word_ids if w is not None]
        offsets = [(starts[w] + a, starts[w] + b) for w, (a, b) in zip(owners, encoding.offsets, strict=True)]
        found.append(Pieces(encoding.ids, owners, offsets, len(words)))
    return found


def split_texts(tokenizer: Tokenizer, texts: Sequence[str], place: Place | str = "inputs") -> list[Pieces]:
    """The word pieces of raw texts, which the tokenizer splits into words at white space and punctuation."""
    for number, text in enumerate(texts):
        check_text(text, place_of(place)(number))
    found = []
    for text, encoding in zip(texts, tokenizer(list(texts), add_special_tokens=False).encodings if texts else [], strict=True):
        owners = [w for w in encoding.word_ids if w is not None]
        offsets = [_without_space(text, *span) for span in encoding.offsets]
        found.append(Pieces(encoding.ids, owners, offsets, owners[-1] + 1 if owners else 0))
    return found


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a piece without the space before them, which XLM-R's pieces take along."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


@dataclass(frozen=True)
class FramedWords:
    """Texts framed as rows, and the word pieces of each text."""

    framed: Framed
    pieces: list[Pieces]


def frame_words(
    tokenizer: Tokenizer,
    pieces: Sequence[Pieces],
    *,
    max_length: int,
    overlap: int = OVERLAP,
    place: Place | str = "inputs",
) -> FramedWords:
    """Frames texts, split into pieces, as rows; texts that are too long become windows."""
    framer = Framer(tokenizer, max_length, place)
    for one in pieces:
        framer.walk(one.ids, None, True, overlap=overlap)
    return FramedWords(framer.framed(), list(pieces))


class TokenTagger(HeadTask):
    """Tags words and finds entities.

    Args:
        model: an instance of `model_class`, or a composed model.
        tokenizer: its tokenizer.
        max_length: most tokens of a window, special tokens included; None means the model's limit.
        overlap: tokens that neighbouring windows share.
    """

    model_class = BertForTokenClassification
    head_name = "token-classification"
    head_parts = ("classifier.",)
    setting_names = ("max_length",)

    def __init__(self, model: Any, tokenizer: Tokenizer, *, max_length: int | None = None, overlap: int = OVERLAP) -> None:
        super().__init__(model, tokenizer)
        check_overlap(overlap)
        self.max_length, self.overlap = checked_length(max_length, self.longest), overlap

    @property
    def labels(self) -> list[str]:
        """Names of the tags, in the order of the scores."""
        names: list[str] = self.model.config.label_names
        return names

    def predict(
        self,
        inputs: Sequence[str | Sequence[str]],
        aggregation: str = "first",
        *,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> list[list[dict[str, Any]]]:
        """The entities of each text.

        Args:
            inputs: texts, or lists of words, which are joined by spaces.
            aggregation: how pieces are combined into entities, as in transformers' token-classification pipeline. "none": one
                result for each piece whose tag is not O. "simple": neighbouring pieces of the same kind are merged. With the
                others, each word first gets one tag: that of its first piece ("first"), of the mean of its pieces'
                probabilities ("average"), or of the piece with the highest probability ("max").
            batch_tokens: tokens processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            For each text a list of {"entity_group", "score", "word", "start", "end"} ("none": "entity" and "index"), in order;
            `text[start:end] == word`.
        """
        if aggregation not in AGGREGATIONS:
            raise InputError(f"aggregation = {aggregation!r} is not one of {', '.join(AGGREGATIONS)}")
        texts, pieces = self._pieces(inputs)
        probabilities = self.probabilities(self.frame(pieces), batch_tokens, show_progress)
        return [self._entities(*one, aggregation) for one in zip(texts, pieces, probabilities, strict=True)]

    def tag(
        self, sentences: Sequence[Sequence[str]], *, batch_tokens: int = BATCH_TOKENS, show_progress: Show = None
    ) -> list[list[str]]:
        """Tags each word by its first piece; a word without a piece (control characters only) is outside.

        Args:
            sentences: lists of words, of any length.
            batch_tokens, show_progress: see `predict`.
        """
        words = self.frame(split_words(self.tokenizer, sentences))
        return self.tags_of(words.pieces, self.probabilities(words, batch_tokens, show_progress))

    def tags_of(self, pieces: Sequence[Pieces], scores: Sequence[Tensor]) -> list[list[str]]:
        """One tag for each word, from the scores (pieces, C) of each text."""
        labels = self.labels
        outside = OUTSIDE if OUTSIDE in labels else labels[0]
        found = []
        for one, rows in zip(pieces, scores, strict=True):
            tags = [outside] * one.num_words
            first = one.first
            for at, best in zip(first, rows[first].argmax(-1).tolist(), strict=True):
                tags[one.words[at]] = labels[best]
            found.append(tags)
        return found

    def frame(self, pieces: Sequence[Pieces]) -> FramedWords:
        """Frames texts, split into pieces, as rows for the model."""
        return frame_words(self.tokenizer, pieces, max_length=self.max_length, overlap=self.overlap)

    @torch.inference_mode()
    def probabilities(self, words: FramedWords, batch_tokens: int = BATCH_TOKENS, show_progress: Show = False) -> list[Tensor]:
        """The probabilities (pieces, C) of each text, float32 on the CPU."""
        framed = words.framed
        parts: list[Tensor] = [torch.empty(0)] * len(framed)
        done = run(
            framed,
            lambda batch: [self.model(batch, return_dict=True).logits.float().softmax(-1)],
            self.model.device,
            batch_tokens,
            name="tag",
            show=show_progress,
            key=(),
        )
        for rows, (scores,) in done:
            for i, part in zip(rows, scores.split(framed.lengths[rows].tolist()), strict=True):
                column = framed.columns[i]
                parts[i] = part[column : column + framed.counts[i]]
        return [_most_context([(int(framed.firsts[i]), parts[i]) for i in rows]) for rows in framed.rows_of_texts()]

    def _pieces(self, inputs: Sequence[str | Sequence[str]]) -> tuple[list[str], list[Pieces]]:
        if isinstance(inputs, str):
            raise InputError("inputs is one string; expected a list of texts or of lists of words")
        raw = [i for i, value in enumerate(inputs) if isinstance(value, str)]
        given = [i for i, value in enumerate(inputs) if not isinstance(value, str)]
        texts: list[str] = [value if isinstance(value, str) else " ".join(value) for value in inputs]

        def at(numbers: list[int]) -> Place:
            return lambda i: f"inputs[{numbers[i]}]"

        pieces: dict[int, Pieces] = dict(zip(raw, split_texts(self.tokenizer, [texts[i] for i in raw], at(raw)), strict=True))
        pieces |= zip(given, split_words(self.tokenizer, [inputs[i] for i in given], at(given)), strict=True)
        return texts, [pieces[i] for i in range(len(texts))]

    def _entities(self, text: str, pieces: Pieces, rows: Tensor, aggregation: str) -> list[dict[str, Any]]:
        labels = self.labels
        if aggregation in ("none", "simple"):
            groups = [[at] for at in range(len(pieces.ids))]
        else:
            groups = [list(group) for _, group in groupby(range(len(pieces.ids)), key=pieces.words.__getitem__)]
        units = []  # tag, score, first and last character
        for group in groups:
            row = rows[group[0]]
            if aggregation == "average":
                row = rows[group].mean(0)
            elif aggregation == "max":
                row = rows[group[int(rows[group].amax(1).argmax())]]
            best = int(row.argmax())
            units.append((labels[best], float(row[best]), pieces.offsets[group[0]][0], pieces.offsets[group[-1]][1]))
        if aggregation == "none":
            return [
                {"entity": tag, "score": score, "index": at + 1, "word": text[start:end], "start": start, "end": end}
                for at, (tag, score, start, end) in enumerate(units)
                if tag != OUTSIDE
            ]
        found = []
        for kind, first, end in spans([tag for tag, *_ in units]):
            inside = units[first:end]
            start, stop = inside[0][2], inside[-1][3]
            score = sum(unit[1] for unit in inside) / len(inside)
            found.append({"entity_group": kind, "score": score, "word": text[start:stop], "start": start, "end": stop})
        return found


def _most_context(parts: list[tuple[int, Tensor]]) -> Tensor:
    """Merges the windows of a text, given as (first piece, rows): each piece's row from the window with its most context."""
    if len(parts) == 1:
        return parts[0][1]
    bounds = [(start, start + len(rows)) for start, rows in parts]
    chosen = most_context(bounds, bounds[-1][1])
    return torch.cat([rows[chosen[at] - start : chosen[at + 1] - start] for at, (start, rows) in enumerate(parts)])
