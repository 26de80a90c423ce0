"""The threads that run an instruction, and how values move between those of a warp."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

WARP, GROUP = 32, 128  # threads of a warp, and of the four warps that multiply together
_LANES = np.arange(WARP)


@dataclass
class Threads:
    """All threads of the blocks that run together, or some of them.

    Arrays have one element a thread, or one element where all threads have the same.

    Attributes:
        index: numbers of these threads among all, None for all.
        count, total: how many these are, and all.
        tid: number within the block.
        cta: coordinates of the block in the grid.
        block: number of the block in the grid.
        base: where the block's shared memory begins.
        stamp: the warp in the lowest five bits, and behind them barriers passed, from 1.
        whole_warps, whole_blocks: whether all threads of each warp, and of each block, are here or none.
    """

    index: Any
    count: int
    total: int
    tid: Any
    cta: tuple[Any, Any, Any]
    block: Any
    base: Any
    stamp: Any
    whole_warps: bool = True
    whole_blocks: bool = True

    @property
    def lane(self) -> Any:
        """Number within the warp."""
        return self.tid & np.uint32(WARP - 1)

    def some(self, index: Any, per_block: int = 0) -> Threads:
        """Those with these numbers among the threads here; `per_block` threads in a block tell whether blocks are whole."""

        def of(value: Any) -> Any:
            return value if value.shape[0] == 1 else value[index]

        x, y, z = map(of, self.cta)
        return replace(
            self,
            index=index,
            count=len(index),
            tid=of(self.tid),
            cta=(x, y, z),
            block=of(self.block),
            base=of(self.base),
            stamp=of(self.stamp),
            whole_warps=_are_whole(index, WARP, self.count),
            whole_blocks=not per_block or _are_whole(index, per_block, self.count),
        )

    def wide(self, value: Any) -> Any:
        """A value with one element a thread."""
        return value if value.shape[0] == self.count else np.broadcast_to(value, (self.count,))

    def taken(self, value: Any, chosen: Any) -> Any:
        """A value's elements of the threads at these places, None for all."""
        return self.wide(value) if chosen is None else self.wide(value)[chosen]

    def numbers(self, chosen: Any) -> Any:
        """Numbers among all threads of those at these places."""
        return chosen if self.index is None else self.index[chosen]


def _are_whole(index: Any, size: int, count: int) -> bool:
    present = np.bincount(index // size, minlength=count // size)
    return bool(((present == 0) | (present == size)).all())


NOBODY: Any = object()


def selection(threads: Threads, mask: Any) -> Any:
    """The places of the threads whose mask is true: None for all, NOBODY for none."""
    if mask is None:
        return None
    if mask.shape[0] == 1:
        return None if mask[0] else NOBODY
    if mask.all():
        return None
    chosen = np.flatnonzero(mask)
    return chosen if len(chosen) else NOBODY


def spread(threads: Threads, selected: Any, bad: Any) -> Any:
    """A condition of selected threads as one of all threads here."""
    if selected is None:
        return bad
    found = np.zeros(threads.count, bool)
    found[selected] = bad
    return found


def shuffle_bfly(threads: Threads, value: Any, mask: Any) -> Any:
    """Each lane gets the value of lane ^ mask."""
    if value.shape[0] == 1:
        return value
    if isinstance(mask, int):
        return value.reshape(-1, WARP)[:, _LANES ^ mask].reshape(-1)
    return shuffle_idx(threads, value, threads.lane ^ mask)


def shuffle_up(threads: Threads, value: Any, distance: Any) -> Any:
    """Each lane gets the value of the lane so far below, its own where there is none."""
    source = threads.lane.astype(np.int32) - np.asarray(distance).astype(np.int32)
    return shuffle_idx(threads, value, np.where(source < 0, threads.lane, source.astype(np.uint32)))


def shuffle_down(threads: Threads, value: Any, distance: Any) -> Any:
    """Each lane gets the value of the lane so far above, its own where there is none."""
    source = threads.lane + np.asarray(distance).astype(np.uint32)
    return shuffle_idx(threads, value, np.where(source >= WARP, threads.lane, source))


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def reduce_warps(threads: Threads, value: Any, how: str) -> Any:
    """Each lane gets the reduction over its warp."""
    rows = threads.wide(value).reshape(-1, WARP)
    return np.repeat(_REDUCTIONS[how].reduce(rows, axis=1, dtype=rows.dtype), WARP)


def shuffle_idx(threads: Threads, value: Any, source: Any) -> Any:
    """Each lane gets the value of lane `source` of its warp."""
    if value.shape[0] == 1:
        return value
    if isinstance(source, int):
        return np.repeat(value.reshape(-1, WARP)[:, source % WARP], WARP)
    rows = threads.wide(source).reshape(-1, WARP) & np.uint32(WARP - 1)
    return np.take_along_axis(value.reshape(-1, WARP), rows.astype(np.intp), axis=1).reshape(-1)
