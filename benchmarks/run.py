"""The benchmark: fastbert against what else runs a BERT, checked before it is timed, beside the limit of the machine.

    python benchmarks/run.py --quick                     everything, small: five minutes on two cores
    python benchmarks/run.py                             inference in full
    python benchmarks/run.py --suite all --device cuda --dtype bfloat16

Writes results/<device>/<date>.jsonl with a Markdown report, an HTML page and plots beside it, and prints the tables. Rows of
the same day are kept, and replaced where they are measured again, so a long run can be done suite by suite. Ctrl-C keeps what
was measured. Exit code 0, 1 if a candidate of ours failed its check or got slower (--compare), 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

# Only what is light: every candidate's process imports this file again.


class _Parser(argparse.ArgumentParser):
    """Bad arguments end in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"benchmarks/run.py: {message}\n")


def main(arguments: list[str] | None = None, **request: Any) -> int:
    """Runs the report. `request` overrides fields of `suites.Request`: tests put their candidates there."""
    args = _parser().parse_args(arguments)
    from benchmarks.speed.session import run

    return run(args, request)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", default=None, help="ops, inference, training, latency, memory, startup (several with commas) or all"
    )
    parser.add_argument(
        "--only", help="candidates of these names, or with one of these texts in them, with commas (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small: one size, fewer lengths and rounds; all suites unless --suite"
    )
    parser.add_argument(
        "--sizes", help="of tiny, MiniLM-L6, base, large, with commas (default: what the device runs in minutes)"
    )
    parser.add_argument(
        "--model", help="a directory or hub id in place of MiniLM-L6 (default: all-MiniLM-L6-v2, from a package)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA where there is one)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--text", type=Path, help="texts to run (default: the Python language reference)")
    parser.add_argument("--column", help="of a .tsv, .csv or .jsonl file")
    parser.add_argument("--squad", type=Path, help="a SQuAD file, for the lengths of questions with their contexts")
    parser.add_argument("--tokens", type=_positive, help="tokens of a pass (default: by device and size)")
    parser.add_argument("--repeats", type=_positive, help="rounds at least (default: 5; more until the spread is small)")
    parser.add_argument("--cases", help="ops and cases with one of these texts in their names, with commas (default: all)")
    parser.add_argument("--tasks", help="tasks with one of these texts in their names, with commas (default: all)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the results (default: benchmarks/results/<device>), or a .jsonl file, which gets the rows alone",
    )
    parser.add_argument("--resume", action="store_true", help="measure only what the file of results lacks")
    parser.add_argument("--compare", type=Path, metavar="OLD.jsonl", help="results to compare with")
    parser.add_argument("--fail-below", type=float, default=0.95, help="least new/old speed of our rows (default: 0.95)")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
