"""Hidden states of a frozen encoder, computed once and kept on disk.

    folder/<hash of texts and pooling>/cache.json      hashes of weights, tokenizer, texts and values
                                       layer-<n>.npy   float32 (rows, N), the sequences concatenated

A cache is used only if all hashes match; otherwise a message names what has changed, and the features are recomputed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert import files
from fastbert.model.composed import ComposedModel
from fastbert.packing import PackedBatch
from fastbert.packing.batching import run
from fastbert.progress import Show
from fastbert.text.framing import Framed
from fastbert.text.tokenizer import Tokenizer

MANIFEST = "cache.json"


class FeatureCache:
    """Encoder features on disk, looked up by row index. `ComposedModel.cache` takes one.

    Args:
        folder: created if absent; several runs may share it.
        model: a model with a frozen encoder.
        tokenizer: the model's tokenizer.
        progress: called with a message when features are computed, found or refused.
    """

    def __init__(self, folder: Path, model: ComposedModel, tokenizer: Tokenizer, progress: Callable[[str], None]) -> None:
        self.folder, self.model, self.progress = folder, model, progress
        self._weights = _hash_of_weights(model)
        self._tokenizer = hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
        self._stores: dict[Framed, tuple[np.ndarray, dict[int, np.ndarray]]] = {}  # row bounds, features by layer

    def prepare(self, framed: Framed, show: Show) -> None:
        """Loads the features of all rows from disk, computing those that are missing."""
        pooled = self.model.pools_first
        texts = _hash_of_rows(framed)
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
            self.progress(
                f"cached features in {store.name} are refused: the {' and the '.join(changed)} changed; computing them anew"
            )
        if changed or not before:
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir(parents=True, exist_ok=True)
        ends = np.cumsum(np.ones_like(framed.lengths) if pooled else framed.lengths)
        bounds = np.concatenate([[0], ends])
        missing = [layer for layer in self.model.layers if f"layer-{layer}" not in hashes]
        if missing:
            self._compute(store, missing, framed, bounds, show)
            hashes |= {f"layer-{layer}": files.sha256(store / f"layer-{layer}.npy") for layer in missing}
            files.write_text(store / MANIFEST, json.dumps({**manifest, "values": hashes}) + "\n")
        else:
            self.progress(f"features of {len(framed):,} sequences found in {store}")
        layers = {layer: np.load(store / f"layer-{layer}.npy", mmap_mode="r") for layer in self.model.layers}
        self._stores[framed] = (bounds, layers)

    def lookup(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor] | None:
        """The cached features of a batch, one tensor per layer; None if its rows do not come from a prepared `Framed`."""
        if batch.origin is None or batch.origin.framed not in self._stores:
            return None
        bounds, stored = self._stores[batch.origin.framed]
        found = []
        for layer in layers:
            rows = [stored[layer][bounds[i] : bounds[i + 1]] for i in batch.origin.rows]
            found.append(torch.from_numpy(np.concatenate(rows)).to(batch.device))
        return found

    def _compute(self, store: Path, layers: Sequence[int], framed: Framed, bounds: np.ndarray, show: Show) -> None:
        rows, width = int(bounds[-1]), self.model.config.hidden_size
        size = rows * width * 4 * len(layers)
        files.check_room(store, size, "the cache of features")
        self.progress(f"features of {len(framed):,} sequences: {len(layers)} layers, {size / 2**20:,.0f} MiB -> {store}")
        parts = [store / f"layer-{layer}.part.npy" for layer in layers]
        arrays = [np.lib.format.open_memmap(part, "w+", np.float32, (rows, width)) for part in parts]

        def states(batch: PackedBatch) -> list[Tensor]:
            return [state.float() for state in self.model.features(batch, layers)]

        with torch.inference_mode():
            for numbers, found in run(framed, states, self.model.device, name="features", show=show):
                sizes = (bounds[numbers + 1] - bounds[numbers]).tolist()
                for array, state in zip(arrays, found, strict=True):
                    for i, part in zip(numbers, state.split(sizes), strict=True):
                        array[bounds[i] : bounds[i + 1]] = part.numpy()
        for array, layer, path in zip(arrays, layers, parts, strict=True):
            array.flush()
            path.replace(store / f"layer-{layer}.npy")


def _differs(path: Path, digest: str) -> bool:
    return not path.is_file() or files.sha256(path) != digest


def _hash_of_rows(framed: Framed) -> str:
    digest = hashlib.sha256()
    for i in range(len(framed)):
        row = slice(framed.starts[i], framed.starts[i + 1])
        content = framed.ids[row].tobytes() + framed.segments[row].astype(np.int32).tobytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _hash_of_weights(model: ComposedModel) -> str:
    digest = hashlib.sha256()
    state: dict[str, Any] = model.encoder.state_dict()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
