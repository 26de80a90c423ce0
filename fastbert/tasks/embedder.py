"""Embedder: texts to vectors, as sentence-transformers does it, without padding and without losing the order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fastbert import checkpoint, files, tokenizer_files
from fastbert.errors import CheckpointError, InputError
from fastbert.model import BertModel
from fastbert.packing import pack, token_budget_batches
from fastbert.pooling import check_modes, modes_of_config, pool
from fastbert.prepacking import prepack
from fastbert.tasks.loading import check_vocabulary, default_device, load_tokenizer
from fastbert.tokenizer import BertTokenizer

# More tokens at once only push the activations out of a CPU's caches: measured, 2,048 run a tenth faster than 8,192.
CPU_BATCH_TOKENS = 2048
OVERLONG = ("truncate", "error", "window")
_SENTENCE_FILES = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*_Pooling/config.json"]


class Embedder:
    """Turns texts into vectors.

    Args:
        model: an encoder; its pooler is not used.
        tokenizer: its tokenizer.
        pooling: one or several of `fastbert.pooling.MODES`.
        normalize: scale each vector to length 1.
        max_length: tokens of a text that are used, special tokens included; None means what model and tokenizer take.
        prompt: put before every text.
        do_lower_case: lower-case texts before the tokenizer sees them.
    """

    def __init__(
        self,
        model: BertModel,
        tokenizer: BertTokenizer,
        *,
        pooling: str | Sequence[str] = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        prompt: str = "",
        do_lower_case: bool = False,
    ) -> None:
        check_vocabulary(tokenizer, model)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pooling = check_modes(pooling)
        self.normalize = normalize
        self.prompt = prompt
        self.do_lower_case = do_lower_case
        table = model.config.max_position_embeddings
        self.max_length = min(n for n in (max_length, tokenizer.model_max_length, table) if n is not None)
        if self.max_length <= tokenizer.num_special_tokens():
            raise InputError(f"max_length = {self.max_length} leaves no room for text beside the special tokens")

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        **hub: Any,
    ) -> Embedder:
        """Loads a BERT, or a sentence-transformers folder with one, whose pooling, normalisation and limits are read.

        Args:
            path_or_hub_id: a directory or an id on the hub.
            device: None means a CUDA device where there is one, else the CPU.
            dtype: of the parameters; None keeps the checkpoint's.
            hub: `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: a module that fastbert does not know, such as a dense layer after pooling.
        """
        target = default_device(device)
        folder = files.locate(path_or_hub_id, [*_SENTENCE_FILES, *checkpoint.PATTERNS, *tokenizer_files.PATTERNS], **hub)
        settings = _read_settings(folder)
        model = prepack(BertModel.from_pretrained(folder, dtype=dtype, device=target, add_pooling_layer=False))
        return cls(model, load_tokenizer(folder, model), **settings)

    @torch.inference_mode()
    def encode(
        self,
        texts: str | Sequence[str],
        batch_tokens: int = 16384,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        show_progress: bool | None = None,
        *,
        overlong: str = "truncate",
    ) -> np.ndarray:
        """One vector a text, in the order of the texts.

        Args:
            texts: a list, or one text.
            batch_tokens: real tokens run at once, longest texts first. On a CPU at most `CPU_BATCH_TOKENS` are used.
            pooling, normalize: in place of the embedder's own.
            show_progress: a bar on stderr; None means if stderr is a terminal.
            overlong: what to do with texts of more than `max_length` tokens: "truncate" cuts them and warns with the count,
                "error" refuses them, "window" embeds every part and takes the mean, weighted by tokens.

        Returns:
            float32 (n, N), N times the number of pooling modes; (N,) for one text given as a string.
        """
        if isinstance(texts, str):
            return self.encode([texts], batch_tokens, pooling, normalize, False, overlong=overlong)[0]
        texts = list(texts)
        modes = self.pooling if pooling is None else check_modes(pooling)
        normalize = self.normalize if normalize is None else normalize
        if overlong not in OVERLONG:
            raise InputError(f"overlong = {overlong!r} is not one of {', '.join(OVERLONG)}")
        rows, owners = self._windows(self._ids(texts), overlong)
        lengths = [len(row) for row in rows]
        device = self.model.device
        limit = min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens
        vectors = np.empty((len(rows), len(modes) * self.model.config.hidden_size), dtype=np.float32)
        quiet = not (sys.stderr.isatty() if show_progress is None else show_progress)
        with tqdm(total=sum(lengths), unit="tok", unit_scale=True, desc="embed", disable=quiet) as bar:
            for indices in token_budget_batches(lengths, limit):
                batch = pack([rows[i] for i in indices]).to(device)
                hidden = self.model(batch).last_hidden_state
                vectors[indices] = pool(hidden, batch.cu_seqlens, modes).cpu().numpy()
                bar.update(batch.num_tokens)
        if len(rows) != len(texts):
            vectors = _mean_of_windows(vectors, owners, lengths, len(texts))
        return _unit(vectors) if normalize else vectors

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self.prompt or self.do_lower_case:
            texts = [self.prompt + (t.lower() if self.do_lower_case else t) if isinstance(t, str) else t for t in texts]
        return self.tokenizer.encode_ids(texts)

    def _windows(self, rows: list[list[int]], overlong: str) -> tuple[list[list[int]], list[int]]:
        """Rows of at most `max_length` ids, and the text that each belongs to."""
        limit = self.max_length
        long = [i for i, row in enumerate(rows) if len(row) > limit]
        owners = list(range(len(rows)))
        if not long:
            return rows, owners
        if overlong == "error":
            first = long[0]
            raise InputError(
                f"texts[{first}] has {len(rows[first])} tokens, the limit is {limit} ({len(long)} texts are longer)"
            )
        frame = self.tokenizer.num_special_tokens() - 1  # [CLS] opens, the rest closes
        if overlong == "truncate":
            warnings.warn(
                f"{len(long)} of {len(rows)} texts have more than {limit} tokens and were cut; overlong='window' uses all",
                stacklevel=4,  # beyond encode and the decorator of inference mode
            )
            return [row if len(row) <= limit else row[: limit - frame] + row[-frame:] for row in rows], owners
        parts: list[list[int]] = []
        owners = []
        for i, row in enumerate(rows):
            head, body, tail = row[:1], row[1:-frame], row[-frame:]
            room = limit - 1 - frame
            pieces = [body[at : at + room] for at in range(0, len(body), room)] or [body]
            parts += [head + piece + tail for piece in pieces]
            owners += [i] * len(pieces)
        return parts, owners


def _read_settings(folder: Path) -> dict[str, Any]:
    """Keywords of `Embedder` from a sentence-transformers folder; nothing for a plain BERT."""
    if not (folder / "modules.json").is_file():
        return {}
    settings: dict[str, Any] = {"normalize": False}
    whole_text = True
    for module in files.read_json_list(folder / "modules.json"):
        kind, path = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path", ""))
        if kind == "Pooling":
            config = files.read_json(folder / path / "config.json")
            settings["pooling"] = modes_of_config(config)
            whole_text = config.get("include_prompt", True)
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind != "Transformer":
            raise CheckpointError(
                f"{folder / 'modules.json'} has a module {kind!r}; fastbert knows Transformer, Pooling, Normalize"
            )
    sentence = files.read_json_if_present(folder / "sentence_bert_config.json")
    settings["max_length"] = sentence.get("max_seq_length")
    settings["do_lower_case"] = bool(sentence.get("do_lower_case"))
    prompts = files.read_json_if_present(folder / "config_sentence_transformers.json")
    name = prompts.get("default_prompt_name")
    settings["prompt"] = (prompts.get("prompts") or {}).get(name, "") if name else ""
    if settings["prompt"] and not whole_text:
        raise CheckpointError(f"{folder} leaves the prompt out of the pooling (include_prompt: false): not supported")
    if prompts.get("truncate_dim") is not None:
        raise CheckpointError(f"{folder} cuts its vectors to truncate_dim = {prompts['truncate_dim']}: not supported")
    return settings


def _mean_of_windows(vectors: np.ndarray, owners: list[int], lengths: list[int], count: int) -> np.ndarray:
    weights = np.asarray(lengths, dtype=np.float32)
    total = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    np.add.at(total, owners, vectors * weights[:, None])
    return total / np.bincount(owners, weights=weights, minlength=count)[:, None].astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1).numpy()
