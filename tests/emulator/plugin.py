"""`pytest --kernels=sm80` and `--kernels=sm90`: kernels as they are compiled for that architecture, on CPU tensors.

The backend "triton" then runs what Triton's compiler made, through Triton's own launches, if Triton was imported with its
interpreter off.
"""

from __future__ import annotations

CAPABILITIES = {"sm80": 80, "sm90": 90}


def use_compiled_kernels(architecture: str) -> None:
    """Makes the kernels of this process those of an architecture, run by the emulator."""
    from emulator import driver
    from fastbert.kernels import tuning
    from fastbert.ops import paths

    driver.install(CAPABILITIES[architecture])
    tuning.architecture = lambda _: architecture  # type: ignore[assignment]
    paths._obstacle = lambda op, x: ""  # type: ignore[assignment]
