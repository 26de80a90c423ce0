"""Shell completion: `fastbert --print-completion bash` prints the script that a shell reads. Made by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from fastbert.errors import check_package

SHELLS = ("bash", "zsh", "tcsh")
_PATHS = {
    "input",
    "output",
    "model",
    "train",
    "dev",
    "test",
    "corpus",
    "tokenizer",
    "config",
    "predictions",
    "report",
    "recipe",
}
_PATHS |= {"feature_cache", "held_out", "left_to_right_model", "class_weights"}


class Completion(argparse.Action):
    """Prints the completion of all commands for a shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Called by argparse where the option is given."""
        check_package("--print-completion", "shtab", "completion")
        import shtab

        for action in _actions(parser):
            if action.dest in _PATHS or action.dest.endswith(("_train", "_dev", "_test")):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action
