"""Benchmarks fastbert against other ways to run a BERT; outputs are checked before timing, and the machine's limit is measured.

    python benchmarks/run.py --quick                     everything, small: seven minutes on two cores
    python benchmarks/run.py                             inference in full
    python benchmarks/run.py --suite all --device cuda --dtype bfloat16

Writes results/<device>/<date>.jsonl with a Markdown report, an HTML page and plots next to it, and prints the tables. Rows of
the same day are kept, and replaced if they are measured again, so a long run can be done suite by suite. Ctrl-C keeps the
measurements so far. Exit code 0 on success, 1 if one of our candidates failed its check or got slower (--compare), 2 for bad
arguments.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

# Only lightweight imports: every candidate's process imports this file again.


class _Parser(argparse.ArgumentParser):
    """A parser that reports bad arguments in a single line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"benchmarks/run.py: {message}\n")


def main(arguments: list[str] | None = None, **request: Any) -> int:
    """Runs the benchmark. `request` overrides fields of `suites.Request`; tests use it to inject candidates."""
    args = _parser().parse_args(arguments)
    from benchmarks.speed.session import run

    return run(args, request)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", default=None, help="ops, inference, training, latency, memory, startup (several separated by commas) or all"
    )
    parser.add_argument(
        "--only", help="names of candidates, or texts that their names contain, separated by commas (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small: one size, fewer lengths and rounds; all suites unless --suite"
    )
    parser.add_argument(
        "--sizes", help="tiny, MiniLM-L6, base, large, separated by commas (default: those that the device runs in minutes)"
    )
    parser.add_argument(
        "--model", help="a directory or hub id in place of MiniLM-L6 (default: all-MiniLM-L6-v2, from a package)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA if available)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--text", type=Path, help="texts to run (default: the Python language reference)")
    parser.add_argument("--column", help="text column of a .tsv, .csv or .jsonl file")
    parser.add_argument("--squad", type=Path, help="a SQuAD file, for the lengths of questions with their contexts")
    parser.add_argument("--tokens", type=_positive, help="tokens per pass (default: by device and size)")
    parser.add_argument("--repeats", type=_positive, help="minimum rounds (default: 5; more until the spread is small)")
    parser.add_argument("--cases", help="ops and cases whose names contain one of these, separated by commas (default: all)")
    parser.add_argument("--tasks", help="tasks whose names contain one of these, separated by commas (default: all)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the results (default: benchmarks/results/<device>), or a .jsonl file for the rows alone",
    )
    parser.add_argument("--resume", action="store_true", help="measure only what the results file lacks")
    parser.add_argument("--compare", type=Path, metavar="OLD.jsonl", help="results to compare with")
    parser.add_argument("--fail-below", type=float, default=0.95, help="minimum new/old speed of our rows (default: 0.95)")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
