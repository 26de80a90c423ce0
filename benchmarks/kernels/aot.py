"""Compiles kernel launches ahead of time, without a GPU, and inspects the resulting machine code.

`record` runs a real launcher on tensors without memory and records its launches; `inspect` compiles one for an architecture
with the same specialisation that Triton would choose, and reads registers, shared memory, stack, spills and instructions from
the result. This does not work under Triton's interpreter, whose functions do not compile.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from benchmarks.kernels import hazards, pipes, sass
from fastbert.kernels import tuning

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm89": GPUTarget("cuda", 89, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Per multiprocessor: maximum shared memory of a block, total shared memory, maximum resident warps. CUDA programming guide,
# technical specifications.
LIMITS = {
    "sm80": (163 << 10, 164 << 10, 64),
    "sm89": (99 << 10, 100 << 10, 48),
    "sm90": (227 << 10, 228 << 10, 64),
    "sm100": (227 << 10, 228 << 10, 64),
    "gfx942": (64 << 10, 64 << 10, 32),
}
_STACK = ("LDL", "STL")  # instructions that access the stack
SPILLS_THAT_PAY = {("sm90", "attention_short_bwd")}  # measured on a card against rows that do not spill, see tuning.py
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WITH_E4M3 = ("sm89", "sm90", "sm100")
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass
class Launch:
    """A recorded kernel launch: kernel, grid, every argument by name, and the compiler's options."""

    kernel: JITFunction[Any]
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        """The kernel's name without underscores at its ends and the suffix `_kernel`."""
        return self.kernel.__name__.strip("_").removesuffix("_kernel")


@dataclass
class Inspection:
    """The result of compiling a launch for one architecture: registers per thread, bytes, instruction counts and hazards."""

    registers: int = 0
    stack: int = 0
    spills: int = 0
    spills_in_loops: int = 0
    shared: int = 0
    warps: int = 0
    tensor_core: dict[str, int] = field(default_factory=dict)
    occupancy: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    hazards: list[str] = field(default_factory=list)
    loop: dict[str, float] | None = None


@contextmanager
def _caught(arch: str) -> Iterator[list[Launch]]:
    """Records launches instead of running them, as if on a GPU of that architecture with 132 multiprocessors."""
    launches: list[Launch] = []

    def note(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        names = [parameter.name for parameter in kernel.params]
        launches.append(Launch(kernel, grid, {**dict(zip(names, args, strict=False)), **kwargs}, options))

    kept = JITFunction.run, tuning.architecture, tuning._multiprocessors
    JITFunction.run, tuning.architecture, tuning._multiprocessors = note, lambda _: arch, lambda _: 132  # type: ignore
    try:
        yield launches
    finally:
        JITFunction.run, tuning.architecture, tuning._multiprocessors = kept  # type: ignore[method-assign]


def record(arch: str, call: Callable[[], Any]) -> list[Launch]:
    """The launches that `call` would make on `arch`; it must work on tensors of the device "meta"."""
    with _caught(arch) as launches:
        call()
    return launches


@contextmanager
def compiled_by_calls() -> Iterator[list[Any]]:
    """Collects the compiled kernel of every launch that is made on a GPU inside the block."""
    found: list[Any] = []
    run = JITFunction.run

    def kept(kernel: JITFunction[Any], *args: Any, **kwargs: Any) -> Any:
        found.append(run(kernel, *args, **kwargs))
        return found[-1]

    JITFunction.run = kept  # type: ignore[method-assign]
    try:
        yield found
    finally:
        JITFunction.run = run  # type: ignore[method-assign]


def compile_launch(launch: Launch, arch: str) -> Any:
    """Triton's compiled kernel of a launch."""
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        kind, divisible = _specialise(parameter, value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[parameter.name] = value
        elif divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=TARGETS[arch], options=launch.options)


def _specialise(parameter: Any, value: Any) -> tuple[str, bool]:
    """The type of an argument and whether it is divisible by 16, as Triton's launcher determines them."""
    if parameter.is_constexpr or value is None:
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        aligned = not parameter.do_not_specialize_on_alignment and value.storage_offset() * value.element_size() % 16 == 0
        return "*" + _TYPES[value.dtype], aligned
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_TYPES[value.base.dtype]}{list(value.block_shape)}>".replace(" ", ""), False
    if isinstance(value, float):
        return "fp32", False
    if value == 1 and not parameter.do_not_specialize:
        return "constexpr", False
    kind = "i32" if -(2**31) <= value < 2**31 else "i64"
    return kind, not parameter.do_not_specialize and value % 16 == 0


def inspect(launch: Launch, arch: str) -> Inspection:
    """Compiles a launch for an architecture and reads the machine code."""
    compiled = compile_launch(launch, arch)
    found = Inspection(shared=compiled.metadata.shared, warps=launch.options.get("num_warps", 4))
    if arch.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        found.registers = _last_number(r"\.vgpr_count:\s+(\d+)", text)
        found.stack = _last_number(r"\.private_segment_fixed_size:\s+(\d+)", text)
        found.spills = _last_number(r"\.vgpr_spill_count:\s+(\d+)", text)
        found.tensor_core = dict(Counter(re.findall(r"\b(v_mfma)", text)))
        return found
    usage = _run("cuobjdump", ("-res-usage",), compiled.asm["cubin"])
    lines = instructions(compiled)
    found.registers = _last_number(r"REG:(\d+)", usage)
    found.stack = _last_number(r"STACK:(\d+)", usage)
    names = [line.name for line in lines]
    found.spills = sum(name.startswith(_STACK) for name in names)
    found.spills_in_loops = _in_loops(lines)
    kinds = ("HGMMA", "QGMMA", "UTCHMMA", "UTCQMMA", "HMMA", "UTMALDG", "UTMASTG")
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in kinds}
    found.tensor_core = {kind: count for kind, count in counts.items() if count}
    found.memory = dict(Counter(name for name in names if name.startswith(("LDG", "STG"))))
    found.occupancy = _occupancy(arch, found)
    found.hazards = hazards.find(lines)
    steps = launch.arguments.get("K", 0) // launch.arguments.get("BLOCK_K", 1)
    found.loop = pipes.main_loop(lines, found.warps, steps)
    return found


def instructions(compiled: Any) -> list[sass.Instruction]:
    """The machine code of a kernel that Triton compiled for an NVIDIA GPU."""
    return sass.parse(_run("nvdisasm", ("-c",), compiled.asm["cubin"]))


def hazards_of(compiled: Any) -> list[str]:
    """The hazards in the machine code of a compiled kernel, see hazards.py; none where it is not for an NVIDIA GPU."""
    return hazards.find(instructions(compiled)) if "cubin" in compiled.asm else []


def _in_loops(lines: list[sass.Instruction]) -> int:
    """Instructions of innermost loops that access the stack. Outside they are run once a block, and may pay for occupancy."""
    loops = [(line.target, line.address) for line in lines if line.target is not None and line.target < line.address]
    inner = [(first, last) for first, last in loops if not any(first < other and end <= last for other, end in loops)]
    return sum(line.name.startswith(_STACK) and any(a <= line.address <= b for a, b in inner) for line in lines)


def _run(tool: str, options: tuple[str, ...], cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(_TOOLS / tool), *options, file.name], capture_output=True, text=True, check=True).stdout


def _last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _occupancy(arch: str, found: Inspection) -> float:
    """Occupancy: resident warps over the maximum; limited by registers (in units of 256 per warp), shared memory and blocks."""
    _, shared, most = LIMITS[arch]
    per_warp = -(-found.registers * 32 // 256) * 256
    blocks = min(65536 // (per_warp * found.warps), most // found.warps, 32)
    if found.shared:
        blocks = min(blocks, shared // (found.shared + 1024))
    return blocks * found.warps / most
