"""The bench command: how fast texts become vectors on this machine, beside the libraries that are installed here.

Every system gets the same texts and weights, float32 or what --dtype says, and the same threads; vectors must agree before a
figure counts. Rounds take turns, so that a busy moment of the machine meets all systems; the figure is the median.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from fastbert import files
from fastbert.commands.adding import Commands, add, add_form, add_json, add_model, check_outputs, print_json
from fastbert.commands.machine import facts_of, version_of
from fastbert.commands.options import form_of
from fastbert.data import read_texts
from fastbert.errors import InputError
from fastbert.files.rows import check_ending, write_rows
from fastbert.progress import LINES, progress
from fastbert.terminal import markdown_table, show_line, show_note

_BATCH = 32  # texts of a batch of the others, sentence-transformers' default
_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the largest value of a vector
Encode = Callable[[Sequence[str]], Any]  # texts -> (n, D) float32 array


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(commands, "bench", bench, "fastbert bench texts.txt --model sentence-transformers/all-MiniLM-L6-v2")
    sub.add_argument("input", help="a text file, a .tsv, .csv, .jsonl or .parquet table, or - for standard input")
    add_model(sub)
    sub.add_argument("--column", help='column of a table: a name in its header or a number from 1 (default: "text")')
    add_form(sub)
    sub.add_argument("--rounds", type=int, default=3, help="measurements of each system (default: 3)")
    sub.add_argument("--most", type=int, default=1000, help="texts that are used, spread over the file (default: 1000)")
    sub.add_argument("-o", "--output", help="also write the figures to a .jsonl or .csv file")
    add_json(sub)


def bench(args: argparse.Namespace) -> int:
    """Measures how fast your texts become vectors here, beside sentence-transformers and transformers; 1 if vectors differ."""
    check_outputs([args.output], [args.input, args.model])
    form = "" if args.output is None else check_ending(args.output, (".jsonl", ".csv"), "figures")
    for name in ("rounds", "most"):
        if getattr(args, name) < 1:
            raise InputError(f"{name} = {getattr(args, name)} must be at least 1")
    texts = list(read_texts(args.input, args.column, form_of(args)))
    if not texts:
        raise InputError(f"{args.input} holds no text")
    if len(texts) > args.most:
        texts = [texts[i * len(texts) // args.most] for i in range(args.most)]
    with ExitStack() as stack:  # the output first, so that one that cannot be written fails early
        part = None if args.output is None else stack.enter_context(files.replacing(args.output))
        rows, tokens, absent = measure(args, texts)
        facts = facts_of(args.device)
        if part is not None:
            write_rows(part, [{**row, "tokens": tokens, **facts} for row in rows], form)
    if args.json:
        print_json({**facts, "texts": len(texts), "tokens": tokens, "systems": rows, "not_installed": absent})
    else:
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        print(f"{len(texts):,} texts, {tokens:,} tokens, {tokens / len(texts):.0f} on average\n")
        print("\n".join(_table(rows)))
    for name in absent:
        show_note(f"not installed here: {name}")
    wrong = [row["system"] for row in rows if not row["agrees"]]
    if wrong:
        show_line(f"fastbert: the vectors of {', '.join(wrong)} differ from fastbert's: no figure")
    return 1 if wrong else 0


def measure(args: argparse.Namespace, texts: Sequence[str]) -> tuple[list[dict[str, Any]], int, list[str]]:
    """The figures of each system, the number of tokens, and the systems that are not installed."""
    import numpy as np

    from fastbert import prepack
    from fastbert.tasks import Embedder

    _silence_transformers()
    embedder = Embedder.from_pretrained(args.model, args.device, args.dtype, local_files_only=args.local_files_only)
    prepack(embedder.model)
    systems: dict[str, Encode] = {f"fastbert {version_of('fastbert-triton')}": embedder.encode}
    absent = []
    for package, make in (("sentence-transformers", _sentence_transformers), ("transformers", _transformers)):
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            absent.append(package)
        else:
            systems[f"{package} {version_of(package)}"] = make(args, embedder)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    vectors: dict[str, Any] = {}
    with progress(args.rounds * len(systems), "measurement", "bench", LINES) as bar:
        for encode in systems.values():
            encode(texts[: 2 * _BATCH])  # loads, and allocates
        for _ in range(args.rounds):
            for name, encode in systems.items():
                began = time.perf_counter()
                vectors[name] = encode(texts)
                seconds[name].append(time.perf_counter() - began)
                bar.update()
    ours = next(iter(vectors.values()))
    bound = _TOLERANCE[str(embedder.model.dtype).removeprefix("torch.")] * float(np.abs(ours).max())
    tokens = embedder.frame(texts).num_tokens
    rows = []
    for name, found in vectors.items():
        took, error = median(seconds[name]), float(np.abs(found - ours).max())
        rows.append(
            {"system": name, "seconds": took, "texts_per_second": len(texts) / took, "tokens_per_second": tokens / took}
        )
        rows[-1] |= {"rounds": seconds[name], "largest_difference": error, "agrees": error <= bound}
    return rows, tokens, absent


def _silence_transformers() -> None:
    """Has transformers' loading say nothing: its messages are about its own models."""
    if importlib.util.find_spec("transformers") is not None:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _sentence_transformers(args: argparse.Namespace, embedder: Any) -> Encode:
    from sentence_transformers import SentenceTransformer

    options = {"torch_dtype": embedder.model.dtype, "attn_implementation": "sdpa"}
    model = SentenceTransformer(
        args.model, device=str(embedder.model.device), model_kwargs=options, local_files_only=args.local_files_only
    )
    return lambda texts: model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)


def _transformers(args: argparse.Namespace, embedder: Any) -> Encode:
    """Plain transformers, texts sorted by length, with the embedder's pooling."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from fastbert.model import checkpoint
    from fastbert.text import tokenizer_files

    folder = files.locate(args.model, [*checkpoint.PATTERNS, *tokenizer_files.PATTERNS], local_files_only=args.local_files_only)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=embedder.model.dtype, attn_implementation="sdpa", add_pooling_layer=False)
    model = model.to(embedder.model.device).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Any:
        from fastbert.model.pooling import pool

        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found = torch.empty(len(texts), embedder.get_embedding_dimension())
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=embedder.max_length, return_tensors="pt"
            ).to(model.device)
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"].bool()
            ends = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
            found[part] = pool(states[mask], ends, embedder.pooling).float().cpu()
        return (torch.nn.functional.normalize(found, dim=1) if embedder.normalize else found).numpy()

    return encode


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ["system", "texts/s", "tokens/s", "fastbert is"]
    cells = []
    for row in rows:
        if not row["agrees"]:
            cells.append([row["system"], "-", "-", "-"])
            continue
        ratio = "" if row is rows[0] else f"{row['seconds'] / rows[0]['seconds']:.2f}x as fast"
        cells.append([row["system"], f"{row['texts_per_second']:,.0f}", f"{row['tokens_per_second']:,.0f}", ratio])
    return markdown_table([head, *cells])
