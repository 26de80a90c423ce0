"""Launches a kernel that was compiled before without Triton's preparations, which take longer than many kernels run.

Triton's own launch binds the arguments, finds what each of them specialises the kernel on, merges options and looks for a
compiled kernel, in 15 to 22 us. Here a dictionary has the compiled kernels, by all that Triton's specialisation depends on:
types and alignments of tensors, the kinds of integers that it tells apart (1, multiples of 16, more than 32 bits), constants
and options. What is not in it yet goes to Triton, as does every launch while one of Triton's hooks is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

_RUN = JITFunction.run


class DirectKernel:
    """A jitted kernel, called as Triton's are: `kernel[grid](*arguments, **constants_and_options)`.

    The arguments come by position, and the constants behind them by name.
    """

    def __init__(self, kernel: JITFunction[Any]) -> None:
        self.kernel = kernel
        self._compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            if _is_watched(self.kernel):
                self.kernel[grid](*arguments, **constants)
                return
            active = driver.active
            device = active.get_current_device()
            key = (device, *constants, *constants.values(), *map(_trait, arguments))
            known = self._compiled.get(key)
            if known is None:
                compiled = self.kernel[grid](*arguments, **constants)
                if compiled is not None:  # one of Triton's hooks may keep it from compiling
                    self._compiled[key] = compiled, tuple(constants[name] for name in self.kernel.arg_names[len(arguments) :])
                return
            compiled, rest = known
            place = *(*grid, 1, 1)[:3], active.get_current_stream(device)
            compiled.run(*place, compiled.function, compiled.packed_metadata, None, None, None, *arguments, *rest)

        return launch


def direct(kernel: Any) -> Any:
    """Decorator of a jitted kernel.

    Kernels of the interpreter stay as they are, and those for AMD GPUs, where Triton also asks whether a tensor is below 2 GiB.
    """
    return DirectKernel(kernel) if isinstance(kernel, JITFunction) and not torch.version.hip else kernel


def _is_watched(kernel: JITFunction[Any]) -> bool:
    """Whether something wants to see launches, as a profiler does, or stands in the place of Triton's own launch."""
    if JITFunction.run is not _RUN:
        return True
    entered, left = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(entered, "calls", entered) or getattr(left, "calls", left) or kernel.pre_run_hooks)


def _trait(argument: Any) -> Any:
    """What Triton specialises a kernel on, of one argument."""
    kind = type(argument)
    if kind is int:
        return "one" if argument == 1 else 2 * (argument >> 31) + (argument & 15 == 0)
    if isinstance(argument, torch.Tensor):
        return argument.dtype if argument.data_ptr() & 15 == 0 else (argument.dtype, "unaligned")
    if kind is TensorDescriptor:
        return argument.base.dtype, *argument.block_shape
    return kind  # None, float or bool
