"""Ray: a cluster of two nodes on this machine makes the same bytes as one process; the actor class in Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_cases import everything
from task_cases import save_encoder, texts

from fastbert import cli
from fastbert.bulk import Embed, run_job
from fastbert.errors import InputError
from fastbert.integrations.ray import Embedder, _Maker


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    found.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield found
    found.shutdown()


def test_two_nodes_make_the_same_bytes(
    cluster: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)  # inputs and output are named from here
    values = [one.text for one in texts(200, seed=3)]
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in values))
    run_job(Embed(str(model), "cpu"), ["a.jsonl"], "alone", part_rows=16)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        given = ["embed", "a.jsonl", "-o", "out", "--model", str(model), "--device", "cpu", "--part-rows", "16"]
        assert cli.main([*given, "--engine", "ray"]) == 0
        said = capsys.readouterr().err
        assert "200 rows in" in said
        assert "Execution plan" not in said, "Ray's own reports"
        assert everything(Path("out")) == everything(Path("alone"))
        assert cli.main([*given[:-4], "--overlong", "error", "--pooling", "max", "--engine", "ray"]) == 2
        assert "out was begun without pooling, and is now given with --pooling ['max']" in capsys.readouterr().err
    finally:
        ray.shutdown()


def test_an_actor_that_makes_parts_sends_back_what_it_refuses(model: Path, tmp_path: Path) -> None:
    """Ray itself would send only a text of it."""
    (tmp_path / "long.txt").write_text("cat\n" + "cat " * 99)
    work = Embed(str(model), "cpu", overlong="error")
    with pytest.raises(InputError):
        run_job(work, [str(tmp_path / "long.txt")], tmp_path / "out")
    found = _Maker(tmp_path / "out", work, Path.cwd())({"number": np.array([0])})
    assert found["kind"].tolist() == ["TooLongError"]
    assert "long.txt, line 2 has 101 tokens, the limit is 64" in found["failure"][0]


def test_the_actor_class_takes_options_and_names_a_missing_column(model: Path) -> None:
    actor = Embedder(model, column="body", output="v", precision="float16", normalize=True)
    found = actor({"body": np.array(["cat", "red dog"]), "n": np.array([1, 2])})
    assert list(found) == ["body", "n", "v"]
    assert found["v"].dtype == np.float16
    assert np.allclose(np.linalg.norm(found["v"].astype(np.float32), axis=1), 1, atol=1e-2)
    with pytest.raises(InputError, match="column = 'body': the batch has text"):
        actor({"text": np.array(["cat"])})
    with pytest.raises(InputError, match=r"inputs\[1\]|texts\[1\]"):
        actor({"body": np.array(["cat", None], dtype=object)})


def test_no_cluster_is_one_sentence(model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.txt").write_text("cat\n")
    given = ["embed", str(tmp_path / "a.txt"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert cli.main([*given, "--address", "auto"]) == 2
    assert "--address auto needs --engine ray" in capsys.readouterr().err.replace("'", "")
