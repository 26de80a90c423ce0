"""Converts command-line arguments to the options of the package's functions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from fastbert.data.lines import Form
from fastbert.errors import InputError
from fastbert.progress import LINES, Show

_SAMPLE = 512  # texts that int8 or fp8 is tried on


def read_options(args: argparse.Namespace) -> Any:
    """The options for reading a task's files."""
    from fastbert.finetuning.reading import ReadOptions

    given = vars(args)
    names = {"layout": "layout", "text": "text_column", "pair": "pair_column", "label": "label_column"}
    names |= {"skip_ragged": "skip_ragged", "multi_label": "multi_label", "separator": "label_separator"}
    names |= {"word_column": "word_column", "tag_column": "tag_column"}
    names |= {"strict": "strict", "id": "id"}
    values = {field: given[name] for field, name in names.items() if given.get(name) is not None}
    choices, keep = given.get("choice_columns"), columns_of(given.get("keep"))
    columns = tuple(choices.split(",")) if choices else ()
    return ReadOptions(**values, form=form_of(args), choices=columns, names=labels_of(args) or (), keep=keep)


def labels_of(args: argparse.Namespace) -> tuple[str, ...] | None:
    """The labels named by --labels or by --label; None if neither is given.

    Raises:
        InputError: both are given, or an empty name.
    """
    one_by_one, together = tuple(vars(args).get("label") or ()), vars(args).get("labels")
    if one_by_one and together is not None:
        raise InputError("--label and --labels exclude one another")
    if not all(name.strip() for name in one_by_one):
        raise InputError("--label is empty; expected a name")
    return one_by_one or names_of(together)


def form_of(args: argparse.Namespace) -> Form:
    """How the files are written, as the command line says; "\\t" is a tab."""
    return Form(args.encoding, None if args.delimiter is None else args.delimiter.replace("\\t", "\t"))


def how_to_show(args: argparse.Namespace) -> Show:
    """How a command shows its progress: a bar on a terminal or if --progress asks for it, else lines."""
    return True if args.progress else LINES


def prepack(task: Any, texts: Sequence[str], args: argparse.Namespace) -> None:
    """Lays the weights of a task's model out for the device; with --int8 or --fp8 in 8 bits, if that passes on some texts."""
    import fastbert

    sample = None
    if products := _in_8_bits(args):
        some = texts[:: max(1, len(texts) // _SAMPLE)]
        limit = task.max_length
        sample = [ids[:limit] for ids in task.tokenizer.encode_ids(some, max_tokens=limit)]
    fastbert.prepack(task.model, products, sample)


def refuse_8_bits(args: argparse.Namespace, what: str) -> None:
    """Raises InputError if --int8 or --fp8 is given to a job that is resumed, and names what takes it instead."""
    if products := _in_8_bits(args):
        raise InputError(f"--{products} chooses by measuring, which differs from start to start: {what} takes it")


def _in_8_bits(args: argparse.Namespace) -> str | None:
    return "int8" if args.int8 else "fp8" if args.fp8 else None


def names_of(value: str | None) -> tuple[str, ...] | None:
    """Splits names separated by commas; None stays None."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise InputError(f"{value!r} has an empty name; expected names separated by commas")
    return tuple(names)


def columns_of(values: Sequence[str] | None) -> tuple[str, ...]:
    """The columns that a flag names, which may be repeated, each time with names separated by commas."""
    return tuple(name for value in values or () for name in names_of(value) or ())


def text_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options for reading the texts of a corpus or a vocabulary."""
    options = {"kind": args.format, "column": args.column, "language": args.language}
    return {**options, "whole_files": args.whole_files, "errors": args.errors}


def recipe_of(args: argparse.Namespace) -> Any:
    """The recipe; if a corpus is given, it replaces the recipe's text."""
    from fastbert.training import Recipe

    recipe = Recipe.load(args.recipe)
    return recipe.override("data.sources=[]", f"data.corpus='{args.corpus}'") if args.corpus else recipe
