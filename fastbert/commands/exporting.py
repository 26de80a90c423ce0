"""The export command: a model as a file of another format."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from fastbert import files
from fastbert.commands.adding import Commands, add, add_json, add_threads, model_path, print_result
from fastbert.terminal import show_status


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(commands, "export", export, "fastbert export onnx my-model/ -o onnx/")
    sub.add_argument("format", choices=["onnx"], help="onnx: for ONNX Runtime and what else reads it")
    sub.add_argument("model", type=model_path, help="a directory, the output of a run, or a hub id")
    sub.add_argument("-o", "--output", required=True, help="the folder to write model.onnx, config.json and the tokenizer into")
    sub.add_argument("--head", help="a class name, such as BertForMaskedLM (default: what config.json names, else the encoder)")
    add_threads(sub)
    sub.add_argument("--local-files-only", action="store_true", help="never contact the hub")
    add_json(sub)


def export(args: argparse.Namespace) -> None:
    """Writes a model as ONNX, and checks the file in ONNX Runtime."""
    from fastbert.integrations.onnx import export_onnx
    from fastbert.model.families import class_named
    from fastbert.tasks.loading import PATTERNS, check_complete, load_tokenizer

    folder = files.locate(args.model, PATTERNS, local_files_only=args.local_files_only)
    kind = class_named(args.head, folder)
    model, _ = kind.from_pretrained(folder, dtype="float32", output_loading_info=True)
    check_complete(model, args.model, new=() if args.head else ("pooler.",))
    tokenizer = load_tokenizer(folder, model)
    show_status(f"exporting {kind.__name__}")
    found = export_onnx(model, args.output, tokenizer)
    print_result(args, {"class": kind.__name__, **asdict(found)}, f"{kind.__name__} -> {found}")
