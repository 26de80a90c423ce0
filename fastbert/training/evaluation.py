"""The four standard pre-training metrics on held-out text: masked_lm_loss and _accuracy, next_sentence_loss and _accuracy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from fastbert.data.batches import EpochBatches, PreTrainingBatch
from fastbert.ops.reference import cross_entropy_of_logits
from fastbert.packing.batch import IGNORE
from fastbert.training.world import World


def evaluate(
    model: Any, batches: EpochBatches, most: int, world: World, precision: AbstractContextManager[Any]
) -> dict[str, float]:
    """Means over the labelled tokens and pairs of the first batches; each process evaluates its share of them.

    Args:
        model: a language-model class, unwrapped or sharded; its train or eval mode is restored afterwards.
        batches: held-out batches, always the same.
        most: largest number of batches to evaluate.
        precision: an autocast context, or one that does nothing.
    """
    count = min(len(batches), most)
    sums = torch.zeros(6, dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision, world.gathered(model):
            for first in range(0, count, world.size):  # sharded weights: equally many forwards in each process
                mine = first + world.rank
                found = _sums(model, batches[min(mine, count - 1)].to(world.device))
                if mine < count:
                    sums += found
    finally:
        model.train(training)
    mlm, hits, words, pair, right, pairs = world.sum(sums.tolist())
    values = {"masked_lm_loss": mlm / max(words, 1), "masked_lm_accuracy": hits / max(words, 1)}
    if pairs:
        values |= {"next_sentence_loss": pair / pairs, "next_sentence_accuracy": right / pairs}
    return values


def _sums(model: Any, batch: PreTrainingBatch) -> Tensor:
    """(6,) summed loss, correct predictions and number of labels: of tokens, then of pairs."""
    encoder, heads = model.base_model, model.cls
    first = batch.packed.first_rows()
    states = encoder(batch.packed, last_layer_rows=torch.cat([first, batch.scored_rows])).last_hidden_state
    at_first, at_labels = states.split([len(first), len(batch.scored_rows)])
    found = [*_loss_hits_and_labels(heads.predictions(at_labels), batch.labels)]
    if batch.next_sentence_label is not None:
        pairs = heads.seq_relationship(encoder.pool_rows(at_first, batch.packed))
        found += _loss_hits_and_labels(pairs, batch.next_sentence_label)
    found += [torch.zeros(())] * (6 - len(found))
    return torch.stack([value.double().cpu() for value in found])


def _loss_hits_and_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed cross entropy, number of correct top predictions, and number of labels that are not ignored."""
    counts = labels != IGNORE
    hits = (logits.argmax(-1) == labels) & counts
    return cross_entropy_of_logits(logits, labels).float() * counts.sum(), hits.sum(), counts.sum()
