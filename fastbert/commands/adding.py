"""Adds commands to the argument parser; a command's docstring is its help text, followed by an example."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastbert.errors import InputError

FLAG = re.compile(r"--[a-z][a-z-]*")
_ARGUMENT = re.compile(
    r"""(?<![\w./\\-])([a-z][a-z_]*)(?:='([^' ]*)'|=([\w.]+)|( = ))"""
)  # name='value', name=value, name = value
Commands = Any  # argparse's class of sub-commands has no public name


def add(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int | None], example: str
) -> argparse.ArgumentParser:
    """Adds a command; returns its parser, for adding arguments."""
    text = (command.__doc__ or "").strip()
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text.split("\n\n")[0],
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=command, own_parser=sub)
    sub.add_argument("-q", "--quiet", action="store_true", help="on stderr only warnings and errors: no progress, no notes")
    return sub


def with_flags(text: str, args: argparse.Namespace | None) -> str:
    """A message in the words of the command line: `batch_tokens = 0`, an argument of Python's, is `--batch-tokens 0`."""
    if args is None:
        return text
    flags = set(FLAG.findall(args.own_parser.format_help()))

    def flag(found: re.Match[str]) -> str:
        name = "--" + found[1].replace("_", "-")
        return found[0] if name not in flags else f"{name} {found[2] or found[3] or ''}".rstrip() + (" " if found[4] else "")

    return _ARGUMENT.sub(flag, text)


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Adds a command that only groups subcommands."""
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def check_outputs(outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Checks that no output is the same file as an input or another output, following links.

    Args:
        outputs, inputs: paths; None and "-" are ignored. A folder among the inputs stands for the files in it.

    Raises:
        InputError: two paths are the same file; the message names both.
    """
    written: dict[Path, str | Path] = {}
    for output in outputs:
        if output is None or output == "-":
            continue
        place = Path(output).resolve()
        if place in written:
            raise InputError(f"{output} would be written twice: it is {written[place]} as well")
        written[place] = output
    for given in inputs:
        if given is None or given == "-":
            continue
        source = Path(given)
        for part in [source, *(source.iterdir() if source.is_dir() else ())]:
            same = written.get(part.resolve())
            if same is not None:
                raise InputError(f"the output {same} is the input {part}: it would be overwritten; name another output")


def add_form(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that read texts: how their files are written."""
    parser.add_argument("--delimiter", help="between the columns of a table (default: a comma in .csv, else a tab)")
    parser.add_argument("--encoding", default="utf-8", help="of the text, such as latin-1 or cp1252 (default: utf-8)")


def model_path(given: str) -> str:
    """The folder of a model: of a run of `finetune` or `pretrain`, its model."""
    folder = Path(given).expanduser()
    inside = folder / "model"
    return str(inside) if (inside / "config.json").is_file() and not (folder / "config.json").exists() else given


def add_json(parser: argparse.ArgumentParser) -> None:
    """The argument of commands whose result on stdout is for people unless asked otherwise."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def print_result(args: argparse.Namespace, value: Any, text: object) -> None:
    """Prints a result: as JSON with --json, else as text."""
    if args.json:
        print_json(value)
    else:
        print(text)


def print_json(value: Any) -> None:
    """Prints a result as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The argument of all commands that compute."""
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: its cores, as far as a quota allows)")


def add_8_bits(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that may run a model with products in 8 bits."""
    either = parser.add_mutually_exclusive_group()
    refused = "refused where slower or less accurate"
    either.add_argument("--int8", action="store_true", help=f"products in int8 on a CPU, {refused}")
    either.add_argument("--fp8", action="store_true", help=f"products in fp8 on a GPU, {refused}")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that run a model."""
    parser.add_argument("--model", required=True, type=model_path, help="a directory, the output of a run, or a hub id")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA if available)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: the checkpoint's")
    add_threads(parser)
    parser.add_argument("--local-files-only", action="store_true", help="never contact the hub")
