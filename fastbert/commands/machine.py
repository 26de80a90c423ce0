"""What figures depend on: versions, processor or GPU; printed by --version and by bench."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import fastbert


class Version(argparse.Action):
    """Prints the versions of fastbert, PyTorch and Triton, and the device, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Called by argparse where the option is given."""
        facts = facts_of(None)
        place = facts.get("instructions")
        device = f"{facts['device']}, {place}, {facts['threads']} threads" if place else facts["device"]
        triton = f"triton {version_of('triton') or 'not installed'}"
        print(f"fastbert {fastbert.__version__}, torch {facts['torch']}, {triton}, {'CPU' if place else 'GPU'}: {device}")
        parser.exit()


def facts_of(device: str | None) -> dict[str, Any]:
    """The processor or GPU, with the instruction set and threads of a processor, and PyTorch's version.

    Args:
        device: "cpu", "cuda", ...; None takes CUDA if it is available.
    """
    import torch

    from fastbert.ops import onednn
    from fastbert.tasks.loading import default_device

    place = default_device(device)
    facts: dict[str, Any] = {"torch": torch.__version__}
    if place.type == "cuda":
        return {"device": torch.cuda.get_device_name(place), **facts}
    instructions = torch.backends.cpu.get_cpu_capability()
    return {
        "device": cpu_name(),
        "instructions": f"{instructions} with BF16" if torch.bfloat16 in onednn.TYPES else instructions,
        "threads": torch.get_num_threads(),
        **facts,
    }


def cpu_name() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def version_of(package: str) -> str:
    """The version of an installed distribution; "" if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return fastbert.__version__ if package == "fastbert-triton" else ""
