"""The number of compute threads in forked processes, such as gunicorn's with a preloaded model.

A fork copies the memory of a process, not its threads. Loading a model starts none, so a child of a process that has only
loaded computes as usual. Where the parent has computed, its OpenMP threads are missing in the child, and the first parallel
loop there would wait for them for ever: the child computes on one thread, and says so.
"""

from __future__ import annotations

import os
import warnings

import torch

from fastbert.errors import BackendError

_ADVICE = "load the model, and compute nothing, before forking; or start processes by spawn"
_computed = False  # whether this process, or the one that it was forked from, has run a forward on the CPU
_lost_threads = False  # whether it was forked after that
_warned = False


def before_forward() -> None:
    """Notes that this process computes on the CPU.

    Raises:
        BackendError: it was forked from one that had computed, and was told to use several threads all the same.
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
