"""Parses a PTX module of one kernel into instructions, basic blocks and how these follow each other.

Only what Triton writes is parsed: one entry, registers by ranges or by name, inline assembly in scopes of its own. Types are
those of the PTX manual, section 5.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

# PTX type -> (numpy type of a register, bytes). 16-bit floats that numpy does not have, and pairs, are kept as bits.
_KINDS = {
    **{f"{kind}{bits}": (f"{'i' if kind == 's' else 'u'}{bits // 8}", bits // 8) for kind in "usb" for bits in (8, 16, 32, 64)},
    "f16": ("f2", 2),
    "bf16": ("u2", 2),
    "f16x2": ("u4", 4),
    "bf16x2": ("u4", 4),
    "e4m3x2": ("u2", 2),
    "f32": ("f4", 4),
    "f64": ("f8", 8),
    "pred": ("?", 1),
}
DTYPES = {name: np.dtype(kind) for name, (kind, _) in _KINDS.items()}
BYTES = {name: size for name, (_, size) in _KINDS.items()}
BITS_OF = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}  # the unsigned type of so many bytes
_ENDS = ("bra", "ret", "exit", "trap")

_SPACE = re.compile(r"(?:\s+|//[^\n]*)+")
_LABEL = re.compile(r"([$\w]+):(?!:)")
_STATEMENT = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+)?(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?(\w+)$")
_BYTES_PARAMETER = re.compile(r"\.param\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]")

SPECIAL = frozenset(("%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%ntid.x", "%laneid"))
_WITHOUT_RESULT = frozenset(
    ("st", "bra", "bar", "barrier", "ret", "exit", "trap", "cp", "fence", "membar", "stmatrix", "red", "prefetch")
)
_BRACKET = re.compile(r"[{\[(]")


@dataclass(frozen=True)
class Address:
    """A memory operand: register or symbol, an offset in bytes, and the coordinates of a tensor copy."""

    base: str
    offset: int = 0
    coordinates: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Instruction:
    """One instruction. Operands are register names, ints, arrays of one float, addresses, or lists of these.

    Attributes:
        name, parts: the opcode, and its parts between dots.
        predicate: (register, whether it is negated), or None.
        line, source, text: where it stands in the PTX and in the kernel's file, and the statement.
    """

    name: str
    operands: tuple[Any, ...]
    predicate: tuple[str, bool] | None
    line: int
    source: str
    text: str
    parts: tuple[str, ...] = ()

    @property
    def opcode(self) -> str:
        """The first part of the name."""
        return self.parts[0]

    @cached_property
    def registers(self) -> tuple[list[str], list[str]]:
        """Registers that the instruction reads, and those that it writes."""
        reads = [self.predicate[0]] if self.predicate else []
        writes: list[str] = []
        operands = self.operands
        if operands and self._has_result():
            writes = [one for one in leaves(operands[0]) if is_register(one)]
            if self.predicate:
                reads += writes  # which keep their values in the other threads
            if self.opcode != "wgmma":  # whose result is also the addend
                operands = operands[1:]
        names = [one.lstrip("!") for one in leaves(operands) if isinstance(one, str)]
        return reads + [name for name in names if is_register(name)], writes

    def _has_result(self) -> bool:
        if self.opcode == "wgmma":
            return self.parts[1] == "mma_async"
        if self.opcode == "mbarrier":
            return self.parts[1] in ("try_wait", "test_wait")
        return self.opcode not in _WITHOUT_RESULT


def is_register(operand: Any) -> bool:
    """Whether an operand is a register that instructions write."""
    return isinstance(operand, str) and operand.startswith("%") and operand not in SPECIAL


def leaves(operand: Any) -> list[Any]:
    """The operands in nested lists, and the parts of addresses."""
    if isinstance(operand, (list, tuple)):
        return [leaf for one in operand for leaf in leaves(one)]
    return [operand.base, *leaves(operand.coordinates)] if isinstance(operand, Address) else [operand]


class Exit(NamedTuple):
    """How a basic block ends: "fall", "goto", "if" (a branch, or `after`), "ret", "ifret" and "trap"."""

    kind: str
    target: int = -1
    after: int = -1


class Parameter(NamedTuple):
    """A kernel parameter: its type is "bytes" for a tensor map."""

    name: str
    type: str
    size: int


@dataclass
class Program:
    """A kernel: parameters, the type of each register, basic blocks with their exits, threads of a block."""

    name: str
    parameters: list[Parameter]
    types: dict[str, str]
    blocks: list[list[Instruction]]
    exits: list[Exit]
    threads: int
    text: str


def parse(text: str) -> Program:
    """The kernel of a PTX module. NotImplementedError for what Triton does not write."""
    head, rest = text.split(".entry", 1)
    name = re.match(r"\s*([\w$]+)", rest)
    bounds = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", rest)
    assert name is not None
    assert bounds is not None, "the kernel does not say how many threads a block has"
    start = rest.index("{")
    listed = rest[rest.index("(") + 1 : rest.index(")\n")] if "(" in rest[:start] else ""
    reader = _Reader(files=_files(text), line=(head + ".entry" + rest[:start]).count("\n") + 1)
    reader.read(rest[start:])
    blocks, exits = _basic_blocks(reader.items)
    parameters = [_parameter(one) for one in split(listed)]
    return Program(name[1], parameters, reader.types, blocks, exits, int(bounds[1]), text)


def split(text: str) -> list[str]:
    """The parts of a list at its commas, not at those inside brackets."""
    if not _BRACKET.search(text):
        return [part.strip() for part in text.split(",") if part.strip()]
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "{[(") - (character in "}])")
        if character == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _files(text: str) -> dict[str, str]:
    return {number: path.split("/")[-1] for number, path in re.findall(r'\.file\s+(\d+)\s+"([^"]+)"', text)}


def _parameter(text: str) -> Parameter:
    if found := _BYTES_PARAMETER.match(text):
        return Parameter(found[1], "bytes", int(found[2]))
    if found := _PARAMETER.match(text):
        return Parameter(found[2], found[1], BYTES[found[1]])
    raise NotImplementedError(f"parameter {text}")


@dataclass
class _Reader:
    """Reads the body of a kernel: `items` are instructions and labels, in order."""

    files: dict[str, str]
    line: int
    items: list[Instruction | str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # in this scope, of registers that are declared by name
    source: str = ""

    def read(self, body: str) -> None:
        """Statements up to the brace that closes the body."""
        place, scopes = 0, []
        while place < len(body):
            if space := _SPACE.match(body, place):
                self.line += space[0].count("\n")
                place = space.end()
            elif body[place] == "{":
                scopes.append(dict(self.names))
                place += 1
            elif body[place] == "}":
                self.names = scopes.pop()
                place += 1
                if not scopes:
                    return
            elif label := _LABEL.match(body, place):
                self.items.append(self.names.get(label[1], label[1]))
                place = label.end()
            elif body.startswith((".loc", ".file"), place):
                end = body.index("\n", place)
                if found := re.match(r"\.loc\s+(\d+)\s+(\d+)", body[place:end]):
                    self.source = f"{self.files.get(found[1], found[1])}:{found[2]}"
                place = end
            else:
                end = body.index(";", place)
                self._statement(re.sub(r"//[^\n]*", "", body[place:end]).strip())
                self.line += body[place : end + 1].count("\n")
                place = end + 1

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            declared = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
            assert declared is not None
            for one in split(declared[2]):
                self._declare(one, declared[1])
        elif not text.startswith("."):
            found = _STATEMENT.match(text)
            assert found is not None, text
            negated, register, name, operands = found.groups()
            predicate = (self.names.get(register, register), negated == "!") if register else None
            given = tuple(self._operand(one) for one in split(operands))
            whole = " ".join(text.split())
            self.items.append(Instruction(name, given, predicate, self.line, self.source, whole, tuple(name.split("."))))

    def _declare(self, text: str, kind: str) -> None:
        if many := re.match(r"(%\w+)<(\d+)>", text):
            self.types |= {f"{many[1]}{i}": kind for i in range(int(many[2]))}
        else:  # in inline assembly, which may declare the same name again
            self.names[text] = f"%{text.strip('%')}_{len(self.types)}"
            self.types[self.names[text]] = kind

    def _operand(self, text: str) -> Any:
        if text.startswith("{"):
            return [self._operand(one) for one in split(text[1:-1])]
        if text.startswith("["):
            base, *rest = split(text[1:-1])
            found = re.match(r"([%$\w.]+)\s*(?:\+\s*(-?\w+))?$", base)
            assert found is not None, text
            return Address(self.names.get(found[1], found[1]), int(found[2] or "0", 0), tuple(map(self._operand, rest)))
        if "|" in text:
            return [self._operand(one.strip()) for one in text.split("|")]
        if text[:2] in ("0f", "0F"):
            return np.array([int(text[2:], 16)], np.uint32).view(np.float32)
        if text[:2] in ("0d", "0D"):
            return np.array([int(text[2:], 16)], np.uint64).view(np.float64)
        if text[0] in "%$_!" or text[0].isalpha():
            return self.names.get(text, text)
        return int(text.rstrip("U"), 0)


def _basic_blocks(items: list[Instruction | str]) -> tuple[list[list[Instruction]], list[Exit]]:
    targets = {one.operands[0] for one in items if isinstance(one, Instruction) and one.opcode == "bra"}
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    for one in items:
        if isinstance(one, Instruction):
            blocks[-1].append(one)
            if one.opcode in _ENDS:
                blocks.append([])
        elif one in targets:  # the others are of debug information
            if blocks[-1]:
                blocks.append([])
            labels[one] = len(blocks) - 1
    return blocks, [_exit(block, i + 1, len(blocks), labels) for i, block in enumerate(blocks)]


def _exit(block: list[Instruction], after: int, count: int, labels: dict[str, int]) -> Exit:
    last = block[-1] if block else None
    if last is None or last.opcode not in _ENDS:
        return Exit("fall", after=after) if after < count else Exit("ret")
    if last.opcode == "bra":
        return Exit("if" if last.predicate else "goto", labels[last.operands[0]], after)
    return Exit("ifret", after=after) if last.predicate else Exit(last.opcode)
