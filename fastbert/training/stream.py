"""The stream of batches that a process trains on: each step's batches are dealt out to the processes in turn.

A step takes the next `batches_per_step` batches, continuing into the next epoch if necessary, so that none is dropped. Batch j
of a step goes to rank j modulo the world size: with any number of processes, the same batches are used in the same steps.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import itemgetter

from torch.utils.data import DataLoader, Dataset

from fastbert.data.batches import EpochBatches, PreTrainingBatch
from fastbert.training.world import World

Key = tuple[int, int]  # epoch and batch


@dataclass(frozen=True)
class Position:
    """The position of a run: steps done, and the epoch and batch that come next."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


class PhaseBatches(Dataset[PreTrainingBatch]):
    """The batches of one phase, by epoch and number; two epochs are cached.

    Args:
        make: makes the batches of an epoch from its number.
    """

    def __init__(self, make: Callable[[int], EpochBatches]) -> None:
        self._make = make
        self._epochs: dict[int, EpochBatches] = {}

    def epoch(self, number: int) -> EpochBatches:
        """The batches of an epoch."""
        if number not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == number - 1}
            self._epochs[number] = self._make(number)
        return self._epochs[number]

    def __getitem__(self, key: Key) -> PreTrainingBatch:
        """A batch by (epoch, number)."""
        return self.epoch(key[0])[key[1]]

    def steps(self, start: Position, stop: int, per_step: int) -> Iterator[tuple[list[Key], Position]]:
        """For each step from `start` up to step `stop`: the keys of its batches, and the position after it."""
        position = start
        while position.step < stop:
            keys = []
            epoch, batch = position.epoch, position.batch
            for _ in range(per_step):
                if batch >= len(self.epoch(epoch)):
                    epoch, batch = epoch + 1, 0
                keys.append((epoch, batch))
                batch += 1
            position = Position(position.step + 1, epoch, batch)
            yield keys, position


def stream(
    batches: PhaseBatches, start: Position, stop: int, per_step: int, world: World, workers: int
) -> Iterator[tuple[list[PreTrainingBatch], Position]]:
    """This process's batches for each step of a phase, and the position after the step."""

    keys = (key for step, _ in batches.steps(start, stop, per_step) for key in step[world.rank :: world.size])
    made = (
        batch
        for epoch, of_epoch in groupby(keys, key=itemgetter(0))
        for batch in _make(batches, epoch, list(of_epoch), world, workers)
    )
    count = len(range(world.rank, per_step, world.size))
    for _, position in batches.steps(start, stop, per_step):
        yield list(islice(made, count)), position


def _make(batches: PhaseBatches, epoch: int, keys: list[Key], world: World, workers: int) -> Iterable[PreTrainingBatch]:
    """Loads the batches of some keys of one epoch, in order."""
    batches.epoch(epoch)  # planned here, once: workers are forks of this process and share it
    return DataLoader(
        batches,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        pin_memory=world.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_main_process,
        multiprocessing_context="fork" if workers else None,
    )


def _leave_signals_to_the_main_process(_: int) -> None:
    """Makes a worker ignore SIGINT and SIGTERM.

    Signals often reach all processes of a group, but the current step still needs its batches to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def next_phase(position: Position) -> Position:
    """The position at which the next phase starts: at a new epoch, so that no example occurs twice in the same form."""
    return replace(position, epoch=position.epoch + 1, batch=0) if position.step else position
