"""Measures host time without a GPU: the Python overhead of a layer, of a captured forward, and of packing.

    python benchmarks/kernels/host.py                            # microseconds
    python benchmarks/kernels/host.py --output host.jsonl        # and as JSON lines, with versions and commit

Kernels are compiled for sm_90 and launched as on a GPU, by a driver that does nothing; tensors are on the CPU.
Vendor matrix products return at once. The remaining time is what a GPU would wait for Python: launchers, checks, modules,
autograd. It does not depend on the sizes, which are small. On a real GPU, CUDA calls add some 5 us per launch.

A captured forward is timed in two parts: until its graph is replayed, and what follows while the GPU computes. `pack` is what
turns flat rows into the tensors of a batch, for one text of 100 tokens and for 65,536 tokens of texts of natural lengths.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout as well as installed
os.environ.pop("TRITON_INTERPRET", None)  # interpreted functions are not launched

import numpy as np
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver

import fastbert
from benchmarks.speed import records
from benchmarks.speed.environment import environment
from fastbert import graphs
from fastbert.kernels import tuning
from fastbert.ops import paths
from fastbert.packing.batching import pack_rows
from fastbert.packing.inputs import Limits
from fastbert.terminal import align
from fastbert.text.framing import Framed

SIZES = {"vocab_size": 1000, "hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256, "num_hidden_layers": 12}
REPEATS = 40


class _Utilities:
    """A stub of the driver's functions, which loads and launches nothing."""

    def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
        """Returns (module, function, registers, spills, maximum threads per block)."""
        return 1, 1, 32, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        """The properties of an H100 that a launch asks for."""
        return {"max_shared_mem": 227 << 10, "multiprocessor_count": 132}

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *_: object()


class _Driver:
    """A stub of Triton's driver interface, for a simulated GPU of compute capability 9.0."""

    launcher_cls = nvidia.CudaLauncher
    utils = _Utilities()

    def get_current_device(self) -> int:
        """Number of the device."""
        return 0

    def get_current_stream(self, _: int) -> int:
        """The default stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """The target that kernels are compiled for."""
        return GPUTarget("cuda", 90, 32)


class _Product(torch.autograd.Function):
    """A matrix product that returns uninitialized results and gradients of the right shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return x.new_empty(x.shape[0], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else torch.empty_like(t) for t in ctx.saved_tensors)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not torch.is_grad_enabled():
        return x.new_empty(x.shape[0], weight.shape[0])
    tensors = [x, weight, bias]
    if torch.is_autocast_enabled("cpu"):
        tensors = [t if t is None else t.to(torch.get_autocast_dtype("cpu")) for t in tensors]
    product: Tensor = _Product.apply(*tensors)
    return product


@contextmanager
def without_a_gpu() -> Iterator[None]:
    """Inside the block, CPU tensors take the path of an sm_90 GPU whose kernels and matrix products compute nothing."""
    pretended = (
        (tuning, "architecture", lambda _: "sm90"),
        (tuning, "_multiprocessors", lambda _: 132),
        (paths, "_obstacle", lambda *_: ""),
        (torch.nn.functional, "linear", _linear),
        (Tensor, "__matmul__", lambda a, b: a.new_empty(a.shape[0], b.shape[1])),
        (nvidia, "PyKernelArg", lambda **_: None),
    )
    driver.set_active(_Driver())
    with ExitStack() as stack:
        for owner, name, value in pretended:
            stack.enter_context(mock.patch.object(owner, name, value, create=name == "PyKernelArg"))  # Triton 3.6 has none
        stack.enter_context(fastbert.backend("triton"))
        yield


def measure() -> dict[str, float]:
    """Microseconds per layer: an eager forward in bfloat16, and forward and backward of training under autocast."""
    torch.manual_seed(0)
    config = fastbert.BertConfig(**SIZES)
    batch = fastbert.pack([[5] * 16], limits=Limits(SIZES["vocab_size"], 2, 512))
    eager = fastbert.BertModel(config, add_pooling_layer=False).to(torch.bfloat16).eval()
    trained = fastbert.BertModel(config, add_pooling_layer=False).train()
    wanted: Any = next(trained.encoder.layer.parameters())
    states: list[Tensor] = []

    def forward() -> None:
        with torch.inference_mode():
            eager(batch)

    def recorded() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            states.append(trained(batch).last_hidden_state)

    def backward() -> None:
        last = states.pop()
        torch.autograd.grad(last, wanted, torch.empty_like(last))

    with without_a_gpu():
        found = {"forward": _median(forward), "training forward": _median(recorded, states.clear)}
        found["training backward"] = _median(backward, recorded)
    return {name: 1e6 * seconds / SIZES["num_hidden_layers"] for name, seconds in found.items()}


def measure_calls() -> dict[str, float]:
    """Microseconds per call: a captured forward before and after its replay, and packing."""
    torch.manual_seed(0)
    model = fastbert.BertModel(fastbert.BertConfig(**SIZES)).eval()
    lengths = np.random.default_rng(0).lognormal(3.6, 0.8, 5000).astype(int).clip(3, 512)
    lengths = lengths[: np.searchsorted(lengths.cumsum(), 65_536)]
    text, texts = Framed.of_rows([[5] * 100]), Framed.of_rows([[5] * int(n) for n in lengths])
    replayed = [0.0]
    graph = mock.Mock(replay=lambda: replayed.append(time.perf_counter()))
    pretended = (
        (graphs, "_need_cuda", lambda *_: None),
        (torch.cuda, "graph_pool_handle", lambda: 0),
        (graphs, "_capture", lambda run, *_: (graph, run())),
    )
    with ExitStack() as stack:
        for owner, name, value in pretended:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(torch.inference_mode())
        captured, batch = graphs.CapturedModel(model), pack_rows(text, [0], own=True)
        before, after = [], []
        for _ in range(10 * REPEATS):
            started = time.perf_counter()
            captured(batch)
            ended = time.perf_counter()
            before.append(replayed[-1] - started)
            after.append(ended - replayed[-1])
        every = range(len(lengths))
        found = {
            "captured, until its replay": statistics.median(before),
            "captured, after it": statistics.median(after),
            "pack, 100 tokens": _median(lambda: pack_rows(text, [0], own=True)),
            "pack, 65,536 tokens": _median(lambda: pack_rows(texts, every, own=True)),
        }
    return {name: 1e6 * seconds for name, seconds in found.items()}


def _median(call: Callable[[], None], before: Callable[[], None] | None = None) -> float:
    """Median seconds of a call, each preceded by an untimed call of `before`; the first quarter is warm-up."""
    taken = []
    for _ in range(REPEATS):
        if before is not None:
            before()
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[REPEATS // 4 :])


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a file for the row, as JSON lines")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found, calls = measure(), measure_calls()
    print("\n".join(align([("host", "us a layer"), *((name, f"{value:.0f}") for name, value in found.items())])))
    print("\n".join(align([("", "us a call"), *((name, f"{value:.0f}") for name, value in calls.items())])))
    if args.output is not None:
        facts = environment(torch.device("cpu"))
        records.write(args.output, [{**facts, "figure": "host", "us_per_layer": found, "us_per_call": calls}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
