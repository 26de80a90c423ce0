"""Which blocks the programs of attention take: every block once, in grids that start few programs without work."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import check_attention_schedule

import fastbert
from fastbert import ops
from fastbert.kernels import attention, attention_long, attention_schedule, attention_short, tuning
from fastbert.model import plain_layer

HEADS = 12


def bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def items(lengths: list[int], tokens: int, block: int) -> list[tuple[int, int]]:
    """(sequence, first row) of every block, those of the tail under the number of sequences."""
    every = [*lengths, tokens - sum(lengths)]
    return [(i, first) for i, length in enumerate(every) for first in range(0, length, block)]


@pytest.mark.parametrize(
    ("lengths", "tokens"),
    [
        ([5, 0, 70, 33, 0, 0], 120),
        ([1] * 40, 40),
        ([0, 0], 7),
        ([], 9),
        ([], 0),
        ([200, 10], 210),
        ([128] * 3, 700),
        ([3, 64, 0, 65] * 300, 300 * 132 + 5000),  # more sequences than are read at a time
    ],
)
def test_a_schedule_has_every_block_once(lengths: list[int], tokens: int) -> None:
    schedule = attention_schedule.make_schedule(bounds(lengths), tokens)
    for block, rows in zip(attention_schedule.BLOCKS, schedule, strict=True):
        count = int(rows[0, 0])
        assert [tuple(row) for row in rows[1 : 1 + count].tolist()] == items(lengths, tokens, block)


@pytest.mark.parametrize("cu", [[-4, 3, 500, 9], [9, 0, 9, 0, 9, 0, 9], [0, 10, 2**30]])
def test_bad_bounds_stay_within_the_schedule(cu: list[int]) -> None:
    schedule = attention_schedule.make_schedule(torch.tensor(cu, dtype=torch.int32), 10)
    for rows in schedule:
        count = int(rows[0, 0])
        assert 0 <= count < len(rows)
        found = rows[1 : 1 + count]
        assert bool(((found[:, 0] >= 0) & (found[:, 0] <= len(cu) - 1) & (found[:, 1] >= 0) & (found[:, 1] < 10)).all())


@pytest.mark.parametrize(("longest", "causal"), [(30, True), (120, False), (150, True)])
def test_results_are_those_of_a_full_grid(longest: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    check_attention_schedule(monkeypatch, "cpu", torch.float32, longest, 16, causal)


class Grids:
    """Stands for a kernel and records the size of its grids."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        self.sizes.append(grid[0])
        return lambda *_, **__: None


def natural(tokens: int) -> list[int]:
    """Lengths like those of sentences and paragraphs: most are short, a few as long as the model takes."""
    lengths = np.random.default_rng(0).lognormal(3.6, 0.8, 2 * tokens).astype(int).clip(3, 512)
    return [int(n) for n in lengths[: np.searchsorted(lengths.cumsum(), tokens)]]


def squad(tokens: int) -> list[int]:
    """Lengths like those of SQuAD: mean 178, up to 384."""
    lengths = np.random.default_rng(0).normal(178, 60, tokens).astype(int).clip(50, 384)
    return [int(n) for n in lengths[: np.searchsorted(lengths.cumsum(), tokens)]]


def budget(length: int, tokens: int) -> list[int]:
    """A pre-training batch: nine of ten sequences are full, the rest shorter, and empty ones fill up tokens // 16."""
    drawn = np.random.default_rng(0)
    lengths = np.where(drawn.random(tokens) < 0.9, length, drawn.integers(5, length, tokens))
    found = [int(n) for n in lengths[: np.searchsorted(lengths.cumsum(), tokens - 20)]]
    return found + [0] * (tokens // 16 - len(found))


@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm100", "gfx942"])
@pytest.mark.parametrize(
    "lengths",
    [natural(65_536), squad(65_536), budget(128, 32_768), budget(512, 32_768), [128] * 512, [512] * 64],
    ids=["natural", "SQuAD", "pre-training 128", "pre-training 512", "full 128", "full 512"],
)
def test_few_programs_are_without_work(lengths: list[int], arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "architecture", lambda _: arch)
    monkeypatch.setattr(tuning, "_multiprocessors", lambda _: 132)
    longest, empty = max(lengths), lengths.count(0)
    tokens = sum(lengths) + 20 * (empty > 0)
    cu, size = bounds(lengths), (2, 64)
    assert attention.schedule_if_it_pays(cu, longest, tokens, HEADS) is None or len(set(lengths)) > 1
    scheduled = Grids()
    monkeypatch.setattr(attention_schedule, "_schedule_kernel", scheduled)
    blocks: dict[str, int] = {}
    sides = {"short_fwd": "BLOCK_N", "short_bwd": "BLOCK_N", "long_fwd": "BLOCK_M", "long_dq": "BLOCK_M", "long_dkv": "BLOCK_N"}
    for name, side in sides.items():
        form = attention_short if "short" in name else attention_long
        monkeypatch.setattr(form, f"attention_{name}_kernel", Grids())
        limits = (*size, longest) if "short" in name else size
        if longest <= 128 or "long" in name:
            found = tuning._find(f"attention_{name}", arch, limits)
            blocks[name] = found[side] if found else 0
    qkv, out = torch.zeros(tokens, 3, HEADS, 64, dtype=torch.bfloat16), torch.zeros(tokens, HEADS, 64, dtype=torch.bfloat16)
    lse = torch.zeros(HEADS, tokens)
    attention.attention_fwd(qkv, cu, longest, 0.0, None, False, 0.125, True)
    attention.attention_bwd(out, qkv, cu, longest, out, lse, 0.0, None, False, 0.125)
    launched = 0
    for name, block in blocks.items():
        (*grids,) = getattr(attention_short if "short" in name else attention_long, f"attention_{name}_kernel").sizes
        for programs in grids:
            with_work = min(programs, HEADS * len(items(lengths, tokens, block)))
            assert programs <= 1.15 * with_work, (name, programs, with_work)
            launched += 1
    assert launched >= 2  # a forward, and a backward of one kernel or two


def test_a_forward_makes_one_schedule_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = fastbert.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    model = fastbert.BertModel(config)
    ids = torch.randint(1, 40, (9, 20))
    mask = (torch.arange(20) < torch.tensor([20, 1, 2, 3, 1, 2, 1, 1, 4])[:, None]).long()
    made = []
    real = attention.make_schedule
    monkeypatch.setattr(attention, "make_schedule", lambda *a: made.append(1) or real(*a))
    monkeypatch.setattr(attention_schedule, "pays", lambda *_: True)
    with ops.backend("triton"):
        for training in (False, True):
            model.train(training)
            with torch.set_grad_enabled(training):
                out = model(ids, mask).last_hidden_state
            if training:
                out.sum().backward()
            assert len(made) == 1
            made.clear()
        monkeypatch.setattr(plain_layer, "is_usable", lambda: False)  # layers that are called as modules make their own
        with torch.no_grad():
            model.eval()(ids, mask)
        assert len(made) == 3
