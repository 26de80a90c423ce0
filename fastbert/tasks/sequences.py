"""What the sentence-level tasks share: texts or pairs in, one row of scores each out, however long the texts are.

Batches hold a fixed number of tokens, longest texts first; the order comes back. Texts that are too long are cut (with a
warning), refused, or read in windows whose scores are joined.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fastbert.data.framing import ON_LONG, Framed, Framer
from fastbert.errors import InputError
from fastbert.packing import PackedBatch, pack, token_budget_batches
from fastbert.tasks.loading import WINDOW_SCORES, HeadTask
from fastbert.tokenizer import BertTokenizer

CPU_BATCH_TOKENS = 2048  # as of the embedder: larger batches push the activations out of a CPU's caches


def batches(
    framed: Framed, device: torch.device, batch_tokens: int, show_progress: bool | None, name: str
) -> Iterator[tuple[list[int], PackedBatch]]:
    """The sequences in packed batches of at most `batch_tokens`, each with the numbers of its sequences."""
    limit = min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens
    lengths = framed.lengths
    quiet = not (sys.stderr.isatty() if show_progress is None else show_progress)
    with tqdm(total=sum(lengths), unit="tok", unit_scale=True, desc=name, disable=quiet, leave=False) as bar:
        for indices in token_budget_batches(lengths, limit):
            batch = pack([framed.ids[i] for i in indices], token_type_ids=[framed.types[i] for i in indices])
            yield indices, batch.to(device)
            bar.update(batch.num_tokens)


class SequenceTask(HeadTask):
    """A task with one row of scores for a text, or a pair. Lengths that a model was fine-tuned with are read beside it.

    Args:
        model: of `model_class`, or composed.
        tokenizer: its tokenizer.
        max_length: tokens of a sequence, special ones included; None means all that the model takes.
        on_long: longer ones are cut ("truncate", with a warning), refused ("error"), or read in windows ("window").
        overlap: tokens that neighbouring windows share.
        window_scores: how the scores of windows are joined: "mean" or "max" of the logits.
    """

    setting_names = ("max_length", "on_long", "overlap", "window_scores")

    def __init__(
        self,
        model: Any,
        tokenizer: BertTokenizer,
        *,
        max_length: int | None = None,
        on_long: str = "truncate",
        overlap: int = 64,
        window_scores: str = "mean",
    ) -> None:
        super().__init__(model, tokenizer)
        if on_long not in ON_LONG:
            raise InputError(f"on_long = {on_long!r} is not one of {', '.join(ON_LONG)}")
        if window_scores not in WINDOW_SCORES:
            raise InputError(f"window_scores = {window_scores!r} is not one of {', '.join(WINDOW_SCORES)}")
        check_overlap(overlap)
        self.max_length = checked_length(max_length, self.longest)
        self.on_long, self.overlap, self.window_scores = on_long, overlap, window_scores
        self.warns_of_cuts = True

    def frame(self, inputs: Sequence[Any], on_long: str | None = None) -> Framed:
        """The sequences of texts, pairs as tuples, or {"text": ..., "text_pair": ...}.

        Raises:
            InputError: something else, by its place, or a text that is too long where that is an error.
        """
        first, second = split_pairs(inputs)
        how = self.on_long if on_long is None else on_long
        bound = self.max_length if how == "truncate" and self.tokenizer.truncation_side == "right" else None
        ids = self.tokenizer.encode_ids(first, add_special_tokens=False, max_tokens=bound)
        pairs = None if second is None else self.tokenizer.encode_ids(second, add_special_tokens=False, max_tokens=bound)
        framer = Framer(self.tokenizer, self.max_length)
        framed = framer.frame(ids, pairs, how, self.overlap, "inputs")
        if self.warns_of_cuts:
            warn_of_cuts(framed, self.max_length)
        return framed

    @torch.inference_mode()
    def logits(self, framed: Framed, batch_tokens: int = 16384, show_progress: bool | None = False, **options: Any) -> Tensor:
        """float32 (texts, C) scores on the CPU, windows joined."""
        rows: Tensor | None = None
        for indices, batch in batches(framed, self.model.device, batch_tokens, show_progress, "classify"):
            scores = self.model(batch, return_dict=True, **options).logits.float().cpu()
            if rows is None:
                rows = scores.new_empty(len(framed.ids), scores.shape[1])
            rows[indices] = scores
        if rows is None:
            return torch.empty(0, self.model.config.num_labels)
        if len(framed.ids) == len(framed.cut):
            return rows
        counts = torch.tensor(framed.owners).bincount(minlength=len(framed.cut))
        return torch.segment_reduce(rows, self.window_scores, lengths=counts, unsafe=True)


def check_overlap(overlap: int) -> None:
    """Raises InputError unless it is a whole number from 0."""
    if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
        raise InputError(f"overlap = {overlap!r} must be a whole number from 0")


def checked_length(max_length: int | None, longest: int) -> int:
    """The length of a task's sequences; InputError where the model does not take sequences that long."""
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 5):
        raise InputError(f"max_length = {max_length!r} must be a whole number from 5: the special tokens need room beside text")
    if max_length is not None and max_length > longest:
        raise InputError(f"max_length = {max_length} is above the {longest} tokens that model and tokenizer take")
    return longest if max_length is None else max_length


def warn_of_cuts(framed: Framed, limit: int) -> None:
    """Warns where texts were cut: how many, and how much of them."""
    cut = [count for count in framed.cut if count]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(framed.cut)} inputs have more than {limit} tokens and were cut, by {sum(cut)} tokens in all; "
            "on_long='window' reads everything",
            stacklevel=4,
        )


def split_pairs(inputs: Sequence[Any]) -> tuple[list[str], list[str] | None]:
    """Texts, and second texts where the inputs are pairs.

    Raises:
        InputError: an input that is neither, or single texts mixed with pairs, by its place.
    """
    if isinstance(inputs, str):
        raise InputError("inputs is one string; expected a list of texts or pairs")
    first: list[str] = []
    second: list[str] = []
    for i, value in enumerate(inputs):
        if isinstance(value, Mapping):
            value = value.get("text") if value.get("text_pair") is None else (value.get("text"), value["text_pair"])
        parts = (value,) if isinstance(value, str) else value
        if not isinstance(parts, tuple | list) or len(parts) not in (1, 2) or not all(isinstance(p, str) for p in parts):
            raise InputError(f"inputs[{i}] = {value!r} is neither a text nor a pair of texts")
        first.append(parts[0])
        second += parts[1:]
    if second and len(second) != len(first):
        raise InputError("inputs holds pairs and single texts: give all of one kind")
    return first, second or None
