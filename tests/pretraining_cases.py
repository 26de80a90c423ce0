"""Small corpora and recipes that the tests of pre-training share."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import torch

from fastbert import BertTokenizer, cli
from fastbert.data.corpus import Corpus, build_corpus
from fastbert.training import Recipe, pretrain

TEXT = "the a cat dog bird fish tree house road river runs sleeps sings swims falls under over near with and old red big"
WORDS = list(TEXT.split(" "))


def documents(count: int, seed: int = 0, sentences: tuple[int, int] = (3, 12)) -> list[list[str]]:
    """Documents of random sentences; those of one document share their first two words."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        topic = " ".join(draw.choices(WORDS, k=2))
        lengths = [draw.randint(3, 14) for _ in range(draw.randint(*sentences))]
        found.append([f"{topic} " + " ".join(draw.choices(WORDS, k=n)) + "." for n in lengths])
    return found


def flat(texts: list[list[str]]) -> list[str | None]:
    """Documents as `read_sentences` gives them."""
    return [line for sentences in texts for line in (*sentences, None)]


def make_tokenizer(texts: list[list[str]] | None = None, vocab_size: int = 90) -> BertTokenizer:
    lines = [line for sentences in texts or documents(50) for line in sentences]
    return BertTokenizer.train(lines, vocab_size, model_max_length=64)


def make_corpus(folder: Path, count: int = 60, held_out: float = 0.1, **options: Any) -> Corpus:
    texts = documents(count, **options)
    build_corpus(flat(texts), make_tokenizer(), folder, held_out=held_out)
    return Corpus.open(folder)


def make_recipe(corpus: Path, *changes: str) -> Recipe:
    """A run of 40 small steps with dropout; `changes` as for `Recipe.override`."""
    values: dict[str, Any] = {
        "model": {
            "size": "tiny",
            "config": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 48,
            },
        },
        "data": {"corpus": str(corpus)},
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 4},
        "phases": [{"steps": 40, "max_length": 48, "batch_tokens": 256}],
        "run": {"log_every": 2, "eval_every": 0, "checkpoint_every": 3, "keep": 2},
    }
    return Recipe.from_dict(values).override(*changes)


# -- processes of their own: their targets stand here, in a file that they import quickly -----------------------------------


def forks() -> Any:
    """Makes processes, forked from one that has imported what they need."""
    found = multiprocessing.get_context("forkserver")
    needed = ["pytest", "fastbert.training", "torch._dynamo", "torch.distributed.fsdp", "matplotlib.figure"]
    needed += ["fastbert.cli", "fastbert.bulk", "pyarrow.parquet"]
    found.set_forkserver_preload(needed)
    return found


def life(recipe: dict[str, Any], folder: str, threads: int, die: int | None) -> None:
    """One process's attempt at a run; `die` counts flushes of checkpoint files until it kills itself while writing."""
    torch.set_num_threads(threads)
    if die is not None:
        from fastbert import files

        flush, left = files.flush, [die]

        def flush_or_die(path: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(path)

        files.flush = flush_or_die
    pretrain(Recipe.from_dict(recipe), folder, "cpu")


def run_in_a_group(recipe: dict[str, Any], folder: str) -> None:
    os.setsid()
    raise SystemExit(128 if pretrain(Recipe.from_dict(recipe), folder, "cpu").stopped_by else 0)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def one_of_several(given: list[str], rank: int, count: int, port: int, output: str) -> None:
    """What a process of torchrun does."""
    said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    raise SystemExit(cli.main(given))
