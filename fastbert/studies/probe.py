"""The probe of direction: a token task that only the right neighbour decides.

Each word of a sequence in random order is labelled by a property of the word to its right, so nothing to its left helps. A
two-direction encoder learns it; a left-to-right one cannot see what it needs, and guesses; with a BiLSTM on top it sees it.
Paper, section 5.1, says why this decides token-level tasks.
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
        steps, sequences, length: of a step: so many sequences of so many words.
        words: how many different words occur.
        lr: peak learning rate.
        bilstm: a bidirectional LSTM between the encoder and the classifier.
        frozen: the encoder is not trained, only what stands on it.
        seed: of words, labels and new weights.
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
    """Accuracy on fresh sequences after training; chance is 0.5.

    Args:
        model: a checkpoint of any class, or a `BertModel`.
        options: how it is trained.
        device: where.
    """
    encoder = model if isinstance(model, BertModel) else BertModel.from_pretrained(model, add_pooling_layer=False)
    torch.manual_seed(options.seed)
    head = HeadOptions("token", 2, bilstm=int(options.bilstm), frozen=options.frozen, dropout=0.0)
    probe = ComposedModel(encoder, head).to(device).train()
    draws = torch.Generator().manual_seed(options.seed)
    words = torch.randperm(encoder.config.vocab_size, generator=draws)[: options.words]
    kinds = torch.randperm(options.words, generator=draws) % 2  # which half a word is in
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
    """A batch of random words, and (T,) the kind of each one's right neighbour; the last of a sequence has none."""
    drawn = torch.randint(len(words), (options.sequences, options.length), generator=draws)
    labels = torch.full_like(drawn, IGNORE)
    labels[:, :-1] = kinds[drawn[:, 1:]]
    return pack(words[drawn]), labels.flatten()
