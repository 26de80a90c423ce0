"""The work of attention kernels: which block of which sequence each program takes.

A batch with a fixed number of sequences has many empty ones, and real texts are shorter than the longest, so a grid of
(blocks of the longest) x H x B would mostly start programs without work. A schedule lists the blocks that exist, and programs
walk through it:

    schedule (3, 1 + items, 2) int32, for blocks of 32, 64 and 128 rows
        [i, 0] = (number of items, 0); [i, 1 + j] = (sequence, first row) of item j
        sequence B stands for the rows after the last sequence, the tail of a fixed token budget

It is made on the device, once for a forward, by one program for each block size, and needs no size from the host but T and B.
Without a schedule every program takes one block of a full grid, as is best for batches of few or of equally long sequences.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.attention_tiles import first_row
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv

BLOCKS = (32, 64, 128)
_CHUNK = 1024  # sequences read at a time
_RESIDENT = 4  # programs that a multiprocessor runs at the same time, about


@direct
@triton.jit(do_not_specialize=["T", "B", "rows"])
def _schedule_kernel(cu_ptr, schedule_ptr, T, B, rows, CHUNK: tl.constexpr):
    block = 32 << tl.program_id(0)
    schedule_ptr += tl.program_id(0) * rows * 2
    count = 1  # behind the number of items
    for first in range(0, B, CHUNK):
        sequences = first + tl.arange(0, CHUNK)
        inside = sequences < B
        start = tl.minimum(tl.maximum(tl.load(cu_ptr + sequences, mask=inside, other=0).to(tl.int32), 0), T)
        end = tl.minimum(tl.load(cu_ptr + sequences + 1, mask=inside, other=0).to(tl.int32), T)
        blocks = (tl.maximum(end - start, 0) + block - 1) // block
        place = count + tl.cumsum(blocks, 0) - blocks
        for j in range(tl.max(blocks, axis=0)):
            exists = (j < blocks) & (place + j < rows)
            tl.store(schedule_ptr + 2 * (place + j), sequences, mask=exists)
            tl.store(schedule_ptr + 2 * (place + j) + 1, tl.zeros_like(place) + j * block, mask=exists)
        count += tl.sum(blocks, axis=0)
    tail = (T - first_row(cu_ptr, B, T) + block - 1) // block
    for first in range(0, tail, CHUNK):
        j = first + tl.arange(0, CHUNK)
        exists = (j < tail) & (count + j < rows)
        tl.store(schedule_ptr + 2 * (count + j), tl.zeros_like(j) + B, mask=exists)
        tl.store(schedule_ptr + 2 * (count + j) + 1, j * block, mask=exists)
    tl.store(schedule_ptr, tl.minimum(count + tail, rows) - 1)


def make_schedule(cu_seqlens: torch.Tensor, tokens: int) -> torch.Tensor:
    """The schedule (3, 1 + items, 2) int32 of a batch of T = `tokens` rows; unused places at the end are uninitialised."""
    sequences = cu_seqlens.shape[0] - 1
    rows = 1 + tokens // BLOCKS[0] + sequences + 1  # each sequence and the tail may end in a block that is not full
    schedule = torch.empty((len(BLOCKS), rows, 2), dtype=torch.int32, device=cu_seqlens.device)
    _schedule_kernel[(len(BLOCKS),)](cu_seqlens.contiguous(), schedule, tokens, sequences, rows, CHUNK=_CHUNK, num_warps=8)
    return schedule


def pays(tokens: int, sequences: int, blocks: int, block: int, heads: int, device: torch.device) -> bool:
    """Whether a full grid of `blocks` for each sequence has many more programs than work, and than run at the same time."""
    return sequences * blocks * heads > _resident(device) and sequences * blocks * block > 1.125 * tokens


def grid_of(
    schedule: torch.Tensor | None, tokens: int, sequences: int, blocks: int, block: int, heads: int
) -> tuple[tuple[int], torch.Tensor | None]:
    """The grid, and the part of the schedule for blocks of this size.

    With a schedule there are as many programs as there would be blocks if all but the last were full. Sequences that end in a
    part of a block make for more items than that; the first programs then take two. Where the GPU would not be filled
    otherwise, there is a program for each item that there could be.
    """
    if schedule is None:
        return (blocks * heads * (sequences + 1),), None
    most = cdiv(tokens, block) + sequences + 1
    programs = heads * min(most, max(cdiv(tokens, block), cdiv(_resident(schedule.device), heads)))
    return (programs,), schedule[BLOCKS.index(block)]


def _resident(device: torch.device) -> int:
    return _RESIDENT * tuning.programs(1, 1 << 30, device)


@triton.jit
def items_of(schedule_ptr, H: tl.constexpr):
    """The number of items in a schedule, (block, head) pairs, and the end and step of a program's way through them."""
    if schedule_ptr is None:
        items, end, step = 0, tl.program_id(0) + 1, 1
    else:
        items = tl.load(schedule_ptr) * H
        end, step = items, tl.num_programs(0)
    return items, end, step


@triton.jit
def place_of(schedule_ptr, item, items, blocks, H: tl.constexpr, BLOCK: tl.constexpr):
    """First row, head and sequence of an item; blocks of one head are neighbours, so that they share its K and V in cache."""
    item = tl.cast(item, tl.int32)
    if schedule_ptr is None:
        first, head, sequence = item % blocks * BLOCK, item // blocks % H, item // blocks // H
    else:
        count = items // H
        place = schedule_ptr + 2 + item % count * 2
        first, head, sequence = tl.load(place + 1), item // count, tl.load(place)
    return first, head, sequence


@triton.jit
def tail_part(schedule_ptr, first, T, blocks, BLOCK: tl.constexpr):
    """The end of the rows of the tail that an item clears, and the step between its blocks."""
    if schedule_ptr is None:
        end, step = T, blocks * BLOCK
    else:
        end, step = first + BLOCK, BLOCK
    return end, step
