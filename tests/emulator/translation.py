"""Translates basic blocks into Python functions over numpy arrays: one array a register, one element a thread.

`block3(M, R, T)` runs the instructions of a block for threads T of machine M, reads registers from R at its begin and writes
those to R that another block reads. Inside a block a register is a local variable. It returns the condition of the branch at
its end. Values that all threads share have one element, and numpy broadcasts them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emulator import arithmetic, fragments, threads
from emulator.ptx import BITS_OF, BYTES, DTYPES, Address, Instruction, Program
from emulator.reports import UnknownOpcode

_SPECIAL = {
    "%tid.x": "T.tid",
    "%laneid": "T.lane",
    **{f"%ctaid.{axis}": f"T.cta[{i}]" for i, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": f"M.grid_size[{i}]" for i, axis in enumerate("xyz")},
    "%ntid.x": "M.block_size",
}
_SHARED_SYMBOL = "global_smem"  # where Triton has all shared memory


@dataclass
class Value:
    """What a register holds inside a block: a variable, its PTX type, and variables of the same bits under other types.

    `matrix` is (variable, place) for a register that is part of a tensor core's result and was not needed alone so far.
    """

    name: str
    type: str
    views: dict[Any, str] = field(default_factory=dict)
    matrix: tuple[str, int] | None = None


class Translator:
    """Python text for the basic blocks of a program, with constants and the places of registers between blocks.

    Attributes:
        source: text that defines a function for each block.
        scope: what the text refers to.
        places: register -> its place in R.
        instructions: all instructions in order; reports name them by their place.
    """

    def __init__(self, program: Program, table: Any) -> None:
        self.program = program
        self.places: dict[str, int] = {}
        self.instructions: list[Instruction] = []
        self.scope: dict[str, Any] = {"np": np, **vars(arithmetic), **vars(fragments), **vars(threads)}
        self.scope |= {_dtype_name(name): dtype for name, dtype in DTYPES.items()}
        self._table = table
        self._constants: dict[tuple[str, int], str] = {}
        self._parameters = {parameter.name: i for i, parameter in enumerate(program.parameters)}
        self._crossing = _crossing(program)
        self._lines: list[str] = []
        for number, block in enumerate(program.blocks):
            self._block(number, block)
        self.source = "\n".join(self._lines)

    def _block(self, number: int, block: list[Instruction]) -> None:
        self.values: dict[str, Value] = {}
        self.matrices: dict[str, tuple[list[str], str]] = {}  # variable -> its registers, and the function that gives them
        self.made: dict[Any, str] = {}  # fragments that were made already
        self._count = 0
        self._lines.append(f"def block{number}(M, R, T):")
        result = "None"
        written: set[str] = set()
        for instruction in block:
            self.instructions.append(instruction)
            predicate = self._predicate(instruction)
            if instruction.opcode in ("bra", "ret", "exit", "trap"):
                result = predicate or "None"
                if instruction.opcode == "trap":
                    self.emit(f"M.report('trap', {self.here}, T, {predicate}, 'the kernel stops itself')")
                continue
            handler = self._table.get(instruction.opcode)
            if handler is None:
                raise unknown(instruction)
            handler(self, instruction, predicate)
            written |= {*instruction.registers[1]}
        for register in sorted(written & self._crossing):
            self.emit(f"M.put(R, {self._place(register)}, {self.use(register, self.bits(register))}, T)")
        self.emit(f"return {result}")

    def _predicate(self, instruction: Instruction) -> str | None:
        if instruction.predicate is None:
            return None
        register, negated = instruction.predicate
        text = self.use(register, "pred")
        return f"(~{text})" if negated else text

    # What the table of opcodes is written with.

    @property
    def here(self) -> int:
        """The place of the instruction that is being translated."""
        return len(self.instructions) - 1

    def emit(self, text: str) -> None:
        """Adds a line to the block's function."""
        self._lines.append("    " + text)

    def fresh(self) -> str:
        """A new variable."""
        self._count += 1
        return f"v{self._count}"

    def bits(self, register: str) -> str:
        """The type by which a register is kept: "pred", or unsigned bits."""
        kind = self.program.types[register]
        return "pred" if kind == "pred" else BITS_OF[BYTES[kind]]

    def use(self, operand: Any, type: str) -> str:
        """An expression of an operand as a PTX type."""
        if isinstance(operand, (int, np.ndarray)):
            return self.constant(type, operand)
        if operand.startswith("!"):
            return f"(~{self.use(operand[1:], type)})"
        if operand in _SPECIAL:
            return _SPECIAL[operand] if type in ("u32", "b32") else f"{_SPECIAL[operand]}.view({_dtype_name(type)})"
        if operand in self._parameters:
            return f"M.parameters[{self._parameters[operand]}]"
        if not operand.startswith("%"):
            return self.constant(type, self._symbol(operand))
        value = self._value(operand)
        if DTYPES[value.type] == DTYPES[type]:
            return value.name
        if DTYPES[type] not in value.views:
            value.views[DTYPES[type]] = name = self.fresh()
            if BYTES[value.type] == BYTES[type]:
                self.emit(f"{name} = {value.name}.view({_dtype_name(type)})")
            else:  # the low bits of a wider register
                narrow = _dtype_name(BITS_OF[BYTES[type]])
                self.emit(f"{name} = {self.use(operand, self.bits(operand))}.astype({narrow}).view({_dtype_name(type)})")
        return value.views[DTYPES[type]]

    def put(self, register: str, expression: str, type: str, predicate: str | None) -> None:
        """Writes a register, in the threads whose predicate is true."""
        if register == "_":
            return
        size = BYTES[self.bits(register)]
        if type != "pred" and BYTES[type] != size:  # a narrow result in a wider register: with its sign, or zeros
            wide = ("s" if type.startswith("s") else "u") + str(8 * size)
            if type.startswith("f"):
                expression = f"({expression}).view({_dtype_name(BITS_OF[BYTES[type]])})"
            expression, type = f"({expression}).astype({_dtype_name(wide)})", wide
        if predicate is not None:
            expression = f"np.where({predicate}, {expression}, {self.use(register, type)})"
        name = self.fresh()
        self.emit(f"{name} = {expression}")
        self.values[register] = Value(name, type)

    def copy(self, register: str, source: str) -> None:
        """Makes a register the same value as another of its size."""
        self.values[register] = self._value(source)

    def constant(self, type: str, value: Any) -> str:
        """A name for a literal; that of a float is its bits."""
        if isinstance(value, np.ndarray):
            assert value.dtype.itemsize == BYTES[type], f"a literal of {value.dtype} as {type}"
            value = int(value.view(f"u{value.dtype.itemsize}")[0])
        key = (str(DTYPES[type]), value)
        if key not in self._constants:
            name = self._constants[key] = f"K{len(self._constants)}"
            bits = np.array([value % (1 << 8 * BYTES[type])], f"u{BYTES[type]}")
            self.scope[name] = bits.astype(bool) if type == "pred" else bits.view(DTYPES[type])
        return self._constants[key]

    def cast(self, expression: str, type: str) -> str:
        """An expression converted to a type by value."""
        return f"{expression}.astype({_dtype_name(type)})"

    def dtype(self, type: str) -> str:
        """The name of a type's numpy type."""
        return _dtype_name(type)

    def address(self, operand: Address, space: str) -> str:
        """The address of a memory operand: 64 bits in global memory, 32 in shared memory."""
        type = "u64" if space == "global" else "u32"
        if not operand.base.startswith("%"):
            return self.constant(type, self._symbol(operand.base) + operand.offset)
        text = self.use(operand.base, type)
        return f"{text} + {self.constant(type, operand.offset)}" if operand.offset else text

    def results(self, registers: Any, expression: str, type: str, predicate: str | None) -> None:
        """Writes several registers from an expression that gives one array each."""
        names = [self.fresh() for _ in registers]
        self.emit(f"{', '.join(names)}, = {expression}")
        for register, name in zip(registers, names, strict=True):
            self.put(register, name, type, predicate)

    def accumulator(self, registers: list[Any], gather: str) -> str:
        """The matrix that registers hold: the result that they are, or what `gather` makes of them."""
        held = [self.values.get(register) if isinstance(register, str) else None for register in registers]
        found = held[0].matrix[0] if held[0] is not None and held[0].matrix is not None else None
        if found is not None and all(v is not None and v.matrix == (found, i) for i, v in enumerate(held)):
            return found
        return self.fragment(gather, "", registers, "f32")

    def fragment(self, function: str, kind: str, registers: list[Any], type: str = "u32") -> str:
        """A matrix that a function of fragments.py makes of registers, once for the same values."""
        parts = [self.use(register, type) for register in registers]
        key = (function, kind, *parts)
        if key not in self.made:
            self.made[key] = name = self.fresh()
            given = f"T, {kind!r}, " if kind else "T, "
            self.emit(f"{name} = {function}({given}({', '.join(parts)},))")
        return self.made[key]

    def keep_matrix(self, registers: list[str], expression: str, scatter: str) -> None:
        """Makes registers the parts of a matrix, which `scatter` gives when one of them is needed alone."""
        name = self.fresh()
        self.emit(f"{name} = {expression}")
        self.matrices[name] = registers, scatter
        for i, register in enumerate(registers):
            self.values[register] = Value(name, "f32", matrix=(name, i))

    def _value(self, register: str) -> Value:
        value = self.values.get(register)
        if value is None:
            name = self.fresh()
            self.emit(f"{name} = M.get(R, {self._place(register)}, T)")
            value = self.values[register] = Value(name, self.bits(register))
        if value.matrix is None:
            return value
        matrix = value.matrix[0]
        registers, scatter = self.matrices[matrix]
        names = [self.fresh() for _ in registers]
        self.emit(f"{', '.join(names)}, = {scatter}({matrix})")
        for i, (one, name) in enumerate(zip(registers, names, strict=True)):
            held = self.values.get(one)
            if held is not None and held.matrix == (matrix, i):
                self.values[one] = Value(name, "f32")
        return self.values[register]

    def _place(self, register: str) -> int:
        return self.places.setdefault(register, len(self.places))

    def _symbol(self, name: str) -> int:
        if name != _SHARED_SYMBOL:
            raise UnknownOpcode(f"symbol {name} in {self.instructions[-1].text}")
        return 0


def unknown(instruction: Instruction) -> UnknownOpcode:
    """The error for an instruction that no function of the table translates."""
    return UnknownOpcode(f"{instruction.name} at PTX line {instruction.line}: {instruction.text}")


def _crossing(program: Program) -> set[str]:
    """Registers that a block reads before it writes them: their values come from another block."""
    found: set[str] = set()
    for block in program.blocks:
        known: set[str] = set()
        for instruction in block:
            reads, writes = instruction.registers
            found |= {register for register in reads if register not in known}
            known |= {*writes}
    return found


def _dtype_name(type: str) -> str:
    return f"D_{DTYPES[type].str[1:]}".replace("?", "1")
