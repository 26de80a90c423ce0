"""Runs examples one after the other in this process, which imports torch and transformers once.

    python tests/run_examples.py FOLDER ...

Each folder has one example as its only .py file, and its arguments in arguments.json. What it prints goes to stdout.txt there,
and a traceback, if it fails, to failure.txt.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def run(folder: Path) -> None:
    """Runs a folder's example as a script."""
    (script,) = folder.glob("*.py")
    sys.argv = [script.name, *json.loads((folder / "arguments.json").read_text(encoding="utf-8"))]
    sys.path[0] = str(folder)
    os.chdir(folder)
    with (folder / "stdout.txt").open("w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except (Exception, SystemExit):
            (folder / "failure.txt").write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run(Path(argument).resolve())
