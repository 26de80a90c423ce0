"""`pytest --kernels=sm80` and `--kernels=sm90`: kernels as they are compiled for that architecture, on CPU tensors.

The backend "triton" then runs what Triton's compiler made, through Triton's own launches, if Triton was imported with its
interpreter off.
"""

from __future__ import annotations

import re

CAPABILITIES = {"sm80": 80, "sm90": 90}
FENCED_SINCE = (3, 7, 1)


def use_compiled_kernels(architecture: str) -> None:
    """Makes the kernels of this process those of an architecture, run by the emulator.

    Raises:
        NotImplementedError: for sm90 with a Triton whose kernels the emulator finds at fault, whatever they do.
    """
    import triton

    version = tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:3])
    if architecture == "sm90" and version < FENCED_SINCE:
        raise NotImplementedError(
            f"Triton {triton.__version__} puts no proxy fence between cp.async and the warp-group products that read what it "
            "copied (Triton's pull request 9610), which the emulator reports in every long attention; sm90 needs Triton 3.7.1"
        )
    from emulator import driver
    from fastbert.kernels import tuning
    from fastbert.ops import paths

    driver.install(CAPABILITIES[architecture])
    tuning.architecture = lambda _: architecture  # type: ignore[assignment]
    paths._obstacle = lambda op, x: ""  # type: ignore[assignment]
