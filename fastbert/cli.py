"""The `fastbert` command. Progress goes to stderr, results to stdout or the named file.

Exit code 0: done; 1: a check failed; 2: bad usage or input, or a run that cannot go on; 130, 143: stopped by Ctrl-C, SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import fastbert
from fastbert.commands import finetuning, inference, pretraining
from fastbert.errors import FastbertError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = args.command
    try:
        with warnings.catch_warnings():  # the way they are shown here ends with the command
            warnings.showwarning = _show_warning
            code = command(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FastbertError, OSError) as error:
        print(f"fastbert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastbert: interrupted; no file is half written", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastbert", description="BERT without padding.")
    parser.add_argument("--version", action="version", version=f"fastbert {fastbert.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inference.register(commands)
    pretraining.register(commands)
    finetuning.register(commands)
    return parser


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"fastbert: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
