"""The machine's limits, measured in the same run as the candidates, and the cost of a model's work.

The limit of a case is the longer of two times: its FLOPs at the best matrix-product rate, and its bytes at the copy bandwidth.
A candidate's share of the limit is this time divided by its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.speed.jobs import Inputs, Job, Work, masked_places
from benchmarks.speed.timing import seconds_of

SQUARE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}


class Limits(Work):
    """Measures the machine's limits with large matrix products and a large copy.

    The product is the fastest that PyTorch offers for the type: square or in the shape of a feed-forward layer, and on a CPU
    with MKL or oneDNN.
    """

    def __init__(self, job: Job) -> None:
        from fastbert.ops import onednn

        self.device, dtype = torch.device(job.device), getattr(torch, job.dtype)
        kind = self.device.type
        side = SQUARE[kind]
        random = torch.randn(side, side, device=self.device).to(dtype)
        wide = torch.randn(4 * 768, 768, device=self.device).to(dtype)
        shapes = [(random, random), (random[:, :768].contiguous(), wide)]
        products: list[tuple[int, Callable[[], Any]]] = []
        for x, w in shapes:
            flops = 2 * x.shape[0] * x.shape[1] * w.shape[0]
            products.append((flops, lambda x=x, w=w: torch.nn.functional.linear(x, w)))
            if kind == "cpu" and onednn.AVAILABLE and dtype in onednn.TYPES:
                products.append((flops, lambda x=x, w=w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")))
        with torch.no_grad():
            for _, product in products:
                product()
            timed = [
                (flops / min(self._seconds(product, 0.05) for _ in range(3)), flops, product) for flops, product in products
            ]
        _, self.flops, self.product = max(timed, key=lambda each: each[0])
        self.source = torch.ones(COPY_BYTES[kind] // 4, dtype=torch.float32, device=self.device)
        self.target = torch.empty_like(self.source)

    def take(self, inputs: Inputs) -> None:
        """Does nothing: the limits do not depend on the inputs."""

    @torch.no_grad()
    def rates(self, at_least: float) -> tuple[float, float]:
        """Measures (FLOP/s of the product, bytes/s read and written by the copy), each for `at_least` seconds."""
        moved = 2 * self.source.nbytes
        return (
            self.flops / self._seconds(self.product, at_least),
            moved / self._seconds(lambda: self.target.copy_(self.source), at_least),
        )

    def _seconds(self, call: Callable[[], Any], at_least: float) -> float:
        return seconds_of(call, self.device, at_least)


def limit_seconds(flops: float, moved: float, flops_per_s: float, bytes_per_s: float) -> float:
    """The minimum time that the machine needs for this work."""
    return max(flops / flops_per_s, moved / bytes_per_s)


def model_cost(config: Any, task: str, rows: Sequence[Sequence[int]], mask_token_id: int, size: int) -> tuple[int, int]:
    """The cost, (FLOPs, bytes), of one pass of a model over texts.

    FLOPs are those of the encoder's matrix products (`fastbert.diagnostics.encoder_flops`) and of the MLM head at its scored
    words, times three in training. Bytes are the layers' weights read once; in training also their gradients and AdamW's
    states.

    Args:
        config: a BertConfig.
        task: see `jobs.Job`.
        rows: ids of each text.
        mask_token_id: the id at the words that the MLM head scores.
        size: bytes per element.
    """
    from fastbert.diagnostics import encoder_flops

    n, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    flops = encoder_flops(config, [len(row) for row in rows])
    weights = config.num_hidden_layers * (4 * n * n + 2 * n * f)
    scored = 0
    if task == "masked words":
        scored = sum(token == mask_token_id for row in rows for token in row)
    elif task == "pre-training":
        scored = sum(len(masked_places(i, len(row))) for i, row in enumerate(rows))
    flops += scored * (2 * n * n + 2 * n * v)
    weights += n * v if scored else 0
    if task in ("fine-tuning", "pre-training"):
        return (
            3 * flops,
            10 * 4 * weights,
        )  # weight, gradient, two moments: read in the step, written by it; forward and backward
    return flops, size * weights
