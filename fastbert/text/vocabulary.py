"""Learning a WordPiece vocabulary: the same bytes from the same text, every time.

The counting and merging is the `tokenizers` library's. Its trainer numbers the characters inside words ("##a") in the order of
a hash table, which differs from run to run, and breaks ties between equally frequent pairs by those numbers. Here a first pass
collects the alphabet, and both forms of each character are given to the trainer in sorted order before it counts: then its
ties are broken the same way in every run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import WordPiece

from fastbert.errors import InputError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def set_text_handling(tokenizer: Tokenizer, lower: bool, accents: bool | None, chinese: bool) -> None:
    """BERT's normaliser, pre-tokeniser and decoder."""
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")


def train_vocabulary(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    lower: bool,
    accents: bool | None,
    chinese: bool,
    show_progress: bool = False,
) -> list[str]:
    """The entries of a vocabulary in the order of their ids: special tokens, the alphabet, its inside forms, merged pieces.

    Args:
        texts: read twice; what can be read only once is kept in a temporary file in between.
        vocab_size: entries.
        min_frequency: how often a pair of pieces must occur to be joined.
        lower, accents, chinese: the normaliser, see `BertTokenizer`.

    Raises:
        InputError: no text, or a `vocab_size` that the alphabet alone exceeds.
    """
    specials = list(SPECIAL_TOKENS.values())
    tokenizer = Tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    set_text_handling(tokenizer, lower, accents, chinese)
    with _rereadable(texts) as again:
        seen: set[str] = set()
        for text in again:
            seen.update(text)
        alphabet, inside = _alphabet(tokenizer, seen)
        if not alphabet:
            raise InputError("there is no text to train on")
        given = [*specials, *alphabet, *(f"##{character}" for character in inside)]
        if len(given) > vocab_size:
            raise InputError(
                f"vocab_size = {vocab_size} is below the {len(given)} entries that the alphabet and the specials need"
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=given, show_progress=show_progress
        )
        tokenizer.train_from_iterator(again, trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _alphabet(tokenizer: Tokenizer, seen: set[str]) -> tuple[list[str], list[str]]:
    """The characters that stand in normalised words, and those of them that can stand inside one; sorted."""
    alphabet = sorted({c for character in seen for c in tokenizer.normalizer.normalize_str(character) if not c.isspace()})
    return alphabet, [
        c for c in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(f"a{c}a"))) == 1
    ]


@contextmanager
def _rereadable(texts: Iterable[str]) -> Iterator[Iterable[str]]:
    """Texts that can be read twice."""
    if iter(texts) is not texts:
        yield texts
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as spool:
        for text in texts:
            spool.write(" ".join(text.split()) + "\n")

        class Again:
            def __iter__(self) -> Iterator[str]:
                spool.seek(0)
                return iter(spool)

        yield Again()


@dataclass
class VocabularyReport:
    """How a vocabulary cuts some texts.

    Attributes:
        words: of the texts, punctuation marks included.
        whole: words that are a single entry.
        pieces: tokens of all words.
        unknown: words that are [UNK].
    """

    words: int = 0
    whole: int = 0
    pieces: int = 0
    unknown: int = 0

    def __str__(self) -> str:
        """One line."""
        words = max(self.words, 1)
        return (
            f"{self.whole / words:.2%} of {self.words:,} words are one entry, {self.pieces / words:.3f} pieces a word, "
            f"{self.unknown / words:.4%} [UNK]"
        )


def vocabulary_report(tokenizer: Any, texts: Iterable[str]) -> VocabularyReport:
    """How a `BertTokenizer` cuts some texts."""
    report = VocabularyReport()
    stream = iter(texts)
    inside = {token_id for token, token_id in tokenizer.get_vocab().items() if token.startswith("##")}
    while batch := list(islice(stream, 1000)):
        for ids in tokenizer.encode_ids(batch, add_special_tokens=False):
            starts = [token_id not in inside for token_id in ids]
            report.pieces += len(ids)
            report.words += sum(starts)
            report.unknown += ids.count(tokenizer.unk_token_id)
            whole = sum(a and b for a, b in pairwise([*starts, True]))
            report.whole += whole - ids.count(tokenizer.unk_token_id)
    return report
