"""Measures a bulk job from end to end on a CPU: from a file of texts to a folder of vectors, beside the model alone.

    python benchmarks/bulk.py                                   # writes benchmarks/results/bulk.jsonl
    python benchmarks/bulk.py --rounds 7 --output bulk.jsonl

Texts are paragraphs of the Python language reference, of natural lengths; the model is all-MiniLM-L6-v2, loaded before. Vectors
are compared first; then everything runs in turns: from ids, which is the model alone; from the file, read, tokenised, run and
written as Parquet; and sentence-transformers' encode as it comes, of texts in memory, which it writes nowhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import numpy as np
import torch

from benchmarks import pages
from benchmarks.speed import records
from benchmarks.speed.cases import paragraphs_of_python_docs
from benchmarks.speed.checkpoints import default_model
from benchmarks.speed.environment import environment
from fastbert import files
from fastbert.bulk import Embed, run_job
from fastbert.errors import FastbertError
from fastbert.terminal import align, markdown_table

TEXTS = 1500
PAGE = Path(__file__).resolve().parents[1] / "docs" / "bulk.md"
MARKS = ("<!-- bulk -->", "<!-- /bulk -->")
CLOSE = 1e-4
RESULTS = records.RESULTS / "bulk.jsonl"
Row = dict[str, Any]
Embedding = Callable[[], np.ndarray]


def measure(count: int, rounds: int) -> list[Row]:
    """A row for each way to embed the texts."""
    from sentence_transformers import SentenceTransformer

    found = [" ".join(text.split()) for text in paragraphs_of_python_docs()]
    texts = found[:: max(1, len(found) // count)][:count]
    job = Embed(str(default_model()), "cpu")
    embedder, theirs = job.task, SentenceTransformer(str(default_model()), device="cpu")
    framed = embedder.frame_quietly(texts)
    with tempfile.TemporaryDirectory() as place:
        path, folder = Path(place) / "texts.txt", Path(place) / "vectors"
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        job.fingerprint  # noqa: B018, the hash of the model is part of loading it

        def from_file() -> np.ndarray:
            shutil.rmtree(folder, ignore_errors=True)
            run_job(job, [str(path)], folder, show_progress=False)
            return _vectors(folder)

        ways: dict[str, Embedding] = {
            "from ids": lambda: embedder.finish(embedder.pooled(framed, embedder.pooling, "", name="embed")),
            "from a file to a folder": from_file,
            "sentence-transformers' encode, as it comes": lambda: theirs.encode(texts),
        }
        wanted = ways["from ids"]()
        for name, embed in ways.items():
            worst = float(np.abs(embed() - wanted).max())
            if worst > CLOSE:
                raise FastbertError(f"{name} gives vectors that differ by {worst:.1e} (at most {CLOSE})")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, embed in ways.items():
                began = time.perf_counter()
                embed()
                seconds[name].append(time.perf_counter() - began)
    facts = {**environment(torch.device("cpu")), "figure": "bulk", "texts": len(texts), "tokens": framed.num_tokens}
    return [{**facts, "way": name, "seconds": taken, "median_s": median(taken)} for name, taken in seconds.items()]


def _vectors(folder: Path) -> np.ndarray:
    """All vectors of a folder, read back: what a user of it does next."""
    from pyarrow import parquet

    column = parquet.read_table(folder)["vector"].combine_chunks()
    found: np.ndarray = column.values.to_numpy().reshape(len(column), -1)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 on success, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each way (default: 5)")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"texts that are embedded (default: {TEXTS})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the rows")
    args = parser.parse_args(arguments)
    try:
        rows = measure(max(args.texts, 2), max(args.rounds, 1))
        records.write(args.output, rows)
        if args.output == RESULTS:
            files.write_text(PAGE, pages.put(PAGE.read_text(encoding="utf-8"), MARKS, block(rows)))
    except FastbertError as error:
        print(f"benchmarks/bulk.py: {error}", file=sys.stderr)
        return 2
    print("\n".join(align(table(rows))))
    return 0


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A header, and a line for each way."""
    base = {row["way"]: row["median_s"] for row in rows}
    ids, theirs = base["from ids"], base["sentence-transformers' encode, as it comes"]
    shown = [
        (r["way"], f"{r['texts'] / r['median_s']:.0f}", f"{ids / r['median_s']:.0%}", f"{theirs / r['median_s']:.2f}x")
        for r in rows
    ]
    return [("way", "texts/s", "of ids", "of encode"), *shown]


def block(rows: Sequence[Row]) -> str:
    """The text between the page's markers."""
    one = rows[0]
    texts = f"{one['texts']:,} paragraphs of the Python language reference ({one['tokens']:,} tokens)"
    place = f"{one['cpu']}, {one['instructions']}, {one['threads']} threads, torch {one['torch']}"
    what = f"{texts} through all-MiniLM-L6-v2, loaded before; medians of {len(one['seconds'])} turns on {place}:"
    return pages.marked(MARKS, "\n\n".join([what, "\n".join(markdown_table(table(rows)))]))


if __name__ == "__main__":
    sys.exit(main())
