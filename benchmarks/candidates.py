"""Who is measured, as data: each candidate turns rows of ids into mean-pooled vectors, its own way of batching included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastbert
from fastbert.packing import token_budget_batches
from fastbert.tasks.pooling import pool

Rows = list[list[int]]
Encode = Callable[[Any, Rows, int], Tensor]  # (model, rows, batch) -> (n, N) on the host, in the order of the rows


@dataclass(frozen=True)
class Candidate:
    """One way to run the encoder.

    Attributes:
        name: in tables.
        load: (folder, device, dtype) -> model.
        encode: model, rows and batch size -> vectors.
        batches: sizes to choose from, on a CPU and on a GPU: tokens for fastbert, texts for the others.
        ours: whether it is fastbert.
    """

    name: str
    load: Callable[[Path, torch.device, torch.dtype], Any]
    encode: Encode
    batches: dict[str, tuple[int, ...]]
    ours: bool = False


def _load_fastbert(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    return fastbert.BertModel.from_pretrained(folder, device=device, dtype=dtype, add_pooling_layer=False)


def _transformers_loader(attention: str) -> Callable[[Path, torch.device, torch.dtype], Any]:
    def load(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        model = transformers.BertModel.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, add_pooling_layer=False
        )
        return model.to(device).eval()

    return load


@torch.inference_mode()
def _packed(model: Any, rows: Rows, batch_tokens: int) -> Tensor:
    vectors = torch.empty(len(rows), model.config.hidden_size)
    for indices in token_budget_batches([len(row) for row in rows], batch_tokens):
        batch = fastbert.pack([rows[i] for i in indices]).to(model.device)
        vectors[indices] = pool(model(batch).last_hidden_state, batch.cu_seqlens, "mean").cpu()
    return vectors


@torch.inference_mode()
def _padded(model: Any, rows: Rows, order: Sequence[int], batch_size: int) -> Tensor:
    vectors = torch.empty(len(rows), model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        indices = list(order[start : start + batch_size])
        ids, mask = _pad([rows[i] for i in indices])
        ids, mask = ids.to(model.device), mask.to(model.device)
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        vectors[indices] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu()
    return vectors


def _pad(rows: Rows) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def _sorted(model: Any, rows: Rows, batch_size: int) -> Tensor:
    return _padded(model, rows, sorted(range(len(rows)), key=lambda i: -len(rows[i])), batch_size)


def _unsorted(model: Any, rows: Rows, batch_size: int) -> Tensor:
    return _padded(model, rows, range(len(rows)), batch_size)


_TEXTS = {"cpu": (8, 16, 32, 64), "cuda": (64, 128, 256, 512)}
_TOKENS = {"cpu": (512, 1024, 2048), "cuda": (16384, 32768, 65536)}

_DEFAULT = {"cpu": (32,), "cuda": (32,)}  # what most pipelines use: sentence-transformers' default

CANDIDATES = (
    Candidate("fastbert", _load_fastbert, _packed, _TOKENS, ours=True),
    Candidate("transformers sdpa, sorted, best batch", _transformers_loader("sdpa"), _sorted, _TEXTS),
    Candidate("transformers sdpa, sorted", _transformers_loader("sdpa"), _sorted, _DEFAULT),
    Candidate("transformers eager, sorted", _transformers_loader("eager"), _sorted, _DEFAULT),
    Candidate("transformers sdpa, unsorted", _transformers_loader("sdpa"), _unsorted, _DEFAULT),
    Candidate("transformers eager, unsorted", _transformers_loader("eager"), _unsorted, _DEFAULT),
)


def load_oracle(folder: Path) -> Any:
    """The model that every candidate is checked against: transformers' eager one in float32."""
    return _transformers_loader("eager")(folder, torch.device("cpu"), torch.float32)


def expected_vectors(model: Any, rows: Rows) -> Iterator[Tensor]:
    """What every candidate must give: the oracle's vectors, one unpadded text at a time."""
    with torch.inference_mode():
        for row in rows:
            yield model(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0)
