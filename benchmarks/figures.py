"""Measures a GPU's basic rates, which bound a model's speed: vendor matrix products, and LayerNorm joins by launch row.

    python benchmarks/figures.py                                # on CUDA, bfloat16
    python benchmarks/figures.py --output figures.jsonl         # and as JSON lines, with device, driver, versions and commit

products  TFLOP/s of a linear layer with its bias at T = 16,384 and 128, for every (K, N) of BERT-base and BERT-large, and of
          the two forms of linear + GELU for comparison.
joins     GB/s of LayerNorm with bias, dropout and residual, forward and backward, at N = 768 and 1,024, with each plausible
          launch row; and of a large copy, which is the upper limit.

Figures are medians of calls with cold caches, timed with CUDA events.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import torch

from benchmarks.kernels.cases import Tensors
from benchmarks.speed import records
from benchmarks.speed.environment import environment
from benchmarks.speed.timing import seconds_of
from benchmarks.tune import with_row
from fastbert.kernels import ffn, layer_norm, tuning
from fastbert.terminal import align

TOKENS = (16_384, 128)
JOIN_TOKENS = 65_536
PRODUCTS = ((768, 2304), (768, 768), (768, 3072), (3072, 768), (1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))
FORWARD_ROWS = tuple(
    {"BLOCK_T": t, "num_warps": w, "num_stages": 1} for t, w in ((1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 8))
)
BACKWARD_ROWS = tuple(
    {"BLOCK_T": t, "PER_SM": per, "num_warps": w, "num_stages": 1}
    for t, w, per in (
        (4, 8, 2),
        (2, 4, 4),
        (2, 4, 8),
        (1, 1, 8),
        (1, 1, 16),
        (1, 2, 4),
        (1, 2, 8),
        (1, 2, 12),
        (1, 2, 16),
        (1, 4, 4),
        (2, 2, 8),
    )
)
AT_LEAST_S = 0.02  # total time of the calls in one figure
Row = dict[str, Any]


def products(make: Tensors) -> Iterator[Row]:
    """Times the vendor's linear layers, and both forms of linear + GELU."""
    for tokens, (inner, outer) in itertools.product(TOKENS, PRODUCTS):
        x, weight, bias = make(tokens, inner), make(outer, inner) * inner**-0.5, make(outer)
        forms: dict[str, Callable[[], Any]] = {"linear": lambda x=x, w=weight, b=bias: torch.nn.functional.linear(x, w, b)}
        if outer == 4 * inner:
            for form, keep in itertools.product(("fused", "split"), (False, True)):
                name = f"linear + GELU, {form}, {'training' if keep else 'inference'}"
                forms[name] = lambda x=x, w=weight, b=bias, f=form, k=keep: ffn.linear_gelu_fwd(x, w, b, False, f, k)
        for name, call in forms.items():
            seconds = _seconds(call, x.device)
            rate = 2 * tokens * inner * outer / seconds / 1e12
            facts = {"figure": "products", "case": name, "K": inner, "N": outer, "tokens": tokens}
            yield {**facts, "seconds": seconds, "tflops": rate}


def joins(make: Tensors) -> Iterator[Row]:
    """Times LayerNorm with dropout 0.1 for each launch row, and a copy."""
    source = make(JOIN_TOKENS * 4, 1024)
    target = torch.empty_like(source)
    yield _moved("copy", 1024, {}, 2 * source.nbytes, _seconds(lambda: target.copy_(source), source.device))
    for width in (768, 1024):
        x, residual, dy = (make(JOIN_TOKENS, width) for _ in range(3))
        weight, bias, seed = make(width), make(width), torch.tensor([5], device=x.device)

        def forward(x: Any = x, residual: Any = residual, weight: Any = weight, bias: Any = bias, seed: Any = seed) -> Any:
            return layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, bias, 0.1, seed, x.dtype, True)

        _, mean, rstd = forward()
        assert mean is not None
        assert rstd is not None

        def backward(
            dy: Any = dy, x: Any = x, residual: Any = residual, weight: Any = weight, bias: Any = bias, seed: Any = seed,
            mean: Any = mean, rstd: Any = rstd,
        ) -> Any:  # fmt: skip
            return layer_norm.layer_norm_bwd(dy, x, residual, weight, bias, 0.1, seed, mean, rstd, True)

        for op, call, rows, tensors in (
            ("layer_norm_fwd", forward, FORWARD_ROWS, 3),
            ("layer_norm_bwd", backward, BACKWARD_ROWS, 5),
        ):
            present = tuning.row(op, x.device, width)
            for row in (present, *(row for row in rows if row != present)):
                with with_row(op, (width,), dict(row)):
                    seconds = _seconds(call, x.device)
                yield {**_moved(op, width, row, tensors * x.nbytes, seconds), "present": row == present}


def _moved(case: str, width: int, row: Row, moved: int, seconds: float) -> Row:
    facts = {"figure": "joins", "case": case, "N": width, "tokens": JOIN_TOKENS, "row": row}
    return {**facts, "seconds": seconds, "gb_per_s": moved / seconds / 1e9}


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    for _ in range(3):
        call()
    return seconds_of(call, device, AT_LEAST_S, cold=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16"])
    parser.add_argument("--output", type=Path, help="write the rows to this file, as JSON lines")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("figures.py needs a CUDA device", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    facts = {**environment(device), "dtype": args.dtype}
    rows = []
    make = Tensors(getattr(torch, args.dtype), str(device))
    for found in itertools.chain(products(make), joins(make)):
        rows.append({**facts, **found})
        if args.output is not None:
            records.write(args.output, rows)
    lines = [("case", "T", "K", "N", "launch", "us", "TFLOP/s", "GB/s")]
    for row in rows:
        launch = " ".join(f"{name}={value}" for name, value in row.get("row", {}).items()) + " *" * row.get("present", False)
        rates = (f"{row['tflops']:.0f}" if "tflops" in row else "", f"{row['gb_per_s']:,.0f}" if "gb_per_s" in row else "")
        sizes = (str(row["tokens"]), str(row.get("K", "")), str(row["N"]))
        lines.append((row["case"], *sizes, launch, f"{row['seconds'] * 1e6:.1f}", *rates))
    print("\n".join(align(lines)))
    print("* the row of the launch table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
