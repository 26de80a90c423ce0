"""What a candidate is told: the job (once, when it starts) and the inputs (one list of texts after the other).

Light on purpose: every candidate's process imports it, and must not import fastbert through it.
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
        mask_token_id: what stands at the masked words.
    """

    task: str
    device: str
    dtype: str
    folder: str = ""
    max_length: int = 512
    mask_token_id: int = 103


@dataclass(frozen=True)
class Inputs:
    """The texts of a case: ids with special tokens, and the texts themselves where there are any."""

    rows: list[list[int]]
    texts: list[str] | None = None


class Work:
    """What a candidate makes of a job; the base of all candidates.

    Attributes:
        settings: batch sizes to choose from; (None,) where there is nothing to choose.
        cold: whether caches are emptied before each call.
    """

    settings: tuple[int | None, ...] = (None,)
    cold = False

    def take(self, inputs: Inputs) -> None:
        """The inputs of all calls that follow."""
        self.inputs = inputs

    def outputs(self) -> list[Any]:
        """What the candidate gives for the inputs, as NumPy arrays: one a text, in their order."""
        raise NotImplementedError

    def run(self, setting: int | None) -> None:
        """One timed pass over the inputs. Everything it starts has ended, or runs on the job's device."""
        raise NotImplementedError


def masked_places(index: int, length: int) -> range:
    """Where text `index` has masked words: about 15 % of them, never [CLS] or [SEP]."""
    return range(1 + index % 5, length - 1, 7)
