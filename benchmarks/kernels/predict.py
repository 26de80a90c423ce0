"""Predicts end-to-end speed on H100 and H200 from FLOPs, bytes, launches and host time, without a GPU.

    python benchmarks/kernels/predict.py             # writes the table of benchmarks/README.md
    python benchmarks/kernels/predict.py --parts     # also the predicted time of each op

    product     the longer of FLOPs / rate and bytes / bandwidth; the vendor's rate is a parameter, see RATES
    attention   FLOPs / (pipe model * REACHED) + bytes / bandwidth; the pipe model's rate is in results/kernel_report.md
    other ops   bytes / (bandwidth * REACHED)
    each op     at least FLOOR_S, and GAP_S until the next one starts
    a step      the longer of the sum and the host's time (results/host.jsonl); batches of inference hide it
    one text    the sum, and the host's time until the captured graph starts

The figures are predictions. Next to each stands what was measured, once a campaign has measured it. Where a target is out of
reach at some rate, the table names the first change of CHANGES, taken in order and together, that would reach it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout as well as installed

from benchmarks import pages
from benchmarks.report import questions
from benchmarks.speed import records, targets
from benchmarks.speed.records import RESULTS
from fastbert import BertConfig, files
from fastbert.terminal import align, markdown_table

PAGE = Path(__file__).resolve().parents[1] / "README.md"
MARKS = ("<!-- predictions: begin -->", "<!-- predictions: end -->")
# The shortest kernel, and the time until the next one starts: one text of 128 as a graph of 110 kernels took a H200 0.39 ms of
# kernels and 0.59 ms altogether (results/NOTES.md).
FLOOR_S, GAP_S = 3.5e-6, 1.8e-6
LAUNCH_S = 5e-6  # CUDA's own time for a launch, which host.py does not include
RATES: dict[str, Callable[[int], float]] = {  # TFLOP/s of the vendor's products with K columns to sum over
    "790": lambda _: 790,
    "700": lambda _: 700,
    "600 at K <= 1,024": lambda k: 600 if k <= 1024 else 790,
}
REACHED = {  # the share of the model that a H200 reached: results/nvidia-h200/parts/breakdown.jsonl, the pre-training step
    "attention_long_fwd p=0.1": 0.80,
    "attention_long_dq p=0.1": 0.83,
    "attention_long_dkv p=0.1": 0.61,
    "join, backward": 0.75,
}
CHANGES = ("GELU's product at the vendor's rate", "LayerNorm folded into the next product", "FP8 products")
FP8_GAIN = 1.65  # of products on an H200, 1.5 to 1.9: results/nvidia-h200/parts/rows.jsonl, "products in fp8"


@dataclass(frozen=True)
class Gpu:
    """A GPU: the folder of its results, and its measured copy bandwidth in TB/s."""

    name: str
    folder: str
    bandwidth: float


GPUS = (Gpu("H100", "nvidia-h100-80gb-hbm3", 2.98), Gpu("H200", "nvidia-h200", 4.2))


@dataclass(frozen=True)
class Work:
    """What a target is about.

    Attributes:
        target: the target's name in speed/targets.py.
        size: a size of `BertConfig.of_size`.
        tokens: real tokens of a batch.
        mean: tokens of a text; the rate of texts follows from it.
        attended: keys that a token attends to on average, E[length^2] / E[length].
        trains: whether it is a pre-training step with dropout and a mask of 15 %.
    """

    target: str
    size: str
    tokens: int
    mean: float
    attended: float
    trains: bool = False


WORKS = (
    Work("base, forward, full 128", "base", 65_536, 128, 128),
    Work("base, forward, full 512", "base", 65_536, 512, 512),
    Work("large, forward, SQuAD lengths", "large", 65_536, 151, 175),  # of the benchmark's sample
    Work("large, MLM + NSP step, full 512", "large", 32_768, 512, 512, trains=True),
    Work("base, one text of 128, captured graph", "base", 128, 128, 128),
)


@dataclass(frozen=True)
class Op:
    """An op of one batch: how often it runs; FLOPs, bytes and the sum's length K (0: no vendor's product) of one run.

    `rate` in TFLOP/s is that of a kernel of ours, whose FLOPs and bytes add up; `step` is the change that would affect it.
    """

    name: str
    count: int
    flops: float = 0.0
    moved: float = 0.0
    k: int = 0
    rate: float = 0.0
    step: str = ""


def product(name: str, count: int, rows: float, k: int, n: float, **more: float) -> Op:
    """A product (rows, k) x (k, n) in 16 bit."""
    moved = 2 * (rows * k + k * n + rows * n)
    return Op(name, count, 2 * rows * k * n, moved, k, **more)  # type: ignore[arg-type]


def forward(config: BertConfig, work: Work, rates: dict[str, float]) -> Iterator[Op]:
    """The ops of a forward pass; of a step under autocast, with dropout and what the backward needs."""
    t, n, f, count = work.tokens, config.hidden_size, config.intermediate_size, config.num_hidden_layers
    trains = work.trains
    kind = "p=0.1" if trains else "p=0"
    yield Op("embedding", 1, moved=t * n * (10 if trains else 4))
    yield product("query, key, value", count, t, n, 3 * n)
    yield Op("attention", count, 4 * t * work.attended * n, 8 * t * n, rate=rates[f"attention_long_fwd {kind}"])
    yield product("attention's output", count, t, n, n)
    yield Op("join", 2 * count, moved=t * n * (12 if trains else 6), step=CHANGES[1])
    gelu = product("linear + GELU", count, t, n, f * (2 if trains else 1))
    yield Op(gelu.name, count, 2 * t * n * f, gelu.moved, n, rates["linear_gelu_tma"], CHANGES[0])
    yield product("second linear", count, t, f, n)


def backward(config: BertConfig, work: Work, rates: dict[str, float]) -> Iterator[Op]:
    """The ops of a backward pass, of the pre-training head and of the optimiser's step."""
    t, n, f, count, v = (
        work.tokens, config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size,
    )  # fmt: skip
    for name, k, columns in (("query, key, value", n, 3 * n), ("output", n, n), ("first", n, f), ("second", f, n)):
        yield product(f"{name}: gradient of the input", count, t, columns, k)
        yield product(f"{name}: gradient of the weight", count, columns, t, k)
    yield Op("query, key, value: gradient of the bias", count, moved=6 * t * n)  # the others come with the joins and GELU
    pairs = t * work.attended * n
    yield Op("attention dq", count, 6 * pairs, 12 * t * n, rate=rates["attention_long_dq p=0.1"])
    yield Op("attention dk, dv", count, 8 * pairs, 12 * t * n, rate=rates["attention_long_dkv p=0.1"])
    yield Op("join, backward", 2 * count, moved=18 * t * n)
    yield Op("GELU, backward", count, moved=8 * t * f)
    scored = 0.15 * t
    for times, k, columns in ((3, n, n), (3, n, v)):
        yield product("MLM head", times, scored, k, columns)
    yield Op("cross entropy", 1, moved=6 * scored * v)
    parameters = 12 * count * n * n + (v + 512 + 2) * n
    yield Op("casts, gradients, norm", 1, moved=24 * parameters)
    yield Op("AdamW", 1, moved=28 * parameters)


def ops_of(work: Work, rates: dict[str, float]) -> list[Op]:
    """All ops of a batch."""
    config = BertConfig.of_size(work.size)
    found = list(forward(config, work, rates))
    return found + (list(backward(config, work, rates)) if work.trains else [])


def seconds(op: Op, gpu: Gpu, vendor: Callable[[int], float], changes: Sequence[str] = ()) -> float:
    """The predicted time of all runs of an op."""
    if op.step == CHANGES[1] and op.step in changes:
        return 0.0
    bytes_s = op.moved / (gpu.bandwidth * 1e12 * REACHED.get(op.name, 1.0))
    gain = FP8_GAIN if CHANGES[2] in changes and op.k else 1.0
    if op.k and (not op.rate or op.step in changes):
        once = max(op.flops / (vendor(op.k) * gain * 1e12), bytes_s)
    elif op.k:
        once = max(op.flops / (min(op.rate, vendor(op.k)) * gain * 1e12), bytes_s)
    else:
        once = (op.flops / (op.rate * 1e12) if op.rate else 0.0) + bytes_s
    return op.count * (max(once, FLOOR_S) + GAP_S)


def host_row() -> dict[str, dict[str, float]]:
    """The newest row of results/host.jsonl."""
    found: dict[str, dict[str, float]] = json.loads((RESULTS / "host.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return found


def captured_host_seconds() -> float:
    """The host's time for one text before its graph starts."""
    calls = host_row()["us_per_call"]
    return (calls["pack, 100 tokens"] + calls["captured, until its replay"]) * 1e-6


def host_seconds(work: Work) -> float:
    """The host's time for an eager batch."""
    row = host_row()["us_per_layer"]
    kinds = ("training forward", "training backward") if work.trains else ("forward",)
    launches = 30 if work.trains else 8
    layers = BertConfig.of_size(work.size).num_hidden_layers
    return layers * (sum(row[kind] for kind in kinds) * 1e-6 + launches * LAUNCH_S)


def figure(work: Work, rates: dict[str, float], gpu: Gpu, vendor: Callable[[int], float], changes: Sequence[str] = ()) -> float:
    """The predicted figure in the target's unit."""
    total = sum(seconds(op, gpu, vendor, changes) for op in ops_of(work, rates))
    unit = target_of(work).unit
    if unit == "ms":
        return 1e3 * (total + captured_host_seconds())
    if work.trains:  # eager, as `fastbert pretrain` runs by default
        total = max(total, host_seconds(work))
    return work.tokens / total / (1 if unit == "tokens/s" else work.mean)


def target_of(work: Work) -> targets.Target:
    """The target that a work is about."""
    return next(target for target in targets.ON_GPU if target.work == work.target)


def missing(work: Work, rates: dict[str, float], gpu: Gpu, vendor: Callable[[int], float]) -> str:
    """The change that reaches the target: "" if none is needed, "none of these" if none suffices."""
    target = target_of(work)
    possible = [change for change in CHANGES if change != CHANGES[1] or not work.trains]
    for count in range(len(possible) + 1):
        if target.ratio(figure(work, rates, gpu, vendor, possible[:count])) >= 1:
            return possible[count - 1] if count else ""
    return "none of these"


def kernel_rates() -> dict[str, float]:
    """TFLOP/s of our kernels: the pipe model's in the committed kernel report (sm_90, head size 64), times REACHED."""
    text = (RESULTS / "kernel_report.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    rows = next(p for p in part if p.startswith("sm90")).splitlines()
    header, *body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows if line.startswith("|")]
    found: dict[str, float] = {}
    for cells in body[1:]:
        row = dict(zip(header, cells, strict=True))
        rate = row["serial TFLOP/s"]
        if rate and row["case"] in ("attention D=64 S=512 p=0", "attention D=64 S=512 p=0.1"):
            name = f"{row['kernel']} {row['case'].rsplit(' ', 1)[1]}"
            found[name] = float(rate) * REACHED.get(name, 1.0)
        elif rate and row["case"] == "ffn fused training":
            found[row["kernel"]] = float(rate)
    return found


def measured(work: Work, gpu: Gpu) -> str:
    """What the newest results of a GPU have for the target of a work; "" if nothing."""
    for folder, rows in ((path.parent.name, rows) for path, rows in records.newest(RESULTS)):
        found = target_of(work).find(questions(rows)) if folder == gpu.folder else None
        if found is not None and found.figure == found.figure:
            return f"{shown(found.figure)} (commit {found.commit})"
    return ""


def shown(value: float) -> str:
    """A figure with three digits, or in whole numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table() -> str:
    """The table, with its heading sentence, as Markdown."""
    rates = kernel_rates()
    cells = [["GPU", "work", "target", *(f"at {rate}" for rate in RATES), "missing for the target", "measured"]]
    for gpu in GPUS:
        for work in WORKS:
            target = target_of(work)
            figures = [shown(figure(work, rates, gpu, vendor)) for vendor in RATES.values()]
            changes = {rate: missing(work, rates, gpu, vendor) for rate, vendor in RATES.items()}
            needed = "; ".join(f"{rate}: {change}" for rate, change in changes.items() if change)
            cells.append([gpu.name, work.target, f"{shown(target.goal)} {target.unit}", *figures, needed, measured(work, gpu)])
    return "\n".join(markdown_table(cells))


def page(text: str) -> str:
    """The page with the table between its marks."""
    return pages.put(text, MARKS, pages.marked(MARKS, table()))


def refresh() -> None:
    """Writes the table to its page."""
    files.write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="print the predicted time of each op on an H200 at 790 TFLOP/s")
    args = parser.parse_args(arguments)
    if args.parts:
        rates = kernel_rates()
        for work in WORKS:
            ops = ops_of(work, rates)
            times = [(op.name, f"{1e3 * seconds(op, GPUS[1], RATES['790']):.3f} ms") for op in ops]
            host = f"{1e3 * host_seconds(work):.3f} ms"
            print("\n".join(align([(work.target, ""), *times, ("host, eager", host)])), end="\n\n")
    refresh()
    print(f"wrote the predictions of {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
