"""A PTX text as Python functions, launched with tensors as arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emulator.flow import joins, registers_in_flight
from emulator.global_memory import Allocation, TensorMap
from emulator.machine import Machine, Options, unset
from emulator.opcodes import TABLE
from emulator.ptx import BYTES, DTYPES, Instruction, Parameter, parse
from emulator.reports import WARNINGS, KernelFault, Report
from emulator.translation import Translator

_WIDEST = 16  # bytes of an access


class Kernel:
    """A kernel of a PTX module.

    Args:
        text: the module.

    Raises:
        UnknownOpcode: at the first instruction that is not modelled, with its line.
    """

    def __init__(self, text: str) -> None:
        self.program = parse(text)
        translator = Translator(self.program, TABLE)
        self.instructions, self.source = translator.instructions, translator.source
        exec(compile(self.source, f"<{self.program.name}>", "exec"), translator.scope)
        self.functions = [translator.scope[f"block{number}"] for number in range(len(self.program.blocks))]
        self.sizes = [len(block) for block in self.program.blocks]
        self.joins = joins(self.program.exits)
        self.granule = min([_WIDEST, *filter(None, map(_shared_bytes, self.instructions))])
        self.multiplies = any(one.opcode == "wgmma" for one in self.instructions)  # in groups of four warps
        self._in_flight = registers_in_flight(self.program) if self.multiplies else []
        types = self.program.types
        self._unset = [
            unset(np.dtype(bool) if types[register] == "pred" else np.dtype(f"u{BYTES[types[register]]}"))
            for register in translator.places
        ]

    def new_registers(self) -> list[Any]:
        """The registers that values cross between blocks in, unset."""
        return list(self._unset)

    def launch(
        self,
        grid: Sequence[int],
        arguments: Sequence[Any],
        shared: int,
        options: Options = Options(),  # noqa: B008 - frozen
    ) -> Machine:
        """Runs the kernel.

        Args:
            grid: blocks by dimension.
            arguments: by PTX parameter: tensors, `TensorMap`s, numbers, None for a pointer that is not there.
            shared: bytes of shared memory of a block.
            options: how to run it.

        Raises:
            KernelFault: with all reports, if `options.raises`.
        """
        x, y, z, *_ = (*grid, 1, 1, 1)
        parameters, allocations, maps = self._given(arguments)
        machine = Machine(self, (x, y, z), parameters, allocations, maps, shared, options)
        at_once = max(1, options.threads // self.program.threads)
        total = x * y * z
        with np.errstate(all="ignore"):
            for first in range(0, total, at_once)[:: -1 if options.reverse_order else 1]:
                machine.run(first, min(at_once, total - first))
        for here, register in self._in_flight:
            instruction = self.instructions[here]
            detail = f"{register} belongs to a product that was not waited for"
            place = instruction.line, instruction.source, instruction.text
            machine.reports["registers in flight", here] = Report("registers in flight", self.program.name, *place, detail)
        faults = [report for report in machine.reports.values() if report.kind not in WARNINGS]
        if faults and options.raises:
            raise KernelFault(faults)
        return machine

    def _given(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Allocation], dict[int, TensorMap]]:
        parameters: list[Any] = []
        allocations: list[Allocation] = []
        maps: dict[int, TensorMap] = {}
        missing = [None] * (len(self.program.parameters) - len(arguments))  # scratch memory that Triton's launchers add
        for parameter, value in zip(self.program.parameters, [*arguments, *missing], strict=True):
            tensor = value.tensor if isinstance(value, TensorMap) else value
            if not isinstance(tensor, torch.Tensor):
                parameters.append(_number(parameter, value))
                continue
            size = _extent(tensor) * tensor.element_size()
            allocation = Allocation(len(allocations) + 1, tensor.data_ptr(), size, parameter.name)
            allocations.append(allocation)
            parameters.append(np.array([allocation.low], np.uint64))
            if isinstance(value, TensorMap):
                value.allocation = allocation
                maps[allocation.low] = value
        return parameters, allocations, maps


def _extent(tensor: torch.Tensor) -> int:
    """Elements from the first of a tensor to the end of its last row, which may be longer in memory than in the tensor."""
    if not tensor.numel():
        return 0
    last = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    rows = max((size * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)), default=1)
    behind = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    return min(max(last, rows), behind)


def _number(parameter: Parameter, value: Any) -> Any:
    if parameter.type in ("f32", "f64"):
        return np.array([value], DTYPES[parameter.type])
    size = parameter.size if parameter.type != "bytes" else 8
    return np.array([int(value or 0) & ((1 << 8 * size) - 1)], f"u{size}")


def _shared_bytes(instruction: Instruction) -> int | None:
    """Bytes of an access to shared memory by each thread, None for other instructions."""
    parts = instruction.parts
    if instruction.opcode in ("ld", "st") and parts[1].startswith("shared"):
        vector = next((int(part[1]) for part in parts if re.fullmatch(r"v\d", part)), 1)
        return vector * BYTES[parts[-1]]
    if instruction.name.startswith(("cp.async.ca", "cp.async.cg")):
        return int(instruction.operands[2])
    return None
