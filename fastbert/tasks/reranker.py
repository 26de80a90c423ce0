"""Reranker: scores how well documents answer a query, as sentence-transformers' CrossEncoder does, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastbert import files, schema
from fastbert.errors import CheckpointError, InputError
from fastbert.model.heads import BertForSequenceClassification
from fastbert.packing.batching import BATCH_TOKENS
from fastbert.progress import Show
from fastbert.tasks.loading import PATTERNS, check_top_k
from fastbert.tasks.sequences import SequenceTask
from fastbert.text.encoding import pair_lengths
from fastbert.text.framing import Cut

# Where sentence-transformers writes the activation: since version 6, and before.
_SENTENCE_FILE = "config_sentence_transformers.json"
_OLDEST = "sbert_ce_default_activation_function"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda scores: scores,
    "sigmoid": torch.sigmoid,
    "softmax": lambda scores: scores.softmax(-1),
    "tanh": torch.tanh,
    "relu": torch.relu,
}


class Reranker(SequenceTask):
    """Scores pairs of a query and a document. See `SequenceTask` for the handling of long inputs.

    Args:
        model, tokenizer, max_length, overlong, overlap, window_scores: see `SequenceTask`.
        activation: one of `ACTIVATIONS`, applied to the scores; None means "sigmoid" for a model of one label, else "identity".
    """

    model_class = BertForSequenceClassification
    head_name = "sequence-classification"
    head_parts = ("classifier.", "pooler.")
    patterns: ClassVar = [*PATTERNS, _SENTENCE_FILE]
    work = "rank"

    def __init__(self, model: Any, tokenizer: Any, *, activation: str | None = None, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        self.activation = activation or ("sigmoid" if self.num_labels == 1 else "identity")
        _check_activation(self.activation)

    def _pair_cut(self) -> Cut:
        """As the `tokenizers` library cuts for CrossEncoder."""
        return lambda first, second, room: pair_lengths(first, second, room, "longest_first")

    @property
    def num_labels(self) -> int:
        """How many scores a pair has."""
        return int(self.model.config.num_labels)

    @classmethod
    def _read_settings(cls, folder: Path) -> dict[str, Any]:
        """Also the activation that a CrossEncoder's folder names."""
        activation = _named_activation(folder)
        if files.read_json_if_present(folder / _SENTENCE_FILE).get("default_prompt_name") is not None:
            raise CheckpointError(
                f"{folder / _SENTENCE_FILE} has a default prompt, which Reranker does not put before its pairs"
            )
        return {**super()._read_settings(folder), "activation": activation}

    def predict(
        self,
        pairs: Sequence[Any],
        *,
        activation: str | None = None,
        overlong: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: Show = None,
    ) -> Any:
        """The score of each pair, after the activation.

        Args:
            pairs: (query, document) pairs, as tuples or lists; or one pair.
            activation: overrides the reranker's.
            overlong: what to do with pairs that are too long: overrides the task's setting.
            batch_tokens: tokens processed at once, longest pairs first. On a CPU at most 2,048 are used.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

        Returns:
            float32 (n,), or (n, C) for a model of C labels, in the order of the pairs; a row of it for one pair.
        """
        how = self.activation if activation is None else activation
        _check_activation(how)
        pairs = pairs.tolist() if isinstance(pairs, np.ndarray) else list(pairs)
        alone = len(pairs) == 2 and all(isinstance(part, str) for part in pairs)
        framed = self.frame([tuple(pairs)] if alone else pairs, overlong, "pairs")
        scores = ACTIVATIONS[how](self.logits(framed, batch_tokens, False if alone else show_progress))
        found = (scores.squeeze(-1) if self.num_labels == 1 else scores).numpy()
        return found[0] if alone else found

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False, **options: Any
    ) -> list[dict[str, Any]]:
        """The documents by their score for a query, best first; of equal ones the earlier first.

        Args:
            query: a text.
            documents: texts.
            top_k: how many to return; None means all.
            return_documents: whether results hold the document as `text`.
            options: those of `predict`.

        Returns:
            {"corpus_id": index in `documents`, "score": number} each.

        Raises:
            InputError: a model with several scores a pair, or documents that are no texts.
        """
        check_top_k(top_k)
        if self.num_labels != 1:
            raise InputError(f"the model has num_labels = {self.num_labels}: rank needs one score a pair; use predict")
        if isinstance(documents, str):
            raise InputError("documents is one string; expected a list of texts")
        documents = list(documents)
        scores = self.predict([(query, document) for document in documents], **options) if len(documents) else np.empty(0)
        best = np.argsort(-scores, kind="stable")[:top_k]
        shown = [({"text": documents[i]} if return_documents else {}) for i in best]
        return [{"corpus_id": int(i), "score": float(scores[i]), **text} for i, text in zip(best, shown, strict=True)]


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise InputError(f"activation = {name!r} is not one of {', '.join(ACTIVATIONS)}")


def _named_activation(folder: Path) -> str | None:
    """The activation that a folder names as a class of PyTorch, under the name here; None where it names none."""
    config, sentence = (files.read_json_if_present(folder / name) for name in ("config.json", _SENTENCE_FILE))
    nested = config.get("sentence_transformers")
    path = sentence.get("activation_fn") or (nested.get("activation_fn") if isinstance(nested, dict) else None)
    path = path or config.get(_OLDEST)
    if path is None:
        return None
    module, _, name = str(path).rpartition(".")
    if not module.startswith("torch.nn") or name.lower() not in ACTIVATIONS:
        raise CheckpointError(
            f"{folder} names the activation {schema.shown(path)}; fastbert knows torch.nn's {', '.join(ACTIVATIONS)}"
        )
    return name.lower()
