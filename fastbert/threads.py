"""How many threads of a CPU a command computes on, and how they wait for one another.

A thread that has done its part of an operator waits for the others by asking again and again, for milliseconds by default.
With another process on the same cores, that takes the core from those that still work. The `fastbert` command has its threads
ask for some microseconds and then sleep; `benchmarks/threads.py` measures both. From Python, set GOMP_SPINCOUNT=10000 before
PyTorch is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fastbert.errors import InputError

SPINS = "10000"  # times that a thread asks before it sleeps
MOST = 1024
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def wait_patiently() -> None:
    """Sets how OpenMP's threads wait, unless the environment says so already; works before PyTorch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def use_threads(asked: int | None) -> None:
    """Has PyTorch compute on so many threads of the CPU; None: as many as there are cores, and no more than the quota allows.

    Raises:
        InputError: a number out of range.
    """
    if asked is not None and not 1 <= asked <= MOST:
        raise InputError(f"threads = {asked} must be from 1 to {MOST}")
    count = asked
    if count is None and "OMP_NUM_THREADS" not in os.environ:
        quota = quota_of_cores()
        count = None if quota is None or quota >= _cores() else max(1, int(quota))
    if count is None:
        return
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
    else:
        os.environ["OMP_NUM_THREADS"] = str(count)


def quota_of_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """The share of the machine's cores that this process may use, in cores, by its control groups; None without a limit.

    Args:
        root: where control groups are mounted.
        own: the file that names those of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, top = root / path.strip("/"), root
        elif "cpu" in controllers.split(","):
            folder, top = root / controllers / path.strip("/"), root / controllers
        else:
            continue
        for place in (folder, *folder.parents):  # a limit may be set at any level
            found.append(_limit(place))
            if place == top:
                break
    limits = [limit for limit in found if limit is not None]
    return min(limits, default=None)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
