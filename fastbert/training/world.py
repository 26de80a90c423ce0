"""The processes of a run: one, or those that torchrun started. A thin layer over PyTorch's DDP and FSDP2."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from fastbert.errors import InputError, TrainingError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)  # other ranks wait while rank 0 trains a vocabulary and builds a corpus


class LostProcessError(TrainingError):
    """Another process of the run is gone; its own output may say why."""

    def __init__(self, error: RuntimeError) -> None:
        super().__init__(f"another process of the run is gone ({str(error).splitlines()[0][:200]})")


@dataclass
class World:
    """This process's place among all processes of the run.

    Attributes:
        rank, size: rank of this process, and world size.
        device: the device it computes on.
        control: process group for numbers on the CPU, which avoids synchronising with a GPU; None with one process.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None

    @classmethod
    def join(cls, device: str | torch.device | None = None) -> World:
        """Joins the processes that torchrun started; without torchrun, this process is the only one.

        Raises:
            InputError: a device that is not available.
        """
        kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if kind.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device = {str(kind)!r}: there is no CUDA device")
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(0, 1, kind)
        if kind.type == "cuda":
            kind = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(kind)
        dist.init_process_group("nccl" if kind.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
        return cls(dist.get_rank(), size, kind, dist.new_group(backend="gloo", timeout=_PATIENCE))

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each number summed over all processes (all-reduce); every process must call it.

        Raises:
            LostProcessError: another process is gone.
        """
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.tensor(list(values), dtype=torch.float64)
        try:
            dist.all_reduce(total, group=self.control)
        except RuntimeError as error:
            raise LostProcessError(error) from error
        return [float(value) for value in total.tolist()]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, in every process; all must call it. If it raises there, all processes stop.

        Raises:
            LostProcessError: another process is gone. TrainingError: rank 0 failed; its own message says why.
        """
        if self.size == 1:
            return make()
        failure: Exception | None = None
        packet: list[Any] = [None, False]
        if self.leads:
            try:
                packet = [make(), True]
            except Exception as error:  # raised only after the other processes know of it
                failure = error
        try:
            dist.broadcast_object_list(packet, 0, self.control)
        except RuntimeError as error:
            raise LostProcessError(error) from error
        if failure is not None:
            raise failure
        if not packet[1]:
            raise TrainingError("the first process of the run failed; its message says why")
        made: T = packet[0]
        return made

    def wrap(self, model: nn.Module, sharded: bool) -> nn.Module:
        """Wraps the model for training by several processes: in DDP, or in FSDP2 if `sharded`."""
        if self.size == 1:
            return model
        if not sharded:
            ids = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        from torch.distributed.fsdp import fully_shard

        for layer in model.base_model.encoder.layer:  # type: ignore[union-attr]
            fully_shard(layer)
        fully_shard(model)
        return model

    def accumulating(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Context for forward and backward of a batch: gradients are summed over processes only after a step's last batch."""
        if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
            return model.no_sync()
        sharded: Any = model
        if hasattr(sharded, "set_requires_gradient_sync"):
            sharded.set_requires_gradient_sync(last)
        return nullcontext()

    @contextmanager
    def gathered(self, model: Any) -> Iterator[None]:
        """Context for calling parts of a model separately: sharded weights of the root module are gathered."""
        sharded = hasattr(model, "unshard")
        if sharded:
            model.unshard()
        try:
            yield
        finally:
            if sharded:
                model.reshard()

    def leave(self) -> None:
        """Destroys the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether an error from PyTorch means that another process is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        sign in text for sign in ("gloo", "connection closed", "connection reset", "nccl")
    )
