"""Compiles every shipped launch for every architecture, without a GPU, and reports registers, spills and occupancy.

Exit code 1 if a kernel spills registers in a loop and was not measured to be faster that way, exceeds the shared memory, or
touches registers that a warp-group product still uses (kernels/hazards.py). On sm_90, which has these products, the last is
checked in float16 and float32 as well. With --emulate, also if the emulator of tests/emulator finds a race, a bad access or
wrong numbers in a row of the launch table for sm_80 or sm_90, on small inputs; its table follows the others, and one of what
memory accesses cost.

    python benchmarks/kernel_report.py --emulate        # writes benchmarks/results/kernel_report.md
    python benchmarks/kernel_report.py --arch sm90 --only attention --no-write

The table lists registers per thread; shared memory; stack, and instructions that access it, in all and in loops; tensor-core
instructions; occupancy (resident warps over the maximum); bytes and FLOPs of the launch at the sizes of kernels/cases.py; and
for sm_90 the pipe model's prediction for the main loop: cycles of the busiest pipes, and TFLOP/s (`serial`: tensor cores and
the other pipes do not overlap). The model ranks variants; it is not a measurement.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed
os.environ.pop("TRITON_INTERPRET", None)  # interpreted functions do not compile

import torch
import triton
from tqdm import tqdm

from benchmarks.kernels import aot, emulated
from benchmarks.kernels.cases import Case, cases
from fastbert.terminal import markdown_table

RESULT = Path(__file__).parent / "results" / "kernel_report.md"
COLUMNS = (
    "kernel", "case", "blocks", "warps", "stages", "registers", "shared, KiB", "stack", "spills", "in loops", "tensor core",
    "occupancy", "MB", "GFLOP", "loop", "tensor", "issue", "special", "integer", "serial TFLOP/s",
)  # fmt: skip


def launch_bytes(launch: aot.Launch) -> int:
    """The least bytes a launch must move: each tensor once; of tables only the rows that the tokens use."""
    total = 0
    tokens = launch.arguments.get("T", 0)
    for name, value in launch.arguments.items():
        tensor = getattr(value, "base", value)
        if isinstance(tensor, torch.Tensor):
            rows = tensor.shape[0] if tensor.dim() else 1
            share = min(1.0, tokens / rows) if name in ("word_ptr", "table_ptr") and rows else 1.0
            total += int(tensor.numel() * tensor.element_size() * share)
    return total


def row_of(case: Case, launch: aot.Launch, arch: str) -> tuple[dict[str, str], list[str]]:
    """A row of the table, and what makes the launch unfit to ship on that architecture."""
    found = aot.inspect(launch, arch)
    blocks = [f"{k.removeprefix('BLOCK_')}={v}" for k, v in launch.arguments.items() if k.startswith("BLOCK_")]
    flops = case.floating.get(launch.name, 0)
    row = {
        "kernel": launch.name,
        "case": case.name,
        "blocks": " ".join(blocks),
        "warps": str(found.warps),
        "stages": str(launch.options.get("num_stages", "")),
        "registers": str(found.registers),
        "shared, KiB": f"{found.shared / 1024:.0f}",
        "stack": str(found.stack),
        "spills": str(found.spills),
        "in loops": str(found.spills_in_loops),
        "tensor core": " ".join(f"{kind} {count}" for kind, count in found.tensor_core.items()),
        "occupancy": f"{found.occupancy:.0%}" if found.occupancy else "",
        "MB": f"{launch_bytes(launch) / 1e6:.0f}",
        "GFLOP": f"{flops / 1e9:.0f}" if flops else "",
    }
    if found.loop and arch == "sm90":
        row |= {"loop": f"{found.loop['instructions']:.0f}", "serial TFLOP/s": f"{found.loop['serial TFLOP/s']:.0f}"}
        row |= {pipe: f"{found.loop[pipe]:.0f}" for pipe in ("tensor", "issue", "special", "integer")}
    spilled = arch.startswith("sm") and bool(found.spills_in_loops) and (arch, launch.name) not in aot.SPILLS_THAT_PAY
    faults = [f"hazard: {fault}" for fault in found.hazards]
    if spilled or found.shared > aot.LIMITS[arch][0]:
        faults.append(
            f"does not fit: stack {found.stack}, {found.spills_in_loops} spills in loops, shared {found.shared >> 10} KiB"
        )
    return row, faults


def hazards_of_other_types(only: str) -> list[str]:
    """The hazards of the sm_90 launches in float16 and float32, which may use rows of their own."""
    bad = []
    for dtype in (torch.float16, torch.float32):
        chosen = [case for case in cases(dtype, e4m3=dtype == torch.float16) if only in case.name]
        for case in tqdm(chosen, desc=f"sm90 {dtype}", unit="case"):
            for launch in aot.record("sm90", case.call):
                found = aot.hazards_of(aot.compile_launch(launch, "sm90"))
                bad += [f"sm90: {launch.name} of {case.name} in {dtype}: hazard: {fault}" for fault in found]
    return bad


def report(archs: list[str], only: str) -> tuple[str, list[str]]:
    """The report as Markdown, and a list of the faults found."""
    parts, bad = [], []
    for arch in archs:
        rows: list[dict[str, str]] = []
        chosen = [case for case in cases(torch.bfloat16, e4m3=arch in aot.WITH_E4M3) if only in case.name]
        for case in tqdm(chosen, desc=arch, unit="case"):
            for launch in aot.record(arch, case.call):
                row, faults = row_of(case, launch, arch)
                if row in rows:
                    continue
                rows.append(row)
                bad += [f"{arch}: {row['kernel']} of {row['case']}: {fault}" for fault in faults]
        columns = [name for name in COLUMNS if any(row.get(name) for row in rows)]
        lines = markdown_table([columns, *([row.get(name, "") for name in columns] for row in rows)])
        parts.append("\n".join([f"## {arch}", "", *lines]))
    title = f"# What the compiler makes of each kernel: bfloat16, triton {triton.__version__}"
    note = "Made by `python benchmarks/kernel_report.py`, which explains the columns. Compiled, not run."
    return "\n\n".join([title, note, *parts]) + "\n", bad


def emulation(archs: list[str], only: str) -> tuple[str, list[str]]:
    """What the emulator finds in the rows of the launch table, as Markdown, and the faults."""
    rows, bad = [["row", "architecture", "launch", "races, accesses, numbers"]], []
    for arch in (arch for arch in archs if arch in emulated.ARCHITECTURES):
        chosen = [one for one in emulated.shipped_rows(arch) if only in one[0]]
        for op, limits, row in tqdm(chosen, desc=f"{arch} emulated", unit="row"):
            fault = emulated.fault_of(op, arch, limits, row)
            launch = " ".join(f"{name.removeprefix('BLOCK_')}={value}" for name, value in row.items())
            rows.append([f"{op} {limits}", arch, launch, fault or "clean"])
            bad += [f"{arch}: {op} {limits}: {fault}"] if fault else []
    return "\n".join(["## Rows of the launch table, emulated", "", *markdown_table(rows)]) + "\n", bad


def memory_costs(archs: list[str], only: str) -> str:
    """What accesses of memory cost in the shipped launches, counted by the emulator, as Markdown."""
    rows = [
        ["kernel", "case", "architecture", "read again", "sectors", "lanes", "conflicts", "of instructions", "most of them"]
    ]
    for arch in (arch for arch in archs if arch in emulated.ARCHITECTURES):
        for row in emulated.costs_of(arch, only):
            again = row["asked"] / max(1, row["touched"])
            shares = [f"{row[name]:.0%}" for name in ("sectors", "lanes", "conflicts", "of issue")]
            rows.append([row["kernel"], row["case"], arch, f"{again:.2f}x", *shares, row["worst"]])
    note = (
        "Sizes of a few blocks; `tests/emulator/cost_report.py` explains the columns. Read again: bytes that warps asked for\n"
        "over different bytes. Sectors: bytes moved over bytes asked for. Conflicts: wavefronts of shared memory beyond the\n"
        "least, over the least, and over all instructions."
    )
    return "\n".join(["## What memory accesses cost, emulated", "", note, "", *markdown_table(rows)]) + "\n"


def main() -> int:
    """Command line; 1 if a launch has a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=sorted(aot.TARGETS), help="may be repeated (default: all)")
    parser.add_argument("--only", default="", help="only cases with this text in their names")
    parser.add_argument("--no-write", action="store_true", help="print only, and leave the committed file unchanged")
    parser.add_argument("--bfloat16-only", action="store_true", help="check no other types for hazards on sm_90")
    parser.add_argument("--emulate", action="store_true", help="also run the rows for sm_80 and sm_90; takes some minutes")
    args = parser.parse_args()
    archs = args.arch or list(aot.TARGETS)
    text, bad = report(archs, args.only)
    if args.emulate:
        table, faults = emulation(archs, args.only)
        text, bad = f"{text}\n{table}\n{memory_costs(archs, args.only)}", bad + faults
    if "sm90" in archs and not args.bfloat16_only:
        bad += hazards_of_other_types(args.only)
    if args.no_write or args.arch or args.only:
        print(text)
    else:
        RESULT.write_text(text, encoding="utf-8")
        print(f"wrote {RESULT}")
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
