"""BERT's feed-forward block: y = GELU(x w1^T + b1) w2^T + b2, with the exact erf GELU (or the tanh form).

    x (T, N), w1 (F, N), b1 (F,), w2 (N, F);  h = x w1^T + b1 (T, F), act = GELU(h) (T, F)

Vendors' libraries have no epilogue with the exact GELU. The launch table chooses between two ways to compute it:
  fused   a matrix product whose epilogue adds the bias, applies GELU and writes act, and also h if a backward will need it.
          There is a plain kernel (one program a tile, pointers), and a persistent one for GPUs with a tensor memory accelerator
          (sm_90 and newer): each multiprocessor runs one or two programs that loop over tiles, loads and stores go through
          descriptors, and the epilogue runs in two halves to save registers. Of two programs one multiplies while the other
          computes GELU.
  split   the vendor's product computes h, bias included; `gelu` computes act from it in one elementwise pass.
Backward, from dy: dact = dy w2, dh = dact * GELU'(h), and act is recomputed, so that only one of the two wide tensors is saved,
h. In the fused form these are the epilogue of dy w2; in the split form they are one elementwise pass after the vendor's
product. Column sums of dh (db1) are written as partial sums, (programs, F) float32, and added once, without atomics. The
vendor's library computes the remaining products.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from fastbert.kernels import tuning
from fastbert.kernels.common import contiguous_rows, gelu, gelu_derivative, in_type, operand
from fastbert.kernels.launching import direct
from fastbert.kernels.tuning import cdiv

DESCRIPTOR_BYTES = 2 << 30


@triton.jit
def _tile_place(tile, T, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and column of a tile. Tiles are ordered in groups of eight rows of tiles, so that weights stay in cache."""
    GROUP: tl.constexpr = 8
    rows, columns = tl.cdiv(T, BLOCK_M), tl.cdiv(F, BLOCK_N)
    group = tile // (GROUP * columns)
    height = tl.minimum(rows - group * GROUP, GROUP)
    within = tile % (GROUP * columns)
    return (group * GROUP + within % height) * BLOCK_M, within // height * BLOCK_N


@triton.jit
def _product(
    x_ptrs, w_ptrs, w_step, inner,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of x w (M, N), float32, from pointers to its first BLOCK_K columns of x and rows of w."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x, w = tl.load(x_ptrs), tl.load(w_ptrs)
        else:
            x = tl.load(x_ptrs, mask=(k + inner < K)[None, :], other=0.0)
            w = tl.load(w_ptrs, mask=(k + inner < K)[:, None], other=0.0)
        acc = tl.dot(operand(x), operand(w), acc)
        x_ptrs += BLOCK_K
        w_ptrs += w_step
    return acc


@direct
@triton.jit(do_not_specialize=["T"])
def _linear_gelu_kernel(
    x_ptr, weight_ptr, bias_ptr, act_ptr, h_ptr, stride_xt, stride_wf, T,
    K: tl.constexpr, F: tl.constexpr, TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    first_row, first_col = _tile_place(tl.program_id(0), T, F, BLOCK_M, BLOCK_N)
    rows = first_row + tl.arange(0, BLOCK_M)
    cols = first_col + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + tl.minimum(rows, T - 1).to(tl.int64)[:, None] * stride_xt + inner[None, :]
    w_ptrs = weight_ptr + tl.minimum(cols, F - 1).to(tl.int64)[None, :] * stride_wf + inner[:, None]
    acc = _product(x_ptrs, w_ptrs, BLOCK_K, inner, K, BLOCK_M, BLOCK_N, BLOCK_K)
    inside = (rows < T)[:, None] & (cols < F)[None, :]
    place = rows.to(tl.int64)[:, None] * F + cols[None, :]
    acc += tl.load(bias_ptr + cols, mask=cols < F, other=0.0).to(tl.float32)[None, :]
    if h_ptr is not None:
        tl.store(h_ptr + place, acc.to(h_ptr.dtype.element_ty), mask=inside)
    act = gelu(acc, TANH, act_ptr.dtype.element_ty == tl.float32)
    tl.store(act_ptr + place, act.to(act_ptr.dtype.element_ty), mask=inside)


@direct
@triton.jit(do_not_specialize=["T"])
def _linear_gelu_tma_kernel(
    x_desc, weight_desc, bias_ptr, act_desc, h_desc, T, inverse, act_scale,
    K: tl.constexpr, F: tl.constexpr, TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = BLOCK_N // 2
    tiles = tl.cdiv(T, BLOCK_M) * tl.cdiv(F, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        first_row, first_col = _tile_place(tile, T, F, BLOCK_M, BLOCK_N)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            x = x_desc.load([first_row, k])
            w = weight_desc.load([first_col, k])
            acc = tl.dot(x, w.T, acc)
        left, right = tl.split(acc.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1))
        for half in tl.static_range(2):
            part = left if half == 0 else right
            if inverse is not None:
                part *= inverse
            first = first_col + half * HALF
            cols = first + tl.arange(0, HALF)
            part += tl.load(bias_ptr + cols, mask=cols < F, other=0.0).to(tl.float32)[None, :]
            if h_desc is not None:
                h_desc.store([first_row, first], part.to(h_desc.dtype))
            act = gelu(part, TANH, act_desc.dtype == tl.float32)
            if act_scale is not None:
                act *= act_scale
            act_desc.store([first_row, first], in_type(act, act_desc.dtype))


@direct
@triton.jit(do_not_specialize=["T"])
def _linear_gelu_bwd_kernel(
    dy_ptr, weight_ptr, h_ptr, dh_ptr, act_ptr, partial_ptr, stride_dyt, stride_wn, T,
    K: tl.constexpr, F: tl.constexpr, TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    first_row, first_col = _tile_place(tl.program_id(0), T, F, BLOCK_M, BLOCK_N)
    rows = first_row + tl.arange(0, BLOCK_M)
    cols = first_col + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    dy_ptrs = dy_ptr + tl.minimum(rows, T - 1).to(tl.int64)[:, None] * stride_dyt + inner[None, :]
    w_ptrs = weight_ptr + inner.to(tl.int64)[:, None] * stride_wn + tl.minimum(cols, F - 1)[None, :]
    dact = _product(dy_ptrs, w_ptrs, BLOCK_K * stride_wn, inner, K, BLOCK_M, BLOCK_N, BLOCK_K)
    inside = (rows < T)[:, None] & (cols < F)[None, :]
    place = rows.to(tl.int64)[:, None] * F + cols[None, :]
    h = tl.load(h_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(act_ptr + place, gelu(h, TANH, act_ptr.dtype.element_ty == tl.float32).to(act_ptr.dtype.element_ty), mask=inside)
    dh = tl.where(inside, dact * gelu_derivative(h, TANH, dh_ptr.dtype.element_ty == tl.float32), 0.0)
    tl.store(dh_ptr + place, dh.to(dh_ptr.dtype.element_ty), mask=inside)
    tl.store(partial_ptr + (first_row // BLOCK_M).to(tl.int64) * F + cols, tl.sum(dh, axis=0), mask=cols < F)


@direct
@triton.jit(do_not_specialize=["T"])
def _gelu_fwd_kernel(h_ptr, act_ptr, T, F: tl.constexpr, TANH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr):
    columns: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    rows = tl.program_id(0) // columns * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(0) % columns * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = (rows < T)[:, None] & (cols < F)[None, :]
    place = rows.to(tl.int64)[:, None] * F + cols[None, :]
    h = tl.load(h_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(act_ptr + place, gelu(h, TANH, act_ptr.dtype.element_ty == tl.float32).to(act_ptr.dtype.element_ty), mask=inside)


@direct
@triton.jit(do_not_specialize=["T"])
def _gelu_bwd_kernel(
    dact_ptr, h_ptr, dh_ptr, act_ptr, partial_ptr, T,
    F: tl.constexpr, TANH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    columns: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    program, programs = tl.program_id(0) // columns, tl.num_programs(0) // columns
    cols = tl.program_id(0) % columns * BLOCK_F + tl.arange(0, BLOCK_F)
    dbias = tl.zeros((BLOCK_T, BLOCK_F), tl.float32)
    for first in range(program * BLOCK_T, T, programs * BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        inside = (rows < T)[:, None] & (cols < F)[None, :]
        place = rows.to(tl.int64)[:, None] * F + cols[None, :]
        h = tl.load(h_ptr + place, mask=inside, other=0.0).to(tl.float32)
        dh = tl.load(dact_ptr + place, mask=inside, other=0.0).to(tl.float32) * gelu_derivative(
            h, TANH, dh_ptr.dtype.element_ty == tl.float32
        )
        if act_ptr is not None:
            tl.store(
                act_ptr + place, gelu(h, TANH, act_ptr.dtype.element_ty == tl.float32).to(act_ptr.dtype.element_ty), mask=inside
            )
        tl.store(dh_ptr + place, dh.to(dh_ptr.dtype.element_ty), mask=inside)
        dbias += dh
    tl.store(partial_ptr + program * F + cols, tl.sum(dbias, axis=0), mask=cols < F)


def linear_gelu_fwd(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, tanh: bool, form: str, keep: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x (T, N), weight (F, N), bias (F,) -> act (T, F), and h = x weight^T + bias if `keep` is set.

    `form` is "fused" or "split".
    """
    T, (F, K) = x.shape[0], weight.shape
    if form == "split" or not T:
        h = torch.nn.functional.linear(x, weight, bias)
        return gelu_fwd(h, tanh, in_place=not keep), (h if keep else None)
    x, weight, bias = contiguous_rows(x), contiguous_rows(weight), bias.contiguous()
    act = torch.empty((T, F), dtype=x.dtype, device=x.device)
    saved = torch.empty_like(act) if keep else None
    if _has_tma(2, x, weight, act):
        row = tuning.row("linear_gelu_tma", x.device, x.element_size(), T)
        linear_gelu_tma_fwd(x, weight, bias, act, saved, tanh, row)
        return act, saved
    row = tuning.row("linear_gelu", x.device, x.element_size())
    tiles = cdiv(T, row["BLOCK_M"]) * cdiv(F, row["BLOCK_N"])
    _linear_gelu_kernel[(tiles,)](x, weight, bias, act, saved, x.stride(0), weight.stride(0), T, K=K, F=F, TANH=tanh, **row)
    return act, saved


def linear_gelu_tma_fwd(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    act: torch.Tensor,
    h: torch.Tensor | None,
    tanh: bool,
    row: tuning.Row,
    inverse: float | None = None,
    act_scale: float | None = None,
) -> None:
    """Computes act, and h if it is given, with the persistent kernel.

    For tensors in e4m3, the product is multiplied by `inverse`, and act is stored as act * act_scale.
    """
    T, (F, K) = x.shape[0], weight.shape
    row = dict(row)
    m, n, k, per_multiprocessor = row["BLOCK_M"], row["BLOCK_N"], row["BLOCK_K"], row.pop("PER_SM")
    tiles = cdiv(T, m) * cdiv(F, n)
    _linear_gelu_tma_kernel[(tuning.programs(per_multiprocessor, tiles, x.device),)](
        TensorDescriptor.from_tensor(x, [m, k]),
        TensorDescriptor.from_tensor(weight, [n, k]),
        bias,
        TensorDescriptor.from_tensor(act, [m, n // 2]),
        None if h is None else TensorDescriptor.from_tensor(h, [m, n // 2]),
        T, inverse, act_scale, K=K, F=F, TANH=tanh, **row,
    )  # fmt: skip


def linear_gelu_e4m3(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, inverse: float, act_scale: float, tanh: bool
) -> torch.Tensor | None:
    """x (T, N) and weight (F, N) in e4m3, bias (F,) -> GELU(x weight^T * inverse + bias) * act_scale (T, F) in e4m3.

    None where only the vendor's product can run: without a tensor memory accelerator, or on tensors that it cannot take.
    """
    act = torch.empty((x.shape[0], weight.shape[0]), dtype=x.dtype, device=x.device)
    if not _has_tma(1, x, weight, act):
        return None
    row = tuning.row("linear_gelu_tma", x.device, 1, x.shape[0])
    linear_gelu_tma_fwd(x, weight, bias, act, None, tanh, row, inverse, act_scale)
    return act


def linear_gelu_bwd(
    dy: torch.Tensor, weight: torch.Tensor, h: torch.Tensor, tanh: bool, form: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dy (T, N), the second weight (N, F), h (T, F) -> dh (T, F), act (T, F), dbias (F,) float32."""
    T, (K, F) = dy.shape[0], weight.shape
    if form == "split" or not T:
        dh, again, dbias = gelu_bwd(dy @ weight, h, tanh, want_act=True)
        assert again is not None
        return dh, again, dbias
    dy, weight = contiguous_rows(dy), contiguous_rows(weight)
    dh, act = torch.empty_like(h), torch.empty_like(h)
    row = tuning.row("linear_gelu_bwd", dy.device, dy.element_size())
    row_tiles = cdiv(T, row["BLOCK_M"])
    partial = torch.empty((row_tiles, F), dtype=torch.float32, device=dy.device)
    _linear_gelu_bwd_kernel[(row_tiles * cdiv(F, row["BLOCK_N"]),)](
        dy, weight, h, dh, act, partial, dy.stride(0), weight.stride(0), T, K=K, F=F, TANH=tanh, **row
    )
    return dh, act, partial.sum(0)


def gelu_fwd(h: torch.Tensor, tanh: bool, in_place: bool) -> torch.Tensor:
    """GELU(h): (T, F) contiguous -> (T, F); overwrites h if `in_place` is set."""
    T, F = h.shape
    act = h if in_place else torch.empty_like(h)
    if T:
        row = tuning.row("gelu", h.device)
        row.pop("PER_SM")
        grid = (cdiv(T, row["BLOCK_T"]) * cdiv(F, row["BLOCK_F"]),)
        _gelu_fwd_kernel[grid](h, act, T, F=F, TANH=tanh, **row)
    return act


def gelu_bwd(
    dact: torch.Tensor, h: torch.Tensor, tanh: bool, want_act: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """dact (T, F) -> dh (T, F), act (T, F) if `want_act` is set, dbias (F,) float32."""
    T, F = h.shape
    dact = dact.contiguous()
    dh = torch.empty_like(h)
    act = torch.empty_like(h) if want_act else None
    if not T:
        return dh, act, torch.zeros(F, dtype=torch.float32, device=h.device)
    row = tuning.row("gelu", h.device)
    programs = tuning.programs(row.pop("PER_SM"), cdiv(T, row["BLOCK_T"]), h.device)
    partial = torch.empty((programs, F), dtype=torch.float32, device=h.device)
    _gelu_bwd_kernel[(programs * cdiv(F, row["BLOCK_F"]),)](dact, h, dh, act, partial, T, F=F, TANH=tanh, **row)
    return dh, act, partial.sum(0)


def _has_tma(size: int, *tensors: torch.Tensor) -> bool:
    """Whether the GPU has a tensor memory accelerator, and these tensors fit: elements of `size` bytes, alignment, size.

    On sm_100 Triton computes offsets within a descriptor in 32 bits of bytes, hence less than 2 GiB.
    """
    return (
        tuning.architecture(tensors[0].device) in tuning.TMA_ARCHITECTURES
        and tensors[0].element_size() == size
        and all(t.data_ptr() % 16 == 0 and t.stride(0) * t.element_size() % 16 == 0 for t in tensors)
        and all(t.nbytes < DESCRIPTOR_BYTES for t in tensors)
    )
