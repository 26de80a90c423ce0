"""Finds registers that a Hopper warp-group product still uses while another instruction touches them.

An HGMMA runs beside the instructions that follow it, until a WARPGROUP.DEPBAR covers it. Until then nobody may write the
registers of its A operand, nor read or write its accumulator; products that add to the same accumulator run in order. The
compiler should see to that, but does not always (triton issues 9433, 11781 and 11854): the result is then wrong at random.

`find` follows every path through the code, around loops too, but not into functions. It sees registers only, not the shared
memory that holds B.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from benchmarks.kernels.sass import Instruction

_REGISTER = re.compile(r"-?\|?~?R(\d+)")
_IN_ADDRESS = re.compile(r"\bR(\d+)(\.64)?")
_WITHOUT_RESULT = ("ST", "RED", "BAR", "BRA", "BRX", "RET", "CALL", "WARPSYNC", "NANOSLEEP", "FCHK", "R2UR", "R2P", "UTMA")
_STORES = ("ST", "RED")
_ENDS = ("EXIT", "RET", "KILL")
_UNKNOWN_JUMPS = ("BRX", "JMP", "JMX")
_PRODUCT = re.compile(r"[A-Z]GMMA\b")  # HGMMA, QGMMA in fp8; those of other types are reported as unknown


@dataclass(frozen=True)
class _Product:
    """Registers of a warp-group product: its A operand (empty if that is in shared memory) and its accumulator."""

    operand: frozenset[int]
    accumulator: frozenset[int]


def find(code: list[Instruction]) -> list[str]:
    """One sentence for each pair of a product in flight and an instruction that touches its registers.

    The state before an instruction holds the products that may be in flight, each with the least number of younger groups of
    products; a wait that leaves n groups ends those with n or more. Where paths meet, the smaller number counts.
    """
    place = {line.address: index for index, line in enumerate(code)}
    products = {index: _product(line) for index, line in enumerate(code) if _PRODUCT.match(line.name)}
    before: list[dict[int, int] | None] = [None] * len(code)
    found: dict[tuple[int, int], str] = {}
    waiting: deque[int] = deque()

    def reach(index: int, state: dict[int, int]) -> None:
        known = before[index]
        merged = state if known is None else {i: min(known.get(i, n), state.get(i, n)) for i, n in (known | state).items()}
        if merged != known:
            before[index] = merged
            waiting.append(index)

    if products:
        for line in code:
            if line.name.startswith(_UNKNOWN_JUMPS) or (line.name.startswith("BRA") and line.target not in place):
                raise ValueError(f"a jump that is not followed: {line.name} {', '.join(line.operands)} at {line.address:#x}")
        reach(0, {})
    while waiting:
        index = waiting.popleft()
        line, state = code[index], before[index]
        assert state is not None
        for other in state:
            if (index, other) not in found and (what := _clash(line, products.get(index), products[other])):
                found[index, other] = f"{line.name} at {line.address:#x} {what} of the product at {code[other].address:#x}"
        after = _after(line, index, state)
        if line.target is not None:
            reach(place[line.target], after)
        always = line.predicate in ("", "PT") and len(line.operands) == 1
        leaves = line.name.startswith(_ENDS) or (line.name.startswith("BRA") and always)
        if index + 1 < len(code) and not (leaves and line.predicate in ("", "PT")):
            reach(index + 1, after)
    return [found[pair] for pair in sorted(found)]


def _after(line: Instruction, index: int, state: dict[int, int]) -> dict[int, int]:
    """The products in flight after an instruction; a product whose group is still open has -1 younger groups."""
    if _PRODUCT.match(line.name):
        state = state | {index: -1}
        if any(operand.startswith("gsb") for operand in line.operands):  # the last of its group
            state = {i: n + 1 for i, n in state.items()}
    elif line.name.startswith("WARPGROUP.DEPBAR") and line.predicate in ("", "PT"):
        left = int(line.operands[-1], 16)
        state = {i: n for i, n in state.items() if n < left}
    return state


def _product(line: Instruction) -> _Product:
    size = re.match(r"[HQ]GMMA(?:\.SP)?\.64x(\d+)x\d+\.(F16|F32|S32)", line.name)
    if not size:
        raise ValueError(f"unknown form of warp-group product: {line.name} at {line.address:#x}")
    registers = int(size[1]) // (4 if size[2] == "F16" else 2)
    operand = _REGISTER.match(line.operands[1])
    return _Product(
        operand=_span(int(operand[1]), 4) if operand else frozenset(),
        accumulator=_span(int(line.operands[0].removeprefix("R")), registers),
    )


def _clash(line: Instruction, product: _Product | None, other: _Product) -> str:
    """What an instruction does to the registers of another product that is in flight; "" if nothing."""
    if product:
        if product.operand & other.accumulator:
            return "reads the accumulator"
        if product.accumulator & other.operand:
            return "writes operand A"
        if product.accumulator & other.accumulator and product.accumulator != other.accumulator:
            return "writes a part of the accumulator"
        return ""
    written = _written(line)
    if written & other.operand:
        return "writes operand A"
    if written & other.accumulator:
        return "writes the accumulator"
    return "reads the accumulator" if _read(line) & other.accumulator else ""


def _span(first: int, registers: int) -> frozenset[int]:
    return frozenset(range(first, first + registers))


def _width(name: str) -> int:
    """Registers of the widest operand of an instruction of this name."""
    if name.startswith(("HMMA", "IMMA", "DMMA")):
        return 4
    if name.startswith(("LDSM", "STSM")):
        return int(name[-1]) if name[-1] in "124" else 4
    if name.startswith(("DADD", "DMUL", "DFMA", "CS2R")) or ".WIDE" in name or ".F64" in name or ".S64" in name:
        return 2
    if name.startswith("F2I") and ".U64" in name:
        return 2
    parts = name.split(".")
    return 4 if "128" in parts else 2 if "64" in parts and name.startswith(("LD", "ST", "ATOM", "RED")) else 1


def _written(line: Instruction) -> frozenset[int]:
    operands = list(line.operands)
    if len(operands) > 1 and re.fullmatch(r"P\d|PT", operands[0]):  # a predicate may stand before the result
        operands = operands[1:]
    first = _REGISTER.match(operands[0])
    if not first or line.name.startswith(_WITHOUT_RESULT):
        return frozenset()
    return _span(int(first[1]), _width(line.name))


def _read(line: Instruction) -> frozenset[int]:
    """The registers that an instruction reads."""
    has_result = bool(_written(line))
    found: set[int] = set()
    for operand in line.operands:
        register = _REGISTER.match(operand)
        if register and has_result:
            has_result = False
        elif register:
            wide = line.name.startswith((*_STORES, "ATOM", "HMMA", "IMMA", "D")) or ".F64" in line.name
            wide = wide or (".WIDE" in line.name and operand is line.operands[-1])
            found |= _span(int(register[1]), _width(line.name) if wide else 1)
        else:
            for address in _IN_ADDRESS.finditer(operand):
                found |= _span(int(address[1]), 2 if address[2] else 1)
    return frozenset(found)
