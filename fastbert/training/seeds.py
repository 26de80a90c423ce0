"""Seeds of draws that must not depend on the draws before them."""

from __future__ import annotations

from hashlib import blake2b


def mixed_seed(seed: int, *numbers: int) -> int:
    """The seed of one of many draws of a run: of a step, and of a process in it."""
    parts = "/".join(map(str, (seed, *numbers)))
    return int.from_bytes(blake2b(parts.encode(), digest_size=8).digest()) >> 1
