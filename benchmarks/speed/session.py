"""One run of the benchmark, from arguments to result files, chapter by chapter."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import report
from benchmarks.speed import records
from benchmarks.speed.candidates import Candidate
from benchmarks.speed.cases import Texts
from benchmarks.speed.checkpoints import Checkpoints
from benchmarks.speed.comparison import compare
from benchmarks.speed.environment import environment
from benchmarks.speed.jobs import Job
from benchmarks.speed.measure import Field, Question
from benchmarks.speed.records import RESULTS, Row
from benchmarks.speed.startup import startup_rows
from benchmarks.speed.suites import SUITES, Request, chapters, check_sizes, default_sizes
from benchmarks.speed.worker import CandidateError, Worker
from fastbert import FastbertError
from fastbert.errors import InputError
from fastbert.tasks.loading import default_device
from fastbert.terminal import shows_progress


def run(args: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Runs the benchmark; returns the exit code, see run.py."""
    try:
        with _prepared(args, overrides) as session:
            old = None if args.compare is None else records.read(args.compare)
            interrupted = session.measure()
            return session.finish(interrupted, old, args.fail_below)
    except (FastbertError, OSError) as error:
        print(f"benchmarks/run.py: {error}", file=sys.stderr)
        return 2
    except CandidateError as error:
        print(f"benchmarks/run.py: the limits or the model to check against cannot be run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks/run.py: interrupted before anything was measured", file=sys.stderr)
        return 130


class Session:
    """The state of a run: the request, the texts, the output path, and the rows so far."""

    def __init__(
        self,
        request: Request,
        texts: Texts | None,
        checkpoints: Checkpoints | None,
        path: Path,
        facts: Row,
        known: Iterable[Row] = (),
        reports: bool = True,
    ) -> None:
        self.request, self.texts, self.checkpoints = request, texts, checkpoints
        self.path, self.facts, self.reports = path, facts, reports
        done = (row for row in known if row["status"] in ("ok", "missing") and not row.get("interrupted"))
        self.known = {records.key(row) for row in done}  # failed rows are measured again
        self.rows: list[Row] = []

    def keep(self, rows: list[Row]) -> None:
        """Adds rows to those of this run and to the file."""
        measured = [{**self.facts, **row} for row in rows]
        self.rows += measured
        old = records.read(self.path) if self.path.exists() else []
        records.write(self.path, records.merged(old, measured))

    def measure(self) -> bool:
        """Measures everything requested; returns whether Ctrl-C ended it early."""
        todo = list(chapters(self.request, self.texts, self.checkpoints))
        limits = (
            Worker("benchmarks.speed.limits:Limits", Job("limits", self.request.device, self.request.dtype)) if todo else None
        )
        bar = tqdm(total=len(todo) + ("startup" in self.request.suites), unit="chapter", disable=not shows_progress(None))
        try:
            for number, chapter in enumerate(todo, 1):
                started = time.perf_counter()
                bar.set_description(chapter.title)
                assert limits is not None
                questions = [question for question in chapter.questions() if self._is_wanted(question, chapter.candidates)]
                if questions:
                    job, step = chapter.job(), bar.set_postfix_str
                    field = Field(job, chapter.candidates, chapter.oracle, chapter.plan, limits, step, chapter.plain)
                    with field.open():
                        for question in questions:
                            field.rows(question, self.keep)
                bar.update()
                if bar.disable:  # no terminal: one line per chapter
                    took = time.perf_counter() - started
                    print(f"[{number}/{bar.total}] {chapter.title}: {took:.0f} s", file=sys.stderr, flush=True)
            if "startup" in self.request.suites:
                assert self.checkpoints is not None
                for rows in startup_rows(self.request, self.checkpoints, bar.set_description, self.known):
                    self.keep(rows)
                bar.update()
        except KeyboardInterrupt:
            if not self.rows:
                raise
            return True
        finally:
            bar.close()
            if limits is not None:
                limits.close()
        return False

    def _is_wanted(self, question: Question, candidates: Sequence[Candidate]) -> bool:
        """Whether a question is selected by --cases and --tasks and still lacks a row."""
        facts, cases, tasks = question.facts, self.request.cases, self.request.tasks
        if cases and not any(case in f"{facts['task']}, {facts['case']}" for case in cases):
            return False
        if tasks and not any(task in facts["task"] for task in tasks):
            return False
        return any(records.key({**facts, "candidate": candidate.name}) not in self.known for candidate in candidates)

    def finish(self, interrupted: bool, old: list[Row] | None, fail_below: float) -> int:
        """Prints the tables, writes the reports, compares."""
        if not self.rows:
            if not self.path.exists():
                raise InputError("nothing was measured: no name in these suites contains a text of --cases and of --tasks")
            print("nothing was left to measure", file=sys.stderr)
            self.rows = records.read(self.path)
        print(report.console(self.rows))
        written = report.write_reports(self.path, records.read(self.path)) if self.reports else []
        beside = f" and next to it {', '.join(path.name for path in written)}" if written else ""
        print(f"\nwritten: {self.path}{beside}", file=sys.stderr)
        if interrupted:
            print("benchmarks/run.py: interrupted; the measurements so far are kept", file=sys.stderr)
            return 130
        counted = [row for row in self.rows if row["ours"] and row["rival"]]  # int8 may be refused
        failed = any(row["status"] in ("wrong", "error") for row in counted)
        if old is not None:
            text, slower = compare(old, self.rows, fail_below)
            print(text)
            failed = failed or bool(slower)
        return 1 if failed else 0


@contextmanager
def _prepared(args: argparse.Namespace, overrides: dict[str, Any]) -> Iterator[Session]:
    """Checks every argument, and prepares the texts and the results file before anything is measured."""
    suites = _suites(args)
    device = str(default_device(args.device))
    facts = environment(torch.device(device))
    facts["started"] = datetime.datetime.now().isoformat(timespec="seconds")
    sizes = tuple(args.sizes.split(",")) if args.sizes else default_sizes(device.split(":")[0], args.quick)
    check_sizes(sizes)
    cases, tasks = (tuple(one.strip() for one in (text or "").split(",") if one.strip()) for text in (args.cases, args.tasks))
    request = Request(suites, sizes, device, args.dtype, args.quick, args.tokens, args.repeats, cases=cases, tasks=tasks)
    request = replace(request, **overrides)
    if args.only is not None:
        request = replace(request, candidates=_named(request.candidates, args.only))
    path = args.output or RESULTS / facts["device"]
    alone = path.suffix == ".jsonl"
    if not alone:
        path = path / f"{facts['date']}{'-quick' if args.quick else ''}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    old = records.read(path) if path.exists() else []
    texts = checkpoints = None
    if set(suites) - {"ops"}:
        checkpoints = Checkpoints(args.model)
    try:
        if checkpoints is not None:
            limit = min(512, checkpoints.config(sizes[0]).max_position_embeddings)
            texts = Texts(checkpoints.tokenizer, args.text, args.column, args.squad, limit)
        yield Session(request, texts, checkpoints, path, facts, old if args.resume else (), not alone)
    finally:
        if checkpoints is not None:
            checkpoints.close()


def _named(candidates: tuple[Candidate, ...], only: str) -> tuple[Candidate, ...]:
    """The candidates selected by --only: those with one of these names, or whose names contain a text that is no full name."""
    names = {candidate.name.lower() for candidate in candidates}
    parts = [part.strip().lower() for part in only.split(",")]
    found = tuple(c for c in candidates if any(c.name.lower() == p or (p not in names and p in c.name.lower()) for p in parts))
    if not found:
        known = ", ".join(dict.fromkeys(c.name for c in candidates))
        raise InputError(f"--only: no candidate is named like {only!r}; there are {known}")
    return found


def _suites(args: argparse.Namespace) -> tuple[str, ...]:
    if args.suite is None:
        return SUITES if args.quick else ("inference",)
    if args.suite == "all":
        return SUITES
    wanted = tuple(args.suite.split(","))
    unknown = [name for name in wanted if name not in SUITES]
    if unknown:
        raise InputError(f"--suite: there is no {unknown[0]!r}; the suites are {', '.join(SUITES)}, all")
    return tuple(name for name in SUITES if name in wanted)
