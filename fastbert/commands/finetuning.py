"""Commands for tasks: finetune, predict, eval, features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.choices import LAYERS, OVERLONG, POOLINGS
from fastbert.commands.adding import (
    Commands,
    add,
    add_form,
    add_group,
    add_json,
    add_model,
    add_threads,
    check_outputs,
    model_path,
    print_json,
    print_result,
)
from fastbert.commands.bulk import add_bulk, is_folder, one_input, run_in_bulk
from fastbert.commands.options import form_of, how_to_show, labels_of, read_options
from fastbert.commands.predicting import predict
from fastbert.data import read_texts
from fastbert.data.layouts import LAYOUTS
from fastbert.errors import InputError
from fastbert.files.rows import check_ending
from fastbert.terminal import show_note

EXAMPLES = {
    "classify": "fastbert finetune classify --train train.tsv --dev dev.tsv -o sentiment/ --model my-bert/",
    "nli": "fastbert finetune nli --train train.tsv --dev dev.tsv --test test.tsv -o nli/ --model my-bert/ --seeds 3",
    "regress": "fastbert finetune regress --layout sts-benchmark --train sts-train.tsv --dev sts-dev.tsv -o sts/ --model bert/",
    "choice": "fastbert finetune choice --layout swag --train train.csv --dev val.csv -o swag/ --model my-bert/",
    "ner": "fastbert finetune ner --train train.conll --dev dev.conll -o ner/ --model my-bert/ --mode features",
    "qa": "fastbert finetune qa --train train-v1.1.json --test dev-v1.1.json -o squad/ --model my-bert/",
}
_HELP = {
    "classify": "Trains a classifier of texts or pairs, with one or several labels each.",
    "nli": "Trains a model of relations between two texts: entailment, contradiction, neutral.",
    "regress": "Trains a model that gives texts or pairs a number.",
    "choice": "Trains a model that chooses the best of several candidates.",
    "ner": "Trains a tagger of words, as for named entities.",
    "qa": "Trains a model that finds the answer to a question in a text (SQuAD).",
}
_METRIC = "a metric; may be repeated; the first selects the best epoch; f1 is that of the last label in alphabetical order"
_COMPARE = "run both modes and compare; --epochs and --lr apply to fine-tuning, the task model on features uses its defaults"


def register(commands: Commands) -> None:
    """Adds the commands."""
    kinds = add_group(commands, "finetune", "Trains a model for a task: from labelled examples to predictions and scores.")
    for kind, example in EXAMPLES.items():
        sub = add(kinds, kind, finetune, example)
        sub.description = _HELP[kind]
        sub.set_defaults(kind=kind)
        add_training(sub, kind)
        sub.add_argument("--compare", action="store_true", help=_COMPARE)
        add_json(sub)
        sub.add_argument("--config", help="a TOML file of these options, such as epochs = 3; those given here come first")

    sub = add(commands, "predict", predict, "fastbert predict texts.txt --model sentiment/model -o predictions.jsonl")
    sub.add_argument(
        "input",
        nargs="+",
        help="tables, .txt of texts, CoNLL words, questions (SQuAD's JSON, .jsonl), or - (stdin)",
    )
    add_model(sub)
    sub.add_argument(
        "-o",
        "--output",
        help="a .jsonl, .csv, .tsv or .parquet file; of words also .conll, of questions also .json, SQuAD's form (default: "
        "JSON lines to stdout); or a folder, for jobs of any size",
    )
    sub.add_argument("--task", choices=[*EXAMPLES, "zero-shot", "next-sentence"], help="default: the model's own")
    add_reading(sub, None, labelled=False)
    sub.add_argument(
        "--overlong", "--on-long", choices=OVERLONG, help="texts beyond the limit (default: as in training, else truncate)"
    )
    sub.add_argument("--top-k", type=int, help="answers to a question (default: 1), or labels with a score (default: all)")
    sub.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is not a terminal")
    own = sub.add_argument_group("for entities, questions and zero-shot classification")
    own.add_argument("--aggregation", default="first", help="entities: none, simple, first, average, max (default: first)")
    own.add_argument("--null-threshold", type=float, help='questions: the margin above which "no answer" is chosen')
    own.add_argument("--candidates", help="zero-shot: the candidate labels, separated by commas")
    own.add_argument(
        "--template", default="This example is {}.", help="zero-shot: the hypothesis (default: This example is {}.)"
    )
    add_bulk(sub, ("parquet", "jsonl"), has_marks=True)

    sub = add(
        commands, "features", features, "fastbert features texts.txt -o features.jsonl --layers=-1,-2,-3,-4 --model my-bert/"
    )
    sub.add_argument(
        "input", nargs="+", help="a text file, a table, or - for standard input; into a folder several, and patterns"
    )
    add_model(sub)
    sub.add_argument(
        "-o", "--output", required=True, help=".npz, .jsonl in the format of google's extract_features, or a folder of Parquet"
    )
    sub.add_argument("--layers", default="-1", help="separated by commas: 0 is the embeddings, -1 the last layer (default: -1)")
    sub.add_argument("--column", help="text column of a table (default: text)")
    add_form(sub)
    sub.add_argument(
        "--overlong", "--on-long", choices=OVERLONG, default="error", help="texts beyond the limit (default: error)"
    )
    sub.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is not a terminal")
    add_bulk(sub, ("parquet",))


def add_training(parser: argparse.ArgumentParser, kind: str) -> None:
    """Adds the arguments of a training run that the task uses."""
    parser.add_argument("--model", required=True, type=model_path, help="a directory, a run, or a hub id to start from")
    parser.add_argument("--train", required=True, help="labelled examples")
    parser.add_argument("--dev", help="examples on which the best epoch is selected")
    parser.add_argument("--dev-share", type=float, help="hold out a share of the training examples as dev, of each label alike")
    parser.add_argument("--test", help="examples that are scored at the end")
    parser.add_argument("-o", "--output", required=True, help="the folder of the run; the same command resumes it")
    add_reading(parser, kind)
    parser.add_argument("--mode", choices=["finetune", "features"], default="finetune", help="train all, or freeze the encoder")
    parser.add_argument("--epochs", type=int, help="default: 3; on features 20")
    parser.add_argument("--batch-size", type=int, default=32, help="examples per step (default: 32)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 5e-5; on features 1e-3)")
    parser.add_argument("--warmup", type=float, default=0.1, help="fraction of the steps used for warm-up (default: 0.1)")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="default: 0.01")
    parser.add_argument("--dropout", type=float, help="default: the checkpoint's")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seeds", type=int, default=1, help="training runs, for mean and standard deviation (default: 1)")
    parser.add_argument("--max-length", type=int, help="tokens per sequence (default: the model's limit; questions: 384)")
    if kind not in ("ner", "qa"):
        limits = [way for way in OVERLONG if way != "window" or kind != "choice"]
        parser.add_argument(
            "--overlong", "--on-long", choices=limits, default="truncate", help="texts beyond it (default: truncate, counted)"
        )
    if kind not in ("ner", "qa", "choice"):
        parser.add_argument(
            "--window-scores",
            choices=["mean", "max"],
            default="mean",
            help="how scores of windows are combined (default: mean)",
        )
    if kind == "qa":
        parser.add_argument("--doc-stride", type=int, default=128, help="tokens between the starts of windows (default: 128)")
    if kind not in ("qa", "regress", "choice"):
        parser.add_argument("--labels", help="names in the order of the scores, separated by commas (default: from the data)")
        parser.add_argument("--label", action="append", help="one name, which may hold a comma; repeated, in place of --labels")
    parser.add_argument("--strict", action="store_true", help="refuse empty texts and missing labels, which else are counted")
    if kind not in ("ner", "qa", "regress", "choice"):
        parser.add_argument("--class-weights", help="balanced, or a JSON file of a weight for each label (default: all alike)")
    parser.add_argument("--new-head", action="store_true", help="initialize a new head even if the checkpoint has one")
    if kind == "ner":
        parser.add_argument("--fix-bio", action="store_true", help="repair tags that break the rules of their scheme")
    parser.add_argument("--metric", action="append", default=[], help=_METRIC)
    parser.add_argument("--layers", choices=list(LAYERS), help="hidden states that a task model uses")
    parser.add_argument("--bilstm", type=int, help="number of BiLSTM layers in a task model")
    if kind not in ("ner", "qa"):
        parser.add_argument(
            "--pooling", choices=list(POOLINGS), help="how texts are pooled (default: [CLS] through the pooler)"
        )
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="default: auto")
    parser.add_argument("--feature-cache", help="folder of frozen features, may be shared by runs (default: one in the output)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA if available)")
    add_threads(parser)
    parser.add_argument("--local-files-only", action="store_true", help="never contact the hub")
    parser.add_argument("--progress", action="store_true", help="show progress bars even if stderr is not a terminal")


def add_reading(parser: argparse.ArgumentParser, kind: str | None, labelled: bool = True) -> None:
    """Adds the arguments for reading a task's files, with labels or without; those of all tasks if `kind` is None."""

    def under(heading: str) -> Any:
        return parser.add_argument_group(heading) if kind is None else parser

    add_form(parser)
    if kind not in ("ner", "qa"):
        tables = under("for tables of texts, pairs and candidates")
        tables.add_argument("--layout", choices=list(LAYOUTS), help="columns and metrics of a known data set")
        tables.add_argument("--text-column", help="a name from the header, or a number from 1 for a table without one")
        tables.add_argument("--pair-column", help='column of the second text; "" for single texts')
        tables.add_argument("--label-column", help="column of the label")
        tables.add_argument("--skip-ragged", action="store_true", help="skip rows with a wrong number of columns")
        tables.add_argument("--id", help="column whose value goes into predictions as the id")
        tables.add_argument("--keep", action="append", help="columns that go into predictions, separated by commas")
        if kind in (None, "choice"):
            tables.add_argument("--choice-columns", help="of the candidates, comma-separated, or one column of JSON lists")
        if kind == "classify":
            tables.add_argument("--multi-label", action="store_true", help="a text may have several labels")
        if kind == "classify" or (kind is None and labelled):
            tables.add_argument("--label-separator", default=",", help="between the labels of a text (default: a comma)")
    if kind in (None, "ner"):
        words = under("for files of words with tags (CoNLL)")
        words.add_argument("--word-column", type=int, default=1, help="column of the words (default: 1)")
        words.add_argument("--tag-column", type=int, help="column of the tags (default: the last)")


def fine_tune_options(args: argparse.Namespace) -> Any:
    """The fine-tuning options given on the command line."""
    from fastbert.finetuning import FineTuneOptions

    names: tuple[str, ...] = (
        "mode",
        "epochs",
        "lr",
        "batch_size",
        "warmup",
        "weight_decay",
        "dropout",
        "max_length",
        "overlong",
        "window_scores",
    )
    names += ("doc_stride", "new_head", "fix_bio", "layers", "bilstm", "pooling", "seed", "precision")
    names += ("multi_label",)
    given = vars(args)  # without the options of other tasks
    values = {name: given[name] for name in names if name in given}
    values["class_weights"] = _class_weights(given.get("class_weights"))
    metrics = tuple(args.metric) or read_options(args).metrics
    return FineTuneOptions(**values, metrics=metrics, labels=labels_of(args))


def _class_weights(given: str | None) -> Any:
    if given in (None, "balanced"):
        return given
    if not Path(given).is_file():
        raise InputError(f"--class-weights {given}: neither 'balanced' nor a file")
    return files.read_json(Path(given))


def read_splits(args: argparse.Namespace, kind: str) -> tuple[Any, Any, Any]:
    """The train, dev and test splits given on the command line; None for a missing one."""
    from fastbert.finetuning.reading import hold_out, read_split

    how = read_options(args)
    paths = {"train": args.train, "dev": args.dev, "test": args.test}
    splits = {name: read_split(kind, path, name, how) for name, path in paths.items() if path is not None}
    if args.dev_share is not None:
        if args.dev is not None:
            raise InputError("--dev and --dev-share exclude one another")
        splits["train"], splits["dev"] = hold_out(splits["train"], args.dev_share, args.seed)
    return splits["train"], splits.get("dev"), splits.get("test")


def finetune(args: argparse.Namespace) -> int:
    """Trains a model for a task, or resumes an interrupted run."""
    from fastbert.finetuning import finetune as train
    from fastbert.finetuning.finetuning import NO_SCORES, check_output
    from fastbert.studies.comparison import compare

    if not args.compare:
        check_output(Path(args.output))
    train_part, dev, test = read_splits(args, args.kind)
    named: dict[str, Any] = {
        "options": fine_tune_options(args),
        "seeds": args.seeds,
        "device": args.device,
        "output": args.output,
        "feature_cache": args.feature_cache,
        "show_progress": how_to_show(args),
        "local_files_only": args.local_files_only,
    }
    if args.compare:
        table = compare(args.kind, args.model, train_part, dev, test, **named)
        print_result(args, table.records(), table)
        return 0
    result = train(args.kind, args.model, train_part, dev, test, **named)
    if result.metrics or args.json:
        print_json(result.metrics)
    else:
        print(NO_SCORES)
    show_note(f"model -> {result.folder / 'model'}, report -> {result.folder / 'report.md'}")
    return 0


def features(args: argparse.Namespace) -> None:
    """Writes the hidden states of every token to a file."""
    from fastbert.tasks.features import extract_features, write_features
    from fastbert.tasks.loading import load_encoder, load_tokenizer

    try:
        layers = [int(layer) for layer in args.layers.split(",")]
    except ValueError:
        raise InputError(f"layers = {args.layers!r}: expected numbers separated by commas, such as -1,-2") from None
    if is_folder(args):
        from fastbert.bulk import Features

        job = Features(args.model, args.device, args.dtype, args.local_files_only, layers=tuple(layers), overlong=args.overlong)
        run_in_bulk(args, job, ("text" if args.column is None else args.column,))
        return
    one_input(args)
    check_outputs([args.output], [args.input, args.model])
    check_ending(args.output, (".npz", ".jsonl", ".ndjson"), "features")
    texts = list(read_texts(args.input, args.column, form_of(args)))
    if not texts:
        raise InputError(f"{args.input} holds no text")
    model = load_encoder(args.model, args.device, args.dtype, pooler=False, local_files_only=args.local_files_only)
    tokenizer = load_tokenizer(args.model, model, local_files_only=args.local_files_only)
    found = extract_features(model, tokenizer, texts, layers, overlong=args.overlong, show_progress=how_to_show(args))
    write_features(args.output, found, layers)
    tokens = sum(len(one.tokens) for one in found)
    show_note(f"{len(texts):,} texts, {tokens:,} tokens, {len(layers)} layers -> {args.output}")
