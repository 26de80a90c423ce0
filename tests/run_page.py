"""Runs the blocks of pages in order: `python tests/run_page.py PAGE=FOLDER ...`, each in a folder with the files it names.

Python runs in one namespace. Lines of a shell run as they stand if they are commands of fastbert, with less training where a
page trains; the other lines of a shell are looked at only: targets of the Makefile and files must be there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)
_SHORT = "--set schedule.warmup_steps=1 --set phases.0.batch_tokens=512 --set phases.0.max_length=32 --set phases.0.steps="
LESS = {  # arguments that keep a command short
    "pretrain minute": f"{_SHORT}4 --set target.below_unigram=-9",
    "pretrain base": f"{_SHORT}1 --set model.size=tiny --set run.precision=float32 --set phases.1.steps=1 "
    "--set phases.1.batch_tokens=512 --set phases.1.max_length=32 --set phases.1.batches_per_step=1",
    "finetune": "--epochs 1 --batch-size 8",
    "tokenizer": "--vocab-size 200",
}
NOT_RUN = (
    "fastbert serve",
    "torchrun",
    "--engine ray",
    "ablate",
    "--fp8",
)  # see test_serving, _distributed, _ray, _pretraining_commands


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(language, file that is quoted, text) of each block."""
    yield from BLOCK.findall(page.read_text(encoding="utf-8"))


def lines_of(text: str) -> Iterator[str]:
    """The commands of a block of a shell; a line may go on behind a backslash."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            yield line.strip()


def run_line(line: str) -> None:
    """Runs a line, or looks at it."""
    words = shlex.split(line, comments=True)
    env = dict(os.environ)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in targets), line
    elif words[0] == "curl":  # which test_serving sends
        json.loads(words[words.index("-d") + 1])
    elif words[0] == "pip":
        assert words[1] == "install", line
    elif words[:2] == ["python", "-c"]:
        subprocess.run([sys.executable, *words[1:]], check=True)
    elif words[0] in ("python", "pytest"):
        assert all((ROOT / word).exists() for word in words[1:] if word.endswith(".py")), line
    else:
        run_fastbert(line, words, env)


def run_fastbert(line: str, words: list[str], env: dict[str, str]) -> None:
    """Runs a command of fastbert, or parses it where running is for other tests."""
    from fastbert import cli

    target = None
    if ">" in words:
        target, words = Path(words[words.index(">") + 1]).expanduser(), words[: words.index(">")]
    arguments = words[words.index("fastbert") + 1 :]
    if any(part in line for part in NOT_RUN):
        cli._parser().parse_args(arguments)
        return
    arguments += shlex.split(LESS.get(arguments[0], LESS.get(" ".join(arguments[:2]), "")))
    if env != dict(os.environ):  # which Triton and fastbert read when they start
        subprocess.run([sys.executable, "-m", "fastbert", *arguments], check=True, env=env)
        return
    print("$", *words, flush=True)
    with contextlib.ExitStack() as stack:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(target.open("w"))))
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # of --version and --print-completion
            code = end.code
    assert code == 0, f"{line}: exit code {code}"


def main(page: Path) -> None:
    """Runs a page in the current folder."""
    if "int8" in page.read_text(encoding="utf-8"):  # which is taken or refused by what else runs on this machine
        from fastbert.model import quantizing

        quantizing.MIN_GAIN, quantizing.MIN_COSINE = 0.0, 0.0
    scope: dict[str, object] = {"__name__": "__main__"}
    for language, quoted, text in blocks(page):
        if quoted:
            assert text.rstrip("\n") in (ROOT / quoted).read_text(encoding="utf-8"), f"{page} quotes what {quoted} does not say"
        elif language == "python" and "http://127.0.0.1" in text:  # test_serving runs it beside a server
            compile(text, str(page), "exec")
        elif language == "python":
            exec(compile(text, str(page), "exec"), scope)
        elif language == "sh":
            for line in lines_of(text):
                run_line(line)
        else:
            assert language == "text", f"{page}: a block of {language or 'no language'!r} runs nowhere; say python, sh or text"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        page, _, folder = argument.partition("=")
        print(f"== {page}", flush=True)
        os.chdir(folder)
        main(Path(page))
