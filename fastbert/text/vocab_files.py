"""vocab.txt: a token a line, in the order of the ids; of a repeated line the last one counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastbert import schema
from fastbert.errors import CheckpointError, CheckpointNotFoundError, InputError


def read_vocab(path: Path) -> dict[str, int]:
    """Tokens with their ids from a vocab.txt. A byte-order mark is skipped; of a repeated token the last line counts.

    Raises:
        CheckpointNotFoundError: no such file. CheckpointError: it is not UTF-8 text, or empty.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CheckpointError(f"{path}, line {line}: not UTF-8 text") from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise CheckpointError(f"{path} is empty; expected a token a line")
    return {token: i for i, token in enumerate(lines)}


def vocab_lines(vocab: Mapping[str, int]) -> list[str]:
    """The lines of a vocab.txt that gives every token its id.

    An id that no token has, as after a repeated line, gets the line of the next token: read again, the last one counts.

    Raises:
        InputError: a token that a line cannot hold, or ids too far apart to be lines.
    """
    tokens = {token_id: token for token, token_id in vocab.items()}
    count = max(tokens) + 1
    if count > 2 * len(tokens) + 100_000:
        raise InputError(f"the vocabulary has {len(tokens):,} entries with ids up to {count - 1:,}: no vocab.txt can hold it")
    lines: list[str] = []
    for token_id in range(count):
        if token_id in tokens:
            lines += [tokens[token_id]] * (token_id + 1 - len(lines))
    for i, line in enumerate(lines):
        if "\n" in line or line.endswith("\r") or (i == 0 and line.startswith("\ufeff")):
            raise InputError(f"token {i}, {schema.shown(line)}, cannot stand in a vocab.txt: a line ends in it")
    if lines[-1] == "":
        lines.append("")  # the reader takes one empty line at the end for the end
    return lines
