"""What arguments say, as the options of the package's functions."""

from __future__ import annotations

import argparse
from typing import Any

from fastbert.errors import InputError


def read_options(args: argparse.Namespace) -> Any:
    """How the files of a command are read."""
    from fastbert.finetuning.reading import ReadOptions

    given = vars(args)
    names = {"layout": "layout", "text": "text_column", "pair": "pair_column", "label": "label_column"}
    names |= {"skip_ragged": "skip_ragged", "multi_label": "multi_label", "separator": "label_separator"}
    names |= {"word_column": "word_column", "tag_column": "tag_column"}
    values = {field: given[name] for field, name in names.items() if given.get(name) is not None}
    choices = given.get("choice_columns")
    return ReadOptions(**values, choices=tuple(choices.split(",")) if choices else ())


def names_of(value: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise InputError(f"{value!r} has an empty name; expected names with commas")
    return tuple(names)


def text_options(args: argparse.Namespace) -> dict[str, Any]:
    """How the texts of a corpus or a vocabulary are read."""
    options = {"kind": args.format, "column": args.column, "language": args.language}
    return {**options, "whole_files": args.whole_files, "errors": args.errors}


def recipe_of(args: argparse.Namespace) -> Any:
    """The recipe, with the corpus of the arguments in place of its text."""
    from fastbert.training import Recipe

    recipe = Recipe.load(args.recipe)
    return recipe.override("data.sources=[]", f"data.corpus='{args.corpus}'") if args.corpus else recipe
