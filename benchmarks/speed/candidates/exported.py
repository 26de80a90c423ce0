"""Encoders and heads outside PyTorch, on a CPU: ONNX Runtime with its transformers optimiser, and OpenVINO."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed.candidates.models import load_transformers
from benchmarks.speed.candidates.padded import Padded
from benchmarks.speed.jobs import Job


class _FirstOutput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]  # type: ignore[no-any-return]


def export(job: Job, path: Path) -> None:
    """Exports transformers' model as an ONNX file in float32 with dynamic batch size and length.

    Uses the tracing exporter, whose graphs the optimiser and OpenVINO recognise.
    """
    model = _FirstOutput(load_transformers(replace(job, dtype="float32"), "eager"))
    ids, mask = torch.full((2, 16), 100), torch.ones(2, 16, dtype=torch.long)
    mask[1, 9:] = 0
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "length"} for name in names}
    axes["output"] = axes["input_ids"] if job.task != "classification" else {0: "batch"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, mask),
            str(path),
            input_names=names,
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


class OnnxRuntime(Padded):
    """ONNX Runtime with the graph fused by its transformers optimiser; `int8` quantises linear layers dynamically."""

    def __init__(self, job: Job, int8: bool = False) -> None:
        import onnx
        import onnxruntime
        from onnxruntime.transformers.optimizer import optimize_model
        from transformers import AutoConfig

        super().__init__(job)
        config = AutoConfig.from_pretrained(job.folder)
        with tempfile.TemporaryDirectory() as folder:
            plain, fused = Path(folder, "model.onnx"), Path(folder, "fused.onnx")
            export(job, plain)
            heads, width = config.num_attention_heads, config.hidden_size
            graph = optimize_model(str(plain), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0)
            graph.save_model_to_file(str(fused))
            self.fused: dict[str, int] = graph.get_fused_operator_statistics()
            if not self.fused.get("Attention") and not self.fused.get("MultiHeadAttention"):
                raise RuntimeError(f"the optimiser fused no attention: {self.fused}")
            if int8:
                from onnxruntime.quantization import quantize_dynamic

                plain, fused = fused, Path(folder, "int8.onnx")
                floats = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # the fused operators state no type
                quantize_dynamic(str(plain), str(fused), per_channel=True, extra_options=floats)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(str(fused), options, providers=["CPUExecutionProvider"])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Padded.forward`."""
        (output,) = self.session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return torch.from_numpy(output)


_OPENVINO_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class OpenVino(Padded):
    """OpenVINO's CPU plug-in, which computes in the job's type as far as the processor does."""

    def __init__(self, job: Job) -> None:
        import openvino

        super().__init__(job)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            export(job, path)
            settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[job.dtype]}
            self.compiled = openvino.compile_model(openvino.convert_model(str(path)), "CPU", settings)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Padded.forward`."""
        return torch.from_numpy(self.compiled([ids.numpy(), mask.numpy()])[0].copy())
