"""The model of the whole: its table is the committed one, and it agrees with what a card gave for single ops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kernels import predict  # noqa: E402

H100, H200 = predict.GPUS


def test_the_committed_table_is_what_the_committed_results_give() -> None:
    text = predict.PAGE.read_text(encoding="utf-8")
    assert predict.page(text) == text, "run python benchmarks/kernels/predict.py"


def test_every_work_is_that_of_a_target() -> None:
    for work in predict.WORKS:
        assert predict.target_of(work) in predict.targets.ON_GPU
        config = predict.BertConfig.of_size(work.size)
        flops = sum(op.count * op.flops for op in predict.forward(config, work, predict.kernel_rates()))
        layer = 24 * config.hidden_size**2 + 4 * work.attended * config.hidden_size
        assert flops == pytest.approx(config.num_hidden_layers * layer * work.tokens)


@pytest.mark.parametrize("length", [256, 512])
def test_attention_is_predicted_as_it_was_measured(length: int) -> None:
    path = max((ROOT / "benchmarks" / "results" / "nvidia-h200").glob("2*.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    name = f"attention, S = {length}, forward"
    (row,) = (row for row in rows if row["task"] == name and row["candidate"] == "fastbert")
    work = predict.Work("", "base", 16_384, length, length)
    config = predict.BertConfig.of_size("base")
    ops = predict.forward(config, work, predict.kernel_rates())
    (op,) = (op for op in ops if op.name == "attention")
    assert predict.seconds(op, H200, predict.RATES["790"]) / op.count == pytest.approx(row["median_s"], rel=0.15)


def test_more_bandwidth_and_faster_products_never_slow_a_work_down() -> None:
    rates = predict.kernel_rates()
    for work in predict.WORKS:
        goal = predict.target_of(work)
        slow, fast = (goal.ratio(predict.figure(work, rates, H200, predict.RATES[name])) for name in ("700", "790"))
        older = goal.ratio(predict.figure(work, rates, H100, predict.RATES["790"]))
        assert fast >= slow
        assert fast >= older


def test_what_is_missing_for_a_target_is_named() -> None:
    work, rates = predict.WORKS[0], predict.kernel_rates()
    assert predict.missing(work, rates, H200, lambda _: 100) == "none of these"
    assert predict.missing(work, dict.fromkeys(rates, 1e5), H200, lambda _: 2000) == ""
    assert predict.missing(work, rates, H200, predict.RATES["790"]) in predict.CHANGES
