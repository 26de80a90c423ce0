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
SPILLS_THAT_PAY = {("sm90", "attention_short_bwd")}  # measured on a card against rows that do not spill, see tuning.py
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
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
    """The result of compiling a launch for one architecture: registers per thread, bytes, and instruction counts."""

    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    warps: int = 0
    tensor_core: dict[str, int] = field(default_factory=dict)
    occupancy: float = 0.0
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
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _run("nvdisasm", "-c", file.name)
    found.registers = _last_number(r"REG:(\d+)", usage)
    found.stack = _last_number(r"STACK:(\d+)", usage)
    lines = _instructions(code)
    names = [name for _, name, _ in lines]
    found.spills = sum(name.startswith(("LDL", "STL")) for name in names)
    kinds = ("HGMMA", "UTCHMMA", "HMMA", "UTMALDG", "UTMASTG")
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in kinds}
    found.tensor_core = {kind: count for kind, count in counts.items() if count}
    found.occupancy = _occupancy(arch, found)
    steps = launch.arguments.get("K", 0) // launch.arguments.get("BLOCK_K", 1)
    found.loop = _main_loop(code, found.warps, steps)
    return found


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout


def _last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _instructions(code: str) -> list[tuple[int, str, str]]:
    """Parses the instructions as (address, name with its suffixes, operands)."""
    pattern = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
    return [(int(address, 16), name, operands) for address, name, operands in pattern.findall(code)]


def _occupancy(arch: str, found: Inspection) -> float:
    """Occupancy: resident warps over the maximum; limited by registers (in units of 256 per warp), shared memory and blocks."""
    _, shared, most = LIMITS[arch]
    per_warp = -(-found.registers * 32 // 256) * 256
    blocks = min(65536 // (per_warp * found.warps), most // found.warps, 32)
    if found.shared:
        blocks = min(blocks, shared // (found.shared + 1024))
    return blocks * found.warps / most


# The pipes of a Hopper multiprocessor: warp instructions per cycle, and the prefixes of the instructions that use the pipe.
_PIPES = {
    "float": (4.0, ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FCHK", "HADD2", "HFMA2", "HMUL2", "F2FP")),
    "integer": (2.0, ("IADD", "IMAD", "LOP3", "SHF", "LEA", "ISETP", "SEL", "PRMT", "IMNMX", "VIADD", "MOV", "PLOP3")),
    "special": (0.5, ("MUFU",)),
    "memory": (1.0, ("LD", "ST", "SHFL", "BAR", "ATOM")),
}


def _main_loop(code: str, warps: int, steps: int) -> dict[str, float] | None:
    """Cycles by pipe of the innermost loop with tensor-core work, and TFLOP/s of a GPU of 132 multiprocessors at 1.755 GHz.

    `serial` adds the tensor-core cycles to the larger of issue and special-function cycles; `overlapped` takes the largest of
    all pipes. The model ranks variants; it ignores stalls and occupancy. A persistent matrix product has its epilogue inside
    the loop, behind a branch that is taken once in `steps` iterations, so the epilogue is weighted by 1 / `steps`.
    """
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif address := re.search(r"/\*([0-9a-f]{4,})\*/", line):
            labels |= dict.fromkeys(waiting, int(address[1], 16))
            waiting = []
    lines = _instructions(code)
    best: list[tuple[int, str, str]] | None = None
    for address, name, operands in lines:
        target = _target(name, operands, labels)
        if target is None or target >= address:
            continue
        body = [line for line in lines if target <= line[0] <= address]
        if _tensor_flops([name for _, name, _ in body]) and (best is None or len(body) < len(best)):
            best = body
    if best is None:
        return None
    main, epilogue = _without_epilogue(best, labels)
    share = 1 / steps if steps and epilogue else 1.0
    flops = _tensor_flops(main) * warps
    cycles = {"tensor": flops / 4096, "issue": (len(main) + share * len(epilogue)) * warps / 4.0}
    for pipe, (rate, names) in _PIPES.items():
        count = sum(n.startswith(names) for n in main) + share * sum(n.startswith(names) for n in epilogue)
        cycles[pipe] = count * warps / rate
    speed = flops * 132 * 1.755e9 / 1e12
    serial = cycles["tensor"] + max(cycles["issue"], cycles["special"])
    return {
        "instructions": len(best),
        **cycles,
        "serial TFLOP/s": speed / serial,
        "overlapped TFLOP/s": speed / max(cycles.values()),
    }


def _target(name: str, operands: str, labels: dict[str, int]) -> int | None:
    """The target address of a branch; None for other instructions."""
    label = re.search(r"(\.L_x_\d+)", operands) if name.startswith("BRA") else None
    return labels.get(label[1]) if label else None


def _without_epilogue(body: list[tuple[int, str, str]], labels: dict[str, int]) -> tuple[list[str], list[str]]:
    """Instruction names of a loop and of its epilogue: the longest part without tensor-core work that a branch can skip."""
    best: tuple[int, int] = (0, 0)
    for address, name, operands in body:
        end = _target(name, operands, labels)
        longer = end is not None and address < end <= body[-1][0] and end - address > best[1] - best[0]
        if longer and not _tensor_flops([n for a, n, _ in body if address < a < end]):
            best = (address, end)
    inside = [name for address, name, _ in body if best[0] < address < best[1]]
    return [name for address, name, _ in body if not best[0] < address < best[1]], inside


def _tensor_flops(names: list[str]) -> float:
    """FLOPs of one warp's tensor-core instructions; an HGMMA is shared by four warps."""
    total = 0.0
    for name in names:
        if wide := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):
            total += 2 * int(wide[1]) * int(wide[2]) * int(wide[3]) / 4
        elif narrow := re.match(r"HMMA\.(\d{2})(\d)(\d+)", name):
            total += 2 * int(narrow[1]) * int(narrow[2]) * int(narrow[3])
    return total
