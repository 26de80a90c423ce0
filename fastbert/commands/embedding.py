"""The embed command: the texts of files as vectors, in one .npy file or in a folder of parts."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fastbert import files
from fastbert.choices import OVERLONG, PRECISIONS
from fastbert.commands.adding import Commands, add, add_8_bits, add_form, add_model, check_outputs
from fastbert.commands.bulk import add_bulk, is_folder, run_in_bulk
from fastbert.commands.options import form_of, how_to_show, prepack, refuse_8_bits
from fastbert.data import read_texts
from fastbert.errors import InputError
from fastbert.files.rows import check_ending
from fastbert.terminal import show_note


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(
        commands, "embed", embed, "fastbert embed sentences.txt -o vectors.npy --model sentence-transformers/all-MiniLM-L6-v2"
    )
    sub.add_argument(
        "input",
        nargs="+",
        help="text files, .tsv, .csv, .jsonl or .parquet tables, patterns such as 'data/*.csv', or - (stdin)",
    )
    sub.add_argument("-o", "--output", required=True, help="a .npy file, one row per text; or a folder, for jobs of any size")
    add_model(sub)
    sub.add_argument("--column", help='column of a table: a name in its header or a number from 1 (default: "text")')
    add_form(sub)
    sub.add_argument(
        "--batch-tokens", type=int, default=16384, help="tokens per batch (default: 16384; a CPU takes at most 2048)"
    )
    sub.add_argument("--pooling", help="cls, mean, max, ... or several, separated by commas (default: the model's, else mean)")
    sub.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="unit vectors (default: the model's own)")
    sub.add_argument("--overlong", choices=OVERLONG, default="truncate", help="texts beyond the limit (default: truncate)")
    sub.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the vectors (default: float32)")
    add_8_bits(sub)
    sub.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is not a terminal")
    add_bulk(sub, ("parquet", "npy"))


def embed(args: argparse.Namespace) -> None:
    """Embeds texts of files as vectors: into one .npy file, or into a folder, resumable and in bounded memory."""
    pooling = args.pooling.split(",") if args.pooling else None
    if not is_folder(args):
        _embed_into_one_file(args, pooling)
        return
    from fastbert.bulk.embedding import Embed

    refuse_8_bits(args, "only a .npy output")
    job = Embed(
        args.model,
        args.device,
        args.dtype,
        args.local_files_only,
        args.batch_tokens,
        pooling=None if pooling is None else tuple(pooling),
        normalize=args.normalize,
        overlong=args.overlong,
        precision=args.precision,
    )
    run_in_bulk(args, job, ("text" if args.column is None else args.column,))


def _embed_into_one_file(args: argparse.Namespace, pooling: list[str] | None) -> None:
    import numpy as np

    from fastbert.bulk.inputs import find_inputs
    from fastbert.tasks import Embedder

    check_outputs([args.output], [*args.input, args.model])
    check_ending(args.output, (".npy",), "vectors")
    paths: list[Any] = args.input if args.input == ["-"] else find_inputs(args.input, None)
    with files.replacing(args.output) as part:  # first, so that an unwritable output fails early
        texts = [text for path in paths for text in read_texts(path, args.column, form_of(args))]
        if not texts:
            raise InputError(f"{', '.join(args.input)} holds no text")
        embedder = Embedder.from_pretrained(args.model, args.device, args.dtype, local_files_only=args.local_files_only)
        prepack(embedder, texts, args)
        started = time.perf_counter()
        vectors = embedder.encode(
            texts,
            batch_tokens=args.batch_tokens,
            pooling=pooling,
            normalize=args.normalize,
            show_progress=how_to_show(args),
            overlong=args.overlong,
            precision=args.precision,
        )
        seconds = time.perf_counter() - started
        with part.open("wb") as stream:
            np.save(stream, vectors)
    shape = f"{vectors.shape[0]} x {vectors.shape[1]} {vectors.dtype}"
    show_note(f"{len(texts):,} texts in {seconds:.2f} s ({len(texts) / seconds:,.0f} per second) -> {args.output}: {shape}")
