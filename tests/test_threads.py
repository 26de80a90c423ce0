"""Threads of the CPU: the flag, the default under a quota, and how threads wait where others use the same cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastbert import cli, threads
from fastbert.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def groups(folder: Path, line: str, **files: str) -> tuple[Path, Path]:
    """A tree of control groups, and the file that says which are one's own."""
    for name, text in files.items():
        path = folder / "cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "own").write_text(f"0::/\n{line}\n" if not line.startswith("0::") else line + "\n")
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {"cpu_max": "150000 100000"}, 1.5),
        ("0::/", {"cpu_max": "max 100000"}, None),
        ("0::/a/b", {"a__b__cpu_max": "max 100000", "a__cpu_max": "300000 100000", "cpu_max": "max 100000"}, 3.0),
        ("0::/a/b", {"a__b__cpu_max": "400000 100000", "a__cpu_max": "200000 100000"}, 2.0),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct__cpu_cfs_quota_us": "50000", "cpu,cpuacct__cpu_cfs_period_us": "100000"}, 0.5),
        ("4:cpu:/x", {"cpu__x__cpu_cfs_quota_us": "-1", "cpu__x__cpu_cfs_period_us": "100000"}, None),
        ("0::/", {}, None),
        ("0::/", {"cpu_max": "nonsense"}, None),
    ],
)
def test_the_quota_is_the_smallest_of_all_levels(
    line: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    root, own = groups(tmp_path, line, **files)
    assert threads.quota_of_cores(root, own) == expected
    assert threads.quota_of_cores(root, tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("quota", "cores", "expected"), [(1.5, 8, 1), (0.5, 8, 1), (3.0, 8, 3), (8.0, 8, None), (None, 8, None)]
)
def test_the_default_heeds_the_quota(
    quota: float | None, cores: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "quota_of_cores", lambda: quota)
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    threads.use_threads(None)
    assert asked == ([] if expected is None else [expected])
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user has said
    threads.use_threads(None)
    assert len(asked) <= 1


def test_a_wrong_number_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong in (0, -1, 2000):
        with pytest.raises(InputError, match=f"threads = {wrong} must be from 1 to 1024"):
            threads.use_threads(wrong)
    assert cli.main(["embed", "x.txt", "-o", str(tmp_path / "v.npy"), "--model", "m", "--threads", "0"]) == 2
    assert "--threads 0 must be from 1" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_a_command_sets_threads_and_how_they_wait_before_torch_starts(given: dict[str, str]) -> None:
    code = (
        "import os, sys\n"
        "from fastbert import cli\n"
        "assert 'torch' not in sys.modules\n"
        "cli.main(['explain', 'a cat', '--model', 'no/such', '--local-files-only', '--threads', '1'])\n"
        "import torch\n"
        "print(torch.get_num_threads(), os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = {"": threads.SPINS, "OMP_WAIT_POLICY": "None", "GOMP_SPINCOUNT": "7"}["".join(given)]
    assert run.stdout.split() == ["1", expected]


def test_the_readme_says_what_was_measured() -> None:
    rows = [json.loads(line) for line in (ROOT / "benchmarks" / "results" / "threads.jsonl").open()]
    seconds = {(row["waiting"], row["busy_process"]): row["median_s"] for row in rows}
    for busy in (False, True):
        assert seconds["the fastbert command's", busy] < seconds["PyTorch's default", busy]
        assert seconds["one thread", busy] < seconds["PyTorch's default", busy]
