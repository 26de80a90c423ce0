"""The ops that kernels run, as PyTorch operators: shapes for tracing, gradients, autocast. One op a file.

Each function has the signature of its twin in dispatch.py. Where nothing needs a gradient and nothing is traced it calls the
launcher at once; otherwise it goes through `torch.ops.fastbert.<op>`, which torch.compile and torch.export see as one node.
Operators return what their backward saves beside the result; `<op>_backward` are operators too. Types: under autocast the
products run in its type and LayerNorm gives float32, as PyTorch's own do; the casts stand in the functions, as an operator's
own autocast registration knows one type only. Sizes as in dispatch.py.
"""

from fastbert.ops.custom_ops import fp8, inference, training
from fastbert.ops.custom_ops.attention import attention, attention_schedule
from fastbert.ops.custom_ops.cross_entropy import cross_entropy, dropout_mask
from fastbert.ops.custom_ops.embedding import embedding
from fastbert.ops.custom_ops.ffn import ffn, linear_gelu
from fastbert.ops.custom_ops.lamb import lamb_step
from fastbert.ops.custom_ops.layer_norm import layer_norm, layer_norm_states

__all__ = [
    "attention",
    "attention_schedule",
    "cross_entropy",
    "dropout_mask",
    "embedding",
    "ffn",
    "fp8",
    "inference",
    "lamb_step",
    "layer_norm",
    "layer_norm_states",
    "linear_gelu",
    "training",
]
