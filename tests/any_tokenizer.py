"""Tokenizers of other kinds than WordPiece, trained on the spot, as folders that transformers reads too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

KINDS = ("unigram", "byte-level bpe", "bpe", "word level")
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
TEXTS = [
    "BERT reads a sentence in both directions at once.",
    "Hello, World! unaffable naïve café Ångström, $1,234.56 + 7%",
    "Masked words are guessed from what stands on either side of them.",
    "日本語のテキスト、中文文本 русский текст",
    "A tokenizer cuts words into pieces; the pieces are entries of a vocabulary.",
]


def trained(kind: str, texts: Iterable[str], size: int = 400) -> Tokenizer:
    """One of `KINDS`, with RoBERTa's special tokens and template."""
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "unigram":  # as XLM-R's
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer: Any = trainers.UnigramTrainer(vocab_size=size, special_tokens=first, unk_token="<unk>", show_progress=False)
    elif kind == "byte-level bpe":  # as RoBERTa's
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    if kind == "byte-level bpe":
        begin, end = ids
        tokenizer.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=True, add_prefix_space=False)
    else:
        pair = "<s> $A </s> </s> $B </s>"
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=ids)
    return tokenizer


def folder_of(kind: str, folder: Path, texts: Iterable[str] = TEXTS, size: int = 400, **settings: Any) -> Path:
    """A folder with such a tokenizer, written by transformers."""
    tokenizer = trained(kind, texts, size)
    mask = AddedToken("<mask>", lstrip=True, special=True)
    names = {**SPECIAL, "cls_token": "<s>", "sep_token": "</s>", "mask_token": mask, "model_max_length": 64, **settings}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder
