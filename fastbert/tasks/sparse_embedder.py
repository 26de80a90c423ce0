"""SparseEmbedder: a text as weights of the vocabulary's words (SPLADE), as sentence-transformers' SparseEncoder gives them.

    w_v = max over tokens t of log(1 + relu(s_tv)),   s = the scores of the MLM head; or the sum over tokens

The scores of all tokens, (T, V), are never made: the head runs on a few hundred tokens at a time. Sizes: T packed tokens,
V vocabulary, B texts of a batch, n texts. Formal et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert import files, schema
from fastbert.errors import CheckpointError, InputError
from fastbert.model.calling import dense
from fastbert.model.lm_heads import BertForMaskedLM
from fastbert.packing import PackedBatch
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks.prompted import Prompted
from fastbert.tasks.sentence_folder import read_modules, read_prompts
from fastbert.text.framing import check_overlong

POOLINGS = ("max", "sum")
ACTIVATIONS = ("relu", "log1p_relu")
_POOLING_FIELDS = {
    "pooling_strategy": schema.choice(*POOLINGS),
    "activation_function": schema.choice(*ACTIVATIONS),
    "embedding_dimension": schema.integer(1),
    "word_embedding_dimension": schema.integer(1),
}
_SCORES_AT_ONCE = 1 << 23  # of the head: some 275 tokens of BERT's vocabulary


class SparseEmbedder(Prompted):
    """Turns texts into sparse vectors over the vocabulary.

    Args:
        model: with an MLM head.
        tokenizer, max_length, prompt, prompts, do_lower_case: see `Prompted`.
        pooling: how the tokens of a text come together, "max" or "sum".
        activation: "relu", or "log1p_relu", which takes log(1 + x) twice.
        max_active_dims: how many words of a text keep their weight, the heaviest; None means all.
    """

    model_class = BertForMaskedLM

    def __init__(
        self,
        model: BertForMaskedLM,
        tokenizer: Any,
        *,
        pooling: str = "max",
        activation: str = "relu",
        max_active_dims: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        for name, value, known in (("pooling", pooling, POOLINGS), ("activation", activation, ACTIVATIONS)):
            if value not in known:
                raise InputError(f"{name} = {value!r} is not one of {', '.join(known)}")
        self.pooling, self.activation, self.max_active_dims = pooling, activation, max_active_dims

    @classmethod
    def _read_settings(cls, folder: Path) -> tuple[Path, dict[str, Any]]:
        """The folder of the BERT and keyword arguments for `SparseEmbedder`; a plain BERT folder gives no arguments."""
        if not (folder / "modules.json").is_file():
            return folder, {}
        settings: dict[str, Any] = {}
        place = folder
        for kind, path in read_modules(folder):
            if kind in ("Transformer", "MLMTransformer"):
                place = path
            elif kind == "SpladePooling":
                config = schema.check(files.read_json(path / "config.json"), _POOLING_FIELDS, path / "config.json")
                settings["pooling"] = config.get("pooling_strategy") or "max"
                settings["activation"] = config.get("activation_function") or "relu"
            else:
                what = f"{folder / 'modules.json'} has a module {schema.shown(kind)}"
                raise CheckpointError(
                    f"{what}; a sparse embedder of fastbert has MLMTransformer or Transformer, and SpladePooling"
                )
        prompts, saved = read_prompts(folder, place)
        return place, {**settings, **prompts, "max_active_dims": saved.get("max_active_dims")}

    @torch.inference_mode()
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        max_active_dims: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        batch_size: int | None = None,
        show_progress: Show = None,
        overlong: str = "truncate",
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Any:
        """The weights of the vocabulary's words in each text.

        Args:
            texts: a list of texts; or one text.
            max_active_dims: overrides the embedder's setting.
            batch_tokens, batch_size: most real tokens, and texts, processed at once.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.
            overlong: "truncate", which warns, or "error".
            prompt, prompt_name: text put before every text, or its name in `prompts`.

        Returns:
            A scipy.sparse.csr_array, float32 (n, V), columns in order; (1, V) for one text.

        Raises:
            InputError: scipy is not installed; see `Embedder.encode` for the rest.
        """
        csr_array = _csr_array()
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise InputError(f"max_active_dims = {most!r} must be a whole number from 1")
        check_overlong(overlong)
        if overlong == "window":
            raise InputError("overlong = 'window': a text's words are not combined over windows; use 'truncate' or 'error'")
        listed = [texts] if isinstance(texts, str) else list(texts)
        framed = self.frame(listed, overlong, show_progress, prompt=self.prompt_of(prompt, prompt_name))
        counts = np.zeros(len(framed), dtype=np.int64)
        found: list[Any] = [None] * len(framed)

        def words(batch: PackedBatch) -> list[Tensor]:
            return self._words(batch, most)

        batches: dict[str, Any] = {"batch_tokens": batch_tokens, "most": batch_size, "name": "embed", "show": show_progress}
        for rows, (sizes, columns, weights) in run(framed, words, self.model.device, **batches):
            counts[rows] = sizes.numpy()
            parts = zip(columns.split(sizes.tolist()), weights.split(sizes.tolist()), strict=True)
            for row, (of_text, heavy) in zip(rows, parts, strict=True):
                found[row] = of_text.numpy(), heavy.numpy()
        starts = np.concatenate([[0], counts.cumsum()])
        places = np.concatenate([np.empty(0, dtype=np.int64), *(one[0] for one in found)])
        values = np.concatenate([np.empty(0, dtype=np.float32), *(one[1] for one in found)])
        return csr_array((values, places, starts), shape=(len(framed), self.model.config.vocab_size))

    def decode(self, vectors: Any, top_k: int | None = None) -> list[list[tuple[str, float]]]:
        """The words of sparse vectors with their weights, heaviest first: (n, V) -> a list for each text.

        Args:
            vectors: what `encode` returns.
            top_k: how many words; None means all that have a weight.
        """
        found = []
        for i in range(vectors.shape[0]):
            start, end = vectors.indptr[i], vectors.indptr[i + 1]
            places, weights = vectors.indices[start:end], vectors.data[start:end]
            order = np.argsort(-weights, kind="stable")[:top_k]
            names = self.tokenizer.convert_ids_to_tokens([int(place) for place in places[order]])
            found.append([(str(name), float(weight)) for name, weight in zip(names, weights[order], strict=True)])
        return found

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """The dot products of all sparse vectors of `a` with those of `b`: (n, V), (m, V) -> float32 (n, m)."""
        found: np.ndarray = (a @ b.T).toarray()
        return found

    def get_embedding_dimension(self) -> int:
        """The width of a vector: the vocabulary."""
        return int(self.model.config.vocab_size)

    def _words(self, batch: PackedBatch, most: int | None) -> list[Tensor]:
        """How many words each text of a batch has (B,), and their columns and weights, text by text."""
        head, vocabulary = self.model.mlm_head, self.model.config.vocab_size
        states = self.model.base_model(batch, return_dict=True).last_hidden_state
        states = head.transform(states[: int(batch.cu_seqlens[-1])])
        owner = torch.repeat_interleave(batch.lengths)
        pooled = states.new_zeros(batch.batch_size, vocabulary, dtype=torch.float32)
        at_once = max(1, _SCORES_AT_ONCE // vocabulary)
        for rows, owners in zip(states.split(at_once), owner.split(at_once), strict=True):
            texts, counts = owners.unique_consecutive(return_counts=True)
            part = torch.segment_reduce(
                self._weights(dense(head.decoder, rows).float()), self.pooling, lengths=counts, unsafe=True
            )
            before = pooled[texts]
            pooled[texts] = torch.maximum(before, part) if self.pooling == "max" else before + part
        if most is not None and most < vocabulary:
            heaviest = pooled.topk(most, dim=1).indices
            pooled = torch.zeros_like(pooled).scatter_(1, heaviest, pooled.gather(1, heaviest))
        places = pooled.nonzero()
        return [(pooled != 0).sum(1), places[:, 1], pooled[places[:, 0], places[:, 1]]]

    def _weights(self, scores: Tensor) -> Tensor:
        weights = scores.relu_().log1p_()
        return weights.log1p_() if self.activation == "log1p_relu" else weights


def _csr_array() -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError:
        raise InputError("sparse vectors need the package scipy (pip install 'fastbert-triton[tasks]')") from None
    return csr_array
