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

from fastbert import checkpoint, files, schema, tokenizer_files
from fastbert.errors import CheckpointError, InputError
from fastbert.model import BertModel
from fastbert.packing import pack, token_budget_batches
from fastbert.pooling import MODES, check_modes, modes_of_config, pool
from fastbert.tasks.loading import check_complete, check_vocabulary, default_device, load_tokenizer
from fastbert.tokenizer import BertTokenizer

# More tokens at once only push the activations out of a CPU's caches: measured, 2,048 run a tenth faster than 8,192.
CPU_BATCH_TOKENS = 2048
_TEXTS_AT_ONCE = 8192  # tokenised between two steps of the bar
OVERLONG = ("truncate", "error", "window")
_TEXT = schema.text()
# One of these holds the limits of the text's module; sentence-transformers names it after the model.
_LIMITS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_SENTENCE_FILES = ["modules.json", "config_sentence_transformers.json", "*_Pooling/config.json"]
_SENTENCE_FILES += [pattern for name in (*_LIMITS, "modules.json") for pattern in (name, f"*/{name}")]
_MODULE_FIELDS = {"idx": schema.integer(0), "name": _TEXT, "path": _TEXT, "type": schema.text(null=False)}
_LIMIT_FIELDS = {"max_seq_length": schema.integer(1), "do_lower_case": schema.flag()}
_POOLING_FIELDS = {
    "word_embedding_dimension": schema.integer(1),
    "embedding_dimension": schema.integer(1),
    "include_prompt": schema.flag(),
    **dict.fromkeys(MODES.values(), schema.flag()),
    "pooling_mode": schema.either(_TEXT, schema.list_of(schema.text(null=False))),
}
_PROMPT_FIELDS = {
    "prompts": schema.object_of(_TEXT),
    "default_prompt_name": _TEXT,
    "truncate_dim": schema.integer(1),
}


class Embedder:
    """Turns texts into vectors.

    Args:
        model: an encoder; its pooler is not used.
        tokenizer: its tokenizer.
        pooling: one or several of `fastbert.pooling.MODES`.
        normalize: scale each vector to length 1.
        max_length: tokens of a text that are used, special tokens included; None means what model and tokenizer take. As in
            sentence-transformers, a number wins over the tokenizer's own limit.
        prompt: put before every text.
        do_lower_case: lower-case prompt and texts, where the tokenizer does not.
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
        self.tokenizer = tokenizer.lower_casing() if do_lower_case else tokenizer
        self.pooling = check_modes(pooling)
        self.normalize = normalize
        self.prompt = prompt
        table = model.config.max_position_embeddings
        limit = max_length if max_length is not None else tokenizer.model_max_length
        self.max_length = table if limit is None else min(limit, table)
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
        own = [*checkpoint.PATTERNS, *tokenizer_files.PATTERNS]
        folder = files.locate(path_or_hub_id, [*_SENTENCE_FILES, *own, *(f"*/{pattern}" for pattern in own)], **hub)
        place, settings = _read_settings(folder)
        model, _ = BertModel.from_pretrained(
            place, dtype=dtype, device=target, add_pooling_layer=False, output_loading_info=True
        )
        check_complete(model, path_or_hub_id)
        return cls(model, load_tokenizer(place, model), **settings)

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
            texts: a list of texts, or of pairs of them, whose second text has segment 1; or one text.
            batch_tokens: real tokens run at once, longest texts first. On a CPU at most `CPU_BATCH_TOKENS` are used.
            pooling, normalize: in place of the embedder's own.
            show_progress: a bar on stderr; None means if stderr is a terminal.
            overlong: what to do with texts of more than `max_length` tokens: "truncate" cuts them, at the tokenizer's
                `truncation_side`, and warns with the count, "error" refuses them, "window" embeds every part of a single text
                and takes the mean, weighted by tokens.

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
        quiet = not (sys.stderr.isatty() if show_progress is None else show_progress)
        rows, types, owners = self._rows(texts, overlong, quiet)
        lengths = [len(row) for row in rows]
        device = self.model.device
        limit = min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens
        vectors = np.empty((len(rows), len(modes) * self.model.config.hidden_size), dtype=np.float32)
        with tqdm(total=sum(lengths), unit="tok", unit_scale=True, desc="embed", disable=quiet) as bar:
            for indices in token_budget_batches(lengths, limit):
                segments = None if types is None else [types[i] for i in indices]
                batch = pack([rows[i] for i in indices], token_type_ids=segments).to(device)
                hidden = self.model(batch, return_dict=True).last_hidden_state
                vectors[indices] = pool(hidden, batch.cu_seqlens, modes).cpu().numpy()
                bar.update(batch.num_tokens)
        if len(rows) != len(texts):
            vectors = _mean_of_windows(vectors, owners, lengths, len(texts))
        return _unit(vectors) if normalize else vectors

    def _rows(
        self, texts: Sequence[Any], overlong: str, quiet: bool
    ) -> tuple[list[list[int]], list[list[int]] | None, list[int]]:
        """Rows of at most `max_length` ids, their segments (None: all 0), and the text that each belongs to."""
        pairs = [i for i, text in enumerate(texts) if isinstance(text, tuple | list) and len(text) == 2]
        if pairs and len(pairs) < len(texts):
            raise InputError("texts holds pairs and single texts: give all of one kind")
        if self.prompt:
            texts = [self.prompt + t if isinstance(t, str) else (f"{self.prompt}{t[0]}", *t[1:]) if pairs else t for t in texts]
        ids: list[list[int]] = []
        types: list[list[int]] = []
        cut = 0
        with tqdm(total=len(texts), unit="text", desc="tokenize", disable=quiet or len(texts) <= _TEXTS_AT_ONCE) as bar:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                some = texts[start : start + _TEXTS_AT_ONCE]
                if pairs:
                    encoded = self.tokenizer(
                        list(some), truncation=overlong == "truncate", max_length=self.max_length, return_token_type_ids=True
                    )
                    ids += encoded["input_ids"]
                    types += encoded["token_type_ids"]
                    cut += sum(map(bool, encoded.num_truncated))
                else:
                    bounded = overlong == "truncate" and self.tokenizer.truncation_side == "right"
                    ids += self.tokenizer.encode_ids(some, max_tokens=self.max_length if bounded else None)
                bar.update(len(some))
        rows, owners = self._windows(ids, overlong, bool(pairs))
        cut = cut or sum(len(row) > self.max_length for row in ids)
        if cut and overlong == "truncate":
            warnings.warn(
                f"{cut} of {len(ids)} texts have more than {self.max_length} tokens and were cut; overlong='window' uses all",
                stacklevel=4,  # beyond encode and the decorator of inference mode
            )
        return rows, types if pairs and self.tokenizer.segments_pairs else None, owners

    def _windows(self, rows: list[list[int]], overlong: str, pairs: bool) -> tuple[list[list[int]], list[int]]:
        """Rows cut, or in parts, and the text that each belongs to."""
        limit = self.max_length
        long = [i for i, row in enumerate(rows) if len(row) > limit]
        owners = list(range(len(rows)))
        if not long:
            return rows, owners
        first = long[0]
        if overlong == "error":
            raise InputError(
                f"texts[{first}] has {len(rows[first])} tokens, the limit is {limit} ({len(long)} texts are longer)"
            )
        if pairs:
            raise InputError(
                f"texts[{first}] is a pair of {len(rows[first])} tokens: windows are for single texts; truncate it"
            )
        frame = self.tokenizer.num_special_tokens() - 1  # [CLS] opens, the rest closes
        if overlong == "truncate":
            if self.tokenizer.truncation_side == "left":
                return [row if len(row) <= limit else row[:1] + row[len(row) - limit + 1 :] for row in rows], owners
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


def _read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the BERT is, and keywords of `Embedder`, from a sentence-transformers folder; nothing for a plain BERT.

    Raises:
        CheckpointError: a module or a setting that is not known, by name.
    """
    if not (folder / "modules.json").is_file():
        return folder, {}
    settings: dict[str, Any] = {"normalize": False}
    whole_text, place = True, folder
    for module in files.read_json_list(folder / "modules.json"):
        schema.check(module, _MODULE_FIELDS, folder / "modules.json")
        kind, path = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path") or "")
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise CheckpointError(f"{folder / 'modules.json'} has a module at {schema.shown(path)}, outside its folder")
        if kind == "Pooling":
            config = _read(folder / path / "config.json", _POOLING_FIELDS)
            settings["pooling"] = modes_of_config(config)
            whole_text = config.get("include_prompt") is not False
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind == "Transformer":
            place = folder / path
        else:
            raise CheckpointError(
                f"{folder / 'modules.json'} has a module {schema.shown(kind)}; fastbert knows Transformer, Pooling, Normalize"
            )
    limits = next((place / name for name in _LIMITS if (place / name).is_file()), None)
    sentence = {} if limits is None else _read(limits, _LIMIT_FIELDS)
    settings["max_length"] = sentence.get("max_seq_length")
    settings["do_lower_case"] = bool(sentence.get("do_lower_case"))
    path_of_prompts = folder / "config_sentence_transformers.json"
    prompts = _read(path_of_prompts, _PROMPT_FIELDS) if path_of_prompts.is_file() else {}
    known, name = prompts.get("prompts") or {}, prompts.get("default_prompt_name")
    if name is not None and name not in known:
        listed = ", ".join(map(schema.shown, list(known)[:5])) or "none"
        raise CheckpointError(f"{path_of_prompts}: default_prompt_name = {schema.shown(name)} is none of its prompts: {listed}")
    settings["prompt"] = (known[name] or "") if name is not None else ""
    if settings["prompt"] and not whole_text:
        raise CheckpointError(f"{folder} leaves the prompt out of the pooling (include_prompt: false): not supported")
    if prompts.get("truncate_dim") is not None:
        raise CheckpointError(f"{folder} cuts its vectors to truncate_dim = {prompts['truncate_dim']}: not supported")
    return place, settings


def _read(path: Path, fields: schema.Fields) -> dict[str, Any]:
    return schema.check(files.read_json(path), fields, path)


def _mean_of_windows(vectors: np.ndarray, owners: list[int], lengths: list[int], count: int) -> np.ndarray:
    weights = np.asarray(lengths, dtype=np.float32)
    total = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    np.add.at(total, owners, vectors * weights[:, None])
    return total / np.bincount(owners, weights=weights, minlength=count)[:, None].astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1).numpy()
