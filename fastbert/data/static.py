"""Static examples: precomputed with masks and pairs in place, as in google's BERT, by `fastbert data build --static`.

Every epoch has the same examples; only their order changes. "Duplicates" are copies of the corpus with different pairs and
masks.

    static/manifest.json, static/tokenizer/
    static/input_ids.bin   ids of all examples, end to end       static/starts.bin        int64 (n + 1,)
    static/rows.bin        int32, rows to predict                static/rows_starts.bin   int64 (n + 1,)
    static/labels.bin      their true ids                        static/about.bin         int32 (n, 2): second, pair label
"""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastbert import files
from fastbert.data.corpus import Corpus, mapped
from fastbert.data.examples import CorpusExamples, Example, ExampleOptions
from fastbert.data.masking import MaskingOptions
from fastbert.errors import CheckpointError, InputError
from fastbert.text.tokenizer import BertTokenizer

FORMAT = "fastbert static examples"
VERSION = 1


def is_static(folder: Path) -> bool:
    """Whether a folder holds static examples."""
    path = folder / "manifest.json"
    return path.is_file() and files.read_json(path).get("format") == FORMAT


def write_static(
    corpus: Corpus,
    options: ExampleOptions,
    seed: int,
    duplicates: int,
    folder: str | Path,
    advance: Callable[[int], object] | None = None,
    about_build: dict[str, Any] | None = None,
) -> int:
    """Writes the examples of the first `duplicates` epochs; returns how many. The folder appears once it is complete."""
    if duplicates < 1:
        raise InputError(f"duplicates = {duplicates} must be at least 1")
    source = CorpusExamples(corpus, options, seed)
    dtype = np.dtype(corpus.manifest["dtype"])
    starts, rows_starts, about = array("q", [0]), array("q", [0]), array("i")
    with files.new_folder(folder) as part:
        streams = {name: (part / f"{name}.bin").open("wb") for name in ("input_ids", "rows", "labels")}
        try:
            for number in range(duplicates):
                epoch = source.epoch(number)
                for index in range(len(epoch.lengths)):
                    one = epoch[index]
                    streams["input_ids"].write(one.input_ids.astype(dtype).tobytes())
                    streams["rows"].write(one.rows.astype("<i4").tobytes())
                    streams["labels"].write(one.labels.astype(dtype).tobytes())
                    starts.append(starts[-1] + len(one.input_ids))
                    rows_starts.append(rows_starts[-1] + len(one.rows))
                    about.extend((one.second, one.next_sentence_label))
                    if advance is not None:
                        advance(1)
        finally:
            for stream in streams.values():
                stream.close()
        for name, values, kind in (("starts", starts, "<i8"), ("rows_starts", rows_starts, "<i8"), ("about", about, "<i4")):
            (part / f"{name}.bin").write_bytes(np.array(values, kind).tobytes())
        source.tokenizer.save_pretrained(part / "tokenizer")
        manifest = {
            **(about_build or {}),
            "format": FORMAT,
            "version": VERSION,
            "examples": len(starts) - 1,
            "tokens": starts[-1],
            "dtype": dtype.name,
        }
        manifest |= {"predictions": rows_starts[-1], "seed": seed, "duplicates": duplicates}
        manifest |= {"options": dataclasses.asdict(options), "vocabulary_sha256": corpus.manifest["vocabulary_sha256"]}
        manifest["sha256"] = {path.name: files.sha256(path) for path in sorted(part.glob("*.bin"))}
        files.write_text(part / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return len(starts) - 1


class StaticExamples:
    """Static examples opened for reading; both a source of examples and its only epoch."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        options = manifest["options"]
        self.objective, self.max_length = options["objective"], options["max_length"]
        self.masking = MaskingOptions(**options["masking"])
        count, kept = manifest["examples"], manifest["dtype"]
        self._starts = self._map("starts", "<i8", count + 1)
        self._rows_starts = self._map("rows_starts", "<i8", count + 1)
        self._about = self._map("about", "<i4", 2 * count).reshape(count, 2)
        self._ids = self._map("input_ids", kept, manifest["tokens"])
        self._rows = self._map("rows", "<i4", manifest["predictions"])
        self._labels = self._map("labels", kept, manifest["predictions"])
        self.lengths = np.diff(self._starts)
        self.predictions = np.diff(self._rows_starts)

    @classmethod
    def open(cls, folder: str | Path, check: bool = False) -> StaticExamples:
        """Opens a folder written by `write_static`; file sizes are always compared with the manifest, hashes if `check` is set.

        Raises:
            CheckpointError: another kind or version of folder, or files that do not match the manifest.
        """
        manifest = files.read_json(Path(folder) / "manifest.json")
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise CheckpointError(f"{folder} holds no static examples of this version")
        for name, digest in manifest["sha256"].items() if check else ():
            if files.sha256(Path(folder) / name) != digest:
                raise CheckpointError(f"{Path(folder) / name} is damaged: its hash differs from the one in the manifest")
        return cls(Path(folder), manifest)

    def _map(self, name: str, dtype: str, count: int) -> Any:
        return mapped(self.folder / f"{name}.bin", dtype, count)

    def tokenizer(self) -> BertTokenizer:
        """The tokenizer that the examples were made with."""
        return BertTokenizer.from_pretrained(self.folder / "tokenizer")

    def about_labels(self) -> Any:
        """(n,) pair labels."""
        return self._about[:, 1]

    def check(self, wanted: ExampleOptions, name: str) -> None:
        """Raises InputError if a recipe (`name` in the message) asks for different example options."""
        made = self.manifest["options"]
        for key, value in dataclasses.asdict(wanted).items():
            if made[key] != value:
                raise InputError(f"{name} wants {key} = {value!r}; {self.folder} was written with {made[key]!r}")

    def epoch(self, number: int) -> StaticExamples:
        """The same examples in every epoch."""
        return self

    def __getitem__(self, index: int) -> Example:
        """Example `index`."""
        ids = self._ids[self._starts[index] : self._starts[index + 1]].astype(np.int64)
        span = slice(self._rows_starts[index], self._rows_starts[index + 1])
        second, label = self._about[index].tolist()
        return Example(ids, second, self._rows[span].astype(np.int64), self._labels[span].astype(np.int64), label)
