"""Compares the speed of packed forward passes on a CPU between two commits, by alternating runs on one machine.

    git worktree add /tmp/older COMMIT
    PYTHONPATH=. python benchmarks/two_trees.py /tmp/older benchmarks/results/two_trees.jsonl

Two processes, one per work tree, run the same batches alternately; the figure is the median ratio of the times in a round.
Lengths resemble those of sentences: log-normal around 22 tokens, 3 to 128. Each batch is run unsorted, and sorted by length.
Attention is timed inside each forward pass, so its share refers to the same passes.
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

ROUNDS, BATCHES, TOKENS = 16, 4, 2048
SIZES = {"6 layers of 384": (6, 384, 12), "4 layers of 768": (4, 768, 12)}
ORDERS = ("unsorted", "sorted")


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


def serve() -> None:
    """For each input line with a size and an order, prints the seconds of the forward passes and of attention in them."""
    import torch

    import fastbert

    spent = [0.0]
    attention = fastbert.ops.attention

    def timed(*arguments: Any, **keywords: Any) -> torch.Tensor:
        began = time.perf_counter()
        result = attention(*arguments, **keywords)
        spent[0] += time.perf_counter() - began
        return result

    fastbert.ops.attention = timed
    models = {}
    for name, (layers, width, heads) in SIZES.items():
        config = fastbert.BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
        )
        models[name] = fastbert.BertModel(config, add_pooling_layer=False).eval()
    rows = {"unsorted": batches()}
    rows["sorted"] = [sorted(batch, key=len, reverse=True) for batch in rows["unsorted"]]
    for line in sys.stdin:
        size, order = json.loads(line)
        packed = [fastbert.pack(batch) for batch in rows[order]]  # new batches, so that nothing is cached on them
        spent[0], began = 0.0, time.perf_counter()
        with torch.inference_mode():
            for batch in packed:
                models[size](batch)
        print(json.dumps([time.perf_counter() - began, spent[0]]), flush=True)


def main() -> None:
    """Runs both trees, prints the comparison, and appends a line to the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", help="the work tree to compare with")
    parser.add_argument("results", nargs="?", help="a file of JSON lines to append to")
    arguments = parser.parse_args()
    trees = {"older": Path(arguments.older).resolve(), "newer": Path(__file__).resolve().parents[1]}
    workers = {}
    for name, tree in trees.items():
        command = [sys.executable, __file__, "--serve"]
        workers[name] = subprocess.Popen(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(name: str, size: str, order: str) -> list[float]:
        process = workers[name]
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([size, order]), file=process.stdin, flush=True)
        found: list[float] = json.loads(process.stdout.readline())
        return found

    rows = []
    for size in SIZES:
        for order in ORDERS:
            times: dict[str, list[list[float]]] = {"older": [], "newer": []}
            for number in range(ROUNDS + 1):
                for name in ("older", "newer") if number % 2 else ("newer", "older"):
                    times[name].append(ask(name, size, order))
            times = {name: found[1:] for name, found in times.items()}  # the first round warms up
            row: dict[str, Any] = {"size": size, "order": order}
            for part, what in enumerate(("forward", "attention")):
                ratios = [new[part] / old[part] for old, new in zip(times["older"], times["newer"], strict=True)]
                row[f"{what}_ratio"] = round(statistics.median(ratios), 4)
            for name, found in times.items():
                row[f"{name}_seconds"] = round(statistics.median(whole for whole, _ in found), 4)
                row[f"{name}_attention_share"] = round(statistics.median(part / whole for whole, part in found), 4)
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
    serve() if sys.argv[1:] == ["--serve"] else main()
