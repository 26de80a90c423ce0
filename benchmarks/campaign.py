"""Runs all GPU work in resumable parts of a few minutes: sanitizers, tests, benchmarks of every suite, and the tuner.

    python benchmarks/campaign.py --squad dev-v1.1.json      all parts that are not done
    python benchmarks/campaign.py --only tests,latency       only these parts
    python benchmarks/campaign.py --minutes 25               starts only parts whose limit fits into this time
    python benchmarks/campaign.py --list                     lists the parts and their state

Each part runs in a separate process with a time limit, and writes its own file under results/<device>/parts/. A part that was
stopped by its limit or by Ctrl-C keeps its measurements and resumes from there (tests and start-up times start over); a part
that is done runs again only with --again or with different options. CUDA_VISIBLE_DEVICES selects the GPU if there are several.
At the end all rows are merged into results/<device>/<date>.jsonl with its report, and `report.py` copies them to the docs. Exit
code 0 on success, 1 if a part failed or is unfinished, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import torch

from benchmarks.report import write_reports
from benchmarks.speed import records
from benchmarks.speed.environment import environment
from benchmarks.speed.records import RESULTS, Row
from fastbert import files
from fastbert.errors import FastbertError, InputError
from fastbert.tasks.loading import default_device
from fastbert.terminal import align

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 60  # time to write the measurements after the stop signal
PRODUCTS = "embedding,layer_norm,linear_gelu,ffn,cross_entropy"
TEST_WORKERS = 8  # of pytest-xdist: most of the time goes to Triton's compiler, on the host's cores
KERNELS = (
    "attention_short",
    "attention_long",
    "schedule_",
    "lamb_",
    "layer_norm_",
    "embedding_",
    "table_",
    "gelu_",
    "cross_entropy_",
    "dropout_mask",
    "to_e4m3_",
)


@dataclass(frozen=True)
class Part:
    """One part of the campaign, run as a separate process.

    Attributes:
        name: name of the part and of its file.
        kind: "sanitize" (compute-sanitizer around small tests), "tests" (pytest), "figures" (figures.py, breakdown.py), "rows"
            (run.py) or "tune" (tune.py).
        options: options of that command.
        limit_s: time limit in seconds, after which the part is interrupted.
    """

    name: str
    kind: str
    options: tuple[str, ...]
    limit_s: int

    @property
    def suffix(self) -> str:
        """The suffix of the part's file."""
        return {"sanitize": ".txt", "tests": ".xml"}.get(self.kind, ".jsonl")


def _rows(name: str, limit_s: int, *options: str) -> Part:
    return Part(name, "rows", ("--suite", *options), limit_s)


PARTS = (
    *(
        Part(f"{tool}-kernels", "sanitize", (tool, "small_attention or small_rows or small_fused_products"), 540)
        for tool in ("memcheck", "racecheck")
    ),
    # racecheck stops at kernels of the vendor's library, with an internal error.
    Part("memcheck-products", "sanitize", ("memcheck", "small_products or small_tf32_products or small_tf32_attention"), 540),
    Part("tests", "tests", ("-q", "-n", str(TEST_WORKERS)), 540),
    Part("figures", "figures", ("benchmarks/figures.py",), 120),
    Part("breakdown", "figures", ("benchmarks/breakdown.py",), 240),
    _rows("ops-attention", 240, "ops", "--cases", "attention"),
    _rows("ops", 300, "ops", "--cases", PRODUCTS),
    _rows("inference-base", 420, "inference", "--sizes", "base"),
    _rows("inference-large", 420, "inference", "--sizes", "large"),
    _rows("training-base", 420, "training", "--sizes", "base"),
    _rows("training-large", 420, "training", "--sizes", "large"),
    _rows("latency", 300, "latency", "--sizes", "base,large"),
    _rows("memory", 480, "memory", "--sizes", "base,large"),
    _rows("startup", 480, "startup", "--sizes", "base", "--repeats", "2"),
    *(
        Part(f"tune-{op.replace('_', '-')}", "tune", ("--only", op), 480)
        for op in ("attention_short", "attention_long", "layer_norm", "gelu", "cross_entropy", "table_bwd")
    ),
    _rows("inference-minilm", 300, "inference", "--sizes", "MiniLM-L6"),
)


class Campaign:
    """The parts of one device and their state.

    Args:
        folder: results/<device>; its subfolder parts/ holds the files of the parts and state.json.
        common: options passed to every call of run.py.
        dtype: the dtype for the tuner.
    """

    def __init__(self, folder: Path, common: Sequence[str], dtype: str) -> None:
        self.folder, self.common, self.dtype = folder, tuple(common), dtype
        self.parts = folder / "parts"
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self.parts / "state.json"
        self.state: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def file(self, part: Part) -> Path:
        """The file that a part writes."""
        return self.parts / f"{part.name}{part.suffix}"

    def command(self, part: Part) -> list[str]:
        """The command that runs a part, resuming from its file."""
        path = str(self.file(part))
        tests = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-p", "no:cacheprovider"]
        if part.kind == "sanitize":
            tool, chosen = part.options
            return [*_sanitizer(tool, path), *tests, "-q", "-k", chosen]
        if part.kind == "tests":
            return [*tests, *part.options, f"--junitxml={path}"]
        if part.kind == "tune":
            return [sys.executable, "benchmarks/tune.py", *part.options, "--dtype", self.dtype, "--json", path]
        if part.kind == "figures":
            return [sys.executable, *part.options, "--dtype", self.dtype, "--output", path]
        return [sys.executable, "benchmarks/run.py", *part.options, *self.common, "--output", path, "--resume"]

    def done(self, part: Part) -> bool:
        """Whether a part has completed successfully with the current options."""
        found = self.state.get(part.name, {})
        return found.get("status") == "done" and found["options"] == self._options(part)

    def forget(self, part: Part) -> None:
        """Discards a part's file and state, so that it starts over."""
        self.file(part).unlink(missing_ok=True)
        self.state.pop(part.name, None)
        self._write()

    def run(self, part: Part) -> str:
        """Runs a part; returns "done", "failed", or "stopped" at its time limit, with its measurements kept."""
        print(f"-- {part.name}, at most {part.limit_s} s", file=sys.stderr, flush=True)
        started = time.perf_counter()
        env = os.environ | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if part.kind == "sanitize" else {})  # per-tensor bounds
        process = subprocess.Popen(self.command(part), cwd=ROOT, env=env, start_new_session=True, preexec_fn=_heed_ctrl_c)
        try:
            code = process.wait(part.limit_s)
            status = "done" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            code, status = _stop(process), "stopped"
        except KeyboardInterrupt:
            self._note(part, "stopped", _stop(process), started)
            raise
        finally:
            _kill(process)
        self._note(part, status, code, started)
        return status

    def table(self) -> str:
        """A table of all parts and their state."""
        lines = [("part", "limit", "state", "seconds", "commit", "file")]
        for part in PARTS:
            found = self.state.get(part.name, {})
            seconds = f"{found['seconds']:.0f}" if found else ""
            file = self.file(part)
            shown = file.name if file.exists() else ""
            lines.append(
                (part.name, f"{part.limit_s} s", found.get("status", "to do"), seconds, str(found.get("commit", "")), shown)
            )
        return "\n".join(align(lines))

    def merge(self) -> Path | None:
        """Merges the rows of all parts into one results file and writes its report; None if there are no rows."""
        rows: list[Row] = []
        for part in PARTS:
            if part.kind == "rows" and self.file(part).exists():
                rows = records.merged(rows, records.read(self.file(part)))
        if not rows:
            return None
        path = self.folder / f"{max(row['date'] for row in rows)}.jsonl"
        records.write(path, records.merged(records.read(path) if path.exists() else [], rows))
        write_reports(path, records.read(path))
        return path

    def _options(self, part: Part) -> list[str]:
        """The command without machine-specific paths, to compare with the saved state."""
        return [option.replace(str(self.parts), "parts") for option in self.command(part)[1:]]

    def _note(self, part: Part, status: str, code: int | None, started: float) -> None:
        facts = environment(torch.device("cpu"))
        seconds = time.perf_counter() - started
        self.state[part.name] = {"status": status, "exit_code": code, "seconds": seconds, "options": self._options(part)}
        self.state[part.name] |= {name: facts[name] for name in ("commit", "date", "torch", "triton")}
        self._write()

    def _write(self) -> None:
        files.write_text(self.parts / "state.json", json.dumps(self.state, indent=1) + "\n")


def _sanitizer(tool: str, log: str) -> list[str]:
    """The compute-sanitizer command for our kernels; it exits with an error code if it finds a fault."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    options = ["--tool", tool, "--log-file", log, "--error-exitcode", "86", "--report-api-errors", "no", "--print-limit", "20"]
    names = (option for kernel in KERNELS for option in ("--kernel-name", f"kns={kernel}"))
    return [program, *options, *names]


def _heed_ctrl_c() -> None:
    """Restores the default SIGINT handler, since background jobs of a shell inherit an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Sends SIGINT to all processes of a part, and kills those still running after the grace period."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the processes of a part that are still running."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="parts to run, separated by commas (default: all)")
    parser.add_argument("--again", action="store_true", help="start the parts over, even if they are done")
    parser.add_argument("--list", action="store_true", help="show the parts and their state, and run nothing")
    parser.add_argument("--minutes", type=float, help="start no part whose limit does not fit into the remaining time")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--squad", type=Path, help="a SQuAD file, for the lengths of questions with their contexts")
    parser.add_argument("--output", type=Path, help="folder for the results (default: benchmarks/results/<device>)")
    args = parser.parse_args(arguments)
    for ending in (signal.SIGTERM, signal.SIGHUP):  # like Ctrl-C: the part stops and keeps its measurements
        signal.signal(ending, signal.default_int_handler)
    try:
        return _run(args)
    except FastbertError as error:
        print(f"benchmarks/campaign.py: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    wanted = _wanted(args.only)
    device = default_device(None)
    if args.squad is not None and not args.squad.is_file():
        raise InputError(f"--squad: there is no file {args.squad}")
    if device.type != "cuda" and not args.list:
        raise InputError("there is no CUDA device; --list shows what would run, benchmarks/run.py measures a CPU")
    common = ["--device", device.type, "--dtype", args.dtype]
    common += ["--squad", str(args.squad.resolve())] if args.squad is not None else []
    folder = args.output or RESULTS / environment(device)["device"]
    if args.list and not folder.is_dir():
        print("\n".join(f"{part.name:24}{part.limit_s} s" for part in PARTS))
        return 0
    campaign = Campaign(folder.resolve(), common, args.dtype)
    if args.list:
        print(campaign.table())
        return 0
    ends = float("inf") if args.minutes is None else time.perf_counter() + 60 * args.minutes
    try:
        for part in wanted:
            if (args.again or not campaign.done(part)) and time.perf_counter() + part.limit_s + GRACE_S <= ends:
                if args.again:
                    campaign.forget(part)
                campaign.run(part)
    except KeyboardInterrupt:
        print("benchmarks/campaign.py: interrupted; the same command without --again resumes", file=sys.stderr)
    written = campaign.merge()
    print(campaign.table())
    if written is not None:
        print(f"\nwritten: {written} and its report; python benchmarks/report.py updates the docs and the predictions' table")
    return 0 if all(campaign.done(part) for part in wanted) else 1


def _wanted(only: str | None) -> list[Part]:
    if only is None:
        return list(PARTS)
    names = [name.strip() for name in only.split(",")]
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"--only: there is no part {unknown[0]!r}; the parts are {', '.join(known)}")
    return [known[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
