"""What the sentence-level tasks share: texts or pairs in, one row of scores each out, however long the texts are.

Texts that are too long are cut (with a warning), refused, or read in windows whose scores are joined.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.tasks.loading import WINDOW_SCORES, HeadTask, check_overlap, checked_length
from fastbert.text import framing
from fastbert.text.framing import Framed, Place
from fastbert.text.tokenizer import BertTokenizer


class SequenceTask(HeadTask):
    """A task with one row of scores for a text, or a pair. Lengths that a model was fine-tuned with are read beside it.

    Args:
        model: of `model_class`, or composed.
        tokenizer: its tokenizer.
        max_length: tokens of a row, special ones included; None means all that the model takes.
        overlong: longer ones are cut ("truncate", with a warning), refused ("error"), or read in windows ("window").
        overlap: tokens that neighbouring windows share.
        window_scores: how the scores of windows are joined: "mean" or "max" of the logits.
    """

    setting_names = ("max_length", "overlong", "overlap", "window_scores")

    def __init__(
        self,
        model: Any,
        tokenizer: BertTokenizer,
        *,
        max_length: int | None = None,
        overlong: str = "truncate",
        overlap: int = 64,
        window_scores: str = "mean",
    ) -> None:
        super().__init__(model, tokenizer)
        framing.check_overlong(overlong)
        if window_scores not in WINDOW_SCORES:
            raise InputError(f"window_scores = {window_scores!r} is not one of {', '.join(WINDOW_SCORES)}")
        check_overlap(overlap)
        self.max_length = checked_length(max_length, self.longest)
        self.overlong, self.overlap, self.window_scores = overlong, overlap, window_scores

    def frame(self, inputs: Sequence[Any], overlong: str | None = None, place: Place | str = "inputs") -> Framed:
        """The rows of texts, pairs as tuples, or {"text": ..., "text_pair": ...}; warns of what is cut.

        Args:
            inputs: texts or pairs.
            overlong: in place of the task's own.
            place: what messages call an input.

        Raises:
            InputError: something else, by its place, or a text that is too long where that is an error.
        """
        how = self.overlong if overlong is None else overlong
        framed = frame_texts(
            self.tokenizer, inputs, max_length=self.max_length, overlong=how, overlap=self.overlap, place=place
        )
        warn_of_cuts(framed, self.max_length)
        return framed

    @torch.inference_mode()
    def logits(
        self, framed: Framed, batch_tokens: int = BATCH_TOKENS, show_progress: bool | None = False, **options: Any
    ) -> Tensor:
        """float32 (texts, C) scores on the CPU, windows joined."""
        rows: Tensor | None = None
        done = run(
            framed,
            lambda batch: [self.model(batch, return_dict=True, **options).logits.float()],
            self.model.device,
            batch_tokens,
            name="classify",
            show=show_progress,
        )
        for numbers, (scores,) in done:
            if rows is None:
                rows = scores.new_empty(len(framed), scores.shape[1])
            rows[numbers] = scores
        if rows is None:
            return torch.empty(0, self.model.config.num_labels)
        if len(framed) == framed.num_texts:
            return rows
        counts = torch.tensor(framed.owners).bincount(minlength=framed.num_texts)
        return torch.segment_reduce(rows, self.window_scores, lengths=counts, unsafe=True)


def frame_texts(
    tokenizer: BertTokenizer,
    inputs: Sequence[Any],
    *,
    max_length: int,
    overlong: str = "truncate",
    overlap: int = 64,
    place: Place | str = "inputs",
) -> Framed:
    """The rows of texts or pairs; see `framing.frame`, and `split_pairs` for what they may be."""
    first, second = split_pairs(inputs, place)
    return framing.frame(tokenizer, first, second, max_length=max_length, overlong=overlong, overlap=overlap, place=place)


def warn_of_cuts(framed: Framed, limit: int) -> None:
    """Warns where texts were cut: how many, and how much of them."""
    cut = framed.cut[framed.cut > 0]
    if len(cut):
        warnings.warn(
            f"{len(cut)} of {framed.num_texts} inputs have more than {limit} tokens and were cut, by {cut.sum()} tokens in "
            "all; overlong='window' reads everything",
            stacklevel=4,
        )


def split_pairs(inputs: Sequence[Any], place: Place | str = "inputs") -> tuple[list[str], list[str] | None]:
    """Texts, and second texts where the inputs are pairs.

    Args:
        inputs: texts, pairs as tuples or lists, or {"text": ..., "text_pair": ...}.
        place: what messages call an input, or the name of the argument.

    Raises:
        InputError: an input that is neither, or single texts mixed with pairs, by its place.
    """
    name = place if isinstance(place, str) else "inputs"
    if isinstance(inputs, str):
        raise InputError(f"{name} is one string; expected a list of texts or pairs")
    first: list[str] = []
    second: list[str] = []
    for i, value in enumerate(inputs):
        if isinstance(value, Mapping):
            value = value.get("text") if value.get("text_pair") is None else (value.get("text"), value["text_pair"])
        parts = (value,) if isinstance(value, str) else value
        if not isinstance(parts, tuple | list) or len(parts) not in (1, 2) or not all(isinstance(p, str) for p in parts):
            raise InputError(f"{framing.place_of(place)(i)} = {value!r} is neither a text nor a pair of texts")
        first.append(parts[0])
        second += parts[1:]
    if second and len(second) != len(first):
        raise InputError(f"{name} holds pairs and single texts: give all of one kind")
    return first, second or None
