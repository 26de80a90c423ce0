"""Compares the speed of packed forward passes on a CPU between two commits, by alternating runs on one machine.

    git worktree add /tmp/older COMMIT
    PYTHONPATH=. python benchmarks/two_trees.py /tmp/older benchmarks/results/two_trees.jsonl

Two processes, one per work tree, run the same texts alternately, by prepacked models; the figure is the median ratio of the
times in a round. Lengths resemble those of sentences: log-normal around 22 tokens, 3 to 128. Texts are run in batches of 2,048
tokens as they come, in batches sorted by length, and one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS, BATCHES, TOKENS, ALONE = 16, 4, 2048, 60
SIZES = {"6 layers of 384": (6, 384, 12), "4 layers of 768": (4, 768, 12)}
ORDERS = ("unsorted", "sorted", "one at a time")


def batches() -> list[list[list[int]]]:
    """Batches of about `TOKENS` tokens, in random order of lengths."""
    import torch

    draws = torch.Generator().manual_seed(0)
    found = []
    for _ in range(BATCHES):
        rows: list[list[int]] = []
        while sum(map(len, rows)) < TOKENS:
            length = int(torch.empty(()).log_normal_(3.1, 0.6, generator=draws).clamp(3, 128))
            rows.append(torch.randint(5, 30000, (length,), generator=draws).tolist())
        found.append(rows)
    return found


def serve(dtype: str) -> None:
    """For each input line with a size and an order, prints the seconds of the forward passes."""
    import torch

    import fastbert

    models = {}
    for name, (layers, width, heads) in SIZES.items():
        config = fastbert.BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
        )
        made = fastbert.BertModel(config, add_pooling_layer=False).to(getattr(torch, dtype))
        models[name] = fastbert.prepack(made.eval())
    rows = {"unsorted": batches()}
    rows["sorted"] = [sorted(batch, key=len, reverse=True) for batch in rows["unsorted"]]
    rows["one at a time"] = [[row] for row in rows["unsorted"][0][:ALONE]]
    for line in sys.stdin:
        size, order = json.loads(line)
        packed = [fastbert.pack(batch) for batch in rows[order]]  # new batches, so that nothing is cached on them
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in packed:
                models[size](batch)
        print(time.perf_counter() - began, flush=True)


def main() -> None:
    """Runs both trees, prints the comparison, and appends a line to the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", help="the work tree to compare with")
    parser.add_argument("results", nargs="?", help="a file of JSON lines to append to")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the models (default: float32)")
    arguments = parser.parse_args()
    trees = {"older": Path(arguments.older).resolve(), "newer": Path(__file__).resolve().parents[1]}
    workers = {}
    for name, tree in trees.items():
        command = [sys.executable, __file__, "--serve", arguments.dtype]
        workers[name] = subprocess.Popen(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(name: str, size: str, order: str) -> float:
        process = workers[name]
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([size, order]), file=process.stdin, flush=True)
        return float(process.stdout.readline())

    rows = []
    for size in SIZES:
        for order in ORDERS:
            times: dict[str, list[float]] = {"older": [], "newer": []}
            for number in range(ROUNDS + 1):
                for name in ("older", "newer") if number % 2 else ("newer", "older"):
                    times[name].append(ask(name, size, order))
            times = {name: found[1:] for name, found in times.items()}  # the first round warms up
            ratios = [new / old for old, new in zip(times["older"], times["newer"], strict=True)]
            row: dict[str, Any] = {"size": size, "dtype": arguments.dtype, "order": order}
            row["forward_ratio"] = round(statistics.median(ratios), 4)
            row |= {f"{name}_seconds": round(statistics.median(found), 4) for name, found in times.items()}
            print(json.dumps(row))
            rows.append(row)
    for process in workers.values():
        process.communicate()
    if arguments.results:
        import torch

        from benchmarks.speed.environment import environment

        facts = environment(torch.device("cpu")) | {"isa": torch.backends.cpu.get_cpu_capability()}
        older = ["git", "-C", str(trees["older"]), "rev-parse", "--short", "HEAD"]
        facts["older"] = subprocess.run(older, capture_output=True, text=True, check=True).stdout.strip()
        with Path(arguments.results).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**facts, "rows": rows}) + "\n")


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main()
