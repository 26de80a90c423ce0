"""The facts recorded with every figure: machine, versions, commit and date."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastbert.commands.machine import cpu_name

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "onnxruntime", "openvino", "sentence-transformers", "liger-kernel")


def environment(device: torch.device) -> dict[str, Any]:
    """Facts of this machine, the same in every row of a run."""
    cpu = cpu_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        facts.update(device=slug(torch.cuda.get_device_name(device)), cuda=torch.version.cuda, driver=_driver())
    else:
        facts.update(device=slug(f"{cpu}-{facts['instructions']}-{cores}-cores"), cuda=None, driver=None)
    return facts | {name: _version(name) for name in PACKAGES}


def slug(name: str) -> str:
    """A name converted to a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0].strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _blas() -> str:
    """The libraries of matrix products that PyTorch was built with: "MKL 2024.2, oneDNN 3.12.0"."""
    text = torch.__config__.show()
    found = {
        "MKL": re.search(r"Math Kernel Library Version (\S+?)-", text),
        "OpenBLAS": re.search(r"OpenBLAS (\S+)", text),
        "oneDNN": re.search(r"MKL-DNN v(\S+)", text),
    }
    return ", ".join(f"{name} {match[1]}" for name, match in found.items() if match)


def _commit() -> str | None:
    """The commit of the checkout; FASTBERT_COMMIT overrides it, for code copied to a machine without the repository."""
    if given := os.environ.get("FASTBERT_COMMIT"):
        return given
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
