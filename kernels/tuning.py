"""The launch table: (op, architecture, sizes) -> block sizes, warps and pipeline stages.

The first row whose limits no size exceeds is used. Architectures without rows of their own use "default".
`benchmarks/tune.py` searches on a GPU and prints rows; `benchmarks/kernel_report.py` shows the compiled code of each row. On
sm90 the rows of head size 64, of LayerNorm up to 1,024 columns and of linear + GELU were measured on an H100 or H200; the
others, and one that is marked, were chosen by that report.
Sizes, in the order of the limits: attention (bytes of an element, head size[, longest sequence]); layer_norm, embedding and
table (hidden size); linear_gelu and its backward (bytes of an element); linear_gelu_tma (bytes of an element, tokens); others
have none.
"""

import functools
import operator

import torch

Row = dict[str, int]
LARGEST = 2**31


def _row(warps: int, stages: int = 1, **blocks: int) -> Row:
    return {**blocks, "num_warps": warps, "num_stages": stages}


# op -> architecture -> rows of (limits, launch); None means that another kernel runs.
TABLE: dict[str, dict[str, list[tuple[tuple[int, ...], Row | None]]]] = {
    "attention_short_fwd": {
        "default": [
            ((2, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((2, 64, 64), _row(4, BLOCK_M=64, BLOCK_N=64)),
            ((2, 64, 128), _row(4, BLOCK_M=64, BLOCK_N=128)),
            ((2, 128, 64), _row(4, BLOCK_M=64, BLOCK_N=64)),
            ((2, 128, 128), _row(8, BLOCK_M=64, BLOCK_N=128)),
            ((4, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((4, 128, 64), _row(4, BLOCK_M=32, BLOCK_N=64)),
            ((4, 128, 128), _row(8, BLOCK_M=32, BLOCK_N=128)),
        ],
        "sm90": [
            ((2, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((2, 64, 64), _row(4, BLOCK_M=64, BLOCK_N=64)),
            ((2, 64, 128), None),  # the long form is as fast without dropout, and 1.14x as fast with it
            ((2, 128, 64), _row(4, BLOCK_M=64, BLOCK_N=64)),
            ((2, 128, 128), _row(8, BLOCK_M=64, BLOCK_N=128)),
            ((4, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((4, 128, 64), _row(4, BLOCK_M=32, BLOCK_N=64)),
            ((4, 128, 128), _row(8, BLOCK_M=32, BLOCK_N=128)),
        ],
    },
    "attention_short_bwd": {  # head size 128 at length 128 does not fit in registers on most GPUs: the long form runs
        "default": [
            ((2, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((2, 64, 64), _row(4, BLOCK_M=32, BLOCK_N=64)),
            ((2, 64, 128), _row(8, BLOCK_M=16, BLOCK_N=128)),
            ((2, 128, 64), _row(8, BLOCK_M=32, BLOCK_N=64)),
            ((4, 128, 32), _row(8, BLOCK_M=16, BLOCK_N=32)),
            ((4, 64, 64), _row(8, BLOCK_M=16, BLOCK_N=64)),
            ((4, 64, 128), _row(8, BLOCK_M=16, BLOCK_N=128)),
        ],
        "sm90": [
            ((2, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((2, 128, 64), _row(4, BLOCK_M=32, BLOCK_N=64)),
            ((2, 64, 128), _row(4, BLOCK_M=32, BLOCK_N=128)),  # spills, but is 1.12x as fast as the best row that does not
            ((2, 128, 128), _row(8, BLOCK_M=32, BLOCK_N=128)),
            ((4, 128, 32), _row(4, BLOCK_M=32, BLOCK_N=32)),
            ((4, 64, 64), _row(8, BLOCK_M=32, BLOCK_N=64)),
            ((4, 64, 128), _row(8, BLOCK_M=16, BLOCK_N=128)),
        ],
    },
    "attention_long_fwd": {
        "default": [
            ((2, 64), _row(8, 2, BLOCK_M=128, BLOCK_N=64)),
            ((2, 128), _row(8, 2, BLOCK_M=128, BLOCK_N=32)),
            ((4, 128), _row(8, 2, BLOCK_M=64, BLOCK_N=32)),
        ],
        "sm90": [
            ((2, 64), _row(4, 3, BLOCK_M=64, BLOCK_N=64)),
            ((2, 128), _row(8, 3, BLOCK_M=128, BLOCK_N=64)),
            ((4, 64), _row(8, 2, BLOCK_M=64, BLOCK_N=32)),
            ((4, 128), _row(8, 1, BLOCK_M=128, BLOCK_N=32)),
        ],
    },
    "attention_long_dq": {
        "default": [
            ((2, 64), _row(8, 2, BLOCK_M=128, BLOCK_N=32)),
            ((2, 128), _row(8, 1, BLOCK_M=64, BLOCK_N=64)),
            ((4, 64), _row(8, 2, BLOCK_M=64, BLOCK_N=32)),
            ((4, 128), _row(8, 1, BLOCK_M=64, BLOCK_N=32)),
        ],
        "sm90": [
            ((2, 64), _row(4, 3, BLOCK_M=64, BLOCK_N=64)),
            ((2, 128), _row(8, 2, BLOCK_M=128, BLOCK_N=64)),
            ((4, 64), _row(4, 2, BLOCK_M=64, BLOCK_N=32)),
            ((4, 128), _row(4, 1, BLOCK_M=32, BLOCK_N=32)),
        ],
    },
    "attention_long_dkv": {
        "default": [
            ((2, 64), _row(4, 2, BLOCK_M=64, BLOCK_N=32)),
            ((2, 128), _row(8, 1, BLOCK_M=64, BLOCK_N=64)),
            ((4, 64), _row(8, 1, BLOCK_M=32, BLOCK_N=32)),
            ((4, 128), _row(8, 1, BLOCK_M=32, BLOCK_N=32)),
        ],
        "sm90": [
            ((2, 64), _row(4, 2, BLOCK_M=64, BLOCK_N=64)),
            ((2, 128), _row(8, 1, BLOCK_M=32, BLOCK_N=64)),
            ((4, 64), _row(8, 1, BLOCK_M=32, BLOCK_N=64)),
            ((4, 128), _row(8, 1, BLOCK_M=32, BLOCK_N=32)),
        ],
    },
    "layer_norm_fwd": {
        "default": [
            ((1024,), _row(4, BLOCK_T=4)),
            ((2048,), _row(4, BLOCK_T=2)),
            ((8192,), _row(8, BLOCK_T=1)),
        ],
        "sm90": [
            ((768,), _row(2, BLOCK_T=1)),
            ((1024,), _row(4, BLOCK_T=2)),
            ((2048,), _row(4, BLOCK_T=2)),
            ((8192,), _row(8, BLOCK_T=1)),
        ],
    },
    "layer_norm_e4m3": {  # its forward with a second result
        "default": [
            ((1024,), _row(4, BLOCK_T=4)),
            ((2048,), _row(4, BLOCK_T=2)),
            ((8192,), _row(8, BLOCK_T=1)),
        ],
    },
    "layer_norm_bwd": {
        "default": [
            ((1024,), _row(8, BLOCK_T=4, PER_SM=2)),
            ((2048,), _row(8, BLOCK_T=4, PER_SM=1)),
            ((8192,), _row(16, BLOCK_T=1, PER_SM=1)),
        ],
        "sm90": [
            ((768,), _row(1, BLOCK_T=1, PER_SM=8)),
            ((1024,), _row(1, BLOCK_T=1, PER_SM=8)),
            ((2048,), _row(8, BLOCK_T=4, PER_SM=1)),
            ((8192,), _row(16, BLOCK_T=1, PER_SM=1)),
        ],
    },
    "table_bwd": {"default": [((1024,), _row(4)), ((8192,), _row(8))]},
    "linear_gelu": {
        "default": [
            ((2,), _row(8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64)),
            ((4,), _row(8, 3, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32)),
        ],
    },
    "linear_gelu_bwd": {
        "default": [
            ((2,), _row(8, 3, BLOCK_M=128, BLOCK_N=64, BLOCK_K=64)),
            ((4,), _row(8, 3, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32)),
        ],
    },
    "linear_gelu_tma": {
        "default": [
            ((1, LARGEST), _row(8, 4, BLOCK_M=128, BLOCK_N=256, BLOCK_K=128, PER_SM=1)),
            ((2, 256), _row(4, 5, BLOCK_M=128, BLOCK_N=32, BLOCK_K=128, PER_SM=1)),
            ((2, 2048), _row(8, 4, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, PER_SM=1)),
            ((2, LARGEST), _row(8, 4, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64, PER_SM=1)),
        ],
        "sm90": [
            ((1, 256), _row(4, 4, BLOCK_M=128, BLOCK_N=32, BLOCK_K=128, PER_SM=1)),  # not measured
            ((1, LARGEST), _row(4, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, PER_SM=2)),
            ((2, 256), _row(4, 5, BLOCK_M=128, BLOCK_N=32, BLOCK_K=128, PER_SM=1)),
            ((2, 2048), _row(8, 4, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, PER_SM=1)),
            ((2, LARGEST), _row(4, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, PER_SM=2)),
        ],
    },
    "gelu": {"default": [((), _row(4, BLOCK_T=4, BLOCK_F=512, PER_SM=4))]},
    "to_e4m3": {"default": [((), _row(8, BLOCK=4096))]},
    "lamb": {"default": [((), _row(8, BLOCK=2048))]},
    "cross_entropy_fwd": {"default": [((), _row(8, BLOCK_V=4096))]},
    "cross_entropy_bwd": {"default": [((), _row(4, BLOCK_M=16, BLOCK_V=256, PROGRAMS=16))]},
}

# How the feed-forward block runs: in inference, in the forward of training, and in the backward.
#   "fused"  GELU is the epilogue of a product of ours      "split"  the vendor's product, then one elementwise pass
FFN_FORMS: dict[str, dict[str, str]] = {
    "default": {"inference": "split", "training": "split", "backward": "split"},
    "sm90": {"inference": "fused", "training": "fused", "backward": "split"},
    "sm100": {"inference": "fused", "training": "fused", "backward": "split"},
}
TMA_ARCHITECTURES = ("sm90", "sm100")
# Architectures that use the rows of another, which has as much shared memory and the same kinds of matrix instructions.
SAME_AS = {"sm103": "sm100", "sm120": "sm89", "sm121": "sm89"}


@functools.cache
def architecture(device: torch.device) -> str:
    """The architecture whose rows a device uses: "sm90", "gfx942" and so on; "interpreter" on a CPU."""
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    name = f"sm{properties.major}{properties.minor}"
    return SAME_AS.get(name, name)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def row(op: str, device: torch.device, *sizes: int) -> Row:
    """The launch of `op` for these sizes: a new dictionary of block sizes, num_warps and num_stages."""
    return row_of(op, architecture(device), *sizes)


def has_row(op: str, device: torch.device, *sizes: int) -> bool:
    """Whether the table has a launch of `op` for these sizes."""
    return _find(op, architecture(device), sizes) is not None


def row_of(op: str, arch: str, *sizes: int) -> Row:
    """Like `row`, by the name of an architecture."""
    launch = _find(op, arch, sizes)
    if launch is None:
        raise ValueError(f"no launch of {op} for sizes {sizes} on {arch}")
    return dict(launch)


def _find(op: str, arch: str, sizes: tuple[int, ...]) -> Row | None:
    table = TABLE[op]
    for limits, launch in table.get(arch) or table["default"]:
        if not any(map(operator.gt, sizes, limits)):
            return launch
    return None


def cdiv(size: int, block: int) -> int:
    """size / block, rounded up. triton.cdiv does the same, but takes ten times as long on the host."""
    return -(-size // block)


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is not below a size of at least 1."""
    return 1 << (size - 1).bit_length()


def programs(per_multiprocessor: int, most: int, device: torch.device) -> int:
    """The number of programs of a kernel that launches a fixed number, each of which loops over rows."""
    return max(1, min(most, per_multiprocessor * _multiprocessors(device)))


def ffn_form(device: torch.device, phase: str) -> str:
    """ "fused" or "split", in the phase "inference", "training" or "backward"."""
    return FFN_FORMS.get(architecture(device), FFN_FORMS["default"])[phase]
