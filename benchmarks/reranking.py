"""Measures rerankers on a CPU, from text: a CrossEncoder, the same one patched, and fastbert's Reranker.

    python benchmarks/reranking.py                                        # writes benchmarks/results/reranking.jsonl
    python benchmarks/reranking.py --rounds 9 --output reranking.jsonl

Pairs of a short query and a paragraph of the Python language reference, of natural length: one short side, one long one. The
encoder is all-MiniLM-L6-v2 with a head from a seed. All scores are compared first; then everything runs in turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import numpy as np
import torch

import fastbert
from benchmarks.speed import records
from benchmarks.speed.cases import paragraphs_of_python_docs
from benchmarks.speed.checkpoints import default_model
from benchmarks.speed.environment import environment
from fastbert.errors import FastbertError
from fastbert.tasks import Reranker
from fastbert.terminal import align

PAIRS, MAX_LENGTH = 120, 512
BATCHES = (4, 8, 16, 32, 64)
AS_IT_COMES = 32  # sentence-transformers' own number of pairs at once
CLOSE = 1e-4
RESULTS = records.RESULTS / "reranking.jsonl"
Row = dict[str, Any]
Score = Callable[[], Any]


def pairs(count: int) -> list[tuple[str, str]]:
    """Queries of seven words, each with a paragraph from somewhere in the source."""
    texts = list(paragraphs_of_python_docs())
    step = max(1, len(texts) // count)
    documents, others = texts[::step][:count], texts[step // 2 :: step][:count]
    return [(" ".join(other.split()[:7]), text) for other, text in zip(others, documents, strict=True)]


def save_model(folder: Path) -> None:
    """A CrossEncoder with one score: the real encoder, and a head from a seed."""
    torch.manual_seed(0)
    model, _ = fastbert.BertForSequenceClassification.from_pretrained(default_model(), num_labels=1, output_loading_info=True)
    model.save_pretrained(folder)
    fastbert.Tokenizer.from_pretrained(default_model()).save_pretrained(folder)


def measure(count: int, rounds: int) -> list[Row]:
    """A row for each way to score the pairs."""
    from sentence_transformers import CrossEncoder

    given = pairs(count)
    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place))
        plain, patched = (CrossEncoder(place, device="cpu", max_length=MAX_LENGTH) for _ in range(2))
        fastbert.prepack(fastbert.patch(patched))
        reranker = Reranker.from_pretrained(place, "cpu")
    reranker.max_length = MAX_LENGTH
    fastbert.prepack(reranker.model)

    def crossed(model: Any, batch: int) -> Score:
        return lambda: model.predict(given, batch_size=batch, show_progress_bar=False)

    ways: dict[str, tuple[Score, int | None]] = {
        "fastbert Reranker": (lambda: reranker.predict(given, show_progress=False), None)
    }
    for name, model in (("CrossEncoder", plain), ("CrossEncoder, patched", patched)):
        best = min(BATCHES, key=lambda batch, model=model: _seconds(crossed(model, batch)))
        ways[name] = (crossed(model, best), best)
        ways[f"{name}, as it comes"] = (crossed(model, AS_IT_COMES), AS_IT_COMES)
    wanted = np.asarray(ways["CrossEncoder"][0]())
    for name, (score, _) in ways.items():
        worst = float(np.abs(np.asarray(score()) - wanted).max())
        if worst > CLOSE:
            raise FastbertError(f"{name} gives scores that differ by {worst:.1e} (at most {CLOSE})")
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (score, _) in ways.items():
            found[name].append(_seconds(score))
    facts = {**environment(torch.device("cpu")), "figure": "reranking", "pairs": count, "max_length": MAX_LENGTH}
    return [
        {**facts, "way": name, "batch": ways[name][1], "seconds": taken, "median_s": median(taken)}
        for name, taken in found.items()
    ]


def _seconds(score: Score) -> float:
    began = time.perf_counter()
    score()
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 on success, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="passes of each way (default: 7)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs that are scored (default: {PAIRS})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the rows")
    args = parser.parse_args(arguments)
    try:
        rows = measure(max(args.pairs, 2), max(args.rounds, 1))
        records.write(args.output, rows)
    except FastbertError as error:
        print(f"benchmarks/reranking.py: {error}", file=sys.stderr)
        return 2
    base = next(row["median_s"] for row in rows if row["way"] == "CrossEncoder")
    shown = [
        (r["way"], str(r["batch"] or ""), f"{r['pairs'] / r['median_s']:.0f}", f"{base / r['median_s']:.2f}x") for r in rows
    ]
    print("\n".join(align([("way", "batch", "pairs/s", "of CrossEncoder at its best"), *shown])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
