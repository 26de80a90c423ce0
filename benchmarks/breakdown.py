"""Breaks down the time of a forward pass and of a training step by kernel, and measures the host's part.

    python benchmarks/breakdown.py                                  # everything, on CUDA, bfloat16
    python benchmarks/breakdown.py --only "large, pre-training" --output breakdown.jsonl

For each workload: `wall`, the median time of calls that end with a synchronisation; `host`, the time until a call returns;
`device`, the sum of all kernels in one call, from PyTorch's profiler. If wall is longer than device, the difference is time
spent waiting for the host. All texts have the same length, so a figure is the rate at that length; there is no comparison with
other libraries, which is what `run.py` is for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import torch
from torch.profiler import ProfilerActivity, profile

import fastbert
from benchmarks.speed import records
from benchmarks.speed.environment import environment
from benchmarks.speed.timing import synchronise
from fastbert import ops
from fastbert.model import plain_layer
from fastbert.packing.inputs import Limits
from fastbert.tasks.loading import default_device
from fastbert.terminal import align

VOCABULARY = 30_522
SHOWN = 14  # kernels listed in a table; the rest are summed in one line
Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """A forward pass or a training step on texts of one length.

    Attributes:
        name: the name in tables and for --only.
        size: a size of `BertConfig.of_size`.
        kind: "forward", "fp8 forward" (without its gate), "captured forward" (a CUDA graph), or "pre-training" (MLM + NSP with
            dropout, backward, AdamW).
        texts, length: texts per batch, and tokens per text.
    """

    name: str
    size: str
    kind: str
    texts: int
    length: int


WORKS = (
    Work("base, forward, 512 texts of 128", "base", "forward", 512, 128),
    Work("base, forward, 128 texts of 512", "base", "forward", 128, 512),
    Work("large, forward, 256 texts of 178", "large", "forward", 256, 178),
    Work("base, fp8 forward, 512 texts of 128", "base", "fp8 forward", 512, 128),
    Work("base, fp8 forward, 128 texts of 512", "base", "fp8 forward", 128, 512),
    Work("large, fp8 forward, 256 texts of 178", "large", "fp8 forward", 256, 178),
    Work("large, pre-training step, 64 texts of 512", "large", "pre-training", 64, 512),
    Work("base, pre-training step, 256 texts of 128", "base", "pre-training", 256, 128),
    Work("base, forward, one text of 128", "base", "forward", 1, 128),
    Work("base, captured forward, one text of 128", "base", "captured forward", 1, 128),
    Work("large, captured forward, one text of 128", "large", "captured forward", 1, 128),
)


def call_of(work: Work, device: torch.device, dtype: torch.dtype) -> Call:
    """A function that runs the workload once, on random weights and ids."""
    config = fastbert.BertConfig.of_size(work.size, vocab_size=VOCABULARY)
    torch.manual_seed(0)
    ids = torch.randint(1000, VOCABULARY, (work.texts, work.length)).tolist()
    batch = fastbert.pack(ids, limits=Limits(VOCABULARY, 2, 512)).to(device)
    with torch.device(device):
        model = (fastbert.BertForPreTraining if work.kind == "pre-training" else fastbert.BertModel)(config)
    if work.kind == "pre-training":
        return _step(model.to(device).train(), batch, dtype)
    model.to(device, dtype).eval()
    fastbert.prepack(model)
    if work.kind == "fp8 forward":
        for layer in model.encoder.layer:
            ops.keep_fp8(plain_layer.read(layer))
    run = model
    if work.kind == "captured forward":
        from fastbert.graphs import CapturedModel

        run = CapturedModel(model)

    @torch.inference_mode()
    def call() -> Any:
        return run(batch).last_hidden_state

    return call


def _step(model: Any, batch: Any, dtype: torch.dtype) -> Call:
    """A training step of MLM + NSP with every 7th token scored (about 15 %), under autocast."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    rows = torch.arange(0, batch.num_tokens, 7, device=batch.device)
    inputs = {"labels": batch.input_ids[rows], "scored_rows": rows}
    inputs["next_sentence_label"] = torch.arange(batch.batch_size, device=batch.device) % 2

    def call() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.device.type, dtype):
            loss = model(batch, **inputs).loss
        loss.backward()
        optimizer.step()

    return call


def measure(call: Call, device: torch.device, calls: int) -> dict[str, Any]:
    """Seconds per call: wall, host, device, and by kernel as (name, launches, seconds), the longest first."""
    for _ in range(3):
        call()
    wall, host = [], []
    for _ in range(calls):
        synchronise(device)
        started = time.perf_counter()
        call()
        host.append(time.perf_counter() - started)
        synchronise(device)
        wall.append(time.perf_counter() - started)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        call()
        synchronise(device)
    kernels = [(event.key, event.count, _microseconds(event, device) / 1e6) for event in profiled.key_averages()]
    kernels = sorted((kernel for kernel in kernels if kernel[2]), key=lambda kernel: -kernel[2])
    return {
        "wall_s": statistics.median(wall),
        "host_s": statistics.median(host),
        "device_s": sum(seconds for _, _, seconds in kernels),
        "kernels": kernels,
    }


def _microseconds(event: Any, device: torch.device) -> float:
    return float(event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total)


def table(work: Work, found: dict[str, Any]) -> Iterator[str]:
    """The figures of a workload and its longest kernels, as lines of text."""
    rate = work.texts / found["wall_s"]
    times = ", ".join(f"{name} {found[f'{name}_s'] * 1e3:.3f} ms" for name in ("wall", "host", "device"))
    yield f"{work.name}: {times}; {rate:,.0f} texts/s, {rate * work.length:,.0f} tokens/s"
    kernels = found["kernels"]
    shown = [*kernels[:SHOWN], ("the rest", sum(k[1] for k in kernels[SHOWN:]), sum(k[2] for k in kernels[SHOWN:]))]
    lines = [("kernel", "launches", "us", "% of device")]
    for name, launches, seconds in shown:
        lines.append((name[:80], str(launches), f"{seconds * 1e6:.0f}", f"{100 * seconds / found['device_s']:.1f}"))
    yield from ("  " + line for line in align(lines))


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only workloads with this text in their names")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA if available)")
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--calls", type=int, default=10, help="timed calls of each workload (default: 10)")
    parser.add_argument("--output", type=Path, help="write the rows to this file, as JSON lines")
    args = parser.parse_args(arguments)
    device = default_device(args.device)
    facts = {**environment(device), "dtype": args.dtype}
    written = []
    for work in WORKS:
        if args.only not in work.name:
            continue
        found = measure(call_of(work, device, getattr(torch, args.dtype)), device, args.calls)
        print("\n".join(table(work, found)), flush=True)
        written.append({**facts, "work": work.name, "texts": work.texts, "tokens": work.texts * work.length, **found})
        if args.output is not None:
            records.write(args.output, written)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
