"""Byte-level BPE, as RoBERTa has it: the space before a word is part of the word's first token.

A text that begins without one reads its first word without the space; `add_prefix_space` puts one there. Both the pre-tokenizer
and the post-processor, which takes the space out of the offsets, must know.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

_TRIMMING = ("ByteLevel", "RobertaProcessing")  # post-processors that look at spaces


def prefixes_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the first word of a text is read as those behind a space: true of all that is not byte-level."""
    return all(step.get("add_prefix_space", True) for step in _steps(_state(tokenizer.pre_tokenizer), ("ByteLevel",)))


def trims_offsets(tokenizer: Tokenizer) -> bool:
    """Whether the post-processor changes offsets."""
    return bool(_steps(_state(tokenizer.post_processor), _TRIMMING))


def with_prefix_space(tokenizer: Tokenizer, wanted: bool) -> Tokenizer:
    """The tokenizer with a space before each text, or without."""
    content = json.loads(tokenizer.to_str())
    steps = [*_steps(content["pre_tokenizer"], ("ByteLevel",)), *_steps(content["post_processor"], _TRIMMING)]
    for step in steps:
        step["add_prefix_space"] = wanted
    return Tokenizer.from_str(json.dumps(content)) if steps else tokenizer


def without_post_processor(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer whose encodings are as its model gives them."""
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "post_processor": None}))


def _state(part: Any) -> Any:
    """A part of a tokenizer as tokenizer.json has it."""
    return None if part is None else json.loads(part.__getstate__())


def _steps(part: Any, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """The steps of these kinds in a part of tokenizer.json, which may be a sequence of steps."""
    if not isinstance(part, dict):
        return []
    inner = part.get("pretokenizers") or part.get("processors") or [part]
    return [step for step in inner if step.get("type") in kinds]
