"""Every op of BERT, on packed tokens: what is computed, how it runs on a CPU, and which path is taken.

dispatch.py   every op, as the model calls it         reference.py      what is computed, in plain PyTorch
paths.py      which path runs an op, and why
cpu.py        ops whose plain form is slow on a CPU   cpu_attention.py  attention with dropout there, and its gradient
cpu_inference.py  the ops of a layer there that ask no questions
onednn.py     matrix products on a CPU                int8.py           int8 products there
fp8.py        which layers run in fp8 on a GPU
kept.py       copies of weights in another form       recorded.py       training repeats itself bit by bit
backends.py   the backend in force, and who listens    side_by_side.py   weights that are one product without a copy
states.py     hidden states for sums and for products
custom_ops/   the kernels as PyTorch operators with gradients: imported where a kernel runs, as Triton comes with them
"""

from fastbert.ops.backends import BACKENDS, Call, Decision, backend, current_backend, recording, set_backend, tapping
from fastbert.ops.cpu import plan_attention
from fastbert.ops.dispatch import (
    attention,
    attention_schedule,
    clamps_ids,
    cross_entropy,
    dropout_mask,
    embedding,
    ffn,
    ffn_join,
    for_layers,
    forget_copies,
    fp8_obstacle,
    joined_linear,
    keep_fp8,
    layer_norm,
    linear,
    linear_gelu,
    linear_join,
    masked_attention,
    prepack,
    quantize,
    with_spare_rows,
)
from fastbert.ops.states import States

__all__ = [
    "BACKENDS",
    "Call",
    "Decision",
    "States",
    "attention",
    "attention_schedule",
    "backend",
    "clamps_ids",
    "cross_entropy",
    "current_backend",
    "dropout_mask",
    "embedding",
    "ffn",
    "ffn_join",
    "for_layers",
    "forget_copies",
    "fp8_obstacle",
    "joined_linear",
    "keep_fp8",
    "layer_norm",
    "linear",
    "linear_gelu",
    "linear_join",
    "masked_attention",
    "plan_attention",
    "prepack",
    "quantize",
    "recording",
    "set_backend",
    "tapping",
    "with_spare_rows",
]
