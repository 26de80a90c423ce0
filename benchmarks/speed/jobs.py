"""The interface of a candidate: a job, given once when it starts, and inputs, one list of texts after another.

Deliberately lightweight: every candidate's process imports this module, and must not import fastbert through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What to load and how to run it, the same for every candidate.

    Attributes:
        task: "encoder", "classification", "question answering", "masked words", "fine-tuning", "pre-training", or the name of
            an op case.
        device, dtype: as PyTorch spells them.
        folder: the checkpoint, a local directory; "" for ops.
        max_length: the longest text, in tokens.
        mask_token_id: the id at masked words.
    """

    task: str
    device: str
    dtype: str
    folder: str = ""
    max_length: int = 512
    mask_token_id: int = 103


@dataclass(frozen=True)
class Inputs:
    """The texts of a case: ids with special tokens, and the texts themselves if available."""

    rows: list[list[int]]
    texts: list[str] | None = None


class Work:
    """The base class of all candidates: runs one job on given inputs.

    Attributes:
        settings: batch sizes to choose from; (None,) if there is no choice.
        cold: whether caches are flushed before each call.
    """

    settings: tuple[int | None, ...] = (None,)
    cold = False

    def take(self, inputs: Inputs) -> None:
        """Sets the inputs of all following calls."""
        self.inputs = inputs

    def outputs(self) -> list[Any]:
        """The candidate's outputs for the inputs, as NumPy arrays: one per text, in their order."""
        raise NotImplementedError

    def run(self, setting: int | None) -> None:
        """Runs one timed pass over the inputs; on return only work on the job's device may still be running."""
        raise NotImplementedError


def masked_places(index: int, length: int) -> range:
    """The positions of masked words in text `index`: about 15 % of them, never [CLS] or [SEP]."""
    return range(1 + index % 5, length - 1, 7)
