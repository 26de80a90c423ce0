"""Shared by sentence-level tasks: one row of scores for each text or pair of texts, however long the texts are.

Texts that are too long are cut (with a warning), rejected, or read in windows whose scores are combined.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks.loading import WINDOW_SCORES, HeadTask, check_overlap, checked_length
from fastbert.text import framing
from fastbert.text.framing import Cut, Framed, Place
from fastbert.text.tokenizer import Tokenizer


class SequenceTask(HeadTask):
    """A task with one row of scores for each text or pair of texts.

    `from_pretrained` uses the settings saved with a fine-tuned model.

    Args:
        model: an instance of `model_class`, or a composed model.
        tokenizer: its tokenizer.
        max_length: most tokens of a row, special tokens included; None means the model's limit.
        overlong: inputs that are too long are cut ("truncate", with a warning), rejected ("error"), or read in windows
            ("window").
        overlap: tokens that neighbouring windows share.
        window_scores: how the scores of windows are combined: "mean" or "max" of the logits.
    """

    setting_names = ("max_length", "overlong", "overlap", "window_scores")
    work = "classify"  # its name beside a progress bar

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
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
        """Encodes texts, pairs as tuples, or {"text": ..., "text_pair": ...} as rows; warns if texts are cut.

        Args:
            inputs: texts or pairs.
            overlong: overrides the task's setting.
            place: how messages name an input.

        Raises:
            InputError: an input of another type, with its place, or, with overlong "error", one that is too long.
        """
        framed = self.frame_quietly(inputs, overlong, place)
        warn_of_cuts(framed, self.max_length)
        return framed

    def frame_quietly(self, inputs: Sequence[Any], overlong: str | None = None, place: Place | str = "inputs") -> Framed:
        """As `frame`, without the warning: `Framed.cut` says what was cut."""
        return frame_texts(
            self.tokenizer,
            inputs,
            max_length=self.max_length,
            overlong=self.overlong if overlong is None else overlong,
            overlap=self.overlap,
            place=place,
            cut=self._pair_cut(),
        )

    def _pair_cut(self) -> Cut | None:
        """How pairs that are too long are cut; None is the rule of `framing.frame`."""
        return None

    @torch.inference_mode()
    def logits(
        self,
        framed: Framed,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = False,
        advance: Callable[[int], object] | None = None,
        **options: Any,
    ) -> Tensor:
        """float32 (texts, C) scores on the CPU, with the scores of windows combined; `advance` as of `batching.run`."""
        rows: Tensor | None = None
        done = run(
            framed,
            lambda batch: [self.model(batch, return_dict=True, **options).logits.float()],
            self.model.device,
            batch_tokens,
            name=self.work,
            show=show_progress,
            advance=advance,
            key=tuple(sorted(options.items())),
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
    tokenizer: Tokenizer,
    inputs: Sequence[Any],
    *,
    max_length: int,
    overlong: str = "truncate",
    overlap: int = 64,
    place: Place | str = "inputs",
    cut: Cut | None = None,
) -> Framed:
    """Encodes texts or pairs as rows; see `framing.frame`, and `split_pairs` for accepted inputs."""
    first, second = split_pairs(inputs, place)
    return framing.frame(
        tokenizer, first, second, max_length=max_length, overlong=overlong, overlap=overlap, place=place, cut=cut
    )


def warn_of_cuts(framed: Framed, limit: int) -> None:
    """Warns if texts were truncated, with their number and the number of tokens lost."""
    cut = framed.cut[framed.cut > 0]
    if len(cut):
        warnings.warn(
            f"{len(cut)} of {framed.num_texts} inputs have more than {limit} tokens and were truncated, by {cut.sum()} tokens "
            "in all; overlong='window' reads everything",
            stacklevel=4,
        )


def split_pairs(inputs: Sequence[Any], place: Place | str = "inputs") -> tuple[list[str], list[str] | None]:
    """Splits inputs into first texts and, for pairs, second texts (None for single texts).

    Args:
        inputs: texts, pairs as tuples or lists, or {"text": ..., "text_pair": ...}.
        place: how messages name an input, or the name of the argument.

    Raises:
        InputError: an input that is neither a text nor a pair, with its place, or single texts mixed with pairs.
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
