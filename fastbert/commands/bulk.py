"""What the commands that write folders share: their arguments, and the run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastbert.commands.options import columns_of, form_of, how_to_show
from fastbert.errors import InputError, check_package
from fastbert.terminal import show_line, show_note

_OF_FOLDERS = ("format", "part_rows", "errors", "workers", "engine", "address")


def add_bulk(parser: argparse.ArgumentParser, forms: Sequence[str], has_marks: bool = False) -> None:
    """Arguments for an output that is a folder; a command may have `--id` and `--keep` itself."""
    group = parser.add_argument_group("for an output that is a folder: the same command goes on with what is missing")
    if not has_marks:
        group.add_argument("--id", help="column that names a row (default: its file and its number in it)")
        group.add_argument("--keep", action="append", help="columns to keep in the output, separated by commas")
    group.add_argument("--format", choices=forms, help=f"of its parts (default: {forms[0]})")
    group.add_argument("--part-rows", type=int, help="rows of a part")
    group.add_argument(
        "--errors", choices=["strict", "skip"], help="rows that cannot be used: refused, or counted and left out"
    )
    group.add_argument("--workers", type=int, help="processes on this machine (default: 1), or in a cluster; or use torchrun")
    group.add_argument("--engine", choices=["ray"], help="have a Ray cluster do it, whose nodes all see inputs and output")
    group.add_argument("--address", help="of the cluster, as ray.init takes it (default: auto)")


def is_folder(args: argparse.Namespace, has_marks: bool = False) -> bool:
    """Whether the output is a folder: an existing one, a name with a slash at its end, or one without an ending.

    Raises:
        InputError: an argument for folders where the output is a file.
    """
    if args.output == "-":
        raise InputError("output = '-': name a file or a folder")
    output = None if args.output is None else Path(args.output)
    if output is not None and (
        output.is_dir() or args.output.endswith(("/", os.sep)) or not (output.suffix or output.exists())
    ):
        return True
    own = () if has_marks else ("id", "keep")
    given = next((name for name in (*own, *_OF_FOLDERS) if vars(args)[name] is not None), None)
    if given is not None:
        where = "" if output is None else f", such as {output.with_suffix('')}/ in the place of {output}"
        value = vars(args)[given]
        raise InputError(f"{given} = {value[0] if isinstance(value, list) else value!r} needs a folder as output{where}")
    return False


def one_input(args: argparse.Namespace) -> None:
    """Checks that there is one input, where the output is a file, and makes it the input.

    Raises:
        InputError: there are several.
    """
    if len(args.input) > 1:
        raise InputError(f"{len(args.input)} inputs need a folder as output, such as -o out/")
    (args.input,) = args.input


def run_in_bulk(args: argparse.Namespace, job: Any, texts: tuple[str, ...], keep: Sequence[str] | None = None) -> Path | None:
    """Runs a job into the folder, and says what was done.

    Args:
        args: of the command.
        job: what is computed.
        texts: columns of text.
        keep: columns to keep, where the command has a `--keep` of its own.

    Returns:
        The folder; None in processes of torchrun that are not to report.
    """
    from fastbert.bulk import Columns, run_job

    if args.address is not None and args.engine is None:
        raise InputError(f"address = {args.address!r} needs --engine ray")
    engine = None if args.engine is None else _on_ray(args)
    if keep is None:
        keep = columns_of(args.keep)
    found = run_job(
        job,
        args.input,
        args.output,
        Columns(texts, args.id, tuple(keep)),
        form_of(args),
        file_form=args.format or "parquet",
        part_rows=args.part_rows,
        errors=args.errors or "strict",
        workers=args.workers,
        engine=engine,
        show_progress=how_to_show(args),
    )
    if not found.leads:
        return None
    if found.skipped or found.unreadable:
        bad = (
            f"{counted(found.skipped, 'row')} could not be used, and {counted(found.unreadable, 'file')} not be read to the end"
        )
        show_line(f"fastbert: {bad}: the manifest has them")
    if found.cut:
        were = "was" if found.cut == 1 else "were"
        show_line(
            f"fastbert: {counted(found.cut, 'text')} of {found.made:,} {were} longer than the model reads, and {were} truncated"
        )
    rate = (
        f" in {found.seconds:.2f} s ({found.made / found.seconds:,.0f} per second)"
        if found.made
        else ", all of them made before"
    )
    whole = f"{counted(found.rows, 'row')} in {counted(found.parts, 'part')}"
    show_note(f"fastbert: {counted(found.made or found.rows, 'row')}{rate} -> {found.folder}: {whole}")
    return found.folder


def _on_ray(args: argparse.Namespace) -> Any:
    check_package("engine = 'ray'", "ray", "ray")
    from fastbert.integrations.ray import make_parts_on_cluster

    return partial(make_parts_on_cluster, address=args.address or "auto", workers=args.workers)


def counted(count: int, unit: str) -> str:
    """A number of things, such as "1 row" and "2,000 rows"."""
    return f"{count:,} {unit}" + ("" if count == 1 else "s")
