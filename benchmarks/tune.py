"""Tunes the launch table on this GPU: checks every candidate, times it, and prints rows for kernels/tuning.py.

    python benchmarks/tune.py                        # every kernel, bfloat16
    python benchmarks/tune.py --only attention_long_dq layer_norm --dtype float16 --json rows.jsonl
    python benchmarks/tune.py --only "attention_short_fwd (2, 64, 128)"

A candidate must give the same result as the present row, up to the type's rounding, and its machine code must be free of the
hazards that kernels/hazards.py finds. As many processes as there are cores compile all candidates and check this; then a single
process times them with cold caches, interleaved, and takes the median. What is printed was also run by tests/emulator, which
looks for races.
Needs a CUDA device. A search takes minutes per kernel; finished searches are in the file of --json and are not repeated.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed
os.environ.pop("TRITON_INTERPRET", None)

import torch
from tqdm import tqdm

from benchmarks.kernels import aot, emulated
from benchmarks.kernels.cases import F, N, T, Tensors, V
from benchmarks.speed.environment import environment
from benchmarks.speed.timing import seconds_of
from fastbert.kernels import attention, cross_entropy, embedding, ffn, layer_norm, tuning

REPEATS = 20
SHOWN = 3  # rows that are printed of a search


@dataclass(frozen=True)
class Search:
    """A search for the best row of one entry of the launch table.

    Attributes:
        op: name of the op in the launch table.
        limits: the limits of the row.
        candidates: the rows to try.
        make: returns a function that runs the op with the row in force and returns the tensor to compare.
    """

    op: str
    limits: tuple[int, ...]
    candidates: list[dict[str, int]]
    make: Callable[[], Callable[[], Any]]

    @property
    def name(self) -> str:
        """The name of the search, for --only."""
        return f"{self.op} {self.limits}"


def blocks(**ranges: tuple[int, ...]) -> list[dict[str, int]]:
    """All combinations of block sizes, warps and stages."""
    names = [name.replace("WARPS", "num_warps").replace("STAGES", "num_stages") for name in ranges]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*ranges.values())]


def searches(dtype: torch.dtype) -> Iterator[Search]:
    """All searches, for one dtype."""
    size = torch.empty(0, dtype=dtype).element_size()
    make = Tensors(dtype, "cuda")
    for width, length in itertools.product((64, 128), (32, 64, 128)):
        rows = tuple(m for m in (16, 32, 64, 128) if m <= length)
        for phase in ("fwd", "bwd"):
            candidates = blocks(BLOCK_M=rows, BLOCK_N=(length,), WARPS=(4, 8), STAGES=(1,))
            call = functools.partial(_attention, make, width, length, phase)
            yield Search(f"attention_short_{phase}", (size, width, length), candidates, call)
    for width in (64, 128):
        for name in ("fwd", "dq", "dkv"):
            candidates = blocks(BLOCK_M=(32, 64, 128), BLOCK_N=(32, 64, 128), WARPS=(4, 8), STAGES=(1, 2, 3))
            if name == "dkv":  # Triton lets the next copy overwrite what warp-group products still read: issues 9433, 11781
                candidates = [row for row in candidates if row["BLOCK_M"] > 32 or row["num_stages"] == 1]
            call = functools.partial(_attention, make, width, 512, "fwd" if name == "fwd" else "bwd")
            yield Search(f"attention_long_{name}", (size, width), candidates, call)
    for op in ("layer_norm_fwd", "layer_norm_bwd"):
        extra = {} if op.endswith("fwd") else {"PER_SM": (1, 2, 4)}
        candidates = blocks(BLOCK_T=(1, 2, 4, 8), WARPS=(2, 4, 8), STAGES=(1,), **extra)
        yield Search(op, (1024,), candidates, functools.partial(_layer_norm, make, op))
    yield Search("table_bwd", (1024,), blocks(WARPS=(1, 2, 4, 8), STAGES=(1, 2, 3)), functools.partial(_table, make))
    dots = {"BLOCK_M": (64, 128, 256), "BLOCK_N": (64, 128, 256), "BLOCK_K": (32, 64), "WARPS": (4, 8), "STAGES": (2, 3, 4)}
    has_tma = tuning.architecture(torch.device("cuda", 0)) in tuning.TMA_ARCHITECTURES and size == 2
    if has_tma:
        few = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "BLOCK_K": (64, 128), "WARPS": (4,), "STAGES": (3, 4, 5)}
        few, many = few | {"PER_SM": (1,)}, dots | {"PER_SM": (1, 2)}
        for tokens, limit, choices in ((128, 256, few), (1024, 2048, many), (T, tuning.LARGEST, many)):
            yield Search("linear_gelu_tma", (size, limit), blocks(**choices), functools.partial(_linear_gelu, make, tokens))
    else:
        yield Search("linear_gelu", (size,), blocks(**dots), functools.partial(_linear_gelu, make, T))
    yield Search("linear_gelu_bwd", (size,), blocks(**dots), functools.partial(_linear_gelu_bwd, make))
    wide = blocks(BLOCK_T=(1, 2, 4, 8), BLOCK_F=(256, 512, 1024), PER_SM=(2, 4, 8), WARPS=(4, 8), STAGES=(1,))
    yield Search("gelu", (), wide, functools.partial(_gelu, make))
    rows = blocks(BLOCK_V=(1024, 2048, 4096, 8192), WARPS=(4, 8, 16), STAGES=(1, 2))
    yield Search("cross_entropy_fwd", (), rows, functools.partial(_loss, make, False))
    rows = blocks(BLOCK_M=(4, 8, 16, 32), BLOCK_V=(128, 256, 512), PROGRAMS=(8, 16, 32), WARPS=(4, 8), STAGES=(1, 2))
    yield Search("cross_entropy_bwd", (), rows, functools.partial(_loss, make, True))


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
    _, _, mean, rstd = layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, bias, 0.1, seed, make.dtype, True)
    assert mean is not None
    assert rstd is not None
    if op == "layer_norm_fwd":
        return lambda: layer_norm.layer_norm_fwd(x, residual, weight, bias, 1e-12, bias, 0.1, seed, make.dtype, True)[0]
    return lambda: layer_norm.layer_norm_bwd(x, x, residual, weight, bias, 0.1, seed, mean, rstd, True)[0]


def _table(make: Tensors) -> Callable[[], Any]:
    dz = make(T, N)
    index = (torch.rand(T, device="cuda") ** 6 * V).long()  # a few words are frequent, as in text
    return lambda: embedding.table_bwd(dz, index, V, make.dtype, 0)


def _linear_gelu(make: Tensors, tokens: int) -> Callable[[], Any]:
    x, weight, bias = make(tokens, N), make(F, N) * N**-0.5, make(F)
    return lambda: ffn.linear_gelu_fwd(x, weight, bias, False, "fused", True)[0]


def _linear_gelu_bwd(make: Tensors) -> Callable[[], Any]:
    dy, weight, h = make(T, N), make(N, F) * F**-0.5, make(T, F)
    return lambda: ffn.linear_gelu_bwd(dy, weight, h, False, "fused")[0]


def _gelu(make: Tensors) -> Callable[[], Any]:
    dact, h = make(T, F), make(T, F)
    return lambda: ffn.gelu_bwd(dact, h, False, True)[0] + ffn.gelu_fwd(h, False, False)


def _loss(make: Tensors, backward: bool) -> Callable[[], Any]:
    hidden, weight, bias = make(2048, N), make(V, N) * N**-0.5, make(V)
    labels, upstream = torch.arange(2048, device="cuda"), torch.rand(2048, device="cuda")
    _, lse, kept = cross_entropy.cross_entropy_fwd(hidden, weight, bias, labels, -100, True)
    if not backward:
        return lambda: cross_entropy.cross_entropy_fwd(hidden, weight, bias, labels, -100, True)[0]
    return lambda: cross_entropy.cross_entropy_bwd(upstream, hidden, weight, bias, labels, lse, kept, -100)[0]


@contextmanager
def with_row(op: str, limits: tuple[int, ...], row: dict[str, int] | None) -> Iterator[None]:
    """Puts one row in front of the launch table for this architecture, inside the block."""
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


def present_row(search: Search) -> dict[str, int] | None:
    """The current row of the launch table; None if another kernel runs for these sizes."""
    has = tuning.has_row(search.op, _device(), *search.limits)
    return tuning.row(search.op, _device(), *search.limits) if has else None


def is_right(task: tuple[str, str, dict[str, int]]) -> bool:
    """Whether a candidate (dtype, name of the search, row) matches the present row's result; runs in a worker process."""
    dtype, name, row = task
    search, call, expected = _expected(dtype, name)
    tolerance = 4 * torch.finfo(torch.bfloat16 if expected.dtype == torch.float32 else expected.dtype).eps
    try:
        with with_row(search.op, search.limits, row), aot.compiled_by_calls() as compiled:
            found = call().float()
        torch.cuda.synchronize()
        # A hazard may corrupt results too rarely for the comparison.
        if faults := [fault for kernel in compiled for fault in aot.hazards_of(kernel)]:
            print(f"{name} {row}: {faults[0]}", file=sys.stderr)
            return False
    except Exception as error:  # a row that does not compile or fit is rejected; a compiler may raise anything
        print(f"{name} {row}: {type(error).__name__}", file=sys.stderr)
        if "CUDA error" in str(error):  # the CUDA context is unusable from here on
            os._exit(1)
        return False
    return bool((found - expected.float()).abs().max() <= tolerance * expected.abs().max())


@functools.lru_cache(maxsize=1)
def _expected(dtype: str, name: str) -> tuple[Search, Callable[[], Any], torch.Tensor]:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    search = next(search for search in searches(getattr(torch, dtype)) if search.name == name)
    call = search.make()
    return search, call, call()


def ranked(search: Search, rows: Sequence[dict[str, int] | None]) -> list[tuple[float, dict[str, int] | None]]:
    """(median seconds, row) of each row, fastest first; None is the other kernel."""
    call, device = search.make(), _device()
    times: list[list[float]] = [[] for _ in rows]
    for _ in tqdm(range(REPEATS), desc=f"{search.name}: time", unit="round", leave=False, disable=None):
        for row, seconds in zip(rows, times, strict=True):
            with with_row(search.op, search.limits, row):
                seconds.append(seconds_of(call, device, cold=True))
    return sorted(((statistics.median(s), row) for s, row in zip(times, rows, strict=True)), key=lambda pair: pair[0])


def shown(row: dict[str, int] | None) -> str:
    """A row formatted as in tuning.py."""
    if row is None:
        return "None"
    launch = ", ".join(f"{k}={v}" for k, v in row.items() if not k.startswith("num_"))
    return f"_row({row['num_warps']}, {row['num_stages']}, {launch})"


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="only searches whose names contain one of these")
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16", "float32"])
    cores = min(os.cpu_count() or 1, 16)  # each has a CUDA context and tensors on the GPU
    parser.add_argument("--jobs", type=int, default=cores, help=f"number of compiling processes (default: {cores})")
    parser.add_argument("--json", type=Path, help="append every measurement to this file, as JSON lines")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("tune.py needs a CUDA device; kernel_report.py works without one", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = True
    arch = tuning.architecture(_device())
    known = _searched(args.json)
    wanted = [search for search in searches(getattr(torch, args.dtype)) if any(text in search.name for text in args.only)]
    wanted = [search for search in wanted if (search.op, arch, args.dtype, search.limits) not in known]
    fits = _fits(wanted, args.dtype, args.jobs)
    for search, rows in zip(wanted, fits, strict=True):
        op, limits, present = search.op, search.limits, present_row(search)
        found = ranked(search, [present, *(row for row in rows if row != present)])
        before = next(seconds for seconds, row in found if row == present)
        for seconds, row in _without_faults(search, arch, found):
            line = f"({limits}, {shown(row)}),"
            print(f"{op} {arch}: {line}  # {seconds * 1e6:.0f} us, {before / seconds:.2f}x the present row", flush=True)
        if args.json:
            with args.json.open("a", encoding="utf-8") as file:
                for seconds, row in found:
                    record = {"op": op, "arch": arch, "dtype": args.dtype, "limits": limits, "row": row, "seconds": seconds}
                    file.write(json.dumps(record | {"present": row == present} | environment(_device())) + "\n")
    return 0


def _without_faults(
    search: Search, arch: str, found: list[tuple[float, dict[str, int] | None]]
) -> list[tuple[float, dict[str, int] | None]]:
    """The three fastest rows in which the emulator finds no fault; those before them that it does are printed."""
    clean: list[tuple[float, dict[str, int] | None]] = []
    for seconds, row in found:
        fault = "" if row is None else emulated.fault_of(search.op, arch, search.limits, row)
        if fault:
            print(f"{search.name} {row}: {fault}", file=sys.stderr)
        else:
            clean.append((seconds, row))
        if len(clean) == SHOWN:
            break
    return clean


def _fits(wanted: Sequence[Search], dtype: str, jobs: int) -> list[list[dict[str, int]]]:
    """The correct candidates of each search; compiles all of them, so that timing finds them in Triton's cache."""
    tasks = [(dtype, search.name, row) for search in wanted for row in search.candidates]
    found: dict[int, bool] = {}
    alone = False  # after a process died: run one row at a time, to find the one that kills it
    with tqdm(total=len(tasks), desc="compile", unit="row", leave=False, disable=None) as bar:
        while len(found) < len(tasks):
            with ProcessPoolExecutor(1 if alone else jobs, multiprocessing.get_context("spawn")) as pool:
                left = [i for i in range(len(tasks)) if i not in found]
                asked = {i: pool.submit(is_right, tasks[i]) for i in (left[:1] if alone else left)}
                for i, answer in asked.items():
                    try:
                        found[i] = answer.result()
                        bar.update()
                    except BrokenProcessPool:
                        if alone:
                            print(f"{tasks[i][1]} {tasks[i][2]}: ended its process", file=sys.stderr)
                            found[i] = False
                        alone = True
                        break
    answers = iter(found[i] for i in range(len(tasks)))
    return [[row for row in search.candidates if next(answers)] for search in wanted]


def _searched(path: Path | None) -> set[tuple[str, str, str, tuple[int, ...]]]:
    """The finished searches in the file of --json; a search is only written when it is complete."""
    if path is None or not path.exists():
        return set()
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {(row["op"], row["arch"], row["dtype"], tuple(row["limits"])) for row in rows}


if __name__ == "__main__":
    sys.exit(main())
