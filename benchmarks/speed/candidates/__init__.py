"""The table of candidates; the code of each is in the module that its `make` names, imported only in the candidate's process.

`models.py` and `exported.py` run encoders and heads, `training.py` training steps, `operators.py` single ops.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HEADS = ("classification", "question answering", "masked words")
MODELS = ("encoder", *HEADS)
TRAINING = ("fine-tuning", "pre-training")
_COMPILED_OPS = ("embedding", "layer_norm", "linear_gelu", "ffn", "cross_entropy")
ALL_OPS = (*_COMPILED_OPS, "attention")


@dataclass(frozen=True)
class Candidate:
    """One way to do a task.

    Attributes:
        name: the name in tables.
        make: "module:name" of its Work, called with the job and `options`.
        tasks: the tasks it can do; names of op cases are matched by the op, the part before the first comma.
        ours: whether it is fastbert.
        rival: whether it counts when the best one is chosen, of ours or of the others: same precision, same sorting, tuned.
        devices: kinds of device it runs on.
        dtypes: types it runs in; empty for all.
        needs: packages that must be installed.
        precision: a precision below the requested one ("int8"), shown in tables and checked with looser bounds.
        needs_many: whether it needs several texts; with a single text it would equal another candidate.
        needs_texts: whether it takes texts instead of ids, so that it runs only on cases that have texts.
        start_s: approximate start-up time in seconds; `--quick` leaves out candidates that take too long for a suite.
        options: arguments of `make`.
    """

    name: str
    make: str
    tasks: tuple[str, ...]
    ours: bool = False
    rival: bool = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    precision: str = ""
    needs_many: bool = False
    needs_texts: bool = False
    start_s: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def can(self, task: str) -> bool:
        """Whether it supports a task."""
        return task in self.tasks or task.split(",")[0] in self.tasks

    def missing(self, device: str, dtype: str, wait_s: float) -> str | None:
        """The reason why it cannot run here, or would take longer than `wait_s` seconds to start; else None."""
        kind = device.split(":")[0]
        if kind not in self.devices:
            return f"runs on {' or '.join(self.devices)} only"
        if self.dtypes and dtype not in self.dtypes:
            return f"runs in {' or '.join(self.dtypes)} only"
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if absent:
            return f"{', '.join(absent)} not installed"
        if self.start_s > wait_s:
            return f"left out by --quick: takes about {self.start_s} s to start"
        return None


_MODELS, _EXPORTED = "benchmarks.speed.candidates.models", "benchmarks.speed.candidates.exported"
_TRAINING, _OPS = "benchmarks.speed.candidates.training", "benchmarks.speed.candidates.operators"
_HF = ("transformers",)
_ONNX = ("transformers", "onnx", "onnxruntime")

CANDIDATES = (
    Candidate("fastbert", f"{_MODELS}:Fastbert", MODELS, ours=True),
    Candidate(
        "fastbert, not prepacked", f"{_MODELS}:Fastbert", MODELS, ours=True, devices=("cpu",), options={"prepacked": False}
    ),
    *(
        Candidate(
            f"fastbert {precision}",
            f"{_MODELS}:FastbertQuantised",
            ("encoder", "classification"),
            ours=True,
            rival=False,
            devices=(device,),
            dtypes=dtypes,
            precision=precision,
            options={"precision": precision},
        )
        for precision, device, dtypes in (("int8", "cpu", ("float32",)), ("fp8", "cuda", ("float16", "bfloat16")))
    ),
    Candidate("fastbert, captured graphs", f"{_MODELS}:FastbertCaptured", ("encoder",), ours=True, devices=("cuda",)),
    Candidate("fastbert, reference path", f"{_MODELS}:Fastbert", MODELS, ours=True, options={"backend": "reference"}),
    Candidate("fastbert Embedder, from text", f"{_MODELS}:FastbertEmbedder", ("encoder",), ours=True, needs_texts=True),
    Candidate("transformers eager", f"{_MODELS}:Transformers", MODELS, needs=_HF, options={"attention": "eager"}),
    Candidate("transformers sdpa", f"{_MODELS}:Transformers", MODELS, needs=_HF, options={"attention": "sdpa"}),
    Candidate(
        "transformers sdpa, as it comes",
        f"{_MODELS}:TransformersUnsorted",
        ("encoder",),
        rival=False,
        needs_many=True,
        needs=_HF,
        options={"attention": "sdpa"},
    ),
    Candidate(
        "transformers FlashAttention",
        f"{_MODELS}:Transformers",
        MODELS,
        devices=("cuda",),
        needs=(*_HF, "flash_attn"),
        options={"attention": "flash_attention_2"},
    ),
    Candidate(
        "transformers flex",
        f"{_MODELS}:Transformers",
        ("encoder",),
        devices=("cuda",),
        needs=_HF,
        start_s=60,
        options={"attention": "flex_attention"},
    ),
    Candidate("torch.compile", f"{_MODELS}:Compiled", ("encoder", "classification"), needs=_HF, start_s=20),
    Candidate(
        "torch.compile max-autotune",
        f"{_MODELS}:CompiledMaxAutotune",
        ("encoder", "classification"),
        devices=("cuda",),
        needs=_HF,
        start_s=200,
    ),
    Candidate(
        "sentence-transformers, from text",
        f"{_MODELS}:SentenceTransformers",
        ("encoder",),
        needs=("sentence_transformers",),
        needs_texts=True,
    ),
    Candidate(
        "sentence-transformers, as it comes, from text",
        f"{_MODELS}:SentenceTransformers",
        ("encoder",),
        rival=False,
        needs=("sentence_transformers",),
        needs_many=True,
        needs_texts=True,
        options={"batch": 32},
    ),
    Candidate(
        "sentence-transformers, patched, from text",
        f"{_MODELS}:SentenceTransformers",
        ("encoder",),
        ours=True,
        needs=("sentence_transformers",),
        needs_texts=True,
        options={"patched": True},
    ),
    Candidate(
        "ONNX Runtime, optimised",
        f"{_EXPORTED}:OnnxRuntime",
        ("encoder", "classification"),
        devices=("cpu",),
        dtypes=("float32",),
        needs=_ONNX,
        start_s=4,
    ),
    Candidate(
        "ONNX Runtime int8",
        f"{_EXPORTED}:OnnxRuntime",
        ("encoder", "classification"),
        rival=False,
        devices=("cpu",),
        dtypes=("float32",),
        needs=_ONNX,
        start_s=5,
        precision="int8",
        options={"int8": True},
    ),
    Candidate(
        "OpenVINO",
        f"{_EXPORTED}:OpenVino",
        ("encoder", "classification"),
        devices=("cpu",),
        needs=("transformers", "onnx", "openvino"),
        start_s=4,
    ),
    Candidate("fastbert", f"{_TRAINING}:Fastbert", TRAINING, ours=True),
    Candidate("fastbert, captured step", f"{_TRAINING}:FastbertCaptured", TRAINING, ours=True, devices=("cuda",)),
    Candidate("fastbert, reference path", f"{_TRAINING}:Fastbert", TRAINING, ours=True, options={"backend": "reference"}),
    Candidate("transformers eager", f"{_TRAINING}:Transformers", TRAINING, needs=_HF, options={"attention": "eager"}),
    Candidate("transformers sdpa", f"{_TRAINING}:Transformers", TRAINING, needs=_HF, options={"attention": "sdpa"}),
    Candidate(
        "transformers FlashAttention",
        f"{_TRAINING}:Transformers",
        TRAINING,
        devices=("cuda",),
        needs=(*_HF, "flash_attn"),
        options={"attention": "flash_attention_2"},
    ),
    Candidate(
        "torch.compile",
        f"{_TRAINING}:Transformers",
        TRAINING,
        needs=_HF,
        start_s=60,
        options={"attention": "sdpa", "compiled": True},
    ),
    Candidate("fastbert", f"{_OPS}:Fastbert", ALL_OPS, ours=True),
    Candidate("PyTorch eager", f"{_OPS}:Eager", ALL_OPS),
    Candidate("torch.compile", f"{_OPS}:Compiled", _COMPILED_OPS, start_s=10),
    Candidate("SDPA, PyTorch's choice", f"{_OPS}:Sdpa", ("attention",)),
    *(
        Candidate(f"SDPA {name}", f"{_OPS}:Sdpa", ("attention",), devices=devices, options={"kernel": kernel})
        for name, kernel, devices in (
            ("flash", "FLASH_ATTENTION", ("cpu", "cuda")),
            ("math", "MATH", ("cpu", "cuda")),
            ("memory-efficient", "EFFICIENT_ATTENTION", ("cuda",)),
            ("cuDNN", "CUDNN_ATTENTION", ("cuda",)),
        )
    ),
    Candidate("varlen_attn", f"{_OPS}:Varlen", ("attention",), devices=("cuda",)),
    Candidate("Liger", f"{_OPS}:LigerLayerNorm", ("layer_norm",), devices=("cuda",), needs=("liger_kernel",)),
)
