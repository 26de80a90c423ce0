"""Small models and tasks that can be learned in seconds, shared by the tests of tasks and of fine-tuning."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from conftest import make_pair

from fastbert import BertConfig, BertModel, BertTokenizer
from fastbert.data.conll import TaggedSentence
from fastbert.data.labelled import ChoiceExample, TextExample
from fastbert.data.squad import Answer, Question

ANIMALS, COLOURS, PLACES = ["cat", "dog", "fox", "owl"], ["red", "blue", "green", "white"], ["paris", "rome", "oslo", "bern"]
OTHERS = ["the", "a", "is", "in", "runs", "sits", "and", "not", "where", "?", ".", ",", "!"]
CHARACTERS = list("abcdefghijklmnopqrstuvwxyz")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ANIMALS, *COLOURS, *PLACES, *OTHERS]
WORDS += [c for c in CHARACTERS if c not in WORDS] + [f"##{c}" for c in CHARACTERS]


def tokenizer(limit: int = 64) -> BertTokenizer:
    return BertTokenizer(WORDS, model_max_length=limit)


def save_head(folder: Path, name: str, **fields: Any) -> Any:
    """A small model with random weights and its tokenizer in a folder; returns transformers' copy of it."""
    fields = {"vocab_size": len(WORDS), "max_position_embeddings": 64, **fields}
    ours, theirs = make_pair(name, **fields)
    ours.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return theirs


def save_encoder(folder: Path, layers: int = 2, **fields: Any) -> Path:
    """An encoder to start from."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64}
    sizes |= {"initializer_range": 0.1, **fields}
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=layers, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def texts(count: int, seed: int) -> list[TextExample]:
    """Animal or place: the word that decides stands anywhere."""
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        label, word = draws.choice([("animal", draws.choice(ANIMALS)), ("place", draws.choice(PLACES))])
        words = [*draws.choices(OTHERS[:8], k=draws.randint(1, 8)), word]
        draws.shuffle(words)
        found.append(TextExample(" ".join(words), None, label))
    return found


def pairs(count: int, seed: int) -> list[TextExample]:
    """Hypotheses: an animal is entailed, a colour is neutral, a place contradicts."""
    draws = random.Random(seed)
    kinds = {"entailment": ANIMALS, "neutral": COLOURS, "contradiction": PLACES}
    found = []
    for _ in range(count):
        label = draws.choice(list(kinds))
        premise = " ".join(draws.choices(OTHERS[:8], k=draws.randint(1, 6)))
        found.append(TextExample(premise, f"the {draws.choice(kinds[label])} runs", label))
    return found


def sentences(count: int, seed: int) -> list[TaggedSentence]:
    """Two colours in a row are a THING, an animal is a BEAST."""
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draws.randint(1, 5)):
            kind = draws.randint(0, 2)
            if kind == 0:
                words.append(draws.choice(OTHERS[:8]))
                tags.append("O")
            elif kind == 1:
                words.append(draws.choice(ANIMALS))
                tags.append("B-BEAST")
            else:
                words += draws.choices(COLOURS, k=2)
                tags += ["B-THING", "I-THING"]
        found.append(TaggedSentence(tuple(words), tuple(tags), 1))
    return found


def questions(count: int, seed: int, impossible: bool = False) -> list[Question]:
    """Where is it? The place in the text."""
    draws = random.Random(seed)
    found = []
    for number in range(count):
        place = draws.choice(PLACES)
        none = impossible and number % 4 == 0
        words = [*draws.choices(OTHERS[:8], k=draws.randint(2, 9)), "red" if none else place]
        draws.shuffle(words)
        context = " ".join(words)
        answers = () if none else (Answer(place, context.index(place)),)
        found.append(Question(f"q{number}", "where ?", context, answers, none))
    return found


def choices(count: int, seed: int) -> list[ChoiceExample]:
    """The animal among places."""
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        candidates = [draws.choice(PLACES) for _ in range(3)]
        right = draws.randrange(3)
        candidates[right] = draws.choice(ANIMALS)
        found.append(ChoiceExample("the", tuple(candidates), right))
    return found


def numbers(count: int, seed: int) -> list[TextExample]:
    """How many animals there are."""
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        words = draws.choices(ANIMALS, k=draws.randint(0, 4)) + draws.choices(OTHERS[:8], k=4)
        draws.shuffle(words)
        found.append(TextExample(" ".join(words), None, float(sum(word in ANIMALS for word in words))))
    return found


TEXTS_FOR_FEATURES = ["the cat runs", "", "paris is not in rome and the dog sits"]
