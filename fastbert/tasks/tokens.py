"""Vectors of tokens, and of chunks of a text that was read as a whole (late chunking, Guenther et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.model.pooling import pool
from fastbert.packing import PackedBatch
from fastbert.packing.batching import run
from fastbert.text.framing import Framed
from fastbert.text.tokenizer import Tokenizer


def states_of(model: Any, framed: Framed, **batches: Any) -> list[np.ndarray]:
    """The last hidden state of every row's tokens: (tokens, N) float32 each, special tokens included.

    Args:
        model: an encoder.
        framed: rows, one a text.
        batches: options of `batching.run`.

    Raises:
        InputError: texts in several windows.
    """
    if len(framed) != framed.num_texts:
        raise InputError("overlong = 'window' reads a text in several rows: for vectors of tokens and chunks use 'truncate'")
    found: list[Any] = [None] * len(framed)

    def last_states(batch: PackedBatch) -> list[Tensor]:
        return [model(batch, return_dict=True).last_hidden_state.float()]

    for rows, (states,) in run(framed, last_states, model.device, **batches):
        for row, part in zip(rows, states.split(framed.lengths[rows].tolist()), strict=True):
            found[row] = part.numpy()
    return found


def spans_of(
    tokenizer: Tokenizer, texts: Sequence[str], chunks: Any, framed: Framed, prompt: str = ""
) -> list[list[np.ndarray]]:
    """The places of each chunk's tokens in its text's row.

    Args:
        tokenizer: that made the rows.
        texts: single texts.
        chunks: for each text its chunks, (start, end) in characters of the text, the end not included. A token belongs to the
            chunk in which it starts.
        framed: the rows of prompt and text.
        prompt: what stands before each text.

    Raises:
        InputError: chunks of another number of texts, beyond a text, or without a token in its row.
    """
    if len(chunks) != len(texts):
        raise InputError(f"chunks has {len(chunks)} entries; expected one for each of the {len(texts)} texts")
    found = []
    for i, (text, spans) in enumerate(zip(texts, chunks, strict=True)):
        if not isinstance(text, str):
            raise InputError(f"texts[{i}] is a pair: chunks are of single texts")
        read = tokenizer(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
        starts = np.array([start for start, _ in read["offset_mapping"]], dtype=np.int64) - len(prompt)
        first, column = int(framed.firsts[i]), int(framed.columns[i])
        starts = starts[first : first + int(framed.counts[i])]
        places = []
        for j, span in enumerate(spans):
            whole = isinstance(span, tuple | list) and len(span) == 2 and all(isinstance(end, int) for end in span)
            if not whole or not 0 <= span[0] < span[1] <= len(text):
                raise InputError(f"chunks[{i}][{j}] = {span!r} is no (start, end) in a text of {len(text)} characters")
            inside = np.flatnonzero((starts >= span[0]) & (starts < span[1]))
            if not len(inside):
                kept = int(framed.lengths[i])
                raise InputError(f"chunks[{i}][{j}] = {span!r} has no token among the {kept} that were kept of the text")
            places.append(inside + column)
        found.append(places)
    return found


def pooled(states: np.ndarray, chunks: Sequence[np.ndarray], modes: str | Sequence[str]) -> np.ndarray:
    """A vector for each chunk: (tokens, N) and the places of each chunk's tokens -> (chunks, D) float32."""
    bounds = torch.tensor([0, *np.cumsum([len(chunk) for chunk in chunks])], dtype=torch.int32)
    rows = np.concatenate(chunks) if len(chunks) else np.empty(0, dtype=np.int64)
    return pool(torch.from_numpy(states[rows]), bounds, modes).numpy()
