"""Commands that run models: fill-mask, params, explain, verify."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from typing import Any

import fastbert
from fastbert import files
from fastbert.choices import BACKENDS, SIZES
from fastbert.commands.adding import Commands, add, add_json, add_model, model_path, print_json, print_result
from fastbert.errors import printable


def register(commands: Commands) -> None:
    """Adds the commands."""
    sub = add(
        commands,
        "fill-mask",
        fill_mask,
        'fastbert fill-mask "Paris is the [MASK] of France." --model google-bert/bert-base-uncased',
    )
    sub.add_argument("text", nargs="+", help="texts with one [MASK] or more")
    add_model(sub)
    sub.add_argument("--top-k", type=int, default=5, help="candidates per mask (default: 5)")
    sub.add_argument("--targets", help="consider only these words, separated by commas")
    add_json(sub)

    sub = add(commands, "params", params, "fastbert params --size large --head BertForPreTraining")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--size", choices=list(SIZES), default="base", help="a released size (default: base)")
    which.add_argument("--model", type=model_path, help="a directory, a run or a hub id, for its config.json")
    sub.add_argument("--head", help="a class name (default: BertModel)")
    sub.add_argument("--local-files-only", action="store_true", help="never contact the hub")
    add_json(sub)

    sub = add(commands, "explain", explain, 'fastbert explain "A short text." "And a rather longer one." --model my-model/')
    sub.add_argument("text", nargs="+", help="texts to run")
    add_model(sub)
    _add_backend(sub)

    sub = add(commands, "verify", verify, "fastbert verify --model my-model/ --dtype float16")
    sub.add_argument("text", nargs="*", help="texts to run (default: four of different lengths)")
    add_model(sub)
    _add_backend(sub)


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=BACKENDS, help="how the ops are run (default: FASTBERT_BACKEND, or auto)")
    add_json(parser)


def fill_mask(args: argparse.Namespace) -> None:
    """Predicts the most likely words at each [MASK]."""
    from fastbert.tasks import FillMask

    filler = FillMask.from_pretrained(args.model, args.device, args.dtype, local_files_only=args.local_files_only)
    targets = args.targets.split(",") if args.targets else None
    for text, answers in zip(args.text, filler.predict(args.text, args.top_k, targets), strict=True):
        if args.json:
            print_json({"text": text, "answers": answers})
            continue
        for mask, candidates in enumerate(answers if isinstance(answers[0], list) else [answers], 1):
            print(printable(f"{text}  (mask {mask})"))
            for candidate in candidates:
                print(printable(f"  {candidate['score']:.4f}  {candidate['token_str']:<16} {candidate['sequence']}"))


def params(args: argparse.Namespace) -> None:
    """Prints the number of parameters by term, compared with the short formula."""
    from fastbert.model.families import config_of

    config = fastbert.BertConfig.of_size(args.size)
    if args.model is not None:
        config = config_of(files.locate(args.model, ["config.json"], local_files_only=args.local_files_only))
    found = fastbert.count_parameters(config, args.head)
    terms = [{"name": name, "formula": formula, "count": count} for name, formula, count in found.terms]
    value = {"head": found.head, "total": found.total, "short_formula": found.notes_estimate, "terms": terms}
    print_result(args, value, found.table())


def explain(args: argparse.Namespace) -> None:
    """Shows which path each op of a forward pass takes."""
    from fastbert.ops import current_backend

    model, batch = _model_and_batch(args, args.text)
    with fastbert.backend(args.backend or current_backend()):
        found = fastbert.explain(model, **batch)
        if args.json:
            names = ("op", "calls", "shape", "path", "why_not_the_kernel")
            counts = {"tokens": found.tokens, "positions": found.places, "padding_share": found.padding_share}
            print_json({**counts, "ops": [dict(zip(names, row, strict=True)) for row in found.rows]})
        else:
            print(found)


def verify(args: argparse.Namespace) -> int:
    """Compares each op and layer with float64 on your own weights; exit code 1 if an error is too large."""
    from fastbert.ops import current_backend

    model, batch = _model_and_batch(args, args.text or _TEXTS)
    with fastbert.backend(args.backend or current_backend()):
        found = fastbert.verify(model, **batch)
    print_result(args, {"ok": found.ok, "comparisons": [{**asdict(row), "ok": row.ok} for row in found.rows]}, found)
    return 0 if found.ok else 1


_TEXTS = [
    "Short.",
    "BERT reads a sentence in both directions at once, which is why it is good at understanding and bad at writing.",
    "A third text of middle length, with numbers (1 to 1,024) and a rare word: zugzwang.",
    " ".join(["Many sentences in a row make a long text, and long texts take another kernel."] * 12),
]


def _model_and_batch(args: argparse.Namespace, texts: list[str]) -> tuple[fastbert.BertModel, Any]:
    from fastbert.tasks.loading import load_encoder, load_tokenizer

    model = load_encoder(args.model, args.device, args.dtype, local_files_only=args.local_files_only)
    tokenizer = load_tokenizer(args.model, model, local_files_only=args.local_files_only)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
    if sum(batch.num_truncated):
        warnings.warn(
            f"{sum(map(bool, batch.num_truncated))} texts were truncated to {tokenizer.model_max_length} tokens", stacklevel=2
        )
    return model, batch
