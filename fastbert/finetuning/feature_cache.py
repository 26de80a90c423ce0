"""Hidden states of a frozen encoder, computed once and kept on disk.

    folder/<hash of texts and pooling>/cache.json      hashes of weights, tokenizer, texts and values
                                       layer-<n>.npy   float32 (rows, N), the sequences one after the other

A cache is used only where all hashes agree; otherwise it is said what has changed, and it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fastbert import files
from fastbert.composed import ComposedModel
from fastbert.errors import CheckpointError, printable
from fastbert.packing import PackedBatch, pack, token_budget_batches
from fastbert.tasks.sequences import CPU_BATCH_TOKENS
from fastbert.tokenizer import BertTokenizer

MANIFEST = "cache.json"


class FeatureCache:
    """Features by sequence. `ComposedModel.cache` takes one.

    Args:
        folder: made if absent; several runs may share it.
        model: whose encoder is frozen.
        tokenizer: of the model.
        say: is told what was computed, found or refused.
    """

    def __init__(self, folder: Path, model: ComposedModel, tokenizer: BertTokenizer, say: Callable[[str], None]) -> None:
        self.folder, self.model, self.say = folder, model, say
        self._weights = _hash_of_weights(model)
        self._tokenizer = hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
        self._places: dict[bytes, tuple[int, int, int]] = {}  # sequence -> store, first row, rows
        self._stores: list[dict[int, np.ndarray]] = []

    def prepare(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]], show: bool) -> None:
        """Computes the features of sequences, or finds them on disk."""
        keys = [_key(*row) for row in zip(ids, types, strict=True)]
        pooled = self.model.pools_first
        texts = hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in keys)).hexdigest()
        manifest = {"texts": texts, "pooling": self.model.options.pooling if pooled else "", "weights": self._weights}
        manifest |= {"tokenizer": self._tokenizer, "left_to_right": self.model.config.is_decoder}
        name = hashlib.sha256(f"{texts} {manifest['pooling']} {manifest['left_to_right']}".encode()).hexdigest()[:16]
        store = self.folder / name
        before = files.read_json_if_present(store / MANIFEST)
        changed = [part for part in manifest if before and before.get(part) != manifest[part]]
        hashes: dict[str, str] = before.get("values") or {} if before and not changed else {}
        if any(_differs(store / f"{layer}.npy", digest) for layer, digest in hashes.items()):
            changed, hashes = ["values"], {}
        if changed:
            self.say(
                f"cached features in {store.name} are refused: the {' and the '.join(changed)} changed; computing them anew"
            )
        if changed or not before:
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir(parents=True, exist_ok=True)
        lengths = [1 if pooled else len(row) for row in ids]
        missing = [layer for layer in self.model.layers if f"layer-{layer}" not in hashes]
        if missing:
            self._compute(store, missing, ids, types, lengths, show)
            hashes |= {f"layer-{layer}": files.sha256(store / f"layer-{layer}.npy") for layer in missing}
            files.write_text(store / MANIFEST, json.dumps({**manifest, "values": hashes}) + "\n")
        else:
            self.say(f"features of {len(ids):,} sequences found in {store}")
        self._stores.append({layer: np.load(store / f"layer-{layer}.npy", mmap_mode="r") for layer in self.model.layers})
        start = 0
        for key, length in zip(keys, lengths, strict=True):
            self._places[key] = (len(self._stores) - 1, start, length)
            start += length

    def lookup(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor] | None:
        """The features of a batch, None where one of its sequences is not here."""
        if batch.input_ids is None:
            return None
        starts = batch.cu_seqlens.tolist()
        ids, types = batch.input_ids.tolist(), batch.token_type_ids.tolist()
        places = []
        for first, end in pairwise(starts):
            place = self._places.get(_key(ids[first:end], types[first:end]))
            if place is None:
                return None
            places.append(place)
        found = []
        for layer in layers:
            rows = [self._stores[store][layer][first : first + count] for store, first, count in places]
            found.append(torch.from_numpy(np.concatenate(rows)).to(batch.device))
        return found

    def _compute(
        self,
        store: Path,
        layers: Sequence[int],
        ids: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]],
        lengths: Sequence[int],
        show: bool,
    ) -> None:
        rows, width = sum(lengths), self.model.config.hidden_size
        size = rows * width * 4 * len(layers)
        free = shutil.disk_usage(store).free
        if size > free:
            raise CheckpointError(f"the features want {size / 2**20:,.0f} MiB in {store}, {free / 2**20:,.0f} MiB are free")
        self.say(f"features of {len(ids):,} sequences: {len(layers)} layers, {size / 2**20:,.0f} MiB -> {store}")
        parts = [store / f"layer-{layer}.part.npy" for layer in layers]
        arrays = [np.lib.format.open_memmap(part, "w+", np.float32, (rows, width)) for part in parts]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        budget = CPU_BATCH_TOKENS if self.model.device.type == "cpu" else 16384
        with torch.inference_mode(), tqdm(total=sum(map(len, ids)), unit="tok", unit_scale=True, disable=not show) as bar:
            bar.set_description("features")
            for indices in token_budget_batches([len(row) for row in ids], budget):
                batch = pack([list(ids[i]) for i in indices], token_type_ids=[list(types[i]) for i in indices])
                for array, state in zip(arrays, self.model.features(batch.to(self.model.device), layers), strict=True):
                    for i, part in zip(indices, state.float().cpu().split([lengths[i] for i in indices]), strict=True):
                        array[starts[i] : starts[i + 1]] = part.numpy()
                bar.update(batch.num_tokens)
        for array, layer, part in zip(arrays, layers, parts, strict=True):
            array.flush()
            part.replace(store / f"layer-{layer}.npy")


def say_on_stderr(text: str) -> None:
    """A line that does not break a progress bar."""
    tqdm.write(printable(text), file=sys.stderr)


def _differs(path: Path, digest: str) -> bool:
    return not path.is_file() or files.sha256(path) != digest


def _key(ids: Sequence[int], types: Sequence[int]) -> bytes:
    return np.asarray([*ids, *types], dtype=np.int32).tobytes()


def _hash_of_weights(model: ComposedModel) -> str:
    digest = hashlib.sha256()
    state: dict[str, Any] = model.encoder.state_dict()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
