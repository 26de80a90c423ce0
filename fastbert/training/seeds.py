"""Seeds for random draws that must not depend on earlier draws."""

from __future__ import annotations

from hashlib import blake2b


def mixed_seed(seed: int, *numbers: int) -> int:
    """Derives a seed from a run's seed and some numbers, such as a step and a process's rank."""
    parts = "/".join(map(str, (seed, *numbers)))
    return int.from_bytes(blake2b(parts.encode(), digest_size=8).digest()) >> 1
