"""The campaign of measurements: parts that stop at their limit and go on, and the table of targets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import breakdown, campaign, run  # noqa: E402
from benchmarks.campaign import PARTS, Campaign, Part  # noqa: E402
from benchmarks.report import questions  # noqa: E402
from benchmarks.speed import records, session, targets  # noqa: E402
from benchmarks.speed.cases import REAL, SIZES  # noqa: E402
from benchmarks.speed.checkpoints import Checkpoints  # noqa: E402
from benchmarks.speed.op_cases import LENGTHS, OP_CASES  # noqa: E402
from benchmarks.speed.worker import Worker  # noqa: E402

CPU = ("--device", "cpu", "--dtype", "float32", "--only", "fastbert,eager", "--repeats", "2")
OPS = ("--suite", "ops", "--quick", "--cases", "embedding,layer_norm")


@pytest.mark.thorough
def test_a_part_that_was_stopped_keeps_its_rows_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is measured for the first time in this process, and what was lost of it in one of its own, as all parts are."""
    monkeypatch.setattr(session, "Worker", lambda _, job: Worker("odd_candidates:ToldLimits", job))
    part = Part("ops", "rows", OPS, limit_s=240)
    made = Campaign(tmp_path, CPU, "bfloat16")
    command = made.command(part)[2:]
    assert run.main(command) == 0
    rows = records.read(made.file(part))
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["task"] for row in rows} == {"embedding, forward", "layer_norm, forward"}
    assert {row["candidate"] for row in rows} == {"fastbert", "PyTorch eager"}
    assert not list(tmp_path.glob("parts/*.md"))

    # As if another op had broken, and the part had been stopped behind it.
    kept, lost = ([row for row in rows if row["task"].startswith(op)] for op in ("embedding", "layer_norm"))
    broken = {**lost[0], "status": "error", "reason": "out of memory"}
    records.write(made.file(part), [*kept, broken, {**lost[-1], "interrupted": True}])
    assert not made.done(part)
    assert made.run(part) == "done"
    assert Campaign(tmp_path, CPU, "bfloat16").done(part)
    after = records.read(made.file(part))
    assert [row["seconds"] for row in after if row["task"].startswith("embedding")] == [row["seconds"] for row in kept]
    assert {row["status"] for row in after} == {"ok"}, "what broke is tried again"
    assert len(after) == len(rows)
    assert not any(row.get("interrupted") for row in after)

    assert run.main(command) == 0
    assert "nothing was left to measure" in capfd.readouterr().err
    assert not Campaign(tmp_path, (*CPU, "--tokens", "300"), "bfloat16").done(part), "other options"
    state = json.loads((tmp_path / "parts" / "state.json").read_text())["ops"]
    assert state["exit_code"] == 0
    assert {"commit", "torch", "seconds"} <= state.keys()


def test_a_part_is_stopped_at_its_limit(tmp_path: Path) -> None:
    made = Campaign(tmp_path, CPU, "bfloat16")
    part = Part("ops", "rows", ("--suite", "ops"), limit_s=1)
    assert made.run(part) == "stopped"
    assert not made.done(part)
    made.forget(part)
    assert "ops" not in Campaign(tmp_path, CPU, "bfloat16").state


def test_the_end_of_the_campaign_ends_its_part(tmp_path: Path) -> None:
    """SIGTERM is Ctrl-C: the part keeps what it has, and nothing goes on alone."""
    code = (
        "import sys; sys.path.insert(0, '.'); from benchmarks import campaign; import torch\n"
        "campaign.PARTS = (campaign.Part('ops', 'rows', ('--suite', 'ops', '--only', 'fastbert'), 200),)\n"
        "campaign.default_device = lambda device: torch.device('cuda')\n"
        "campaign.environment = lambda device: {'device': 'd', 'commit': 'c', 'date': '1', 'torch': '2', 'triton': '3'}\n"
        "wait = 'import time; print(1, flush=True); time.sleep(99)'\n"
        "campaign.Campaign.command = lambda self, part: [sys.executable, '-c', wait]\n"
        f"sys.exit(campaign.main(['--output', {str(tmp_path)!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.terminate()
        process.communicate(timeout=100)
    assert process.returncode == 1
    state = json.loads((tmp_path / "parts" / "state.json").read_text())["ops"]
    assert state["status"] == "stopped"
    assert state["exit_code"] != 0


def test_parts_become_one_file_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Part(name, "rows", (), 1) for name in ("first", "second"))
    monkeypatch.setattr(campaign, "PARTS", (first, second))
    made = Campaign(tmp_path, (), "bfloat16")
    assert made.merge() is None
    records.write(made.file(first), [row(candidate="a")])
    records.write(made.file(second), [row(candidate="b"), row(candidate="a", median_s=2.0)])
    path = made.merge()
    assert path == tmp_path / "2026-01-01.jsonl"
    assert {(one["candidate"], one["median_s"]) for one in records.read(path)} == {("a", 2.0), ("b", 1.0)}
    assert path.with_suffix(".md").exists()


def test_every_part_names_options_that_its_command_knows(tmp_path: Path) -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    for part in PARTS:
        assert 60 <= part.limit_s <= 600, "minutes, not more"
        if part.kind == "rows":
            args = run._parser().parse_args([*part.options, "--output", str(tmp_path / "rows.jsonl"), "--resume"])
            cases = (args.cases or "").split(",")
            assert args.suite in ("ops", "inference", "training", "latency", "memory", "startup")
            assert all(any(case in name for name in OP_CASES) for case in cases)
    assert [part.kind for part in PARTS][:4] == ["sanitize"] * 3 + ["tests"], "what is wrong is found before it is timed"
    tests = (ROOT / "tests" / "test_gpu.py").read_text(encoding="utf-8")
    for part in PARTS:
        if part.kind == "sanitize":
            assert all(f"def test_{name}(" in tests for name in part.options[1].split(" or "))
    searched = [part.options[1] for part in PARTS if part.kind == "tune"]
    source = (ROOT / "benchmarks" / "tune.py").read_text(encoding="utf-8")
    assert all(op in source for op in searched)


def test_the_sanitizers_look_at_every_kernel_of_ours() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "kernels").glob("*.py"))
    kernels = re.findall(r"def (\w+_kernel)\(", sources)
    assert len(kernels) > 10
    assert [kernel for kernel in kernels if not any(name in kernel for name in campaign.KERNELS)] == []


def test_the_breakdown_names_every_kernel_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = (
        breakdown.Work("tiny, forward", "tiny", "forward", 2, 16),
        breakdown.Work("tiny, step", "tiny", "pre-training", 2, 16),
    )
    monkeypatch.setattr(breakdown, "WORKS", works)
    path = tmp_path / "rows.jsonl"
    assert breakdown.main(["--device", "cpu", "--dtype", "bfloat16", "--calls", "2", "--output", str(path)]) == 0
    forward, step = (json.loads(line) for line in path.read_text().splitlines())
    assert (forward["work"], step["work"]) == ("tiny, forward", "tiny, step")
    for found in (forward, step):
        assert found["wall_s"] >= found["host_s"] > 0
        assert found["device_s"] == pytest.approx(sum(seconds for _, _, seconds in found["kernels"]))
        assert {"commit", "torch", "cpu"} <= found.keys()
    assert any("backward" in name.lower() for name, _, _ in step["kernels"])
    assert not any("backward" in name.lower() for name, _, _ in forward["kernels"])
    assert "tiny, step: wall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "speed"], "there is no part 'speed'; the parts are memcheck-kernels, racecheck-kernels"),
        (["--squad", "/no/such/file"], "--squad: there is no file /no/such/file"),
        ([], "there is no CUDA device; --list shows what would run"),
    ],
)
def test_bad_arguments_of_the_campaign_end_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(campaign, "default_device", lambda device: torch.device("cpu"))
    assert campaign.main(options) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_searches_in_the_file_are_not_made_again(tmp_path: Path) -> None:
    """In a process of its own: the tuner turns Triton's interpreter off."""
    path = tmp_path / "rows.jsonl"
    record = {"op": "ffn", "arch": "sm_90", "dtype": "bfloat16", "limits": [2, 64], "row": {}, "seconds": 1.0}
    path.write_text(json.dumps(record) + "\n")
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import tune, pathlib; print(tune._searched(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{('ffn', 'sm_90', 'bfloat16', (2, 64))}"


LABELS = {size: Checkpoints.label(SimpleNamespace(_name="all-MiniLM-L6-v2"), size) for size in (REAL, *SIZES)}


def row(**facts: Any) -> dict[str, Any]:
    made = {"suite": "inference", "model": LABELS["base"], "task": "encoder", "dtype": "bfloat16", "case": "full 128"}
    made |= {"candidate": "fastbert", "ours": True, "rival": True, "status": "ok", "from_text": False, "median_s": 1.0}
    made |= {"p20_s": 1.0, "p80_s": 1.0, "texts_per_s": 30_000.0, "tokens_per_s": 3e6, "share_of_limit": 0.9, "max_error": 0.0}
    made |= {"limit_tflops": 790.0, "limit_gb_per_s": 4300.0, "tflops": 1.0, "gb_per_s": 1.0, "flops": 1, "peak_bytes": 0}
    made |= {"device": "nvidia-h200", "cuda": "13", "driver": "1", "cpu": "c", "cores": 1, "commit": "abc", "texts": 2}
    made |= {"tokens": 256, "longest": 128, "source": "s", "date": "2026-01-01"}
    return made | dict.fromkeys(("torch", "triton", "transformers", "onnxruntime", "openvino"), "1") | facts


def verdict(rows: list[dict[str, Any]], work: str) -> tuple[str, str]:
    """(measured, verdict) of a line of the table."""
    (line,) = [line for line in targets.block([rows], questions).splitlines() if f"| {work} |" in line]
    cells = line.split(" | ")
    return cells[3].strip(), cells[5]


def test_a_target_is_met_only_with_its_baseline() -> None:
    work = "base, forward, full 128"
    other = row(candidate="transformers sdpa", ours=False, median_s=3.0, texts_per_s=10_000.0)
    assert verdict([row(), other], work) == ("30,000 texts/s", "met")
    assert verdict([row(), {**other, "status": "error"}], work) == ("30,000 texts/s", "no baseline beside it")
    assert verdict([row(texts_per_s=20_000.0), other], work) == ("20,000 texts/s", "not met")
    assert verdict([row(status="wrong"), other], work) == ("", "not measured")
    assert verdict([row(dtype="float32"), {**other, "dtype": "float32"}], work) == ("", "not measured")
    assert verdict([row(), {**other, "commit": "older"}], work) == ("30,000 texts/s", "no baseline beside it")
    assert verdict([row(interrupted=True), other], work) == ("", "not measured")
    ratio = "base, forward, full 128, times torch.compile max-autotune"
    assert verdict([row(), other], ratio) == ("", "no baseline beside it")
    assert verdict([row(), {**other, "candidate": "torch.compile max-autotune"}], ratio) == ("3 x", "met")


def test_attention_is_ahead_only_where_every_length_is() -> None:
    work = "attention, every length, both passes, times the best other"

    def answers(gain: float, name: str, others: tuple[str, ...] = ("SDPA flash", "SDPA cuDNN")) -> list[dict[str, Any]]:
        facts = {"suite": "ops", "model": "op", "task": name}
        theirs = [row(**facts, candidate=other, ours=False, median_s=9.0) for other in others]
        return [row(**facts), row(**facts, candidate="varlen_attn", ours=False, median_s=gain), *theirs]

    names = [name for name in OP_CASES if name.startswith("attention")]
    assert len(names) == 2 * len(LENGTHS)
    everywhere = [one for name in names for one in answers(1.5, name)]
    assert verdict(everywhere, work) == ("1.5 x", "met")
    assert verdict(everywhere[4:], work) == ("1.5 x", "no baseline beside it")
    assert verdict([*everywhere[4:], *answers(0.9, names[0])], work) == ("0.9 x", "not met")
    assert verdict([*everywhere[4:], *answers(1.5, names[0], ("SDPA flash",))], work) == ("", "no baseline beside it")


def test_a_share_is_that_of_both_passes() -> None:
    work = "layer_norm, share of the copy bandwidth"
    facts = {"suite": "ops", "model": "op"}
    forward, both = (row(**facts, task=f"layer_norm, {phase}") for phase in ("forward", "forward + backward"))
    assert verdict([forward, both], work) == ("90 %", "met")
    assert verdict([forward, {**both, "status": "wrong"}], work) == ("90 %", "no baseline beside it")
    assert verdict([forward, {**both, "share_of_limit": 0.5}], work) == ("50 %", "not met")


def test_every_target_finds_its_model() -> None:
    rows = [
        row(suite=suite, model=label, task=task, case=case, candidate=name, ours="fastbert" in name)
        for suite, task in (
            ("inference", "encoder"),
            ("training", "fine-tuning"),
            ("training", "pre-training"),
            ("latency", "encoder"),
        )
        for label in LABELS.values()
        for case in ("natural", "SQuAD", "full 128", "full 512")
        for name in ("fastbert", "fastbert fp8", "transformers sdpa", "torch.compile max-autotune")
    ]
    lines = [line for line in targets.block([rows], questions).splitlines() if "large" in line or "base" in line]
    assert len(lines) == 9
    assert not any("not measured" in line or "no baseline" in line for line in lines)


def test_latency_counts_downwards() -> None:
    work = "base, one text of 128, captured graph"
    facts = {"suite": "latency", "texts": 1}
    other = row(**facts, candidate="transformers sdpa", ours=False, median_s=5e-3)
    assert verdict([row(**facts, median_s=0.38e-3), other], work) == ("0.38 ms", "met")
    assert verdict([row(**facts, median_s=0.5e-3), other], work) == ("0.5 ms", "not met")
