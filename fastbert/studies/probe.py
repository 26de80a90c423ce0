"""A probe of directionality: a token task whose labels depend only on the right neighbour.

Each word of a random sequence is labelled by a property of the word to its right, so the words to its left do not help. A
bidirectional encoder learns the task; a left-to-right encoder cannot see the right neighbour and can only guess, unless a
BiLSTM is put on top. Paper, section 5.1, explains why right context matters for token-level tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastbert.model.composed import ComposedModel, HeadOptions
from fastbert.model.encoder import BertModel
from fastbert.packing import PackedBatch, pack
from fastbert.packing.batch import IGNORE
from fastbert.training.optimizers import make_optimizer, set_rate
from fastbert.training.schedules import rate


@dataclass(frozen=True)
class ProbeOptions:
    """How the probe is trained.

    Attributes:
        steps: number of training steps.
        sequences, length: sequences per step, and words per sequence.
        words: number of distinct words.
        lr: peak learning rate.
        bilstm: whether a bidirectional LSTM is put between the encoder and the classifier.
        frozen: whether the encoder is frozen, so that only the layers on top of it are trained.
        seed: seed of words, labels and new weights.
    """

    steps: int = 300
    sequences: int = 32
    length: int = 32
    words: int = 200
    lr: float = 1e-3
    bilstm: bool = False
    frozen: bool = False
    seed: int = 0


def probe_right_neighbour(model: str | Path | Any, options: ProbeOptions, device: torch.device | str = "cpu") -> float:
    """Trains the probe and returns its accuracy on fresh sequences; chance is 0.5.

    Args:
        model: a checkpoint of any class, or a `BertModel`.
        options: how the probe is trained.
        device: the device to run on.
    """
    encoder = model if isinstance(model, BertModel) else BertModel.from_pretrained(model, add_pooling_layer=False)
    torch.manual_seed(options.seed)
    head = HeadOptions("token", 2, bilstm=int(options.bilstm), frozen=options.frozen, dropout=0.0)
    probe = ComposedModel(encoder, head).to(device).train()
    draws = torch.Generator().manual_seed(options.seed)
    words = torch.randperm(encoder.config.vocab_size, generator=draws)[: options.words]
    kinds = torch.randperm(options.words, generator=draws) % 2  # 0 or 1: the property of each word
    optimizer = make_optimizer("adamw", probe, options.lr)
    for step in range(options.steps):
        batch, labels = _sequences(words, kinds, options, draws)
        probe(batch.to(device), labels=labels.to(device)).loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        set_rate(optimizer, options.lr * rate("hf", step, options.steps // 10, options.steps))
        optimizer.step()
        optimizer.zero_grad()
    probe.eval()
    with torch.no_grad():
        batch, labels = _sequences(words, kinds, options, draws)
        guesses = probe(batch.to(device)).logits.argmax(1).cpu()
    return float((guesses == labels)[labels != IGNORE].float().mean())


def _sequences(words: Tensor, kinds: Tensor, options: ProbeOptions, draws: torch.Generator) -> tuple[PackedBatch, Tensor]:
    """A batch of random words, and (T,) the kind of each word's right neighbour; IGNORE for the last word of a sequence."""
    drawn = torch.randint(len(words), (options.sequences, options.length), generator=draws)
    labels = torch.full_like(drawn, IGNORE)
    labels[:, :-1] = kinds[drawn[:, 1:]]
    return pack(words[drawn]), labels.flatten()
