"""JSON files, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastbert.errors import CheckpointError, CheckpointNotFoundError

MAX_JSON_BYTES = 256 << 20  # a tokenizer.json of a large vocabulary has some 20 MB
MAX_JSON_DEPTH = 64


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointNotFoundError: no such file. CheckpointError: not valid JSON, or not an object.
    """
    return _read_json(path, dict)


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects from a file; raises as `read_json`."""
    return _read_json(path, list)


def _read_json(path: Path, kind: type) -> Any:
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path.parent} has no {path.name}")
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; a JSON file of a model has at most {MAX_JSON_BYTES:,}")
    try:
        value: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path} is not valid JSON: it is nested too deeply") from None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected a {kind.__name__}")
    if isinstance(value, list) and not all(isinstance(item, dict) for item in value):
        raise CheckpointError(f"{path} holds a list with something other than objects")
    if _depth(value) > MAX_JSON_DEPTH:
        raise CheckpointError(f"{path} is nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted up to one beyond the limit."""
    level: list[Any] = [value]
    depth = 0
    while level and depth <= MAX_JSON_DEPTH:
        inside: list[Any] = []
        for one in level:
            inside += list(one.values()) if isinstance(one, dict) else one
        level = [part for part in inside if isinstance(part, dict | list)]
        depth += 1
    return depth


def read_json_if_present(path: Path) -> dict[str, Any]:
    """As `read_json`, and an empty object where there is no such file."""
    return read_json(path) if path.is_file() else {}
