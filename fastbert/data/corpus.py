"""A pre-training corpus on disk: token ids of whole documents in memory-mapped shards, with a manifest that describes them.

    corpus/manifest.json            counts, hashes, the vocabulary's hash, how it was built
    corpus/tokens-00000.bin         ids of every sentence, end to end: uint16, or uint32 for more than 65,536 entries
    corpus/sentences-00000.bin      int64, the token at which each sentence starts, and the number of tokens
    corpus/documents-00000.bin      int64, the sentence at which each document starts, and the number of sentences
    corpus/tokenizer/               the vocabulary it was built with
    corpus/held-out/                the same files for the held-out documents, if any

A document never crosses shards. `build_corpus` writes a corpus, `Corpus` reads it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastbert import files
from fastbert.errors import CheckpointError, InputError
from fastbert.text.tokenizer import BertTokenizer

VERSION = 1
HELD_OUT = "held-out"
_PARTS = ("tokens", "sentences", "documents")
_BATCH = 2_000  # sentences tokenised at once


def vocabulary_hash(tokenizer: BertTokenizer) -> str:
    """SHA-256 over all entries of the vocabulary and their ids."""
    vocab = tokenizer.get_vocab()
    return hashlib.sha256(json.dumps(sorted(vocab.items()), ensure_ascii=False).encode()).hexdigest()


@dataclass
class BuildReport:
    """Counts of a corpus build: documents, sentences, tokens, [UNK]s; `held_out` has those of the held-out documents."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    held_out: BuildReport | None = None

    def table(self) -> str:
        """The counts as text."""
        share = f"{self.unknown / self.tokens:.3%}" if self.tokens else "0 %"
        line = f"{self.documents:,} documents, {self.sentences:,} sentences, {self.tokens:,} tokens, {share} [UNK]"
        return line if self.held_out is None else f"{line}\nheld out: {self.held_out.table()}"


class _Writer:
    """Writes the shards of one corpus."""

    def __init__(self, folder: Path, dtype: Any, shard_tokens: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.dtype, self.shard_tokens = folder, np.dtype(dtype), shard_tokens
        self.report = BuildReport()
        self.shards: list[dict[str, Any]] = []
        self.streams: dict[str, BinaryIO] = {}
        self.counts = dict.fromkeys(_PARTS, 0)
        self.open_at = 0  # the sentence of this shard at which the current document starts

    def add(self, sentences: list[list[int]], unknown: int) -> None:
        """Adds sentences to the current document."""
        if not self.streams:
            self.streams = {part: self._path(part).open("wb") for part in _PARTS}
        lengths = np.array([len(ids) for ids in sentences], dtype=np.int64)
        starts = self.counts["tokens"] + np.concatenate([[0], lengths.cumsum()])
        self.streams["tokens"].write(np.array([i for ids in sentences for i in ids], dtype=self.dtype).tobytes())
        self.streams["sentences"].write(starts[:-1].astype("<i8").tobytes())
        self.counts["tokens"] = int(starts[-1])
        self.counts["sentences"] += len(sentences)
        self.report.unknown += unknown

    def end_document(self) -> bool:
        """Ends the current document, and the shard if it is full; returns False if the document has no sentence."""
        if self.counts["sentences"] == self.open_at:
            return False
        self.streams["documents"].write(np.int64(self.open_at).astype("<i8").tobytes())
        self.counts["documents"] += 1
        self.open_at = self.counts["sentences"]
        if self.counts["tokens"] >= self.shard_tokens:
            self._close_shard()
        return True

    def finish(self, about: dict[str, Any]) -> None:
        """Closes the last shard and writes the manifest."""
        self._close_shard()
        manifest = {"format": "fastbert corpus", "version": VERSION, **about, "dtype": self.dtype.name}
        manifest |= {name: getattr(self.report, name) for name in ("documents", "sentences", "tokens", "unknown")}
        files.write_text(self.folder / "manifest.json", json.dumps({**manifest, "shards": self.shards}, indent=1) + "\n")

    def _close_shard(self) -> None:
        if not self.streams:
            return
        self.streams["sentences"].write(np.int64(self.counts["tokens"]).astype("<i8").tobytes())
        self.streams["documents"].write(np.int64(self.counts["sentences"]).astype("<i8").tobytes())
        shard: dict[str, Any] = dict(self.counts)
        for part, stream in self.streams.items():
            stream.close()
            shard[f"{part}_sha256"] = files.sha256(self._path(part))
        for name, count in self.counts.items():
            setattr(self.report, name, getattr(self.report, name) + count)
        self.shards.append(shard)
        self.streams, self.counts = {}, dict.fromkeys(_PARTS, 0)
        self.open_at = 0

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}-{len(self.shards):05d}.bin"


def build_corpus(
    sentences: Iterable[str | None],
    tokenizer: BertTokenizer,
    folder: str | Path,
    *,
    held_out: float = 0.0,
    shard_tokens: int = 1 << 27,
    about: dict[str, Any] | None = None,
) -> BuildReport:
    """Tokenises sentences (None ends a document, see `read_sentences`) into a corpus; the folder appears once it is complete.

    Memory does not grow with the text. Documents without a token are left out.

    Args:
        tokenizer: its vocabulary is saved with the ids.
        folder: must not exist, or be empty.
        held_out: share of the documents, evenly spaced, that go to `folder/held-out`.
        shard_tokens: tokens after which a new shard starts, at the end of the document.
        about: entries about the source to add to the manifest.

    Raises:
        InputError: no text; a share too small to select a document; a folder that is not empty.
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    if not 0 <= held_out < 1:
        raise InputError(f"held_out = {held_out} must be at least 0 and below 1")
    every = round(1 / held_out) if held_out else 0
    if every == 1:
        raise InputError(f"held_out = {held_out} would keep every document out; at most 0.5 can be")
    with files.new_folder(folder) as part:
        writers = [_Writer(part, np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32, shard_tokens)]
        if every:
            writers.append(_Writer(part / HELD_OUT, writers[0].dtype, shard_tokens))
        number = 0  # of the current document

        def writer() -> _Writer:
            return writers[1] if every and number % every == every - 1 else writers[0]

        for block in _tokenized(sentences, tokenizer):
            if block is None:
                number += writer().end_document()
            elif block[0]:
                writer().add(*block)
        writer().end_document()
        about = {**(about or {}), "vocabulary_sha256": vocabulary_hash(tokenizer), "vocabulary_size": len(tokenizer)}
        for one in writers:
            one.finish(about)
            tokenizer.save_pretrained(one.folder / "tokenizer")
        report = writers[0].report
        if not report.tokens:
            raise InputError("there is no text to build a corpus from")
        if every:
            report.held_out = writers[1].report
            if not report.held_out.tokens:
                raise InputError(
                    f"held_out = {held_out} of {report.documents} documents selects none: hold out a larger share, or separate "
                    "documents by blank lines"
                )
    return report


def _tokenized(sentences: Iterable[str | None], tokenizer: BertTokenizer) -> Iterator[tuple[list[list[int]], int] | None]:
    """Yields blocks of sentences' ids with their number of [UNK]s, and None after the last block of each document."""
    stream, unk = iter(sentences), tokenizer.unk_token_id
    while batch := list(islice(stream, _BATCH)):
        texts = [text for text in batch if text is not None]
        rows = iter(tokenizer.encode_ids(texts, add_special_tokens=False, split_special_tokens=True))
        block: list[list[int]] = []
        for text in batch:
            if text is None:
                yield block, sum(ids.count(unk) for ids in block)
                yield None
                block = []
            elif ids := next(rows):
                block.append(ids)
        yield block, sum(ids.count(unk) for ids in block)


def mapped(path: Path, dtype: Any, count: int) -> Any:
    """A file as a memory-mapped array of `count` values.

    Raises:
        CheckpointError: the file has a different size, or is missing.
    """
    wanted = count * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != wanted:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
        raise CheckpointError(f"{path} is damaged: {size}, the manifest says {wanted}")
    return np.memmap(path, dtype, "r")


@dataclass
class Shard:
    """One shard, memory-mapped; `sentences` and `documents` count from its start."""

    tokens: NDArray[Any]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]


@dataclass
class Corpus:
    """A corpus opened for reading.

    Attributes:
        folder: the folder of the corpus.
        manifest: content of manifest.json.
        shards: its shards, in order.
    """

    folder: Path
    manifest: dict[str, Any]
    shards: list[Shard]
    _first: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, folder: str | Path, check: bool = False) -> Corpus:
        """Opens a corpus; file sizes are always compared with the manifest, hashes only if `check` is set.

        Raises:
            CheckpointError: not a corpus, another version, or a file that does not match the manifest, named in the message.
        """
        folder = Path(folder)
        manifest = files.read_json(folder / "manifest.json")
        if manifest.get("format") != "fastbert corpus" or manifest.get("version") != VERSION:
            found = f"{manifest.get('format')!r}, version {manifest.get('version')}"
            raise CheckpointError(f"{folder} is not a corpus of this version: it says {found}; build it again")
        shards = []
        for number, about in enumerate(manifest["shards"]):
            arrays = []
            for part in _PARTS:
                path = folder / f"{part}-{number:05d}.bin"
                dtype = np.dtype(manifest["dtype"] if part == "tokens" else "<i8")
                count = about[part] + (part != "tokens")
                arrays.append(mapped(path, dtype, count))
                if check and files.sha256(path) != about[f"{part}_sha256"]:
                    raise CheckpointError(f"{path} is damaged: its hash differs from the one in the manifest")
            shards.append(Shard(*arrays))
        first = [0]
        for shard in shards:
            first.append(first[-1] + len(shard.tokens))
        return cls(folder, manifest, shards, first)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all shards."""
        return self._first[-1]

    @property
    def num_documents(self) -> int:
        """Number of documents in all shards."""
        return int(self.manifest["documents"])

    def tokens(self, start: int, end: int) -> NDArray[np.int64]:
        """Ids of tokens `start` to `end` - 1, counted over all shards; the range must lie within one document."""
        shard = bisect_right(self._first, start) - 1
        first = self._first[shard]
        return self.shards[shard].tokens[start - first : end - first].astype(np.int64)

    def sentence_starts(self) -> NDArray[np.int64]:
        """(sentences + 1,) token at which each sentence starts, over all shards, and the number of tokens."""
        parts = [shard.sentences[:-1] + first for shard, first in zip(self.shards, self._first, strict=False)]
        return np.concatenate([*parts, [self.num_tokens]]).astype(np.int64)

    def document_starts(self) -> NDArray[np.int64]:
        """(documents + 1,) sentence at which each document starts, over all shards, and the number of sentences."""
        parts, sentences = [], 0
        for shard in self.shards:
            parts.append(shard.documents[:-1] + sentences)
            sentences += int(shard.documents[-1])
        return np.concatenate([*parts, [sentences]]).astype(np.int64)

    def token_counts(self) -> NDArray[np.int64]:
        """(V,) how often each vocabulary entry occurs."""
        counts = np.zeros(self.manifest["vocabulary_size"], dtype=np.int64)
        for shard in self.shards:
            for start in range(0, len(shard.tokens), 1 << 24):
                counts += np.bincount(shard.tokens[start : start + (1 << 24)], minlength=len(counts))
        return counts

    def unigram_entropy(self) -> float:
        """Entropy of the corpus's token frequencies in nats: the loss of the best prediction that ignores the context."""
        p = self.token_counts() / self.num_tokens
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    def tokenizer(self) -> BertTokenizer:
        """The tokenizer that the corpus was built with."""
        return BertTokenizer.from_pretrained(self.folder / "tokenizer")

    def held_out(self) -> Corpus | None:
        """The corpus of the held-out documents; None if there are none."""
        folder = self.folder / HELD_OUT
        return Corpus.open(folder) if (folder / "manifest.json").is_file() else None

    def check_vocabulary(self, tokenizer: BertTokenizer, name: str) -> None:
        """Raises InputError unless the tokenizer has exactly the vocabulary of this corpus."""
        if vocabulary_hash(tokenizer) != self.manifest["vocabulary_sha256"]:
            raise InputError(
                f"the vocabulary of {name} ({len(tokenizer):,} entries) is not the one that {self.folder} was built with "
                f"({self.manifest['vocabulary_size']:,} entries): ids would mean other words. Rebuild the corpus with it"
            )
