"""Triton's driver for a card that is not there: launches go through Triton's own specialisation and compiler to the emulator.

driver.install(90)      # before the first launch; kernels then take CPU tensors
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from emulator.costs import Costs
from emulator.global_memory import TensorMap
from emulator.kernel import Kernel
from emulator.machine import Options

_SWIZZLE_BYTES = {0: 0, 1: 32, 2: 64, 3: 128}  # of a tensor map, CUtensorMapSwizzle


@dataclass
class Launched:
    """What a launch took: blocks, seconds, instructions of warps, different bytes of global memory that it touched, and with
    `Options(counts=True)` what its accesses cost.
    """

    kernel: Kernel
    blocks: int
    seconds: float
    executed: int
    touched: int
    costs: Costs | None


@dataclass
class Recorder:
    """What all launches share: how they run, what they took, and texts that replace those of kernels, by name."""

    options: Options = field(default_factory=Options)
    launches: list[Launched] = field(default_factory=list)
    on_launch: Any = None  # called with (kernel, grid, arguments, shared) before each launch; returns a kernel or None


RECORDER = Recorder()
_files: dict[str, Any] = {}  # kernel name -> the files that Triton's compiler wrote


class _Launcher:
    """Stands for the launcher that Triton compiles for each signature."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._shared = metadata.shared
        self._types = list(source.signature.values())
        self._tensor_maps = getattr(metadata, "tensordesc_meta", None) or []

    def __call__(self, x: int, y: int, z: int, stream: Any, kernel: Kernel, *rest: Any) -> None:
        arguments = rest[len(rest) - len(self._types) :]  # behind metadata and hooks, whose number differs by version
        given = self._given(arguments)
        if RECORDER.on_launch is not None:
            kernel = RECORDER.on_launch(kernel, (x, y, z), given, self._shared) or kernel
        started = time.perf_counter()
        machine = kernel.launch((x, y, z), given, self._shared, RECORDER.options)
        memory = machine.global_memory
        took = time.perf_counter() - started
        RECORDER.launches.append(Launched(kernel, x * y * z, took, machine.executed, memory.touched(), machine.costs))

    def _given(self, arguments: tuple[Any, ...]) -> list[Any]:
        """Arguments by PTX parameter: a descriptor is a tensor map with its shape and strides, or a pointer with them."""
        given: list[Any] = []
        maps = iter(self._tensor_maps)
        for value, kind in zip(arguments, self._types, strict=True):
            if kind == "constexpr":
                continue
            if not kind.startswith("tensordesc"):
                given.append(value)
                continue
            meta = next(maps, None)
            if meta is None:
                flags = value.padding == "nan", getattr(value, "round_f32_to_tf32", False)
                given += [value.base, *value.shape, *value.strides, *flags, *value.shape, *value.strides]
            else:
                tensor = torch.as_strided(value.base, value.shape, value.strides, value.base.storage_offset())
                rows, columns = meta["block_size"]
                given += [TensorMap(tensor, (rows, columns), _SWIZZLE_BYTES[meta["swizzle"]]), *value.shape, *value.strides]
        return given


class _Utilities:
    """Stands for the functions of the driver that Triton compiles."""

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": 227 << 10, "multiprocessor_count": 2, "warpSize": 32, "max_num_regs": 65536}

    def load_binary(self, name: str, *_: Any) -> tuple[Any, Kernel, int, int, int]:
        """(module, function, registers, spills, most threads of a block)."""
        path = next(path for file, path in _files[name].items() if file.endswith(".ptx"))
        return object(), Kernel(Path(path).read_text()), 0, 0, 1024


class Driver(DriverBase):
    """The driver of a GPU of a compute capability, 80 or 90."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils, self.launcher_cls = _Utilities(), _Launcher

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(ty)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("an emulator has no speed")


def install(capability: int) -> None:
    """Makes the emulator Triton's driver in this process."""

    def note_files(module: Any, function: Any, name: str, group: Any, hash: Any) -> None:
        _files[name] = group

    def without_assembler(*given: Any) -> tuple[str, str] | None:
        """Asked for a key of the cache, or to change the stages of a compilation: no machine code is needed here."""
        if not given:
            return "PTX alone", "PTX alone"
        given[1]["cubin"] = lambda source, metadata: b""
        return None

    triton.runtime.driver.set_active(Driver(capability))
    triton.knobs.runtime.add_stages_inspection_hook = without_assembler
    triton.knobs.runtime.kernel_load_start_hook = note_files
