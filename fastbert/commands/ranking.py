"""The rank command: documents of a file by how well they answer a query."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from fastbert import files
from fastbert.choices import OVERLONG
from fastbert.commands.adding import Commands, add, add_8_bits, add_form, add_model, check_outputs
from fastbert.commands.bulk import add_bulk, is_folder, one_input, run_in_bulk
from fastbert.commands.options import form_of, how_to_show, prepack, refuse_8_bits
from fastbert.data import read_texts
from fastbert.errors import InputError, printable
from fastbert.files.rows import ROWS, check_ending, line_of, write_rows
from fastbert.terminal import show_note

_BEST = 10  # documents that are printed if no number is given


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(commands, "rank", rank, 'fastbert rank "who wrote it?" documents.txt --model cross-encoder/ms-marco-MiniLM-L6-v2')
    sub.add_argument("query", help="a text")
    sub.add_argument(
        "input",
        nargs="+",
        help="the documents: a text file, a .tsv, .csv, .jsonl or .parquet table, or - (stdin); into a folder several",
    )
    add_model(sub)
    sub.add_argument(
        "-o",
        "--output",
        help="a .jsonl, .csv, .tsv or .parquet file (default: lines to stdout); or a folder of all scores",
    )
    sub.add_argument("--top-k", type=int, help="how many documents (default: all; of a folder 10)")
    sub.add_argument("--column", help='column of a table: a name in its header or a number from 1 (default: "text")')
    add_form(sub)
    sub.add_argument("--overlong", choices=OVERLONG, default="truncate", help="pairs beyond the limit")
    add_8_bits(sub)
    sub.add_argument("--json", action="store_true", help="print JSON lines")
    sub.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is not a terminal")
    add_bulk(sub, ("parquet",))


def rank(args: argparse.Namespace) -> None:
    """Ranks documents of files by how well they answer a query."""
    if is_folder(args):
        _rank_in_bulk(args)
        return
    from fastbert.tasks import Reranker

    one_input(args)
    check_outputs([args.output], [args.input, args.model])
    ending = "" if args.output is None else check_ending(args.output, ROWS, "ranked documents")
    documents = list(read_texts(args.input, args.column, form_of(args)))
    if not documents:
        raise InputError(f"{args.input} holds no text")
    with ExitStack() as stack:
        part = None if args.output is None else stack.enter_context(files.replacing(args.output))  # fails before the work
        reranker = Reranker.from_pretrained(args.model, args.device, args.dtype, local_files_only=args.local_files_only)
        prepack(reranker, documents, args)
        found = reranker.rank(args.query, documents, args.top_k, True, overlong=args.overlong, show_progress=how_to_show(args))
        rows = [{"row": one["corpus_id"] + 1, "score": one["score"], "text": one["text"]} for one in found]
        if part is not None:
            write_rows(part, rows, ending)
    if args.output is not None:
        show_note(f"{len(rows):,} of {len(documents):,} documents -> {args.output}")
        return
    for row in rows:
        sys.stdout.write(line_of(row) if args.json else f"{row['score']:.4f}\t{row['row']}\t{printable(row['text'])}\n")


def _rank_in_bulk(args: argparse.Namespace) -> None:
    """Scores all documents into a folder, and prints the best of them."""
    from fastbert.bulk import Rank, best_rows
    from fastbert.tasks.loading import check_top_k

    refuse_8_bits(args, "only an output file")
    job = Rank(args.model, args.device, args.dtype, args.local_files_only, query=args.query, overlong=args.overlong)
    top_k = _BEST if args.top_k is None else args.top_k
    check_top_k(top_k)
    folder = run_in_bulk(args, job, ("text" if args.column is None else args.column,))
    if folder is None:
        return
    for row in best_rows(folder, top_k):
        sys.stdout.write(line_of(row))
