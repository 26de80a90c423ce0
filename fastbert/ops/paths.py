"""Which path runs an op on a tensor, and why it is not the kernel.

Paths, best first: a Triton kernel (`kernels/<op>.py`), `cpu.py` where it has the op, `reference.py`. The backend chooses:
"auto" takes the best that can run, "triton" the kernel or an error with the reason, "reference" the plain form alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastbert.errors import BackendError
from fastbert.ops import cpu, reference
from fastbert.ops.backends import Call, Decision, current_backend, heard_calls, heard_decisions

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")  # as Triton reads it
_PRODUCTS = ("attention", "linear_gelu", "ffn")  # whose kernels multiply matrices themselves
_WIDEST = 8192  # hidden size that one program holds
_OLDEST = (8, 0)  # compute capability
_LIBRARY = "fastbert.ops.custom_ops"
_warned: set[str] = set()


def runs_kernel(op: str, x: Tensor) -> bool:
    """Whether the backend in force runs `op` on a tensor like `x` by its kernel."""
    chosen = current_backend()
    if chosen == "reference" or (chosen == "auto" and x.device.type == "cpu"):
        return False
    return _obstacle(op, x) == ""


def choose(op: str, x: Tensor, shape: tuple[int, ...], obstacle: str = "", **on_cpu: Any) -> Callable[..., Any]:
    """The function that runs `op` on `x`; `obstacle` says why this call cannot use the kernel, "" if it can.

    `on_cpu` are keywords that only cpu.py's form takes.
    """
    path = _choose_path(op, x, shape, obstacle)
    chosen = getattr(library() if path == "triton" else cpu if path == "cpu" else reference, op)
    if on_cpu and path == "cpu":
        chosen = functools.partial(chosen, **on_cpu)
    calls = None if torch.compiler.is_compiling() else heard_calls.get()
    if calls is None:
        return chosen

    def tapped(*arguments: Any) -> Any:
        calls.append(Call(op, path, arguments))
        return chosen(*arguments)

    return tapped


def _choose_path(op: str, x: Tensor, shape: tuple[int, ...], obstacle: str) -> str:
    chosen = current_backend()
    if chosen == "reference":
        record(op, shape, "reference", "the backend is 'reference'")
        return "reference"
    reason = _obstacle(op, x) or obstacle
    if chosen == "auto" and x.device.type == "cpu":
        reason = "the tensors are on a CPU"
    if not reason:
        record(op, shape, "triton", "")
        return "triton"
    if chosen == "triton":
        raise BackendError(f"backend 'triton' cannot run {op}: {reason}")
    path = "cpu" if hasattr(cpu, op) else "reference"
    fall_back(op, x, shape, path, reason)
    return path


def _obstacle(op: str, x: Tensor) -> str:
    """Why no kernel can run `op` on a tensor like `x`; "" where one can."""
    if not _HAS_TRITON:
        return "the package triton is not installed (it exists for Linux only)"
    kind = x.device.type
    if kind == "cpu" and not _INTERPRETED:
        return "the tensors are on a CPU, and Triton's interpreter is off (TRITON_INTERPRET=1 before the start)"
    if kind not in ("cpu", "cuda"):
        return f"there are no kernels for {kind} devices"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"there are no kernels for {x.dtype}"
    if kind == "cpu":
        multiplied = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        wrong = op in _PRODUCTS and multiplied == torch.bfloat16
        return "Triton's interpreter multiplies bfloat16 wrongly; float32 and float16 are right" if wrong else ""
    found = capability(x.device)
    if found < _OLDEST:
        return f"compute capability {'.'.join(map(str, found))} is below {'.'.join(map(str, _OLDEST))}"
    if op in _PRODUCTS and x.dtype == torch.float32 and not torch.is_autocast_enabled(kind) and not _tf32():
        return "float32 products have a kernel in TF32 only, which torch.backends.cuda.matmul.allow_tf32 does not allow"
    return ""


def width_obstacle(x: Tensor) -> str:
    """Why kernels that hold a row whole cannot run on `x`; "" where they can."""
    return f"hidden size {x.shape[-1]} is above {_WIDEST}" if x.shape[-1] > _WIDEST else ""


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a tensor's device, which need not be the current device."""
    return (9, 9) if torch.version.hip else _capability_of(device)


@functools.cache
def _capability_of(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _tf32() -> bool:
    """Whether float32 products may run in TF32, by PyTorch's newer setting if it exists, which includes the older one."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def is_kernel(run: Callable[..., Any]) -> bool:
    """Whether a chosen function is that of a kernel, and calls of it are not being recorded."""
    return run.__module__.startswith(_LIBRARY)


def library() -> Any:
    """fastbert.ops.custom_ops, imported at the first use: it brings Triton with it."""
    _load_library()
    return sys.modules[_LIBRARY]


def _load_library() -> bool:
    import fastbert.ops.custom_ops  # noqa: F401

    return True


for _constant in (capability, _tf32, _load_library):
    _constant.__dict__["_dynamo_marked_constant"] = True


def fall_back(op: str, x: Tensor, shape: tuple[int, ...], path: str, reason: str) -> None:
    """Records a path that is not the kernel, and warns of it once for each reason where a kernel was to be expected."""
    if x.device.type != "cpu" and reason not in _warned and not torch.compiler.is_compiling():
        _warned.add(reason)
        warnings.warn(f"fastbert runs {op} without a kernel: {reason}", stacklevel=5)
    record(op, shape, path, reason)


def record(op: str, shape: tuple[int, ...], path: str, reason: str) -> None:
    """Notes which path runs an op, if decisions are being recorded."""
    if torch.compiler.is_compiling():
        return
    decisions = heard_decisions.get()
    if decisions is not None:
        decisions.append(Decision(op, tuple(shape), path, reason))
