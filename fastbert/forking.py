"""Makes forked processes safe to compute in, such as gunicorn workers with a preloaded model.

A fork copies the memory of a process, but not its threads. Loading a model starts no threads, so a child of a process that has
only loaded a model computes as usual. If the parent has already computed, its OpenMP threads are missing in the child, and the
first parallel loop there would wait for them forever; the child therefore computes on a single thread, and warns.
"""

from __future__ import annotations

import os
import warnings

import torch

from fastbert.errors import BackendError

_ADVICE = "load the model, and compute nothing, before forking; or start processes by spawn"
_computed = False  # whether this process, or the one that it was forked from, has run a forward pass on the CPU
_lost_threads = False  # whether this process was forked after such a forward pass
_warned = False


def before_forward() -> None:
    """Notes that this process computes on the CPU; warns once if its threads were lost in a fork.

    Raises:
        BackendError: it was forked from a process that had computed, and is nevertheless set to use several threads.
    """
    global _computed, _warned
    _computed = True
    if not _lost_threads:
        return
    if torch.get_num_threads() > 1:
        raise BackendError(
            f"this process was forked from one that had computed: on {torch.get_num_threads()} threads it would wait for some "
            f"that do not exist; call torch.set_num_threads(1), or {_ADVICE}"
        )
    if not _warned:
        _warned = True
        warnings.warn(f"forked from a process that had computed, this one runs on a single thread: {_ADVICE}", stacklevel=4)


def _in_child() -> None:
    global _lost_threads
    if _computed:
        _lost_threads = True
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
