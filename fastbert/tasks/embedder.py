"""Embedder: turns texts into vectors like sentence-transformers, without padding, in the order of the inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastbert.errors import InputError
from fastbert.model.encoder import BertModel
from fastbert.model.pooling import check_modes, pool, without_first
from fastbert.packing import PackedBatch
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks import tokens
from fastbert.tasks.prompted import Prompted
from fastbert.tasks.sentence_folder import read_settings
from fastbert.tasks.similarity import similarity
from fastbert.tasks.vectors import Dense, cut, quantize, unit
from fastbert.text.framing import Framed, check_overlong
from fastbert.text.tokenizer import Tokenizer

_THEIRS = ("show_progress_bar", "normalize_embeddings", "convert_to_numpy")  # of sentence-transformers' encode


class Embedder(Prompted):
    """Turns texts into vectors.

    Args:
        model: an encoder; its pooler is not used.
        tokenizer: its tokenizer.
        pooling: one or several of `fastbert.pooling.MODES`.
        normalize: scale each vector to length 1.
        max_length: most tokens used of a text, special tokens included; None means the limit of model and tokenizer. As in
            sentence-transformers, a number takes precedence over the tokenizer's own limit.
        prompt: text put before every text.
        prompts: prompts by name, for `encode(prompt_name=...)`.
        do_lower_case: lower-case prompt and texts if the tokenizer does not.
        measure: how `similarity` compares vectors: "cosine", "dot", "euclidean" or "manhattan".
        include_prompt: whether the tokens of a prompt are pooled; if not, neither is [CLS] before them.
        layers: modules behind pooling, (n, D) -> (n, D'), such as `vectors.Dense`; `normalize` comes after them.
        truncate_dim: how many dimensions of a vector are kept; None means all.
    """

    model_class = BertModel
    loading: ClassVar = {"add_pooling_layer": False}

    def __init__(
        self,
        model: BertModel,
        tokenizer: Tokenizer,
        *,
        pooling: str | Sequence[str] = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        prompt: str = "",
        prompts: Mapping[str, str] | None = None,
        do_lower_case: bool = False,
        measure: str = "cosine",
        include_prompt: bool = True,
        layers: Sequence[torch.nn.Module] = (),
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_length=max_length, prompt=prompt, prompts=prompts, do_lower_case=do_lower_case)
        self.pooling = check_modes(pooling)
        self.normalize = normalize
        self.measure, self.include_prompt = measure, include_prompt
        self.layers, self.truncate_dim = torch.nn.Sequential(*layers).eval(), truncate_dim

    @classmethod
    def _read_settings(cls, folder: Path) -> tuple[Path, dict[str, Any]]:
        return read_settings(folder)

    @torch.inference_mode()
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        batch_tokens: int = BATCH_TOKENS,
        batch_size: int | None = None,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        show_progress: Show = None,
        overlong: str = "truncate",
        prompt: str | None = None,
        prompt_name: str | None = None,
        convert_to_tensor: bool = False,
        truncate_dim: int | None = None,
        precision: str = "float32",
        ranges: Any = None,
        output_value: str = "sentence_embedding",
        chunks: Any = None,
        **theirs: Any,
    ) -> Any:
        """Embeds texts: one vector per text, in the order of the texts.

        Args:
            texts: a list of texts, or of pairs whose second text gets segment 1; or one text.
            batch_tokens: real tokens processed at once, longest texts first. On a CPU at most 2,048 are used.
            batch_size: most texts processed at once; None sets no limit beside `batch_tokens`.
            pooling: overrides the embedder's setting.
            normalize: False leaves out the model's own unit length, True scales what is returned to it, behind `truncate_dim`.
            show_progress: whether to show a progress bar on stderr; None shows it only on a terminal. See `fastbert.progress`.
            overlong: what to do with texts of more than `max_length` tokens: "truncate" cuts them, at the tokenizer's
                `truncation_side`, and warns with their number, "error" rejects them, "window" embeds all windows of a single
                text and takes their mean, weighted by number of tokens.
            prompt, prompt_name: text put before every text, or its name in `prompts`, in place of the embedder's own prompt.
            convert_to_tensor: return a tensor on the model's device.
            truncate_dim: overrides the embedder's setting. As in sentence-transformers, vectors that the model scaled to unit
                length before are shorter then.
            precision, ranges: "float16", "int8", "uint8", "binary" or "ubinary", see `vectors.quantize`.
            output_value: "token_embeddings" returns the hidden states of each text's tokens, a list of (tokens, N), special
                tokens included.
            chunks: for each text, the characters (start, end) of its chunks, or for one text the chunks: returns a vector a
                chunk, a list of (chunks, D), all chunks of a text from one forward (late chunking).
            theirs: sentence-transformers' `show_progress_bar`, and `normalize_embeddings`, which adds unit length to what the
                model does. Its other options are refused by name.

        Returns:
            float32 (n, D), see `get_embedding_dimension`; (D,) for one text given as a string.
        """
        if theirs:
            show_progress, normalize = _their_options(theirs, show_progress, normalize, convert_to_tensor)
        before = self.prompt_of(prompt, prompt_name)
        alone = isinstance(texts, str)
        texts = [texts] if isinstance(texts, str) else list(texts)
        modes = self.pooling if pooling is None else check_modes(pooling)
        check_overlong(overlong)
        show = False if alone else show_progress
        framed = self.frame(texts, overlong, show, prompt=before)
        batches: dict[str, Any] = {"batch_tokens": batch_tokens, "most": batch_size, "name": "embed", "show": show}
        finish = partial(self.finish, normalize=normalize, truncate_dim=truncate_dim, precision=precision, ranges=ranges)
        if output_value == "token_embeddings" or chunks is not None:
            found: Any = tokens.states_of(self.model, framed, **batches)
            if chunks is not None:
                spans = tokens.spans_of(self.tokenizer, texts, [chunks] if alone else chunks, framed, before)
                pooled = [tokens.pooled(states, rows, modes) for states, rows in zip(found, spans, strict=True)]
                ends = np.cumsum([len(one) for one in pooled])[:-1]
                found = np.split(finish(np.concatenate(pooled)), ends) if pooled else []
            if convert_to_tensor:
                found = [torch.from_numpy(one).to(self.model.device) for one in found]
            return found[0] if alone else found
        if output_value != "sentence_embedding":
            raise InputError(f"output_value = {output_value!r} is not one of sentence_embedding, token_embeddings")
        found = finish(self.pooled(framed, modes, before, **batches))
        found = torch.from_numpy(found).to(self.model.device) if convert_to_tensor else found
        return found[0] if alone else found

    @torch.inference_mode()
    def pooled(self, framed: Framed, modes: Sequence[str], before: str, **batches: Any) -> np.ndarray:
        """float32 (n, D): the pooled states of each text, its windows together; `batches` are options of `batching.run`."""
        skipped = 0
        if before and not self.include_prompt and len(framed):  # the prompt, and what the template puts before it
            skipped = len(self.tokenizer.encode(before, add_special_tokens=False)) + int(framed.columns[0])
        vectors = np.empty((len(framed), len(modes) * self.model.config.hidden_size), dtype=np.float32)

        def vectors_of(batch: PackedBatch) -> list[Tensor]:
            states = self.model(batch, return_dict=True).last_hidden_state
            return [pool(*without_first(states, batch.cu_seqlens, skipped), modes)]

        for rows, (of_texts,) in run(framed, vectors_of, self.model.device, key=(skipped, tuple(modes)), **batches):
            vectors[rows] = of_texts.numpy()
        return vectors if len(framed) == framed.num_texts else _mean_of_windows(vectors, framed)

    @torch.inference_mode()
    def finish(
        self,
        pooled: np.ndarray,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        precision: str = "float32",
        ranges: Any = None,
    ) -> np.ndarray:
        """What stands behind pooling: (n, D) float32 -> (n, D') of the precision."""
        vectors: np.ndarray = self.layers(torch.from_numpy(pooled)).numpy() if len(self.layers) else pooled
        if self.normalize and normalize is not False:
            vectors = unit(vectors)
        vectors = cut(vectors, self.truncate_dim if truncate_dim is None else truncate_dim)
        return quantize(unit(vectors) if normalize else vectors, precision, ranges)

    def similarity(self, a: Any, b: Any) -> torch.Tensor:
        """The similarity of every vector of `a` to every vector of `b`, by the embedder's measure: (n, D), (m, D) -> (n, m)."""
        return similarity(a, b, self.measure)

    def get_embedding_dimension(self) -> int:
        """The width of a vector, under sentence-transformers' name."""
        widths = [layer.linear.out_features for layer in self.layers if isinstance(layer, Dense)]
        width = widths[-1] if widths else len(self.pooling) * self.model.config.hidden_size
        return min(width, self.truncate_dim or width)

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name


def _their_options(theirs: dict[str, Any], show: Show, normalize: bool | None, tensor: bool) -> tuple[Show, bool | None]:
    """Show and normalize, as sentence-transformers' names of them say."""
    for name in theirs:
        if name not in _THEIRS:
            own = [name for name in inspect.signature(Embedder.encode).parameters if name not in ("self", "theirs")]
            raise InputError(f"encode does not take {name}; it takes {', '.join((*own, *_THEIRS))}")
    if theirs.get("convert_to_numpy") is False and not tensor:
        raise InputError("convert_to_numpy = False: encode returns an array, or with convert_to_tensor=True a tensor")
    bar, unit = theirs.get("show_progress_bar"), theirs.get("normalize_embeddings")
    return (show if bar is None else bool(bar)), (True if unit else normalize)


def _mean_of_windows(vectors: np.ndarray, framed: Framed) -> np.ndarray:
    weights = framed.lengths.astype(np.float32)
    total = np.zeros((framed.num_texts, vectors.shape[1]), dtype=np.float32)
    np.add.at(total, framed.owners, vectors * weights[:, None])
    whole = np.bincount(framed.owners, weights=weights, minlength=framed.num_texts)
    return total / whole[:, None].astype(np.float32)
