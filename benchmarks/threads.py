"""Measures how threads that wait for one another share the cores with another process: embeddings, from text, on a CPU.

    python benchmarks/threads.py                                          # writes benchmarks/results/threads.jsonl
    python benchmarks/threads.py --rounds 5 --output threads.jsonl

Each way to wait runs in processes of its own, in turns with the others, alone and beside a process that keeps one core busy.
The texts and the model are those of the inference benchmark (all-MiniLM-L6-v2, the Python language reference).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import torch

from benchmarks.speed import records
from benchmarks.speed.environment import environment
from fastbert.errors import FastbertError
from fastbert.terminal import align
from fastbert.threads import SPINS

WAYS = {
    "PyTorch's default": {},
    "the fastbert command's": {"GOMP_SPINCOUNT": SPINS},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
TEXTS = 100
RESULTS = records.RESULTS / "threads.jsonl"
Row = dict[str, Any]


def seconds() -> float:
    """The time of one pass over the texts in this process."""
    import fastbert
    from benchmarks.speed.cases import paragraphs_of_python_docs
    from benchmarks.speed.checkpoints import default_model
    from fastbert.tasks import Embedder

    embedder = Embedder.from_pretrained(default_model(), "cpu")
    fastbert.prepack(embedder.model)
    texts = list(islice(paragraphs_of_python_docs(), TEXTS))
    embedder.encode(texts)
    began = time.perf_counter()
    embedder.encode(texts)
    return time.perf_counter() - began


def one_process(settings: dict[str, str]) -> float:
    """`seconds` of a process of its own, with these variables in its environment."""
    names = {name for way in WAYS.values() for name in way}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, __file__, "--one"], env={**inherited, **settings}, capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def measure(rounds: int) -> list[Row]:
    """A row for each way to wait, alone and beside a busy process."""
    facts, rows = environment(torch.device("cpu")), []
    for beside in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
        try:
            found: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(rounds):
                for name, settings in WAYS.items():
                    found[name].append(one_process(settings))
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()
        for name, taken in found.items():
            what = {"figure": "threads", "waiting": name, "settings": WAYS[name], "busy_process": beside}
            rows.append({**facts, **what, "texts": TEXTS, "seconds": taken, "median_s": median(taken)})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 on success, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the rows")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        print(seconds())
        return 0
    try:
        rows = measure(max(args.rounds, 1))
        records.write(args.output, rows)
    except FastbertError as error:
        print(f"benchmarks/threads.py: {error}", file=sys.stderr)
        return 2
    shown = [(row["waiting"], "yes" if row["busy_process"] else "no", f"{row['median_s']:.2f}") for row in rows]
    print("\n".join(align([("waiting", "busy process", "seconds"), *shown])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
