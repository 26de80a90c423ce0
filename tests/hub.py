"""A cache of huggingface_hub with small models under the names that the docs use, so that pages run as they stand, offline."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from any_tokenizer import folder_of

import fastbert

SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}


def make_hub(folder: Path, minilm: Path) -> Mapping[str, str]:
    """Fills a cache; returns the environment of a process that uses it."""
    torch.manual_seed(0)
    tokenizer = fastbert.BertTokenizer.from_pretrained(minilm)
    config = fastbert.BertConfig(vocab_size=len(tokenizer), **SMALL)
    shutil.copytree(minilm, _snapshot(folder, "sentence-transformers/all-MiniLM-L6-v2"))
    made = {
        "google-bert/bert-base-uncased": fastbert.BertForPreTraining(config),
        "cross-encoder/ms-marco-MiniLM-L6-v2": fastbert.BertForSequenceClassification(
            fastbert.BertConfig(vocab_size=len(tokenizer), num_labels=1, **SMALL)
        ),
        "naver/splade-v3": fastbert.BertForMaskedLM(config),
    }
    for name, model in made.items():
        place = _snapshot(folder, name)
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    place = folder_of("unigram", _snapshot(folder, "FacebookAI/xlm-roberta-base"))
    fields = {"vocab_size": 500, "pad_token_id": 1, "max_position_embeddings": 70, **SMALL}
    fastbert.XLMRobertaForMaskedLM(fastbert.XLMRobertaConfig(**fields)).save_pretrained(place)
    return {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _snapshot(cache: Path, name: str) -> Path:
    """Where the files of a repository's only commit are; its parent exists."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / ("0" * 40)
