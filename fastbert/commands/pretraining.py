"""Commands for pre-training: tokenizer train, data build, data inspect, pretrain, ablate."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import fastbert
from fastbert.choices import BALANCES, FORMATS, OBJECTIVES, RANDOM_WORDS, SELECTIONS
from fastbert.commands.adding import Commands, add, add_form, add_group, add_json, add_threads, model_path, print_json
from fastbert.commands.options import form_of, recipe_of, text_options
from fastbert.commands.studies import ablate
from fastbert.commands.tokenizers import train_tokenizer
from fastbert.data.documents import expand_sources, read_sentences, source_hashes
from fastbert.errors import InputError, printable
from fastbert.progress import LINES, progress
from fastbert.terminal import show_line, show_note

_INSTANT = 1 << 20  # bytes of text that are read before a line of progress could be


def register(commands: Commands) -> None:
    """Adds the commands."""
    tokenizer = add_group(commands, "tokenizer", "Vocabularies.")
    sub = add(tokenizer, "train", train_tokenizer, "fastbert tokenizer train books/*.txt -o my-tokenizer/ --held-out 0.01")
    _add_text(sub)
    sub.add_argument("-o", "--output", required=True, help="the directory to write")
    sub.add_argument("--vocab-size", type=int, default=30_000, help="entries, special tokens included (default: 30000)")
    sub.add_argument("--min-frequency", type=int, default=2, help="how often a pair must occur to be merged (default: 2)")
    sub.add_argument("--max-length", type=int, default=512, help="maximum tokens for models that use it (default: 512)")
    sub.add_argument("--cased", action="store_true", help="keep case and accents")
    sub.add_argument("--held-out", help="for the report: a text file, or a share of the texts to exclude from training")
    add_json(sub)

    data = add_group(commands, "data", "Pre-training text.")
    sub = add(data, "build", build, "fastbert data build books/*.txt -o corpus/ --tokenizer my-tokenizer/ --held-out 0.01")
    _add_text(sub)
    sub.add_argument("-o", "--output", required=True, help="the directory to write; it must be empty or not exist")
    sub.add_argument("--tokenizer", help="a directory or hub id (not needed if the input is a corpus)")
    sub.add_argument("--held-out", type=float, default=0.0, help="share of the documents kept out for evaluation (default: 0)")
    sub.add_argument("--shard-tokens", type=int, default=1 << 27, help="tokens per shard (default: 134217728)")
    sub.add_argument("--static", action="store_true", help="write fixed examples, as google does; the input may be a corpus")
    sub.add_argument("--duplicates", type=int, default=10, help="with --static: how often each text is used (default: 10)")
    _add_examples(sub)

    sub = add(data, "inspect", inspect, "fastbert data inspect corpus/ --count 3 --max-length 64 --whole-words")
    sub.add_argument("corpus", help="a folder written by `fastbert data build`")
    sub.add_argument("--count", type=int, default=5, help="number of examples to print (default: 5)")
    sub.add_argument("--start", type=int, default=0, help="index of the first example (default: 0)")
    sub.add_argument("--epoch", type=int, default=0, help="the epoch that the examples come from (default: 0)")
    _add_examples(sub)
    add_json(sub)

    sub = add(commands, "pretrain", pretrain, "fastbert pretrain minute -o minute-bert/")
    sub.add_argument("recipe", help="a .toml file, or a recipe of the package: base, minute")
    sub.add_argument(
        "--print-recipe", action=_PrintRecipe, metavar="NAME", help="print a recipe as TOML, to start one's own from"
    )
    sub.add_argument("-o", "--output", required=True, help="the directory of the run; the same command resumes it")
    sub.add_argument("--corpus", help="a folder written by `fastbert data build`, in place of the recipe's text")
    sub.add_argument("--objective", choices=OBJECTIVES, help="overrides the recipe's")
    sub.add_argument("--nsp-balance", choices=BALANCES, help="overrides the recipe's")
    sub.add_argument("--seed", type=int, help="overrides the recipe's")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="overrides any value, such as optimizer.lr=1e-4"
    )
    sub.add_argument("--device", help="cpu or cuda (default: CUDA if available)")
    add_threads(sub)
    sub.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is not a terminal")
    add_json(sub)

    sub = add(commands, "ablate", ablate, "fastbert ablate --suite objectives -o ablation/ --set phases.0.steps=2000")
    sub.add_argument(
        "--suite",
        required=True,
        choices=["objectives", "masking", "pooling", "direction", "features"],
        help="objectives, masking: pre-training by tables 5 and 8 of the paper; pooling, direction, features: fine-tuning",
    )
    sub.add_argument("-o", "--output", required=True, help="the directory of the runs; the same command resumes them")
    sub.add_argument("--recipe", default="minute", help="the recipe that trains each row (default: minute)")
    sub.add_argument("--size", help="the model's size, in place of the recipe's")
    sub.add_argument("--corpus", help="a folder written by `fastbert data build`, in place of the recipe's text")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides any value of the recipe")
    sub.add_argument("--device", help="cpu or cuda (default: CUDA if available)")
    add_threads(sub)
    add_json(sub)
    study = sub.add_argument_group("for pooling, direction and features")
    study.add_argument("--model", type=model_path, help="the checkpoint to fine-tune")
    study.add_argument("--left-to-right-model", help="for direction: a checkpoint that was pre-trained from left to right")
    for name, what in (("sentence", "a sentence task"), ("token", "a token task")):
        study.add_argument(f"--{name}-task", default="classify" if name == "sentence" else "ner", help=f"the kind of {what}")
        for part in ("train", "dev", "test"):
            study.add_argument(f"--{name}-{part}", help=f"{part} file of {what}")
    study.add_argument("--layout", help="layout of the sentence task's tables: a known data set")
    study.add_argument("--epochs", type=int, help="default: 3")
    study.add_argument("--seeds", type=int, default=1, help="training runs per row (default: 1)")
    study.add_argument("--max-length", type=int, help="tokens per sequence (default: the model's limit)")


class _PrintRecipe(argparse.Action):
    """Prints a recipe and ends, as --version does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, value: Any, option: str | None = None) -> None:
        from fastbert.training import Recipe

        print(Recipe.text_of(value), end="")
        parser.exit()


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", help="text files, - for standard input, or python:MODULE for the texts of a module")
    parser.add_argument(
        "--format", choices=FORMATS, help="text: blank lines separate documents; sentences: one per line (default: by suffix)"
    )
    parser.add_argument("--column", default="text", help="key of JSON lines, or column of a table (default: text)")
    parser.add_argument("--language", default="en", help="language of the sentence splitter (default: en)")
    parser.add_argument("--whole-files", action="store_true", help="treat each file as one document")
    parser.add_argument(
        "--errors", choices=["strict", "replace"], default="strict", help="what to do with bytes that are not text"
    )
    add_form(parser)


def _add_examples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objective", choices=OBJECTIVES, default="mlm+nsp", help="default: mlm+nsp")
    parser.add_argument("--max-length", type=int, default=128, help="tokens per example (default: 128)")
    parser.add_argument("--nsp-balance", choices=BALANCES, default="exact", help="default: exact")
    parser.add_argument(
        "--selection", choices=SELECTIONS, default="exact", help="how the tokens to predict are drawn (default: exact)"
    )
    parser.add_argument(
        "--random-words",
        choices=RANDOM_WORDS,
        default="regular",
        help="entries that random words are drawn from (default: regular)",
    )
    parser.add_argument("--whole-words", action="store_true", help="mask whole words")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def _example_options(args: argparse.Namespace) -> Any:
    from fastbert.data.examples import ExampleOptions
    from fastbert.data.masking import MaskingOptions

    masking = MaskingOptions(selection=args.selection, whole_words=args.whole_words, random_words=args.random_words)
    return ExampleOptions(args.objective, args.max_length, balance=args.nsp_balance, masking=masking)


def build(args: argparse.Namespace) -> None:
    """Turns text into a corpus of token shards, or, with --static, into fixed examples."""
    ready = len(args.input) == 1 and (Path(args.input[0]) / "manifest.json").is_file()
    if ready and not args.static:
        raise InputError(f"{args.input[0]} is already a corpus; --static makes examples from it")
    if args.static and args.held_out and not ready:
        raise InputError("--held-out cannot be used with --static: all fixed examples are used for training")
    output, request = Path(args.output), _request(args, ready)
    if request and fastbert.files.read_json_if_present(output / "manifest.json").get("request") == request:
        fastbert.files.clear_leftovers(output.resolve())
        show_note(f"{output} already holds this build")  # an earlier call was stopped after its last write
        return
    with fastbert.files.scratch_folder(output) as between:  # first, so that an unwritable output fails early
        if not args.static:
            _build_corpus(args, output, request)
        elif ready:
            _write_static(args, Path(args.input[0]), request)
        else:
            _build_corpus(args, between / "corpus", None)
            _write_static(args, between / "corpus", request)


def _request(args: argparse.Namespace, ready: bool) -> dict[str, Any] | None:
    """The inputs and settings of a build, to recognize it later; None if the text cannot be read twice."""
    inputs = [Path(args.input[0]) / "manifest.json"] if ready else expand_sources(args.input)
    hashes = source_hashes(inputs)
    if len(hashes) < len(set(map(str, inputs))):
        return None
    names: tuple[str, ...] = (
        "format",
        "column",
        "language",
        "whole_files",
        "errors",
        "encoding",
        "delimiter",
        "tokenizer",
        "held_out",
        "shard_tokens",
        "static",
    )
    names += ("duplicates", "seed") if args.static else ()
    request = {"input_sha256": hashes, **{name: getattr(args, name) for name in names}}
    if args.static:
        request["examples"] = asdict(_example_options(args))
    found: dict[str, Any] = json.loads(json.dumps(request))
    return found


def _build_corpus(args: argparse.Namespace, output: Path, request: dict[str, Any] | None) -> None:
    from fastbert.data.corpus import build_corpus

    if not args.tokenizer:
        raise InputError("--tokenizer is needed: a directory of `fastbert tokenizer train`, or a hub id")
    tokenizer = fastbert.BertTokenizer.from_pretrained(args.tokenizer)
    sources = expand_sources(args.input)
    sizes = [Path(path).stat().st_size for path in sources if Path(path).is_file()]
    started = time.perf_counter()
    show = LINES if sum(sizes) > _INSTANT else None
    with progress(sum(sizes) or None, "byte", "build", show, scale=True) as bar:
        sentences = read_sentences(sources, **text_options(args), form=form_of(args), advance=bar.update)
        about = {"sources": sources, "text": text_options(args), "request": request}
        report = build_corpus(sentences, tokenizer, output, held_out=args.held_out, shard_tokens=args.shard_tokens, about=about)
    seconds = time.perf_counter() - started
    speed = f", {sum(sizes) / 1e6 / seconds:.1f} MB/s" if sizes else ""
    show_note(f"{report.table()}\n{seconds:.1f} s{speed} -> {output}")
    for part, name, advice in (
        (report, "the corpus", "blank lines separate documents"),
        (report.held_out, "the held-out part", "hold out a larger share"),
    ):
        if part is not None and part.documents < 2:
            text = f"{name} holds one document: next-sentence prediction needs two or more; {advice}"
            show_line(f"fastbert: warning: {text}")


def _write_static(args: argparse.Namespace, folder: Path, request: dict[str, Any] | None) -> None:
    from fastbert.data.corpus import Corpus
    from fastbert.data.static import write_static

    corpus = Corpus.open(folder)
    with progress(None, "example", "write", LINES) as bar:
        options, about = _example_options(args), {"request": request}
        count = write_static(corpus, options, args.seed, args.duplicates, args.output, bar.update, about)
    show_note(f"{count:,} examples -> {args.output}")


def inspect(args: argparse.Namespace) -> None:
    """Shows examples as a model sees them, with masks and labels, and statistics of the epoch."""
    from fastbert.data.corpus import Corpus
    from fastbert.data.examples import CorpusExamples, Epoch, describe, tokens_of
    from fastbert.data.static import StaticExamples, is_static

    folder = Path(args.corpus)
    if is_static(folder):
        static = StaticExamples.open(folder)
        epoch: Epoch = static
        tokenizer, labels = static.tokenizer(), static.about_labels()
    else:
        source = CorpusExamples(Corpus.open(folder, check=True), _example_options(args), args.seed)
        made = source.epoch(args.epoch)
        epoch, tokenizer, labels = made, source.tokenizer, made.plan.label
    count = len(epoch.lengths)
    labelled = labels[labels >= 0]
    pairs = f", {labelled.mean():.2%} of pairs random or swapped" if len(labelled) else ""
    if not 0 <= args.start < count:
        raise InputError(f"start = {args.start} is not in 0..{count - 1}")
    shown = range(args.start, min(args.start + args.count, count))
    if args.json:
        share = float(labelled.mean()) if len(labelled) else None
        print_json({"examples": count, "mean_tokens": float(epoch.lengths.mean()), "random_or_swapped_pairs": share})
        for index in shown:
            print_json({"index": index, **tokens_of(epoch[index], tokenizer)})
        return
    print(f"{count:,} examples, {epoch.lengths.mean():.1f} tokens on average{pairs}")
    for index in shown:
        print(printable(f"\n[{index}] {describe(epoch[index], tokenizer)}"))


def pretrain(args: argparse.Namespace) -> int:
    """Trains a BERT by a recipe, or resumes an interrupted run; exit code 1 if the recipe's target is missed."""
    from fastbert.training import pretrain as train

    recipe = recipe_of(args)
    flags = {"data.objective": args.objective, "data.nsp_balance": args.nsp_balance, "run.seed": args.seed}
    changes = [f"{key}={value!r}" for key, value in flags.items() if value is not None]
    result = train(recipe.override(*changes, *args.set), args.output, args.device, True if args.progress else None)
    if result.stopped_by:
        show_line(f"fastbert: stopped by {result.stopped_by} after step {result.step}; saved, the same command resumes the run")
        return 128 + signal.Signals[result.stopped_by].value
    if not result.leads:
        return 0
    if args.json:
        about = {"step": result.step, "target_reached": result.target_reached, "model": result.folder / "model"}
        print_json({**about, **result.metrics})
    else:
        print((result.folder / "report.md").read_text(encoding="utf-8"))
        for line in islice(_samples(result.folder), 3):
            print(line)
    show_note(f"model -> {result.folder / 'model'}")
    if result.target_reached is False:
        show_line("fastbert: the recipe's target was not reached")
        return 1
    return 0


def _samples(folder: Path) -> Iterator[str]:
    """Held-out sentences with one word masked, and the model's guesses for it."""
    from fastbert.data.corpus import Corpus
    from fastbert.data.static import is_static
    from fastbert.tasks import FillMask
    from fastbert.training import Recipe

    recipe = Recipe.from_dict(fastbert.files.read_json(folder / "recipe.json"))
    source = Path(recipe.data.corpus) if recipe.data.corpus else folder / "corpus"
    kept = None if is_static(source) else Corpus.open(source).held_out()
    if kept is None or not recipe.data.objective.startswith("mlm"):
        return
    filler = FillMask.from_pretrained(folder / "model", "cpu")
    starts = kept.sentence_starts().tolist()
    for start, end in pairwise(starts):
        tokens = filler.tokenizer.convert_ids_to_tokens(kept.tokens(start, end))
        middle = len(tokens) // 2
        around = [token for token in tokens[middle : middle + 2] if token is not None]
        if 10 <= len(tokens) <= 30 and len(around) == 2 and all(token.isalpha() for token in around):
            text = filler.tokenizer.decode(kept.tokens(start, start + middle)) + " [MASK] "
            text += filler.tokenizer.decode(kept.tokens(start + middle + 1, end))
            answers = filler.predict([text], 3)[0]
            guesses = ", ".join(f"{answer['token_str']} {answer['score']:.2f}" for answer in answers)
            yield f"{text}\n  it was: {around[0]}; the model says: {guesses}"
