"""Options of the finetune command from a TOML file."""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path

from fastbert.commands.adding import FLAG
from fastbert.commands.finetuning import EXAMPLES, add_training
from fastbert.errors import InputError


def with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments of `fastbert finetune` with the options of a --config file before them, as flags.

    Raises:
        InputError: no such file, not TOML, an unknown option, or a value that is no option's.
    """
    given = list(arguments)
    at = next((i for i, one in enumerate(given) if one == "--config" or one.startswith("--config=")), None)
    if given[:1] != ["finetune"] or len(given) < 2 or given[1] not in EXAMPLES or at is None or given[at:] == ["--config"]:
        return given  # argparse says what is wrong, if anything is
    path = Path(given[at].partition("=")[2] or given[at + 1])
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    probe = argparse.ArgumentParser(add_help=False)
    add_training(probe, given[1])
    known = {name.removeprefix("--") for name in FLAG.findall(probe.format_help())} | {"compare"}
    flags: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            raise InputError(f"{path}: there is no option {key}" + (f"; did you mean {near[0]}?" if near else ""))
        if isinstance(value, dict):
            raise InputError(f"{path}: {key} is a table; expected a value")
        flags += [f"--{name}"] if value is True else []
        for one in value if isinstance(value, list) else [] if isinstance(value, bool) else [value]:
            flags.append(f"--{name}={one}")
    return [*given[:2], *flags, *given[2:]]
