"""The benchmark: its gate, processes, arguments and files, and that the figures of the docs come from committed results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_pair

from fastbert import BertTokenizer
from fastbert.errors import InputError
from fastbert.ops import onednn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import report, run  # noqa: E402
from benchmarks.speed import comparison, limits, records, session  # noqa: E402
from benchmarks.speed.candidates import CANDIDATES, Candidate  # noqa: E402
from benchmarks.speed.candidates.padded import TEXTS  # noqa: E402
from benchmarks.speed.cases import Texts  # noqa: E402
from benchmarks.speed.jobs import Inputs, Job  # noqa: E402
from benchmarks.speed.limits import limit_seconds, model_cost  # noqa: E402
from benchmarks.speed.measure import Field, Plan, Question, agreement  # noqa: E402
from benchmarks.speed.op_cases import OP_CASES, upstream_gradient  # noqa: E402
from benchmarks.speed.suites import SAMPLED  # noqa: E402
from benchmarks.speed.worker import CandidateError, Worker  # noqa: E402

OURS = next(c for c in CANDIDATES if c.name == "fastbert" and c.can("encoder"))
THEIRS = next(c for c in CANDIDATES if c.name == "transformers sdpa" and c.can("encoder"))


def breaking(how: str) -> Candidate:
    return replace(OURS, name=f"breaks: {how}", make="odd_candidates:Misbehaved", options={"how": how}, ours=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = BertTokenizer.train(
        ["the cat sat on the mat and the dog ran away, in and out of the house"] * 3, vocab_size=101
    )
    made, _ = make_pair("BertModel", vocab_size=101)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(
    model: Path, folder: Path, *options: str, limits: str = "odd_candidates:ToldLimits", **request: Any
) -> tuple[int, list[dict[str, Any]]]:
    arguments = ["--model", str(model), "--sizes", "MiniLM-L6", "--tokens", "300", "--repeats", "2", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Worker", lambda _, job: Worker(limits, job))  # of the limits; candidates are started elsewhere
        code = run.main([*arguments, "--output", str(folder), "--quick", *options], **request)
    files = list(folder.glob("*.jsonl"))
    return code, [json.loads(line) for line in files[0].read_text().splitlines()] if files else []


def test_measured_rows_carry_what_makes_them_comparable(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--suite", "inference", "--tasks", "encoder")
    code, rows = small(model, tmp_path, *options, limits="benchmarks.speed.limits:Limits", candidates=(OURS, THEIRS))
    assert code == 0
    assert {row["case"] for row in rows} == {"natural", "full 40"}
    assert [row["candidate"] for row in rows if row["case"] == "natural"] == ["fastbert", "transformers sdpa"]
    for row in rows:
        assert row["status"] == "ok"
        assert row["cosine"] > 0.99999
        assert len(row["seconds"]) >= 2
        assert 0 < row["p20_s"] <= row["median_s"] <= row["p80_s"]
        assert row["texts_per_s"] == pytest.approx(row["texts"] / row["median_s"])
        assert row["share_of_limit"] == pytest.approx(
            limit_seconds(row["flops"], row["bytes"], row["limit_tflops"] * 1e12, row["limit_gb_per_s"] * 1e9) / row["median_s"]
        )
        assert sum(count for _, count in row["histogram"]) == row["texts"]
        assert all(row[key] for key in ("device", "cpu", "cores", "torch", "triton", "transformers", "dtype", "date", "commit"))
        assert "driver" in row
    assert "x as fast" in capsys.readouterr().out
    (page,) = tmp_path.glob("*.html")
    assert "data:image/png;base64," in page.read_text()
    assert "http" not in page.read_text().replace("http-equiv", "")
    assert list(tmp_path.glob("*.md"))
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_the_limit_leaves_out_products_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN refuses bfloat16 without AVX-512."""
    tried: list[torch.dtype] = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, *_: tried.append(x.dtype) or F.linear(x, w))
    monkeypatch.setattr(limits, "SQUARE", {"cpu": 768})
    monkeypatch.setattr(limits, "COPY_BYTES", {"cpu": 1024})
    monkeypatch.setattr(onednn, "TYPES", (torch.float32,))
    for dtype in ("float32", "bfloat16"):
        assert all(rate > 0 for rate in limits.Limits(Job("limits", "cpu", dtype)).rates(1e-3))
    assert {*tried} == ({torch.float32} if onednn.AVAILABLE else set())


def test_a_wrong_candidate_gets_no_figure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = replace(OURS, name="perturbed", make="odd_candidates:Perturbed", ours=True)
    code, rows = small(model, tmp_path, "--suite", "inference", "--tasks", "encoder", candidates=(OURS, wrong))
    assert code == 1
    bad = [row for row in rows if row["candidate"] == "perturbed"]
    assert bad
    for row in bad:
        assert row["status"] == "wrong"
        assert "cosine" in row["reason"]
        assert not {"seconds", "median_s", "texts_per_s", "tflops"} & row.keys()
    assert all(row["texts_per_s"] > 0 for row in rows if row["candidate"] == "fastbert")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("perturbed"))
    assert "wrong: cosine" in line
    assert " ms" not in line


def test_a_candidate_that_breaks_becomes_a_row_and_the_rest_goes_on(model: Path, tmp_path: Path) -> None:
    absent = Candidate("absent", "odd_candidates:Absent", ("encoder",))
    uninstalled = Candidate("uninstalled", "odd_candidates:Absent", ("encoder",), needs=("no_such_package",))
    elsewhere = Candidate("elsewhere", "odd_candidates:Absent", ("encoder",), devices=("cuda",))
    typed = Candidate("typed", "odd_candidates:Absent", ("encoder",), dtypes=("bfloat16", "float16"))
    everybody = (absent, breaking("raise"), uninstalled, breaking("die"), elsewhere, typed, breaking("memory"), OURS)
    code, rows = small(model, tmp_path, "--suite", "latency", "--cases", "full 16", candidates=everybody)
    assert code == 0  # nothing of ours broke
    assert len(rows) == len(everybody)
    reasons = {row["candidate"]: (row["status"], row.get("reason", "")) for row in rows}
    assert reasons["absent"] == ("error", "RuntimeError: no such engine")
    assert reasons["breaks: raise"] == ("error", "ZeroDivisionError: by design")
    assert reasons["breaks: die"][0] == "error"
    assert "SIGKILL" in reasons["breaks: die"][1]
    assert "memory" in reasons["breaks: memory"][1]
    assert reasons["uninstalled"] == ("missing", "no_such_package not installed")
    assert reasons["elsewhere"] == ("missing", "runs on cuda only")
    assert reasons["typed"] == ("missing", "runs in bfloat16 or float16 only")
    assert reasons["fastbert"] == ("ok", "")


def test_a_candidate_that_never_answers_is_ended() -> None:
    started = time.perf_counter()
    with pytest.raises(CandidateError, match="gave no answer within 1 s"):
        Worker("odd_candidates:Slow", Job("encoder", "cpu", "float32"), patience=1)
    assert time.perf_counter() - started < 60


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt: a background job of a shell inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_keeps_what_was_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first case is on disk and the second under way when the signal comes."""
    real, timed = Worker.seconds, []

    def seconds(worker: Worker, *arguments: Any) -> float:
        found = real(worker, *arguments)
        if list(tmp_path.glob("*.jsonl")):
            timed.append(found)
            if len(timed) == 2:
                os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(Worker, "seconds", seconds)
    code, rows = small(model, tmp_path, "--suite", "latency", candidates=(OURS,))
    assert code == 130
    captured = capsys.readouterr()
    assert "interrupted; the measurements so far are kept" in captured.err
    assert [(row["case"], row.get("interrupted", False)) for row in rows] == [("full 16", False), ("full 40", True)]
    assert all(row["status"] == "ok" and row["median_s"] > 0 for row in rows)
    assert rows[1]["seconds"] == timed[:1]
    assert rows[0]["candidate"] in captured.out


def test_ctrl_c_before_the_first_round_of_a_case_leaves_no_rows_of_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates were checked and had chosen their batch, but nothing was timed: the reports show the case before."""
    real, asked = Field._rounds, []

    def rounds(field: Field, running: Any, question: Any) -> None:
        asked.append(question)
        if len(asked) == 2:
            for _, row in running:
                row.update(seconds=[], limit_flops=[], limit_bytes=[])
            raise KeyboardInterrupt
        real(field, running, question)

    monkeypatch.setattr(Field, "_rounds", rounds)
    code, rows = small(model, tmp_path, "--suite", "latency", candidates=(OURS,))
    assert code == 130
    assert [row["case"] for row in rows] == ["full 16"]
    assert rows[0]["median_s"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/no/such/model"], "there is no directory /no/such/model"),
        (["--device", "warp"], "device = 'warp' cannot be used here"),
        (["--text", "/no/such/text", "--suite", "latency"], "cannot read"),
        (["--suite", "speed"], "there is no 'speed'; the suites are ops, inference"),
        (["--sizes", "huge"], "there is no 'huge'; the sizes are"),
        (["--dtype", "float8"], "invalid choice: 'float8'"),
        (["--tokens", "-3"], "-3 is not a whole number of at least 1"),
        (["--squad", str(ROOT / "README.md"), "--suite", "latency"], "is not a SQuAD file"),
        (["--compare", str(ROOT / "README.md")], "line 1: not a result row"),
    ],
)
def test_bad_arguments_end_in_one_sentence(model: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
    try:
        code, rows = small(model, tmp_path, *options, candidates=())
    except SystemExit as ended:
        code, rows = int(ended.code or 0), []
    assert code == 2
    assert rows == []
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_cases_that_nothing_is_named_like_end_in_one_sentence(model: Path, tmp_path: Path, capsys) -> None:
    code, rows = small(model, tmp_path, "--suite", "latency", "--cases", "full 9", candidates=(OURS,))
    assert (code, rows) == (2, [])
    assert "no name in these suites contains a text of --cases and of --tasks" in capsys.readouterr().err.splitlines()[-1]


def test_a_day_s_results_grow_suite_by_suite(model: Path, tmp_path: Path) -> None:
    latency = ("--suite", "latency", "--cases", "full 16")
    _, before = small(model, tmp_path, *latency, candidates=(OURS,))
    small(model, tmp_path, "--suite", "memory", "--tasks", "encoder", candidates=(OURS,))
    _, rows = small(model, tmp_path, *latency, candidates=(OURS,))
    assert {row["suite"] for row in rows} == {"latency", "memory"}
    assert len([row for row in rows if row["suite"] == "latency"]) == len(before)
    assert rows[0]["seconds"] != before[0]["seconds"]


def test_training_steps_are_checked_by_loss_and_gradients(model: Path, tmp_path: Path) -> None:
    able = tuple(c for c in CANDIDATES if c.can("fine-tuning") and c.name in ("fastbert", "transformers sdpa"))
    code, rows = small(model, tmp_path, "--suite", "training", candidates=able)
    assert code == 0
    assert {(row["task"], row["candidate"]) for row in rows if row["status"] == "ok"} == {
        (task, name) for task in ("fine-tuning", "pre-training") for name in ("fastbert", "transformers sdpa")
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_sizes_are_chosen_on_texts_that_fill_them(device: str) -> None:
    assert SAMPLED[device] >= max(TEXTS[device])
    assert device == "cpu" or SAMPLED[device] >= 4 * max(TEXTS[device])


@pytest.mark.parametrize("task", ["fine-tuning", "pre-training"])
def test_training_is_checked_with_the_weights_that_it_began_with(model: Path, task: str) -> None:
    """However many steps were timed before: the steps of one question, or the warm-up of a captured step."""
    from benchmarks.speed.checkpoints import Checkpoints

    checkpoints = Checkpoints(str(model))
    mask = checkpoints.tokenizer.mask_token_id
    assert mask is not None
    job = Job(task, "cpu", "float32", str(checkpoints.folder("MiniLM-L6", task)), 40, mask)
    inputs = Texts(checkpoints.tokenizer, None, None, None, 40).case("natural", 300).inputs
    worker = Worker("benchmarks.speed.candidates.training:Fastbert", job)
    worker.take(inputs)
    before = worker.outputs()
    for _ in range(3):
        worker.seconds(None)
    after = worker.outputs()
    worker.close()
    checkpoints.close()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("far", "status"), [(1.5, "ok"), (2.5, "wrong")])
def test_twice_the_error_of_plain_pytorch_is_allowed(monkeypatch: pytest.MonkeyPatch, far: float, status: str) -> None:
    plain = replace(THEIRS, name="plain")
    expected = np.concatenate([np.ones(99), [2.0]])
    error = np.concatenate([np.zeros(99), [0.5]])  # of plain PyTorch: a quarter of the largest value

    class Told:
        def __init__(self, values: Any) -> None:
            self.values = values

        def take(self, inputs: Inputs) -> None: ...

        def close(self) -> None: ...

        def outputs(self) -> list[Any]:
            return [self.values]

    steps: list[str] = []
    field = Field(Job("fine-tuning", "cpu", "bfloat16"), (OURS,), THEIRS, Plan(), Told(None), steps.append, plain)
    field._workers[OURS.name] = Told(expected + far * error)
    monkeypatch.setattr(field, "_worker", lambda candidate: Told(expected + error))
    row = {"precision": "bfloat16", "status": "ok"}
    field._check(OURS, row, Question({}, Inputs([[1]])), [expected])
    assert row["status"] == status
    assert row["max_error"] == pytest.approx(far / 4)


def test_candidates_that_load_side_by_side_are_measured_all_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU. What breaks while it loads becomes a row."""
    plain = Field.__init__

    def at_once(self: Field, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        self._at_once = True

    monkeypatch.setattr(Field, "__init__", at_once)
    absent = Candidate("absent", "odd_candidates:Absent", ("encoder",))
    code, rows = small(model, tmp_path, "--suite", "inference", candidates=(OURS, absent, THEIRS))
    assert code == 0
    assert [row["status"] for row in rows if row["case"] == "natural"] == ["ok", "error", "ok"]
    assert {row["candidate"] for row in rows if row["case"] == "full 40" and row["status"] == "ok"} == {OURS.name, THEIRS.name}


@pytest.mark.parametrize("task", ["classification", "question answering", "masked words"])
def test_heads_agree_with_transformers(model: Path, task: str) -> None:
    from benchmarks.speed.checkpoints import Checkpoints

    checkpoints = Checkpoints(str(model))
    mask = checkpoints.tokenizer.mask_token_id
    assert mask is not None
    job = Job(task, "cpu", "float32", str(checkpoints.folder("MiniLM-L6", task)), 40, mask)
    case = Texts(checkpoints.tokenizer, None, None, None, 40).case("natural", 300)
    inputs = (case.masked(mask) if task == "masked words" else case).inputs
    found = []
    for candidate in (OURS, THEIRS):
        worker = Worker(candidate.make, job, candidate.options)
        worker.take(inputs)
        found.append(worker.outputs())
        worker.close()
    checkpoints.close()
    assert len(found[0]) == len(inputs.rows)
    cosine, error = agreement(*found)
    assert cosine > 0.99999
    assert error < 1e-4


@pytest.mark.parametrize("name", [name for name in OP_CASES if "S = " not in name or "S = 128" in name])
def test_op_cases_give_what_their_cost_says(name: str) -> None:
    """The result has as many elements as `outputs`, and PyTorch counts as many FLOPs as the formula."""
    from torch.utils.flop_counter import FlopCounterMode

    from fastbert.ops import reference

    case = OP_CASES[name]
    arguments = case.arguments("cpu", torch.float32, 256)
    with FlopCounterMode(display=False) as counter:
        result = getattr(reference, case.op)(**arguments)
        if case.backward:
            result.backward(upstream_gradient(result))
    flops, moved = case.cost(arguments, 256)
    assert result.numel() == case.outputs(256)
    assert counter.get_total_flops() == flops
    assert moved > 4 * result.numel()


def test_the_cost_of_a_model_is_what_pytorch_counts(model: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    import fastbert

    bert = fastbert.BertModel.from_pretrained(model, add_pooling_layer=False)
    rows = [[2, *[5] * 20, 3], [2, *[7] * 9, 3]]
    with FlopCounterMode(display=False) as counter, fastbert.backend("reference"), torch.no_grad():
        bert(fastbert.pack(rows))
    assert model_cost(bert.config, "encoder", rows, 4, 4)[0] == counter.get_total_flops()
    assert model_cost(bert.config, "fine-tuning", rows, 4, 4)[0] == 3 * counter.get_total_flops()


def test_agreement_sees_shapes_counts_and_nans() -> None:
    right = [np.ones(3), np.arange(3.0)]
    assert agreement(right, right) == (pytest.approx(1.0), 0.0)
    assert np.isnan(agreement(right[:1], right)[0])
    assert np.isnan(agreement([np.ones(2), right[1]], right)[0])
    assert np.isnan(agreement([np.array([1.0, np.nan, 1.0]), right[1]], right)[1])
    assert agreement([right[0], np.array([0.0, 1.0, -2.0])], right)[1] == 2.0


def test_lengths_are_what_the_cases_say(model: Path, tmp_path: Path) -> None:
    squad = tmp_path / "squad.json"
    questions = [{"question": "who sat on the mat"}, {"question": "the dog"}]
    squad.write_text(json.dumps({"data": [{"paragraphs": [{"context": "the cat sat on the mat", "qas": questions}]}]}))
    tokenizer = BertTokenizer.from_pretrained(model)
    texts = Texts(tokenizer, None, None, squad, 40)
    natural = texts.case("natural", 1500)
    assert len(set(natural.lengths)) > 5
    assert max(natural.lengths) <= 40
    assert sum(natural.lengths) == pytest.approx(1500, rel=0.2)
    assert natural.inputs.texts is not None
    assert len(tokenizer.encode(natural.inputs.texts[0])) >= natural.lengths[0]
    assert set(texts.case("full 128", 400).lengths) == {40}
    assert texts.one(16).lengths == [16]
    pairs = texts.case("SQuAD", 100).inputs.rows
    assert pairs[0] == tokenizer.encode("who sat on the mat", "the cat sat on the mat")
    wide = Texts(tokenizer, None, None, None, 512).case("N(256,64)", 100_000).lengths
    assert np.mean(wide) == pytest.approx(256, abs=10)
    assert np.std(wide) == pytest.approx(64, abs=10)
    for case in (natural, texts.case("full 128", 400)):
        assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in case.inputs.rows)


def row(**values: Any) -> dict[str, Any]:
    made = {
        "suite": "inference",
        "model": "m",
        "task": "encoder",
        "dtype": "float32",
        "case": "natural",
        "candidate": "fastbert",
    }
    return made | {"status": "ok", "ours": True, "device": "d", "share_of_limit": 0.8, "median_s": 1.0} | values


def test_compare_fails_on_what_of_ours_got_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [row(), row(candidate="other", ours=False), row(suite="startup")]
    del old[2]["share_of_limit"]
    same = [row(share_of_limit=0.79, median_s=2.0), row(candidate="other", ours=False, share_of_limit=0.1)]
    assert comparison.compare(old, same, 0.95)[1] == []  # the machine was slower, the code was not
    for worse in (row(share_of_limit=0.7), row(suite="startup", median_s=1.2) | {}, row(status="error", reason="broke")):
        if worse["suite"] == "startup":
            del worse["share_of_limit"]
        assert comparison.compare(old, [worse], 0.95)[1] == [worse]
    with pytest.raises(InputError, match="different devices"):
        comparison.compare(old, [row(device="e")], 0.95)
    with pytest.raises(InputError, match="no measured row in common"):
        comparison.compare(old, [row(case="full 128")], 0.95)
    records.write(tmp_path / "old.jsonl", old)
    records.write(tmp_path / "new.jsonl", [row(share_of_limit=0.704)])
    paths = [str(tmp_path / "new.jsonl"), "--compare", str(tmp_path / "old.jsonl")]
    assert report.main(paths) == 1
    assert report.main([*paths, "--fail-below", "0.8"]) == 0
    assert "0.88x" in capsys.readouterr().out
    assert report.main([str(tmp_path / "none.jsonl")]) == 2


def committed_results(folder: Path) -> Path:
    """The results as they are committed: `make bench` leaves new ones beside or over them, which is nobody's mistake."""
    listed = subprocess.run(
        ["git", "ls-files", ":(glob)benchmarks/results/*/*.jsonl"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split() if listed.returncode == 0 else []
    for name in names:
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True, check=True)
        place = folder / Path(name).parent.name / Path(name).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(shown.stdout, encoding="utf-8")
    return folder if names else records.RESULTS


def test_the_figures_of_the_docs_are_made_from_committed_results(tmp_path: Path) -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    found = committed_results(tmp_path)
    for (begin, end), made in ((report.MARKS, report.benchmark_block), (report.TARGET_MARKS, report.targets_block)):
        assert begin + text.split(begin)[1].split(end)[0] + end == made(found)
    assert records.newest(found), "no results are committed"


@pytest.mark.thorough
def test_pytest_benchmark_runs_the_same_cases() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-k", "layer_norm and forward", "-p", "no:cacheprovider"]
    apart = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=apart)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "4 passed" in done.stdout
    assert "Name (time in" in done.stdout


def test_inputs_are_light() -> None:
    """A candidate's process imports the benchmark's frame without fastbert: only fastbert's own candidates load it."""
    code = "import sys; sys.path.insert(0, '.'); import benchmarks.run, benchmarks.speed.worker"
    code += ", benchmarks.speed.candidates.models"
    code += "; assert not {'fastbert', 'triton'} & set(sys.modules), sorted(set(sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert Inputs([[1]]).texts is None
