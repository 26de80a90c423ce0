"""The `fastbert` command. Progress goes to stderr, results to stdout or the named file.

Exit code 0: done; 1: a check failed; 2: bad usage or input, or a run that cannot continue; 129, 130, 143: stopped by SIGHUP,
Ctrl-C, SIGTERM; 141: the reader of stdout closed it before the result was written. A closed stderr is ignored.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from fastbert.commands import (
    benchmarking,
    embedding,
    evaluating,
    exporting,
    finetuning,
    inference,
    pretraining,
    ranking,
    serving,
)
from fastbert.commands.adding import with_flags
from fastbert.commands.completion import SHELLS, Completion
from fastbert.commands.config_file import with_config
from fastbert.commands.machine import Version
from fastbert.errors import FastbertError, StoppedError
from fastbert.stopping import Stopped, stopping_signals
from fastbert.terminal import (
    fill_closed_streams,
    quiet,
    show_line,
    silence_stdout,
    steady_stderr,
    steady_stdout,
)
from fastbert.threads import use_threads, wait_patiently

_BROKEN_PIPE = 128 + 13  # the shell's exit code of a program ended by SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    closed = sys.stdout is None
    fill_closed_streams()
    with steady_stderr(), stopping_signals():
        if closed:
            print("fastbert: standard output is closed", file=sys.stderr)
            return 2
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    args = None
    try:
        args = _parser().parse_args(with_config(sys.argv[1:] if arguments is None else arguments))
        wait_patiently()
        use_threads(vars(args).get("threads"))
        command: Callable[[argparse.Namespace], int | None] = args.command
        has_output = getattr(args, "output", None) is not None  # then the result goes to a file, not to stdout
        with warnings.catch_warnings():  # restores the display of warnings afterwards
            warnings.showwarning = partial(_show_warning, args)
            with quiet(args.quiet), steady_stdout() if has_output else nullcontext():
                code = command(args)
            if not has_output:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout closed it before the result was written
        silence_stdout()
        return _BROKEN_PIPE
    except StoppedError as error:
        show_line(f"fastbert: {error}")
        return 128 + signal.Signals[error.signal].value
    except (FastbertError, OSError) as error:
        show_line(f"fastbert: {with_flags(str(error), args)}")
        return 2
    except Stopped as stopped:
        show_line(f"fastbert: stopped by {signal.Signals(stopped.number).name}; no file is half written")
        return 128 + stopped.number
    except KeyboardInterrupt:
        show_line("fastbert: interrupted; no file is half written")
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastbert", description="BERT without padding.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the versions and the device, and exit")
    parser.add_argument(
        "--print-completion", action=Completion, choices=SHELLS, help="print the script that completes commands in a shell"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    embedding.register(commands)
    inference.register(commands)
    ranking.register(commands)
    benchmarking.register(commands)
    pretraining.register(commands)
    finetuning.register(commands)
    evaluating.register(commands)
    exporting.register(commands)
    serving.register(commands)
    return parser


def _show_warning(args: argparse.Namespace, message: Warning | str, *_: Any, **__: Any) -> None:
    show_line(f"fastbert: warning: {with_flags(str(message), args)}")


if __name__ == "__main__":
    sys.exit(main())
