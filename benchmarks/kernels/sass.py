"""Parses the machine code that `nvdisasm -c` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: place in the code, bytes.
        predicate: the register under which it runs, "P0" or "!UP1" for example; "" if it always runs.
        name: the mnemonic with its suffixes, "LDG.E.128" for example.
        operands: text between commas.
        target: address that a branch jumps to; None for other instructions.
    """

    address: int
    predicate: str
    name: str
    operands: tuple[str, ...]
    target: int | None = None


def parse(code: str) -> list[Instruction]:
    """The instructions of a disassembly, in order."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    found: list[tuple[int, str, str, str]] = []
    for line in code.splitlines():
        if label := _LABEL.match(line):
            waiting.append(label[1])
        elif match := _LINE.search(line):
            labels |= dict.fromkeys(waiting, int(match[1], 16))
            waiting = []
            found.append((int(match[1], 16), match[2] or "", match[3], match[4]))
    return [
        Instruction(address, predicate, name, tuple(part.strip() for part in text.split(",")), _target(name, text, labels))
        for address, predicate, name, text in found
    ]


def _target(name: str, operands: str, labels: dict[str, int]) -> int | None:
    label = re.search(r"(\.L_x_\d+)", operands) if name.startswith("BRA") else None
    return labels.get(label[1]) if label else None
