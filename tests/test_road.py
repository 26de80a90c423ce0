"""One road from text to batch: every text is framed once, lengths are looked at once a batch, and no second loop exists."""

from __future__ import annotations

import ast
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from task_cases import choices, pairs, questions, save_encoder, sentences, texts, tokenizer
from torch.overrides import TorchFunctionMode

import fastbert
from fastbert import BertConfig, BertModel, BertTokenizer, ops
from fastbert.errors import InputError
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.finetuning.answering import Answering
from fastbert.finetuning.choosing import Choosing
from fastbert.finetuning.sentences import Sentences
from fastbert.finetuning.tagging import Tagging
from fastbert.packing import PackedBatch, checks
from fastbert.packing.batching import CPU_BATCH_TOKENS, batches, pack_rows, run
from fastbert.text.framing import Framed, frame

ROOT = Path(__file__).resolve().parents[1]


# -- framed once ------------------------------------------------------------------------------------------------------------


@contextmanager
def counted_texts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counter[str], list[str]]]:
    """How often each text goes through the tokenizer, and the splits that are framed."""
    read: Counter[str] = Counter()
    framed: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("__call__", "encode_ids"):
            before = getattr(BertTokenizer, name)

            def counting(self: Any, text: Any, *others: Any, before: Callable[..., Any] = before, **keywords: Any) -> Any:
                read.update(" ".join(one) if isinstance(one, list | tuple) else one for one in text)
                return before(self, text, *others, **keywords)

            patch.setattr(BertTokenizer, name, counting)
        for problem in (Answering, Choosing, Sentences, Tagging):
            before = problem.frame

            def framing_of(self: Any, split: Any, before: Callable[..., Any] = before) -> Any:
                framed.append(split.name)
                return before(self, split)

            patch.setattr(problem, "frame", framing_of)
        yield read, framed


@pytest.mark.parametrize("mode", ["finetune", "features"])
@pytest.mark.parametrize(
    ("kind", "make"), [("classify", texts), ("nli", pairs), ("ner", sentences), ("qa", questions), ("choice", choices)]
)
def test_a_fine_tuning_run_frames_each_text_once(
    kind: str, make: Callable[..., Any], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds, two epochs, dev and test: the overview, every seed and every evaluation share the rows."""
    encoder = save_encoder(tmp_path / "encoder", layers=3)
    splits = [make(count, seed) for count, seed in ((30, 1), (12, 2), (12, 3))]
    how = FineTuneOptions(mode=mode, epochs=2, batch_size=8, precision="float32")
    with counted_texts(monkeypatch) as (read, framed):
        finetune(
            kind, encoder, *splits, output=tmp_path / "run", options=how, seeds=2, device="cpu", progress=lambda text: None
        )
    assert framed == ["train", "dev", "test"]
    expected: Counter[str] = Counter()
    for split in splits:
        if kind == "qa":  # a context that several questions share is read once
            expected.update(question.question for question in split)
            expected.update({question.context for question in split})
        elif kind == "ner":
            expected.update(" ".join(sentence.words) for sentence in split)
        elif kind == "choice":
            expected.update(part for example in split for choice in example.choices for part in (example.text, choice))
        else:
            expected.update(part for example in split for part in (example.text, example.pair) if part is not None)
    assert read == expected


# -- lengths, once a batch --------------------------------------------------------------------------------------------------


class Leaving(TorchFunctionMode):
    """Counts how often the values of `cu_seqlens` become Python numbers."""

    def __init__(self, starts: torch.Tensor) -> None:
        super().__init__()
        self.starts, self.count = starts, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = func in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__int__, torch.Tensor.numpy)
        if leaves and args[0].data_ptr() == self.starts.data_ptr():
            self.count += 1
        return func(*args, **(kwargs or {}))


def model(**fields: Any) -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**{**SMALL, "num_hidden_layers": 4, **fields})).eval()


@pytest.mark.parametrize("training", [False, True])
def test_lengths_leave_a_batch_once(training: bool) -> None:
    bert = model().train(training)
    lengths = [3, 30, 7, 7, 0, 12]
    ids = torch.randint(1, 100, (sum(lengths),))
    packed = PackedBatch(
        ids,
        torch.zeros_like(ids),
        torch.cat([torch.arange(length) for length in lengths]),
        torch.tensor([0, *lengths]).cumsum(0).int(),
        30,
        30,
    )
    with Leaving(packed.cu_seqlens) as counter:
        bert(packed)
        bert(packed)
    assert counter.count == 1  # for four layers, the checks, and a second forward
    packed.cu_seqlens[1:3] -= 1  # other sequences now: what is known of the old ones must not be used
    with Leaving(packed.cu_seqlens) as counter:
        bert(packed)
    assert counter.count == 1


@pytest.mark.parametrize("how", ["in inference mode", "through .data", "through numpy"])
def test_lengths_that_change_without_a_trace_are_seen(how: str) -> None:
    """A tensor's version does not count these; what was derived from the old lengths would mix up sequences."""
    bert = model()
    with torch.inference_mode(how == "in inference mode"), torch.no_grad():
        packed = fastbert.pack([[1, 2], [4, 1, 2, 3], [1, 2, 3]])
        before = bert(packed)[0]
        if how == "in inference mode":
            packed.cu_seqlens[1] = 3
        elif how == "through .data":
            packed.cu_seqlens.data[1] = 3
        else:
            packed.cu_seqlens.numpy()[1] = 3
        parts = (packed.input_ids, packed.token_type_ids, packed.position_ids, torch.tensor([0, 3, 6, 9]).int())
        assert torch.equal(bert(packed)[0], bert(PackedBatch(*parts, 4, 4))[0])
        assert not torch.equal(bert(packed)[0], before)


def test_a_batch_that_was_run_for_inference_may_be_trained_on() -> None:
    bert = model()
    packed = fastbert.pack([[1, 2], [1, 2, 3, 4], [1, 2, 3]])  # not in the order of attention's groups
    with torch.inference_mode():
        bert(packed)
    bert(packed)[0].sum().backward()
    assert bert.embeddings.word_embeddings.weight.grad is not None


def test_lists_of_ids_are_packed_within_a_traced_graph() -> None:
    bert = model(num_hidden_layers=1)
    traced = torch.compile(bert, backend="eager", fullgraph=True)
    assert torch.allclose(traced([[1, 2], [1, 2, 3]])[0], bert([[1, 2], [1, 2, 3]])[0], atol=1e-6)


def test_lengths_of_batches_that_we_make_are_known_already() -> None:
    padded = torch.ones(3, 9, dtype=torch.long)
    mask = torch.arange(9) < torch.tensor([[4], [9], [1]])
    rows = frame(tokenizer(), [example.text for example in texts(9, 0)], max_length=40)
    made = [fastbert.pack(padded, mask), fastbert.pack([[1, 2], [3]]), pack_rows(rows, range(9))]
    for packed in [*made, *(batch.to("cpu") for batch in made), *(pickle.loads(pickle.dumps(batch)) for batch in made)]:
        assert packed.host_starts() == packed.cu_seqlens.tolist()
        with Leaving(packed.cu_seqlens) as counter:
            model()(packed)
        assert counter.count == 0


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_batchs_plan_gives_the_same_bits(dropout: float) -> None:
    lengths = [5, 17, 2, 17, 0, 9]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    qkv = torch.randn(int(starts[-1]) + 3, 3, 4, 16)  # three rows of a tail
    plan = ops.plan_attention(starts.tolist())
    seed = torch.tensor(5)
    with_plan = ops.attention(qkv, starts, 17, dropout, seed, plan=lambda: plan)
    assert torch.equal(with_plan, ops.attention(qkv, starts, 17, dropout, seed))
    if not dropout:
        assert torch.allclose(with_plan, fastbert.ops.reference.attention(qkv, starts, 17), atol=1e-6)


# -- one loop, one cutter ---------------------------------------------------------------------------------------------------


def calls_of(*names: str) -> dict[str, set[str]]:
    """For each function, the files of the package that call it or refer to it, imports and its own definition aside."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in (ROOT / "fastbert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if name in found:
                found[name].add(path.relative_to(ROOT / "fastbert").as_posix())
    return found


def test_there_is_one_loop_over_batches_and_one_cutter() -> None:
    found = calls_of("token_budget_batches", "cut_pair", "windows", "CPU_BATCH_TOKENS")
    assert found["token_budget_batches"] == {"packing/batching.py"}
    assert found["CPU_BATCH_TOKENS"] == {"packing/batching.py"}
    assert found["cut_pair"] == {"text/framing.py"}
    for path in sorted((ROOT / "fastbert/tasks").glob("*.py")) + sorted((ROOT / "fastbert/finetuning").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert "packing.pack" not in source, path  # what is run comes from rows, never from lists
        assert "import pack\n" not in source, path
        assert "truncation=" not in source, path  # what is cut is cut by the framer


# -- batches ----------------------------------------------------------------------------------------------------------------


def test_batches_hold_every_row_once_longest_first_within_the_cpus_limit() -> None:
    rows = frame(tokenizer(), [example.text for example in texts(1500, 0)], max_length=40)
    seen: list[int] = []
    before = 41
    for numbers, packed in batches(rows, 100_000, torch.device("cpu")):
        assert packed.num_tokens <= CPU_BATCH_TOKENS
        assert packed.input_ids is not None
        assert torch.equal(packed.input_ids.long(), torch.cat([torch.tensor(rows.row(i)) for i in numbers]).long())
        assert packed.lengths.tolist() == rows.lengths[numbers].tolist() == sorted(packed.lengths.tolist(), reverse=True)
        assert packed.lengths[0] <= before
        before = int(packed.lengths[-1])
        seen += numbers.tolist()
    assert sorted(seen) == list(range(1500))


def test_packed_rows_are_what_packing_lists_gives() -> None:
    second = [example.pair for example in pairs(20, 0)]
    rows = frame(tokenizer(), [example.text for example in pairs(20, 0)], second, max_length=40)
    order = [3, 17, 0, 5]
    segments = [rows.segments[rows.starts[i] : rows.starts[i + 1]].tolist() for i in order]
    expected = fastbert.pack([rows.row(i).tolist() for i in order], token_type_ids=segments)
    found = pack_rows(rows, order)
    for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "indices"):
        assert torch.equal(getattr(found, name), getattr(expected, name).int()), name
    assert (found.max_seqlen, found.padded_length) == (expected.max_seqlen, expected.padded_length)
    assert torch.equal(model(vocab_size=200)(found)[0], model(vocab_size=200)(expected)[0])
    for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "indices"):
        assert getattr(found, name).data_ptr() % 16 == 0, name  # Triton compiles kernels anew for other pointers


def test_results_come_back_by_row_one_batch_late() -> None:
    rows = frame(tokenizer(), [example.text for example in texts(40, 0)], max_length=40)
    done: list[str] = []

    def step(packed: PackedBatch) -> list[torch.Tensor]:
        done.append("run")
        return [packed.first_rows()]

    for numbers, (first,) in run(rows, step, torch.device("cpu"), 64, name="x"):
        done.append("read")
        assert len(numbers) == len(first)
    assert done[:4] == ["run", "run", "read", "run"]
    assert done[-2:] == ["read", "read"]
    assert done.count("run") == done.count("read")


# -- many texts -------------------------------------------------------------------------------------------------------------

MANY = """
import resource, sys, time
began = time.perf_counter()
class Watch:
    first = None
    def write(self, text):
        if Watch.first is None and "%" in text and "0%" != text.strip()[:2]:
            Watch.first = time.perf_counter() - began
    def flush(self): pass
    def isatty(self): return True
from fastbert.tasks import Embedder
embedder = Embedder.from_pretrained(sys.argv[1], "cpu")
texts = [f"the cat {i % 97} runs in rome and sits" for i in range(100_000)]
embedder.encode(texts[:5000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.stderr, began = Watch(), time.perf_counter()
vectors = embedder.encode(texts)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024 - vectors.nbytes / 2**20, Watch.first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_many_texts_take_little_memory_and_show_progress_at_once(tmp_path: Path) -> None:
    import subprocess

    tiny = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    folder = save_encoder(tmp_path / "encoder", layers=1, **tiny)
    done = subprocess.run([sys.executable, "-c", MANY, str(folder)], capture_output=True, text=True, check=True)
    more, first = (float(number) for number in done.stdout.split())
    assert more < 32, f"{more:.0f} MiB beside the vectors"
    assert first < 2, f"the first progress after {first:.1f} s"


def test_framed_ids_are_checked_while_they_are_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch knows the tables that its ids need; only a model with smaller ones looks at them again, and names the place."""
    model = fastbert.BertModel(fastbert.BertConfig.of_size("tiny", vocab_size=50)).eval()
    looked: list[int] = []
    real = checks.check_limits
    monkeypatch.setattr(checks, "check_limits", lambda *args: (looked.append(1), real(*args))[1])
    batch = pack_rows(Framed.of_rows([[1, 49, 3], [4, 5]]), [1, 0])
    model(batch)
    assert batch.checked == (50, 1, 3)
    assert not looked
    batch.input_ids = batch.input_ids + 0
    model(batch)
    assert looked == [1], "what was changed is looked at"
    for bad in (50, -1):
        with pytest.raises(InputError, match=rf"input_ids.*{bad}"):
            model(pack_rows(Framed.of_rows([[1, 2], [4, bad, 7]]), [0, 1]))


def test_edits_of_framed_batches_are_checked_where_they_leave_a_trace() -> None:
    """In inference mode they leave none: there only batches that the library keeps to itself go unchecked."""
    model = fastbert.BertModel(fastbert.BertConfig.of_size("tiny", vocab_size=50)).eval()
    framed = Framed.of_rows([[1, 49, 3], [4, 5]])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            batch = pack_rows(framed, [0, 1])
            batch.input_ids[2] = 300
            with pytest.raises(InputError, match="300"):
                model(batch)
    with torch.inference_mode():
        assert all(batch.checked == (50, 1, 3) for _, batch in batches(framed, 16, torch.device("cpu")))


def test_framed_batches_are_one_graph() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model = fastbert.BertModel(fastbert.BertConfig.of_size("tiny", vocab_size=50)).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for lengths in ((3, 2), (5, 4, 2), (9, 2)):
        batch = pack_rows(Framed.of_rows([[7] * length for length in lengths]), range(len(lengths)))
        with torch.no_grad():
            compiled(batch)
    assert counter.frame_count <= 3
