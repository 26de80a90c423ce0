"""The measurement method: check every candidate's outputs first, then time the candidates in interleaved rounds.

Outputs are compared with an oracle in float32; a candidate that fails the check gets no figure. Its error may reach an absolute
bound, or twice the error of plain PyTorch in the same type: 16-bit gradients of a deep model are far from the float32 ones in
any implementation. Candidates that pass choose their batch size on a sample, run once to warm up, and are then timed in
interleaved rounds together with the machine's own limits, so that changes of the machine's speed affect all alike. A figure is
the median of the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.speed.candidates import TRAINING, Candidate
from benchmarks.speed.jobs import Inputs, Job
from benchmarks.speed.limits import limit_seconds
from benchmarks.speed.records import Row
from benchmarks.speed.worker import CandidateError, Worker

CHECKED_TEXTS = 16
LIMIT_SECONDS = {"cpu": 0.2, "cuda": 0.05}  # time spent on each limit per round
# minimum cosine and maximum error, as a share of the largest value: by type, and for precisions below the requested one
_HALF, _QUANTISED = (0.999, 0.1), (0.95, 0.5)
GATES = {"float32": (0.99999, 1e-4), "float16": _HALF, "bfloat16": _HALF, "int8": _QUANTISED, "fp8": _QUANTISED}
FURTHEST = (0.9, 0.5)  # minimum cosine and maximum error, however large plain PyTorch's error is
TRAINING_GATES = GATES | {"float16": (0.99, 0.1), "bfloat16": (0.99, 0.1)}  # gradients accumulate more rounding errors


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        least, most: minimum and maximum number of rounds.
        spread: rounds stop when (p80 - p20) / median is at most this for every candidate.
        budget_s: after three rounds, no round starts later than this after the first.
        at_least_s: minimum seconds of calls for one figure of a round.
        sampled: number of texts on which the batch size is chosen.
        wait_s: candidates that take longer to start are left out.
        patience_s: timeout for one answer of a candidate.
    """

    least: int = 5
    most: int = 15
    spread: float = 0.05
    budget_s: float = 180.0
    at_least_s: float = 0.0
    sampled: int = 64
    wait_s: float = float("inf")
    patience_s: float = 1800.0


@dataclass(frozen=True)
class Question:
    """One measurement for all candidates: inputs and their cost.

    Attributes:
        facts: the facts recorded in every row.
        inputs: the inputs of each pass.
        cost: (FLOPs, bytes) of a pass; None asks the candidate.
        memory_only: measure only the peak memory of the first pass.
    """

    facts: Row
    inputs: Inputs
    cost: tuple[int, int] | None = None
    memory_only: bool = False


class Field:
    """The candidates of one job and the oracle, each in a separate process.

    Args:
        job: the job that they load.
        candidates: all candidates that could take part.
        oracle: the candidate whose outputs are taken as correct; it is not measured.
        plan: how long to measure.
        limits: `limits.Limits` for the job's device and type; it is measured in turn with the candidates.
        step: called with a description of the current step, for a progress bar.
        plain: plain PyTorch in the job's type, twice whose error is allowed; None if only the absolute bounds apply.
    """

    def __init__(
        self,
        job: Job,
        candidates: Sequence[Candidate],
        oracle: Candidate,
        plan: Plan,
        limits: Worker,
        step: Callable[[str], None],
        plain: Candidate | None = None,
    ) -> None:
        self.job, self.plan, self.step = job, plan, step
        self.oracle, self.plain = oracle, plain
        self._allowed: tuple[Question, float, float] | None = None  # bounds from plain PyTorch, for the last question
        self.candidates = candidates
        self._workers: dict[str, Worker] = {}
        self._at_once = not job.device.startswith("cpu")  # on a CPU, candidates would compete for the cores
        self._oracle_worker: Worker | None = None
        self._broken: dict[str, str] = {}
        self._limits = limits

    @contextmanager
    def open(self) -> Iterator[Field]:
        """Ends all processes when the block is left."""
        try:
            yield self
        finally:
            for worker in (*self._workers.values(), self._oracle_worker):
                if worker is not None:
                    worker.close()

    def rows(self, question: Question, keep: Callable[[list[Row]], None]) -> None:
        """Measures all candidates on a question; `keep` gets the rows even if Ctrl-C ends the rounds early."""
        rows, running = [], []
        self._load_at_once(question)
        try:
            expected = None
            for candidate in self.candidates:
                self.step(candidate.name)
                row = self._start(candidate, question)
                rows.append(row)
                if row["status"] != "ok":
                    continue
                expected = self._expected(question) if expected is None else expected
                try:
                    self._check(candidate, row, question, expected)
                    if row["status"] == "ok":
                        self._prepare(candidate, row, question)
                        running.append((candidate, row))
                except CandidateError as error:
                    self._fail(candidate, row, error)
            if not question.memory_only:
                self._rounds(running, question)
        except KeyboardInterrupt:
            for row in rows:
                row["interrupted"] = True
            raise
        finally:
            _summarise(rows)
            wanted = "peak_bytes" if question.memory_only else "seconds"
            keep([row for row in rows if row["status"] != "ok" or row.get(wanted)])

    def _start(self, candidate: Candidate, question: Question) -> Row:
        row: Row = {**question.facts, "candidate": candidate.name, "ours": candidate.ours, "rival": candidate.rival}
        row |= {"from_text": candidate.needs_texts, "precision": candidate.precision or self.job.dtype, "status": "ok"}
        reason = self._absence(candidate, question)
        if reason is not None:
            return row | {"status": "missing", "reason": reason}
        if candidate.name in self._broken:
            return row | {"status": "error", "reason": self._broken[candidate.name]}
        try:
            if candidate.name not in self._workers:
                started = time.perf_counter()
                self._workers[candidate.name] = self._worker(candidate)
                row["load_s"] = time.perf_counter() - started
        except CandidateError as error:
            self._fail(candidate, row, error)
        return row

    def _worker(self, candidate: Candidate, wait: bool = True) -> Worker:
        return Worker(candidate.make, self.job, candidate.options, self.plan.patience_s, wait)

    def _load_at_once(self, question: Question) -> None:
        """Starts the oracle and all participating candidates in parallel; their load times are then not recorded."""
        if not self._at_once or self._oracle_worker is not None:
            return
        self._oracle_worker = self._worker(self.oracle, wait=False)
        for candidate in self.candidates:
            if self._absence(candidate, question) is None:
                self._workers[candidate.name] = self._worker(candidate, wait=False)
        self._oracle_worker.ready()
        for name, worker in list(self._workers.items()):  # no batch size is chosen while others load
            try:
                worker.ready()
            except CandidateError as error:
                self._broken[name] = str(error)
                del self._workers[name]

    def _absence(self, candidate: Candidate, question: Question) -> str | None:
        """The reason why a candidate does not take part in a question; None if it does."""
        reason = candidate.missing(self.job.device, self.job.dtype, self.plan.wait_s)
        if reason is None and candidate.needs_texts and question.inputs.texts is None:
            reason = "takes texts, and these are cut from running text"
        return reason

    def _expected(self, question: Question) -> list[Any]:
        worker = self._oracle_worker or self._worker(self.oracle)
        try:
            worker.take(_some(question.inputs, CHECKED_TEXTS))
            return worker.outputs()
        finally:
            if worker is not self._oracle_worker:
                worker.close()

    def _check(self, candidate: Candidate, row: Row, question: Question, expected: list[Any]) -> None:
        worker = self._workers[candidate.name]
        worker.take(_some(question.inputs, CHECKED_TEXTS))
        cosine, error = agreement(worker.outputs(), expected)
        gates = TRAINING_GATES if self.job.task in TRAINING else GATES
        least, most = gates[row["precision"]]
        row |= {"cosine": cosine, "max_error": error}
        if not (cosine >= least and error <= most) and self.plain is not None:
            allowed = self._allowed_by_plain(question, expected)
            least, most = min(least, allowed[0]), max(most, allowed[1])
        if not (cosine >= least and error <= most):  # NaN fails too
            row |= {
                "status": "wrong",
                "reason": f"cosine {cosine:.6f} (at least {least}), error {error:.1e} (at most {most:g})",
            }

    def _allowed_by_plain(self, question: Question, expected: list[Any]) -> tuple[float, float]:
        """(minimum cosine, maximum error): twice as far from the oracle as plain PyTorch in the job's type."""
        if self._allowed is None or self._allowed[0] is not question:
            assert self.plain is not None
            cosine, error = 1.0, 0.0
            try:
                worker = self._worker(self.plain)
                try:
                    worker.take(_some(question.inputs, CHECKED_TEXTS))
                    cosine, error = agreement(worker.outputs(), expected)
                finally:
                    worker.close()
            except CandidateError:
                pass  # then only the absolute bounds apply
            # 1 - cosine is proportional to the square of the error.
            self._allowed = (question, max(FURTHEST[0], 1 - 4 * (1 - cosine)), min(FURTHEST[1], 2 * error))
        return self._allowed[1:]

    def _prepare(self, candidate: Candidate, row: Row, question: Question) -> None:
        """Chooses the best setting on a sample, and runs one full pass to warm up and measure the peak memory."""
        worker = self._workers[candidate.name]
        if len(worker.settings) > 1 and len(question.inputs.rows) > 1:
            worker.take(_some(question.inputs, self.plan.sampled))
            times = {}
            worker.seconds(worker.settings[0])
            for setting in worker.settings:  # from small to large; stops at the first that is clearly slower
                times[setting] = min(worker.seconds(setting) for _ in range(2))
                if times[setting] > 1.3 * min(times.values()):
                    break
            row["setting"] = min(times, key=times.__getitem__)
        else:
            row["setting"] = 1 if len(worker.settings) > 1 else worker.settings[0]  # one text
        worker.take(question.inputs)
        row["peak_bytes"] = worker.peak_bytes(row["setting"])
        row["flops"], row["bytes"] = question.cost or worker.call("cost")

    def _rounds(self, running: list[tuple[Candidate, Row]], question: Question) -> None:
        if not running:
            return
        for _, row in running:
            row.update(seconds=[], limit_flops=[], limit_bytes=[])
        started = time.perf_counter()
        for number in range(self.plan.most):
            if number >= self.plan.least and all(_spread(row["seconds"]) <= self.plan.spread for _, row in running):
                break
            if number >= min(3, self.plan.least) and time.perf_counter() - started > self.plan.budget_s:
                break
            self.step(f"round {number + 1}")
            flops_per_s, bytes_per_s = self._limits.call("rates", LIMIT_SECONDS[self.job.device.split(":")[0]])
            first = number % len(running)  # a different candidate begins each round
            for candidate, row in list(running[first:] + running[:first]):
                try:
                    row["seconds"].append(self._workers[candidate.name].seconds(row["setting"], self.plan.at_least_s))
                    row["limit_flops"].append(flops_per_s)
                    row["limit_bytes"].append(bytes_per_s)
                except CandidateError as error:
                    self._fail(candidate, row, error)
                    running.remove((candidate, row))
                    if not running:
                        return

    def _fail(self, candidate: Candidate, row: Row, error: CandidateError) -> None:
        row |= {"status": "error", "reason": str(error)}
        row.pop("seconds", None)
        self._broken[candidate.name] = str(error)
        worker = self._workers.pop(candidate.name, None)
        if worker is not None:
            worker.close()


def agreement(found: Sequence[Any], expected: Sequence[Any]) -> tuple[float, float]:
    """(smallest cosine, largest error as a share of the largest expected value) of two lists of arrays."""
    cosines, error = [], 0.0
    if len(found) != len(expected):
        return float("nan"), float("nan")
    for one, right in zip(found, expected, strict=True):
        a, b = np.asarray(one, np.float64).ravel(), np.asarray(right, np.float64).ravel()
        if a.shape != b.shape:
            return float("nan"), float("nan")
        if not b.size:
            continue
        length = np.linalg.norm(a) * np.linalg.norm(b)
        cosines.append(float(a @ b / length) if length else float(np.array_equal(a, b)))
        error = max(error, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))) if np.isfinite(a).all() else float("nan")
        if error != error:
            break
    return min(cosines, default=float("nan")), error


def _some(inputs: Inputs, count: int) -> Inputs:
    """A sample of `count` texts of all lengths, including the longest."""
    if len(inputs.rows) <= count:
        return inputs
    order = sorted(range(len(inputs.rows)), key=lambda i: len(inputs.rows[i]))
    places = [*sorted(order[i * len(order) // count] for i in range(count - 1)), order[-1]]
    return Inputs([inputs.rows[i] for i in places], inputs.texts and [inputs.texts[i] for i in places])


def _spread(seconds: Sequence[float]) -> float:
    low, high = _p20_p80(seconds)
    return (high - low) / statistics.median(seconds)


def _p20_p80(seconds: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(seconds, (20, 80))
    return float(low), float(high)


def _summarise(rows: list[Row]) -> None:
    """Adds medians, rates and shares of the limit to the rows, from the completed rounds."""
    for row in rows:
        if row["status"] != "ok" or not row.get("seconds"):
            continue
        median = statistics.median(row["seconds"])
        low, high = _p20_p80(row["seconds"])
        flops_per_s, bytes_per_s = statistics.median(row.pop("limit_flops")), statistics.median(row.pop("limit_bytes"))
        row |= {"median_s": median, "p20_s": low, "p80_s": high}
        row |= {"limit_tflops": flops_per_s / 1e12, "limit_gb_per_s": bytes_per_s / 1e9}
        row["share_of_limit"] = limit_seconds(row["flops"], row["bytes"], flops_per_s, bytes_per_s) / median
        row["tflops"] = row["flops"] / median / 1e12
        row["gb_per_s"] = row["bytes"] / median / 1e9
        if row.get("texts"):
            row["texts_per_s"], row["tokens_per_s"] = row["texts"] / median, row["tokens"] / median
