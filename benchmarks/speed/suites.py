"""The suites as chapters, each one a job with its candidates and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.speed.candidates import ALL_OPS, CANDIDATES, HEADS, MODELS, TRAINING, Candidate
from benchmarks.speed.cases import REAL, SIZES, Case, Texts
from benchmarks.speed.checkpoints import Checkpoints
from benchmarks.speed.jobs import Inputs, Job
from benchmarks.speed.limits import model_cost
from benchmarks.speed.measure import Plan, Question
from benchmarks.speed.op_cases import OP_CASES, TOKENS
from fastbert.errors import InputError

SUITES = ("ops", "inference", "training", "latency", "memory", "startup")
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Tokens per pass, by device and size: about a second for the faster candidates.
PASS_TOKENS = {
    "cpu": {"tiny": 30_000, REAL: 6_000, "base": 1_600, "large": 800},
    "cuda": {"tiny": 2_000_000, REAL: 2_000_000, "base": 500_000, "large": 200_000},
}
QUICK_SHARE = 1 / 3
SAMPLED = {"cpu": 64, "cuda": 2048}  # texts on which batch sizes are chosen: several of the largest batches

MODEL_ORACLE = Candidate("transformers eager, float32", "benchmarks.speed.candidates.models:Oracle", MODELS)
TRAINING_ORACLE = Candidate("transformers eager, float32", "benchmarks.speed.candidates.training:Oracle", TRAINING)
# With PyTorch's fused attention: where attention is nearly uniform, gradients are small differences, and every fused backward
# computes them from rounded outputs. For BERT-large at 512 tokens they are four times as far from float32 as with unfused
# attention.
PLAIN_TRAINING = Candidate(
    "transformers sdpa", "benchmarks.speed.candidates.training:Transformers", TRAINING, options={"attention": "sdpa"}
)
OP_ORACLE = Candidate("reference, float64", "benchmarks.speed.candidates.operators:Oracle", ALL_OPS)


@dataclass(frozen=True)
class Request:
    """The measurements requested on the command line.

    Attributes:
        suites, sizes: names of the suites and of the model sizes.
        device, dtype: the device and the type.
        quick: one size, fewer lengths, fewer rounds.
        tokens: tokens per pass; None means the defaults by size.
        repeats: minimum number of rounds; None means the plan's.
        candidates: the candidates that can take part; tests inject their own.
        cases: texts, one of which must occur in the name of an op or a case; empty selects all.
        tasks: texts, one of which must occur in the name of the task; empty selects all.
    """

    suites: tuple[str, ...]
    sizes: tuple[str, ...]
    device: str
    dtype: str
    quick: bool = False
    tokens: int | None = None
    repeats: int | None = None
    candidates: tuple[Candidate, ...] = CANDIDATES
    cases: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One job for one set of candidates.

    Attributes:
        title: the title in the progress bar.
        job: makes the job lazily, since this may build a checkpoint.
        candidates: the candidates that can do the task.
        oracle: the candidate whose outputs are taken as correct.
        plan: how long to measure.
        questions: makes the questions when the chapter begins.
        plain: plain PyTorch in the chapter's type, see `measure.Field`.
    """

    title: str
    job: Callable[[], Job]
    candidates: tuple[Candidate, ...]
    oracle: Candidate
    plan: Plan
    questions: Callable[[], list[Question]]
    plain: Candidate | None = None


def default_sizes(device: str, quick: bool) -> tuple[str, ...]:
    """The sizes that this kind of device runs in reasonable time."""
    if quick:
        return (REAL,)
    return (REAL, "base") if device == "cpu" else (REAL, "base", "large")


def chapters(request: Request, texts: Texts | None, checkpoints: Checkpoints | None) -> Iterator[Chapter]:
    """Everything to be measured with workers, in the order of the suites; only ops need no texts and checkpoints."""
    for suite in request.suites:
        if suite == "ops":
            yield from _ops(request)
        elif suite != "startup":
            assert texts is not None
            assert checkpoints is not None
            yield from _Models(request, texts, checkpoints).chapters(suite)


def _ops(request: Request) -> Iterator[Chapter]:
    kind = request.device.split(":")[0]
    names = list(OP_CASES)
    if request.quick:
        names = [name for name in names if name.endswith(", forward") and "S = 64," not in name and "S = 256," not in name]
    for name in names:
        job = Job(name, request.device, request.dtype)
        facts = {"suite": "ops", "model": "op", "task": name, "dtype": request.dtype, "case": f"{TOKENS[kind]:,} tokens"}
        plan = _plan(request, Plan(least=5, most=9, budget_s=6, at_least_s=0.05), Plan(3, 3, wait_s=5))
        question = Question(facts, Inputs([[0]]))
        yield Chapter(f"ops: {name}", lambda job=job: job, _able(request, name), OP_ORACLE, plan, lambda q=question: [q])


class _Models:
    def __init__(self, request: Request, texts: Texts, checkpoints: Checkpoints) -> None:
        self.request, self.texts, self.checkpoints = request, texts, checkpoints
        self.kind = request.device.split(":")[0]

    def chapters(self, suite: str) -> Iterator[Chapter]:
        for size in self.request.sizes:
            yield from getattr(self, f"_{suite}")(size)

    def _inference(self, size: str) -> Iterator[Chapter]:
        full = Plan(least=5, most=7, budget_s=60, sampled=SAMPLED[self.kind])
        plan = _plan(self.request, full, Plan(3, 3, sampled=16, wait_s=30))
        lengths = ["natural", "full 128"]
        if not self.request.quick:
            lengths += ["N(256,64)", "full 512"]
            if self.texts.pairs is not None:
                lengths.insert(1, "SQuAD")
        yield self._chapter(
            "inference", size, "encoder", plan, lambda: [self.texts.case(n, self._tokens(size)) for n in lengths]
        )
        if self.request.quick or size != self.request.sizes[0]:
            return
        for task in HEADS:
            yield self._chapter("inference", size, task, plan, lambda: [self.texts.case("natural", self._tokens(size))])

    def _training(self, size: str) -> Iterator[Chapter]:
        plan = _plan(self.request, Plan(least=5, most=7, budget_s=40), Plan(3, 3, wait_s=5))
        share = 0.35 if self.kind == "cpu" else 0.25  # a step costs about three forward passes plus the optimiser
        tokens = round(self._tokens(size) * share)
        lengths = {"fine-tuning": ("natural",), "pre-training": ("natural", "full 128") + ("full 512",) * (self.kind == "cuda")}
        for task in TRAINING:
            if self.request.quick and task == "pre-training":
                lengths[task] = ("full 128",)
            yield self._chapter(
                "training", size, task, plan, lambda task=task: [self.texts.case(n, tokens) for n in lengths[task]]
            )

    def _latency(self, size: str) -> Iterator[Chapter]:
        plan = _plan(self.request, Plan(least=7, most=11, budget_s=30, at_least_s=0.1), Plan(3, 3, at_least_s=0.05, wait_s=5))
        lengths = (16, 128) if self.request.quick else (16, 64, 128, 512)
        yield self._chapter("latency", size, "encoder", plan, lambda: [self.texts.one(s) for s in lengths])

    def _memory(self, size: str) -> Iterator[Chapter]:
        plan = Plan(wait_s=2) if self.request.quick else Plan()
        length = 128 if self.request.quick else 512
        count = 8 if self.kind == "cpu" else 64
        for task in ("encoder", "pre-training"):
            yield self._chapter(
                "memory", size, task, plan, lambda: [self.texts.case(f"full {length}", count * length)], memory_only=True
            )

    def _chapter(
        self, suite: str, size: str, task: str, plan: Plan, cases: Callable[[], list[Case]], memory_only: bool = False
    ) -> Chapter:
        request, mask = self.request, self.texts.tokenizer.mask_token_id
        assert mask is not None

        def job() -> Job:
            folder = str(self.checkpoints.folder(size, task))
            return Job(task, request.device, request.dtype, folder, self.texts.max_length, mask)

        def questions() -> list[Question]:
            found = []
            for case in cases():
                if task == "masked words":
                    case = case.masked(mask)
                rows = case.inputs.rows
                facts = {
                    "suite": suite,
                    "model": self.checkpoints.label(size),
                    "task": task,
                    "dtype": request.dtype,
                    "case": case.name,
                    "source": case.source,
                    "texts": len(rows),
                    "tokens": sum(case.lengths),
                    "longest": max(case.lengths),
                    "histogram": case.histogram(),
                }
                cost = model_cost(self.checkpoints.config(size), task, rows, mask, ELEMENT_BYTES[request.dtype])
                found.append(Question(facts, case.inputs, cost, memory_only))
            return found

        able = _able(request, task)
        if suite == "latency":  # one text: nothing to sort, and tokenisation is not measured
            able = tuple(c for c in able if not c.needs_texts and not c.needs_many)
        oracle = TRAINING_ORACLE if task in TRAINING else MODEL_ORACLE
        title = f"{suite}: {self.checkpoints.label(size)}, {task}"
        return Chapter(title, job, able, oracle, plan, questions, PLAIN_TRAINING if task in TRAINING else None)

    def _tokens(self, size: str) -> int:
        tokens = self.request.tokens or PASS_TOKENS[self.kind][size]
        return round(tokens * QUICK_SHARE) if self.request.quick and self.request.tokens is None else tokens


def _able(request: Request, task: str) -> tuple[Candidate, ...]:
    return tuple(candidate for candidate in request.candidates if candidate.can(task))


def _plan(request: Request, full: Plan, quick: Plan) -> Plan:
    plan = quick if request.quick else full
    if request.repeats is None:
        return plan
    most = max(request.repeats, plan.most)
    return replace(plan, least=request.repeats, most=most)


def check_sizes(sizes: tuple[str, ...]) -> None:
    """Raises InputError for a size that does not exist."""
    known = (REAL, *SIZES)
    unknown = [size for size in sizes if size not in known]
    if unknown:
        raise InputError(f"--sizes: there is no {unknown[0]!r}; the sizes are {', '.join(known)}")
