"""Searches the launch table on this GPU: every candidate checked first, then timed; prints rows for kernels/tuning.py.

    python benchmarks/tune.py                        # every kernel, bfloat16
    python benchmarks/tune.py --only attention_long --dtype float16 --json rows.jsonl

A candidate must compile without spilling, give what the present row gives (to the type's rounding), and is then timed with cold
caches, interleaved with the others; the median counts. Needs a CUDA device. Long: minutes a kernel; what was searched so far is
in the file of --json, and is not searched again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import torch
from kernel_cases import F, N, T, Tensors, V
from timing import seconds_of
from tqdm import tqdm

from fastbert.kernels import attention, cross_entropy, embedding, ffn, layer_norm, tuning

REPEATS = 20


def blocks(**ranges: tuple[int, ...]) -> list[dict[str, int]]:
    """All combinations of block sizes, warps and stages."""
    names = [name.replace("WARPS", "num_warps").replace("STAGES", "num_stages") for name in ranges]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*ranges.values())]


def searches(dtype: torch.dtype) -> Iterator[tuple[str, tuple[int, ...], list[dict[str, int]], Callable[[], Any]]]:
    """(op of the table, limits of the row, candidates, call that uses the row and returns what to compare)."""
    size = torch.empty(0, dtype=dtype).element_size()
    make = Tensors(dtype, "cuda")
    for width, length in itertools.product((64, 128), (32, 64, 128)):
        rows = tuple(m for m in (16, 32, 64, 128) if m <= length)
        for phase in ("fwd", "bwd"):
            candidates = blocks(BLOCK_M=rows, BLOCK_N=(length,), WARPS=(4, 8), STAGES=(1,))
            yield f"attention_short_{phase}", (size, width, length), candidates, _attention(make, width, length, phase)
    for width in (64, 128):
        for name in ("fwd", "dq", "dkv"):
            candidates = blocks(BLOCK_M=(32, 64, 128), BLOCK_N=(32, 64, 128), WARPS=(4, 8), STAGES=(1, 2, 3))
            phase = "fwd" if name == "fwd" else "bwd"
            yield f"attention_long_{name}", (size, width), candidates, _attention(make, width, 512, phase)
    for op in ("layer_norm_fwd", "layer_norm_bwd"):
        extra = {} if op.endswith("fwd") else {"PER_SM": (1, 2, 4)}
        yield op, (1024,), blocks(BLOCK_T=(1, 2, 4, 8), WARPS=(2, 4, 8), STAGES=(1,), **extra), _layer_norm(make, op)
    yield "table_bwd", (1024,), blocks(WARPS=(1, 2, 4, 8), STAGES=(1, 2, 3)), _table(make)
    dots = {"BLOCK_M": (64, 128, 256), "BLOCK_N": (64, 128, 256), "BLOCK_K": (32, 64), "WARPS": (4, 8), "STAGES": (2, 3, 4)}
    if tuning.architecture(torch.device("cuda", 0)) in tuning.TMA_ARCHITECTURES and size == 2:
        yield "linear_gelu_tma", (size,), blocks(**dots), _linear_gelu(make)
    else:
        yield "linear_gelu", (size,), blocks(**dots), _linear_gelu(make)
    yield "linear_gelu_bwd", (size,), blocks(**dots), _linear_gelu_bwd(make)
    yield (
        "bias_gelu",
        (),
        blocks(BLOCK_T=(1, 2, 4, 8), BLOCK_F=(256, 512, 1024), PER_SM=(2, 4, 8), WARPS=(4, 8), STAGES=(1,)),
        (_bias_gelu(make)),
    )
    yield "cross_entropy_fwd", (), blocks(BLOCK_V=(1024, 2048, 4096, 8192), WARPS=(4, 8, 16), STAGES=(1, 2)), _loss(make, False)
    bwd = blocks(BLOCK_M=(4, 8, 16, 32), BLOCK_V=(128, 256, 512), PROGRAMS=(8, 16, 32), WARPS=(4, 8), STAGES=(1, 2))
    yield "cross_entropy_bwd", (), bwd, _loss(make, True)


def _attention(make: Tensors, width: int, length: int, phase: str) -> Callable[[], Any]:
    heads = N // width
    qkv, dout = make(T, 3, heads, width), make(T, heads, width)
    cu_seqlens = torch.arange(0, T + 1, length, device="cuda", dtype=torch.int32)
    seed, scale = torch.tensor([5], device="cuda"), width**-0.5
    out, lse = attention.attention_fwd(qkv, cu_seqlens, length, 0.1, seed, False, scale, True)
    assert lse is not None
    if phase == "fwd":
        return lambda: attention.attention_fwd(qkv, cu_seqlens, length, 0.1, seed, False, scale, True)[0]
    return lambda: attention.attention_bwd(dout, qkv, cu_seqlens, length, out, lse, 0.1, seed, False, scale)


def _layer_norm(make: Tensors, op: str) -> Callable[[], Any]:
    x, residual, weight, bias = make(T, N), make(T, N), make(N), make(N)
    seed = torch.tensor([5], device="cuda")
    _, mean, rstd = layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, bias, 0.1, seed, make.dtype, True)
    assert mean is not None
    assert rstd is not None
    if op == "layer_norm_fwd":
        return lambda: layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, bias, 0.1, seed, make.dtype, True)[0]
    return lambda: layer_norm.layer_norm_bwd(x, x, residual, weight, bias, 0.1, seed, mean, rstd, True)[0]


def _table(make: Tensors) -> Callable[[], Any]:
    dz = make(T, N)
    index = (torch.rand(T, device="cuda") ** 6 * V).long()  # a few words are frequent, as in text
    return lambda: embedding.table_bwd(dz, index, V, make.dtype, 0)


def _linear_gelu(make: Tensors) -> Callable[[], Any]:
    x, weight, bias = make(T, N), make(F, N) * N**-0.5, make(F)
    return lambda: ffn.linear_gelu_fwd(x, weight, bias, False, "fused", True)[0]


def _linear_gelu_bwd(make: Tensors) -> Callable[[], Any]:
    dy, weight, h = make(T, N), make(N, F) * F**-0.5, make(T, F)
    return lambda: ffn.linear_gelu_bwd(dy, weight, h, False, "fused")[0]


def _bias_gelu(make: Tensors) -> Callable[[], Any]:
    dact, h = make(T, F), make(T, F)
    return lambda: ffn.bias_gelu_bwd(dact, h, None, False, True)[0] + ffn.bias_gelu_fwd(h, None, False, False)


def _loss(make: Tensors, backward: bool) -> Callable[[], Any]:
    hidden, weight, bias = make(2048, N), make(V, N) * N**-0.5, make(V)
    labels, upstream = torch.arange(2048, device="cuda"), torch.rand(2048, device="cuda")
    _, lse, kept = cross_entropy.cross_entropy_fwd(hidden, weight, bias, labels, -100, True)
    if not backward:
        return lambda: cross_entropy.cross_entropy_fwd(hidden, weight, bias, labels, -100, True)[0]
    return lambda: cross_entropy.cross_entropy_bwd(upstream, hidden, weight, bias, labels, lse, kept, -100)[0]


@contextmanager
def with_row(op: str, limits: tuple[int, ...], row: dict[str, int]) -> Iterator[None]:
    """The launch table with one row in front, for this architecture."""
    arch, table = tuning.architecture(torch.device("cuda", torch.cuda.current_device())), tuning.TABLE[op]
    before = table.get(arch)
    table[arch] = [(limits, row), *(before or table["default"])]
    try:
        yield
    finally:
        if before is None:
            del table[arch]
        else:
            table[arch] = before


def search(
    op: str, limits: tuple[int, ...], candidates: list[dict[str, int]], call: Callable[[], Any]
) -> list[tuple[float, dict[str, int]]]:
    """(median seconds, row) of the present row and of every candidate that is right, fastest first."""
    present = tuning.row(op, torch.device("cuda", torch.cuda.current_device()), *limits)
    expected = call().float()
    scale = float(expected.abs().max())
    tolerance = 4 * torch.finfo(torch.bfloat16 if expected.dtype == torch.float32 else expected.dtype).eps * scale
    fit = [present]
    for row in tqdm(candidates, desc=f"{op} {limits}: check", unit="row", leave=False):
        if row == present:
            continue
        try:
            with with_row(op, limits, row):
                found = call().float()
            torch.cuda.synchronize()
        except Exception as error:  # what does not compile or fit is no candidate; anything may come out of a compiler
            tqdm.write(f"{op} {row}: {type(error).__name__}", file=sys.stderr)
            continue
        if float((found - expected).abs().max()) <= tolerance:
            fit.append(row)
    device = torch.device("cuda", torch.cuda.current_device())
    times: list[list[float]] = [[] for _ in fit]
    for _ in tqdm(range(REPEATS), desc=f"{op} {limits}: time", unit="round", leave=False):
        for row, seconds in zip(fit, times, strict=True):
            with with_row(op, limits, row):
                seconds.append(seconds_of(call, device, cold=True))
    return sorted(((statistics.median(s), row) for s, row in zip(times, fit, strict=True)), key=lambda pair: pair[0])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="ops whose name has this text in it")
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--json", type=Path, help="append every measurement to this file, as JSON lines")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("tune.py needs a CUDA device; kernel_report.py works without one", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = True
    arch = tuning.architecture(torch.device("cuda", torch.cuda.current_device()))
    known = _searched(args.json)
    for op, limits, candidates, call in searches(getattr(torch, args.dtype)):
        if args.only not in op or (op, arch, args.dtype, limits) in known:
            continue
        ranked = search(op, limits, candidates, call)
        present = next(seconds for seconds, row in ranked if row == tuning.row_of(op, arch, *limits))
        best, row = ranked[0]
        launch = ", ".join(f"{k}={v}" for k, v in row.items() if not k.startswith("num_"))
        line = f"({limits}, _row({row['num_warps']}, {row['num_stages']}, {launch})),"
        print(f"{op} {arch}: {line}  # {best * 1e6:.0f} us, {present / best:.2f}x the present row", flush=True)
        if args.json:
            with args.json.open("a", encoding="utf-8") as file:
                for seconds, measured in ranked:
                    record = {
                        "op": op,
                        "arch": arch,
                        "dtype": args.dtype,
                        "limits": limits,
                        "row": measured,
                        "seconds": seconds,
                    }
                    file.write(json.dumps(record) + "\n")
    return 0


def _searched(path: Path | None) -> set[tuple[str, str, str, tuple[int, ...]]]:
    """What the file of --json holds already: a search is written as a whole."""
    if path is None or not path.exists():
        return set()
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {(row["op"], row["arch"], row["dtype"], tuple(row["limits"])) for row in rows}


if __name__ == "__main__":
    sys.exit(main())
