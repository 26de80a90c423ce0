"""`fastbert.verify`: it passes what is right, catches what is a little wrong, and the command's exit code says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_pair, ragged

import fastbert
from fastbert import cli
from fastbert.kernels import ffn, layer_norm
from fastbert.ops import paths


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("BertModel", torch.float16), pytest.param("BertForMaskedLM", torch.float32, marks=pytest.mark.thorough)],
)
def test_kernels_pass_on_every_op_and_layer(name: str, dtype: torch.dtype) -> None:
    model, _ = make_pair(name, hidden_size=64, initializer_range=0.05)
    model.to(dtype)
    with fastbert.backend("triton"):
        found = fastbert.verify(model, **ragged([9, 4, 33]))
    assert found.ok, str(found)
    names = [row.what for row in found.rows]
    assert {"embedding", "attention", "layer_norm", "ffn", "attention gradient 1", "embeddings", "layer 2"} <= set(names)
    assert ("linear_gelu" in names) == (name == "BertForMaskedLM")
    assert {row.path for row in found.rows} == {"triton"}
    assert "all within twice plain PyTorch's error" in str(found)


def test_cpu_paths_pass_on_real_weights(minilm: Path) -> None:
    model = fastbert.BertModel.from_pretrained(minilm)
    found = fastbert.verify(model, **ragged([40, 9, 128], vocab=30_000))
    assert found.ok, str(found)
    assert found.rows[-1].what == "layer 5"


def test_a_kernel_that_is_a_little_wrong_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per mille in one op: more than its rounding, less than anybody would see in a result."""
    real = layer_norm.layer_norm_fwd
    monkeypatch.setattr(layer_norm, "layer_norm_fwd", lambda *a: (real(*a)[0] * 1.001, *real(*a)[1:]))
    model, _ = make_pair("BertModel", hidden_size=64)
    with fastbert.backend("triton"):
        found = fastbert.verify(model, **ragged([9, 4]))
    assert not found.ok
    bad = {row.what for row in found.rows if not row.ok}
    assert "layer_norm" in bad
    assert "layer 0" in bad
    assert "attention" not in bad
    assert "TOO LARGE" in str(found)


def test_a_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ffn.gelu_bwd
    monkeypatch.setattr(ffn, "gelu_bwd", lambda *a, **k: tuple(t * 1.001 for t in real(*a, **k)))
    model, _ = make_pair("BertModel", hidden_size=64)
    with fastbert.backend("triton"):
        found = fastbert.verify(model, **ragged([9, 4]))
    bad = {row.what for row in found.rows if not row.ok}
    assert bad
    assert all(what.startswith("ffn gradient") for what in bad)


def test_the_command_prints_the_table_and_exits_with_0(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "A text.", "A second, longer text.", "--model", str(minilm)]) == 0
    out = capsys.readouterr().out
    assert "layer 5" in out
    assert "plain PyTorch" in out


def test_the_command_exits_with_1_where_an_error_is_too_large(
    minilm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastbert.ops import cpu

    real = cpu.attention
    monkeypatch.setattr(cpu, "attention", lambda *a, **k: real(*a, **k) * 1.001)
    assert cli.main(["verify", "A text.", "--model", str(minilm)]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


def test_the_command_takes_a_backend(minilm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["explain", "A text.", "--model", str(minilm), "--backend", "reference"]) == 0
    assert "the backend is 'reference'" in capsys.readouterr().out

    monkeypatch.setattr(paths, "_INTERPRETED", False)
    assert cli.main(["verify", "A text.", "--model", str(minilm), "--backend", "triton"]) == 2
    assert "cannot run embedding: the tensors are on a CPU" in capsys.readouterr().err
