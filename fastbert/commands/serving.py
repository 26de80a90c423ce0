"""The serve command: a model behind HTTP."""

from __future__ import annotations

import argparse
import os

from fastbert.choices import SERVED
from fastbert.commands.adding import Commands, add, add_threads, model_path


def register(commands: Commands) -> None:
    """Adds the command."""
    sub = add(commands, "serve", serve, "fastbert serve sentence-transformers/all-MiniLM-L6-v2 --port 8080")
    sub.add_argument("model", nargs="?", type=model_path, help="a directory, the output of a run, or a hub id (or MODEL_ID)")
    sub.add_argument("--served-model-name", help="what responses call the model (default: as it was given)")
    sub.add_argument("--task", choices=SERVED, help="what it answers (default: by its head)")
    sub.add_argument("--pooling", help="of vectors: cls, mean, ... (default: the model's)")
    sub.add_argument("--device", help="cpu, cuda, ... (default: CUDA if available)")
    sub.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: the checkpoint's")
    sub.add_argument("--hostname", help="address to listen at (default: 127.0.0.1; 0.0.0.0 for all)")
    sub.add_argument("--port", type=int, help="default: 3000; 0 takes a free one")
    sub.add_argument("--workers", type=int, help="processes with a model (default: one a CUDA device)")
    sub.add_argument("--max-concurrent-requests", type=int, help="more are answered 429 (default: 512)")
    sub.add_argument("--max-batch-tokens", type=int, help="tokens of a batch (default: 16384; a CPU takes at most 2048)")
    sub.add_argument("--max-client-batch-size", type=int, help="inputs of a request (default: 32)")
    sub.add_argument("--payload-limit", type=int, help="bytes of a request (default: 2000000)")
    sub.add_argument(
        "--auto-truncate", action="store_true", default=None, help="truncate texts that are too long, in place of a 413"
    )
    sub.add_argument("--api-key", help="clients send it as Authorization: Bearer KEY (better: API_KEY in the environment)")
    add_threads(sub)
    sub.add_argument("--local-files-only", action="store_true", default=None, help="never contact the hub")


def serve(args: argparse.Namespace) -> None:
    """Serves a model over HTTP to clients of OpenAI's, Cohere's and text-embeddings-inference's APIs.

    Names, limits and the key are environment variables too, such as MAX_BATCH_TOKENS.
    """
    from fastbert.errors import InputError
    from fastbert.serving.server import serve as run
    from fastbert.serving.settings import from_environment

    names: list[str] = ["served_model_name", "task", "pooling", "dtype", "device", "workers", "threads", "hostname", "port"]
    names += ["max_concurrent_requests", "max_batch_tokens", "max_client_batch_size", "payload_limit", "auto_truncate"]
    given = {name: vars(args)[name] for name in (*names, "api_key", "local_files_only")}
    model = args.model or os.environ.get("MODEL_ID")
    if not model:
        raise InputError("no model: name one, or set MODEL_ID")
    run(from_environment({**given, "model_id": model}))
