"""What the tasks share: where to run, and a model with a tokenizer that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastbert.errors import InputError
from fastbert.pretrained import BertPreTrainedModel
from fastbert.tokenizer import BertTokenizer


def default_device(device: torch.device | str | None) -> torch.device:
    """The device asked for; None means a CUDA device where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    # torch reports an unknown name, an absent card and a build without CUDA by three kinds of exception.
    except Exception as error:
        raise InputError(f"device = {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None


def load_tokenizer(path_or_hub_id: str | Path, model: BertPreTrainedModel, **hub: Any) -> BertTokenizer:
    """The tokenizer beside a model, refused if it knows ids that the model has no embedding for."""
    tokenizer = BertTokenizer.from_pretrained(path_or_hub_id, **hub)
    check_vocabulary(tokenizer, model)
    return tokenizer


def check_vocabulary(tokenizer: BertTokenizer, model: BertPreTrainedModel) -> None:
    """Raises InputError if the tokenizer's ids go beyond the model's word embeddings."""
    highest, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise InputError(
            f"the tokenizer has ids up to {highest}, the model has word embeddings for 0..{rows - 1}: they do not belong "
            "together (after adding tokens, call resize_token_embeddings(len(tokenizer)))"
        )
