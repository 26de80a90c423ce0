"""Small corpora and recipes that the tests of pre-training share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fastbert import BertTokenizer
from fastbert.data.corpus import Corpus, build_corpus
from fastbert.training import Recipe

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
