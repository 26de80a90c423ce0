"""How a command is added to the parser: its docstring is its help, an example stands below."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Commands = Any  # argparse's class of sub-commands has no public name


def add(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int | None], example: str
) -> argparse.ArgumentParser:
    """Adds a command; returns its parser for arguments."""
    text = (command.__doc__ or "").strip()
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=command)
    return sub


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Adds a command that only has commands of its own."""
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that run a model."""
    parser.add_argument("--model", required=True, help="a directory or hub id")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA where there is one)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: the checkpoint's")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the hub")
