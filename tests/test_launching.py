"""Launches without Triton's preparations take the kernel that Triton would have taken, with the same arguments.

In a process of its own, as functions under the interpreter are not launched; nothing is compiled, and no GPU is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SETUP = """
import itertools
import torch
from triton import knobs
from triton.runtime.jit import JITFunction
from benchmarks.kernels.host import without_a_gpu
from fastbert.kernels import ffn, layer_norm

runs = []

class Compiled:
    function, packed_metadata = 1, 2
    def launch_metadata(self, *_):
        return None
    def run(self, x, y, z, stream, function, metadata, launch_metadata, entered, left, *arguments):
        runs.append((self, (x, y, z), stream, function, metadata, arguments))

def compile_nothing(self, key, signature, device, *_):
    made = self.device_caches[device][0][key] = Compiled()
    return made

JITFunction._do_compile = compile_nothing
kernel = layer_norm._layer_norm_fwd_kernel

def arguments(dtype, other, shift, stride, tokens, dropout):
    x = torch.zeros(4096, dtype=dtype)[shift:]
    weight = torch.zeros(64, dtype=other)
    seed = torch.zeros(2, dtype=torch.int64)[shift % 2:][:1] if dropout else None
    mean = torch.zeros(64) if dropout else None
    rest = stride, 64, tokens, 1e-12, 0.1 * dropout, None
    return (x, None, x, weight, torch.nn.Parameter(weight), seed, x, None, mean, mean, *rest)

CASES = list(itertools.product(
    (torch.float32, torch.bfloat16), (torch.float32, torch.float16), (0, 1, 4, 8), (1, 48, 63, 64, 2**31), (1, 16, 17, 2**31),
    (False, True),
))
"""

SAME_KERNEL = """
with without_a_gpu():
    for warps, case in itertools.product((4, 8), CASES):
        constants = {"N": 64, "BLOCK_N": 64, "BLOCK_T": 4, "num_warps": warps, "num_stages": 1}
        given = arguments(*case)
        for _ in range(2):  # perhaps by Triton, then certainly without it
            kernel[(7,)](*given, **constants)
        ours = runs.pop()
        runs.clear()
        kernel.kernel[(7,)](*given, **constants)
        triton = runs.pop()
        assert ours[0] is triton[0], case
        assert ours[1:5] == triton[1:5]
        assert all(a is b or a == b for a, b in zip(ours[5], triton[5], strict=True))
kernels = len({id(known) for known, _ in kernel._compiled.values()})
assert 100 < kernels < len(CASES) * 2, kernels
"""

SUBCLASSES = """
class Weight(torch.Tensor):
    pass

with without_a_gpu():
    found = set()
    for dtype, shift in itertools.product((torch.float32, torch.bfloat16), (0, 1)):
        given = list(arguments(torch.float32, torch.float32, 0, 64, 16, False))
        given[3] = torch.zeros(80, dtype=dtype)[shift:].as_subclass(Weight)
        constants = {"N": 64, "BLOCK_N": 64, "BLOCK_T": 4, "num_warps": 4, "num_stages": 1}
        for _ in range(2):
            kernel[(7,)](*given, **constants)
        found.add(runs[-1][0])
        kernel.kernel[(7,)](*given, **constants)
        assert runs[-1][0] is runs[-2][0]
    assert len(found) == 4
"""

HOOKS = """
given = arguments(torch.float32, torch.float32, 0, 64, 16, False)
constants = {"N": 64, "BLOCK_N": 64, "BLOCK_T": 4, "num_warps": 4, "num_stages": 1}
with without_a_gpu():
    kernel[(7,)](*given, **constants)
    by_triton = []
    real = JITFunction._do_compile
    class Watched(Compiled):
        def launch_metadata(self, *_):
            by_triton.append(1)
    for made in list(kernel._compiled.values()):
        made[0].__class__ = Watched
    def launches():
        by_triton.clear()
        kernel[(7,)](*given, **constants)
        return len(by_triton)
    assert launches() == 0
    chain = knobs.runtime.launch_enter_hook
    hook = lambda *_, **__: None
    if hasattr(chain, "add"):
        chain.add(hook)
        assert launches() == 1
        chain.remove(hook)
        assert launches() == 0
    kernel.kernel.add_pre_run_hook(hook)
    assert launches() == 1
    kernel.kernel.pre_run_hooks.clear()
    assert launches() == 0
    own = JITFunction.run
    seen = []
    JITFunction.run = lambda *args, **kwargs: seen.append(1)
    kernel[(7,)](*given, **constants)
    JITFunction.run = own
    assert seen == [1] and launches() == 0
"""

DESCRIPTORS = """
from triton.tools.tensor_descriptor import TensorDescriptor
kernel = ffn._linear_gelu_tma_kernel
with without_a_gpu():
    found = set()
    for dtype, block, tokens, keep in itertools.product((torch.float16, torch.bfloat16), (64, 128), (16, 17), (False, True)):
        x, weight, act = (torch.zeros(shape, dtype=dtype) for shape in ((tokens, 64), (256, 64), (tokens, 256)))
        tiles = (TensorDescriptor.from_tensor(value, [block, 64]) for value in (x, weight, act))
        first, second, third = tiles
        given = (first, second, weight[:, 0].contiguous(), third, third if keep else None, tokens, None, None)
        constants = {"K": 64, "F": 256, "TANH": False, "BLOCK_M": block, "BLOCK_N": block, "BLOCK_K": 64, "num_warps": 4}
        for _ in range(2):
            kernel[(3,)](*given, **constants)
        ours = runs.pop()
        kernel.kernel[(3,)](*given, **constants)
        assert ours[0] is runs.pop()[0]
        found.add(ours[0])
    assert len(found) == 8, len(found)
"""


@pytest.mark.parametrize(
    "code", [SAME_KERNEL, SUBCLASSES, HOOKS, DESCRIPTORS], ids=["same kernel", "subclasses", "hooks", "descriptors"]
)
def test_direct_launches(code: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SETUP + code]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
