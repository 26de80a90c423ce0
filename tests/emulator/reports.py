"""What the checks find: one report for each kind of fault and instruction."""

from __future__ import annotations

from dataclasses import dataclass

# Seen but not a fault: lanes that hold copies of one sum may round differently where the compiler contracts to a fma.
WARNINGS = frozenset({"unequal copies"})


@dataclass
class Report:
    """A fault: its kind, the instruction, and what the first thread met that ran into it."""

    kind: str
    kernel: str
    line: int
    source: str
    text: str
    detail: str
    count: int = 1

    def __str__(self) -> str:
        where = f"{self.kernel} at {self.source}, PTX line {self.line}"
        return f"{self.kind}: {where}: {self.text}\n    {self.detail}; {self.count} time(s)"


class KernelFault(Exception):
    """A launch with reports that are not warnings."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__("\n".join(map(str, reports)))
        self.reports = reports


class UnknownOpcode(NotImplementedError):
    """An instruction, or a form of one, that the emulator does not model."""
