"""BERT's input layer in one pass: y = dropout(LayerNorm(word[id] + token_type[type] + position[pos]) * weight + bias).

    ids, types, positions (T,) integers; tables (V, N), (types, N), (P, N); y (T, N); mean, rstd (T,) float32 saved

Ids outside their table are clamped, so no address is ever out of bounds; `packing` checks and reports them.
Forward: each program gathers three rows for each of BLOCK_T tokens and normalises the sums in registers.
Backward, in two steps. The first loops over the tokens as layer_norm.py does, and writes dz (T, N) and partial column sums of
dweight and dbias. The second sums the rows of dz that belong to the same table row: tokens are sorted by id with a stable sort,
and each program reduces CHUNK of them. A run of equal ids within one chunk is written straight to the table. A run that crosses
the edge of a chunk leaves partial sums, `head` for the run that began before the chunk and `tail` for the run that continues
after it; another kernel adds these in order. The [CLS] of 64k tokens takes the same path as the rarest word, without atomics,
and every run gives the same bits.
"""

import torch
import triton
import triton.language as tl

from fastbert.kernels import tuning
from fastbert.kernels.common import contiguous_rows, dropped, keep_mask, normalised, normalised_gradient
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv, next_power_of_2

CHUNK = 64


@triton.jit
def _row_of(index_ptr, place, mask, size):
    """Table rows index_ptr[place], clamped to 0..size-1, as int64."""
    index = tl.load(index_ptr + place, mask=mask, other=0).to(tl.int64)
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def _sum(id_ptr, type_ptr, position_ptr, word_ptr, position_table_ptr, type_table_ptr, rows, cols, inside, T, V, TYPES, P,
         N: tl.constexpr):  # fmt: skip
    """Sum of the three embeddings of tokens `rows`, (R, BLOCK_N) float32, zero outside."""
    real = rows < T
    word = _row_of(id_ptr, rows, real, V)[:, None] * N + cols[None, :]
    kind = _row_of(type_ptr, rows, real, TYPES)[:, None] * N + cols[None, :]
    position = _row_of(position_ptr, rows, real, P)[:, None] * N + cols[None, :]
    z = tl.load(word_ptr + word, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(type_table_ptr + kind, mask=inside, other=0.0).to(tl.float32)
    return z + tl.load(position_table_ptr + position, mask=inside, other=0.0).to(tl.float32)


@direct
@triton.jit(do_not_specialize=["T", "V", "TYPES", "P"], do_not_specialize_on_alignment=["seed_ptr"])
def _embedding_fwd_kernel(
    id_ptr, type_ptr, position_ptr, word_ptr, position_table_ptr, type_table_ptr, weight_ptr, bias_ptr, seed_ptr,
    y_ptr, mean_ptr, rstd_ptr, T, V, TYPES, P, eps, p,
    N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_N)
    inside = (rows < T)[:, None] & (cols < N)[None, :]
    z = _sum(
        id_ptr, type_ptr, position_ptr, word_ptr, position_table_ptr, type_table_ptr, rows, cols, inside, T, V, TYPES, P, N
    )
    y = normalised(z, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, rows, cols, T, eps, N)
    if seed_ptr is not None:
        y = dropped(y, keep_mask(tl.load(seed_ptr), rows, 0, 0, p, BLOCK_N, False), p)
    tl.store(y_ptr + rows.to(tl.int64)[:, None] * N + cols[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@direct
@triton.jit(do_not_specialize=["T", "V", "TYPES", "P"], do_not_specialize_on_alignment=["seed_ptr"])
def _embedding_bwd_kernel(
    dy_ptr, id_ptr, type_ptr, position_ptr, word_ptr, position_table_ptr, type_table_ptr, weight_ptr, seed_ptr,
    mean_ptr, rstd_ptr, dz_ptr, partial_ptr, stride_dyt, T, V, TYPES, P, p,
    N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    cols = tl.arange(0, BLOCK_N)
    is_column = cols < N
    weight = tl.load(weight_ptr + cols, mask=is_column, other=0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    dbias = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for first in range(program * BLOCK_T, T, programs * BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        at = rows.to(tl.int64)[:, None]
        inside = (rows < T)[:, None] & is_column[None, :]
        z = _sum(
            id_ptr, type_ptr, position_ptr, word_ptr, position_table_ptr, type_table_ptr, rows, cols, inside, T, V, TYPES, P, N
        )
        dy = tl.load(dy_ptr + at * stride_dyt + cols[None, :], mask=inside, other=0.0).to(tl.float32)
        if seed_ptr is not None:
            dy = dropped(dy, keep_mask(tl.load(seed_ptr), rows, 0, 0, p, BLOCK_N, False), p)
        mean = tl.load(mean_ptr + rows, mask=rows < T, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < T, other=0.0)
        xhat = tl.where(inside, (z - mean[:, None]) * rstd[:, None], 0.0)
        dweight += dy * xhat
        dbias += dy
        dz = normalised_gradient(dy, weight, xhat, rstd, N)
        tl.store(dz_ptr + at * N + cols[None, :], dz.to(dz_ptr.dtype.element_ty), mask=inside)
    place = partial_ptr + program * N + cols
    tl.store(place, tl.sum(dweight, axis=0), mask=is_column)
    tl.store(place + programs * N, tl.sum(dbias, axis=0), mask=is_column)


@direct
@triton.jit(do_not_specialize=["T", "rows", "padding"])
def _table_chunk_kernel(
    dz_ptr, sorted_ptr, order_ptr, table_ptr, head_ptr, tail_ptr, T, rows, padding,
    N: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    first = chunk * CHUNK
    last = tl.minimum(first + CHUNK, T)
    cols = tl.arange(0, BLOCK_N)
    is_column = cols < N
    came_in = first > 0
    if came_in:
        came_in = tl.load(sorted_ptr + first - 1) == tl.load(sorted_ptr + first)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for place in range(first, last):
        index = tl.load(sorted_ptr + place).to(tl.int64)
        token = tl.load(order_ptr + place)
        total += tl.load(dz_ptr + token * N + cols, mask=is_column, other=0.0).to(tl.float32)
        run_ends = tl.load(sorted_ptr + tl.minimum(place + 1, T - 1)) != index
        run_ends = run_ends | (place + 1 == T)
        to_table = run_ends & (came_in == 0) & (index >= 0) & (index < rows) & (index != padding)
        to_head = came_in & (run_ends | (place + 1 == last))
        to_tail = (came_in == 0) & (run_ends == 0) & (place + 1 == last)
        tl.store(table_ptr + index * N + cols, total.to(table_ptr.dtype.element_ty), mask=is_column & to_table)
        tl.store(head_ptr + chunk.to(tl.int64) * N + cols, total, mask=is_column & to_head)
        tl.store(tail_ptr + chunk.to(tl.int64) * N + cols, total, mask=is_column & to_tail)
        total = tl.where(run_ends, 0.0, total)
        came_in = came_in & (run_ends == 0)


@direct
@triton.jit(do_not_specialize=["T", "rows", "padding"])
def _table_join_kernel(
    sorted_ptr, table_ptr, head_ptr, tail_ptr, T, rows, padding,
    N: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    chunks = tl.cdiv(T, CHUNK)
    edge = (chunk + 1) * CHUNK  # the first place of the next chunk
    index = tl.load(sorted_ptr + edge - 1).to(tl.int64)
    starts_here = tl.load(sorted_ptr + tl.maximum(chunk * CHUNK - 1, 0)) != index
    starts_here = (starts_here | (chunk == 0)) & (index == tl.load(sorted_ptr + edge))
    if starts_here & (index >= 0) & (index < rows) & (index != padding):
        cols = tl.arange(0, BLOCK_N)
        is_column = cols < N
        total = tl.load(tail_ptr + chunk.to(tl.int64) * N + cols, mask=is_column, other=0.0)
        part = chunk + 1
        goes_on = 1
        while goes_on == 1:
            parts = part + tl.arange(0, PARTS)
            own = (tl.load(sorted_ptr + parts * CHUNK, mask=parts < chunks, other=0) == index) & (parts < chunks)
            block = tl.load(
                head_ptr + parts.to(tl.int64)[:, None] * N + cols[None, :], mask=own[:, None] & is_column[None, :], other=0.0
            )
            total += tl.sum(block, axis=0)
            goes_on = tl.min(own.to(tl.int32), axis=0)
            part += PARTS
        tl.store(table_ptr + index * N + cols, total.to(table_ptr.dtype.element_ty), mask=is_column)


def embedding_fwd(
    ids: torch.Tensor,
    types: torch.Tensor,
    positions: torch.Tensor,
    word: torch.Tensor,
    position_table: torch.Tensor,
    type_table: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    p: float,
    seed: torch.Tensor | None,
    statistics: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """ids, types, positions (T,) -> y (T, N) in the word table's type, and mean, rstd (T,) float32 if `statistics` is set."""
    T, N = ids.shape[0], word.shape[1]
    y = torch.empty((T, N), dtype=word.dtype, device=word.device)
    mean = torch.empty(T, dtype=torch.float32, device=word.device) if statistics else None
    rstd = torch.empty(T, dtype=torch.float32, device=word.device) if statistics else None
    if T:
        row = tuning.row("layer_norm_fwd", word.device, N)
        _embedding_fwd_kernel[(cdiv(T, row["BLOCK_T"]),)](
            ids.contiguous(), types.contiguous(), positions.contiguous(),
            word.contiguous(), position_table.contiguous(), type_table.contiguous(),
            weight.contiguous(), bias.contiguous(), seed, y, mean, rstd,
            T, word.shape[0], type_table.shape[0], position_table.shape[0], eps, p,
            N=N, BLOCK_N=next_power_of_2(N), **row,
        )  # fmt: skip
    return y, mean, rstd


def embedding_bwd(
    dy: torch.Tensor,
    ids: torch.Tensor,
    types: torch.Tensor,
    positions: torch.Tensor,
    word: torch.Tensor,
    position_table: torch.Tensor,
    type_table: torch.Tensor,
    weight: torch.Tensor,
    p: float,
    seed: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """dy (T, N) -> dz (T, N) float32, the gradient of the three rows of each token, and (2, N) float32: dweight, dbias.

    dz is float32 because thousands of tokens may share a table row: if each were rounded to 16 bit, the error of their sum
    would exceed the rounding of the sum itself.
    """
    T, N = ids.shape[0], word.shape[1]
    dy = contiguous_rows(dy)
    dz = torch.empty((T, N), dtype=torch.float32, device=word.device)
    if not T:
        return dz, torch.zeros(2, N, dtype=torch.float32, device=word.device)
    row = tuning.row("layer_norm_bwd", word.device, N)
    programs = tuning.programs(row.pop("PER_SM"), cdiv(T, row["BLOCK_T"]), word.device)
    partial = torch.empty((2, programs, N), dtype=torch.float32, device=word.device)
    _embedding_bwd_kernel[(programs,)](
        dy, ids.contiguous(), types.contiguous(), positions.contiguous(),
        word.contiguous(), position_table.contiguous(), type_table.contiguous(), weight.contiguous(), seed,
        mean, rstd, dz, partial, dy.stride(0), T, word.shape[0], type_table.shape[0], position_table.shape[0], p,
        N=N, BLOCK_N=next_power_of_2(N), **row,
    )  # fmt: skip
    return dz, partial.sum(1)


def table_bwd(dz: torch.Tensor, index: torch.Tensor, rows: int, dtype: torch.dtype, padding_idx: int | None) -> torch.Tensor:
    """Gradient of a table (rows, N) from dz (T, N) and index (T,): each table row is the sum of its tokens' rows.

    Row `padding_idx` stays zero. Indices outside the table are clamped, as in the forward.
    """
    T, N = dz.shape
    table = torch.zeros((rows, N), dtype=dtype, device=dz.device)
    if not T:
        return table
    # A radix sort needs one pass for each byte of its keys.
    number = torch.uint8 if rows <= 1 << 8 else torch.int16 if rows <= 1 << 15 else torch.int32
    ordered, order = torch.sort(index.clamp(0, rows - 1).to(number), stable=True)
    chunks = cdiv(T, CHUNK)
    head = torch.empty((chunks, N), dtype=torch.float32, device=dz.device)
    tail = torch.empty((chunks, N), dtype=torch.float32, device=dz.device)
    sizes = (T, rows, -1 if padding_idx is None else padding_idx)
    shape = {"N": N, "CHUNK": CHUNK, "BLOCK_N": next_power_of_2(N), **tuning.row("table_bwd", dz.device, N)}
    _table_chunk_kernel[(chunks,)](dz.contiguous(), ordered, order, table, head, tail, *sizes, **shape)
    if chunks > 1:
        _table_join_kernel[(chunks - 1,)](ordered, table, head, tail, *sizes, PARTS=16, **shape)
    return table
