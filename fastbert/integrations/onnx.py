"""ONNX files of any model, with its head, for any batch size and length; checked in ONNX Runtime before they are written.

The exported graph is the padded form: a mask in place of packing. Sizes: B sequences, S padded length, C choices.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import files
from fastbert.errors import BackendError, InputError
from fastbert.model.calling import evaluating
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.ops import backend

FILE = "model.onnx"
TOLERANCE = 1e-5  # of what ONNX Runtime gives, relative to the largest value
_SHAPES = ((1, 1), (2, 7), (5, 33), (3, 1), (1, 128))  # that are compared, as far as the model's positions go


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the ONNX file; weights of more than 2 GB stand beside it in `model.onnx.data`.
        opset: the version of ONNX's operators.
        inputs, outputs: names; inputs are int64 (B, S), or (B, C, S) for multiple choice.
        error: the largest difference from the model in ONNX Runtime, relative to the largest value, at tokens.
        runtime: the version of ONNX Runtime.
    """

    path: Path
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    error: float
    runtime: str

    def __str__(self) -> str:
        names = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        checked = f"ONNX Runtime {self.runtime} gives the model's values within {self.error:.1e}"
        return f"{self.path}: opset {self.opset}, {names}, for any batch size and length; {checked}"


def export_onnx(model: BertPreTrainedModel, folder: str | Path, tokenizer: Any = None) -> Exported:
    """Writes model.onnx and config.json, and the tokenizer's files where one is given; all of them or none.

    The model runs in evaluation mode, in float32 on the CPU, and is left as it was. The file is the same for every batch size
    and length up to the position table.

    Args:
        model: any of the model classes, on the CPU.
        folder: made if absent; other files in it stay.
        tokenizer: saved beside the model.

    Raises:
        InputError: a package is missing, or the model is not in float32 on the CPU. BackendError: ONNX Runtime gives something
            else than the model.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter asks for it late
    except ImportError as missing:
        raise InputError(
            f"export needs the package {missing.name}: pip install 'fastbert-triton[onnx]', or in a checkout '.[onnx]'"
        ) from None
    if not isinstance(model, BertPreTrainedModel):
        raise InputError(f"model is a {type(model).__name__}; export takes the model classes of fastbert")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise InputError(f"the model is {model.dtype} on {model.device}: export takes float32 on the CPU")
    with evaluating(model), tempfile.TemporaryDirectory() as place, backend("auto"):
        inputs = _example(model, 2, 9)
        outputs = tuple(_run(model, inputs))
        path = Path(place, FILE)
        _export(model, inputs, outputs, path)
        error = _compare(model, path, onnxruntime)
        if error > TOLERANCE:
            raise BackendError(
                f"ONNX Runtime gives values that differ by {error:.1e} (at most {TOLERANCE}): nothing was written"
            )
        opset = next(
            one.version for one in onnx.load(path, load_external_data=False).opset_import if one.domain in ("", "ai.onnx")
        )
        with files.updating_folder(folder) as target:
            for written in sorted(Path(place).iterdir()):
                files.check_room(Path(folder), written.stat().st_size, written.name)
                with files.replacing(target / written.name) as part:
                    shutil.copyfile(written, part)
            files.write_text(target / "config.json", model.config.to_json_string())
            if tokenizer is not None:
                tokenizer.save_pretrained(target)
    return Exported(Path(folder, FILE), opset, tuple(inputs), outputs, error, onnxruntime.__version__)


class _InOrder(nn.Module):
    """A model whose inputs and outputs are tuples."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the inputs."""
        output = self.model(**dict(zip(self.inputs, values, strict=True)), return_dict=True)
        return tuple(output[name] for name in self.outputs)


def _export(model: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    axes = ("batch", "choices", "length") if next(iter(inputs.values())).dim() == 3 else ("batch", "length")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _InOrder(model, tuple(inputs), outputs).eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=(tuple(dict(enumerate(axes)) for _ in inputs),),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(model: Any, path: Path, onnxruntime: Any) -> float:
    """The largest relative difference between ONNX Runtime and the model, at tokens of batches of several shapes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    worst = 0.0
    longest = model.config.longest_sequence
    for size, length in dict.fromkeys((size, min(length, longest)) for size, length in (*_SHAPES, (2, min(512, longest)))):
        inputs = _example(model, size, length, seed=size * length)
        found = session.run(None, {name: inputs[name].numpy() for name in names})
        mask = inputs["attention_mask"].bool()
        for wanted, value in zip(_run(model, inputs).values(), map(torch.from_numpy, found), strict=True):
            if value.shape != wanted.shape:
                raise BackendError(f"ONNX Runtime gives the shape {tuple(value.shape)} for {tuple(wanted.shape)}")
            difference = (value - wanted).abs()
            if value.shape[: mask.dim()] == mask.shape:  # a value for each token: what stands at padding means nothing
                difference, wanted = difference[mask], wanted[mask]
            worst = max(worst, float(difference.max() / wanted.abs().max().clamp(min=1.0)))
    return worst


def _run(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        output = model(**inputs, return_dict=True)
    return {name: output[name] for name in output if isinstance(output[name], Tensor)}


def _example(model: Any, size: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens, the second half of every second row and all of every fifth padding; three choices for multiple choice."""
    config = model.config
    choices = (3,) if type(model).__name__.endswith("ForMultipleChoice") else ()
    shape = (size, *choices, length)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, shape, generator=generator)
    mask = torch.ones(shape, dtype=torch.long)
    mask[1::2, ..., (length + 1) // 2 :] = 0
    mask[4::5] = 0  # and a row of padding alone
    if config.pad_token_id is not None:
        ids = torch.where(ids == config.pad_token_id, (config.pad_token_id + 1) % config.vocab_size, ids)
        ids = ids.where(mask.bool(), config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, shape, generator=generator)
    return inputs
