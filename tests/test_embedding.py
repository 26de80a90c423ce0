"""The embedding sum: kernels against the reference, as compiled for sm_90 in `make test`; test_gpu.py has the full sizes."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import check_embedding, check_frequent_word, random

import fastbert
from fastbert import ops
from fastbert.kernels import embedding as kernels

pytestmark = pytest.mark.usefixtures("poisoned")
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("width", "p", "dtype"),
    [(384, 0.1, torch.float32), *((768, 0.0, dtype) for dtype in TYPES), (1024, 0.1, torch.float32)],
    ids=str,
)
def test_embedding_is_as_exact_as_plain_pytorch(width: int, p: float, dtype: torch.dtype) -> None:
    check_embedding("cpu", dtype, 300, width, p)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 40, 4)], ids=str)
def test_embedding_takes_tables_of_any_size(sizes: tuple[int, int, int]) -> None:
    check_embedding("cpu", torch.float32, 70, 32, 0.0, sizes)


@pytest.mark.parametrize("runs", [[64], [63, 1], [1, 64, 1], [200], [63, 130, 7], [1] * 70, [65, 63]], ids=str)
def test_table_gradient_adds_runs_of_any_length_across_chunks(runs: list[int]) -> None:
    """Equal ids in a row: ending at a chunk's edge, one beyond it, covering several chunks."""
    index = torch.cat([torch.full((n,), i * 2) for i, n in enumerate(runs)])
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
    dz = random(len(index), 24, seed=1, device="cpu").float()
    rows = 2 * len(runs) + 1
    found = kernels.table_bwd(dz, index, rows, torch.float32, None)
    exact = torch.zeros(rows, 24, dtype=torch.float64).index_add_(0, index, dz.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
    skipped = kernels.table_bwd(dz, index, rows, torch.float32, 2)
    exact[2] = 0
    torch.testing.assert_close(skipped.double(), exact, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_frequent_word_errs_by_its_own_rounding_alone() -> None:
    check_frequent_word("cpu", torch.float16, 300, 24)  # the interpreter cuts bfloat16 off; test_gpu.py has it


def test_embedding_clamps_ids_that_no_table_has() -> None:
    tables = [random(n, 16, seed=n, device="cpu").float() for n in (5, 4, 2)]
    with fastbert.backend("triton"):
        wild = torch.tensor([-7, 99, 2**40])
        found = ops.embedding(wild, wild, wild, *tables, torch.ones(16), torch.zeros(16), 1e-12)
        place, kind = torch.tensor([0, 3, 3]), torch.tensor([0, 1, 1])
        expected = ops.embedding(torch.tensor([0, 4, 4]), kind, place, *tables, torch.ones(16), torch.zeros(16), 1e-12)
    assert torch.equal(found, expected)


def test_embedding_takes_narrow_ids_and_gives_equal_bits() -> None:
    runs = []
    for dtype in (torch.int32, torch.int64, torch.int64):
        tables = [random(n, 16, seed=n, device="cpu").float().requires_grad_() for n in (9, 8, 2)]
        ids = torch.arange(90, dtype=dtype)
        with fastbert.backend("triton"):
            out = ops.embedding(ids % 9, ids % 2, ids % 8, *tables, torch.ones(16), torch.zeros(16), 1e-12, 0.1, 3)
        out.backward(random(90, 16, seed=1, device="cpu").float())
        runs.append([out.detach(), *(t.grad for t in tables)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_frozen_tables_get_no_gradient() -> None:
    tables = [random(n, 16, seed=n, device="cpu").float() for n in (9, 8, 2)]
    tables[1].requires_grad_()
    ids = torch.arange(6)
    with fastbert.backend("triton"):
        ops.embedding(ids, ids % 2, ids, *tables, torch.ones(16), torch.zeros(16), 1e-12).sum().backward()
    assert tables[0].grad is None
    assert tables[1].grad is not None
