"""Tokenizer: a tokenizer of any kind, with transformers' words and files; and BertTokenizer, which is WordPiece.

The underlying tokenizer of the `tokenizers` library never pads and never cuts by itself: whatever a tokenizer.json carries of
both is cleared on load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import normalizers
from tokenizers.models import WordPiece

from fastbert.errors import InputError
from fastbert.text.calls import Calls
from fastbert.text.encoding import check_counts, check_side
from fastbert.text.template import Template
from fastbert.text.tokenizer_files import settings_of
from fastbert.text.vocab_files import read_vocab
from fastbert.text.vocabulary import train_vocabulary
from fastbert.text.wordpiece import from_vocab, lower_cases


class Tokenizer(Calls):
    """A tokenizer of any kind that a tokenizer.json holds, with its own special tokens, template, padding and limit.

    `from_pretrained` makes one; where the folder holds WordPiece, a `BertTokenizer`.

    Attributes:
        model_input_names: what a call returns; without "token_type_ids" pairs have no segments.
        clean_up_tokenization_spaces: whether `decode` takes out spaces before punctuation.
    """

    is_fast = True  # transformers' words for tokenizers over the library
    backend = "tokenizers"
    name_or_path = ""
    chat_template = None
    init_inputs: tuple[Any, ...] = ()

    @classmethod
    def _class_for(cls, tokenizer: tokenizers.Tokenizer) -> type[Any]:
        """`BertTokenizer` for WordPiece."""
        return BertTokenizer if cls is Tokenizer and isinstance(tokenizer.model, WordPiece) else cls

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r}, vocab_size={self.vocab_size}, entries={len(self)})"

    def __getstate__(self) -> dict[str, Any]:
        literal = self._tokenizer.encode_special_tokens  # the library's own state is without it
        return {**self.__dict__, "_literal": None, "_forms": {}, "_reads_literally": literal}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = self.__dict__.pop("_reads_literally")

    @property
    def do_lower_case(self) -> bool:
        """Whether texts are lower-cased."""
        return lower_cases(self._tokenizer.normalizer)

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The `tokenizers` library's tokenizer underneath."""
        return self._tokenizer

    def lower_casing(self) -> Self:
        """This tokenizer where it lower-cases already, else a copy that lower-cases texts before anything else."""
        normalizer = self._tokenizer.normalizer
        if lower_cases(normalizer):
            return self
        copied = type(self).__new__(type(self))
        copied.__dict__.update({**self.__dict__, "_literal": None, "_forms": {}})
        copied._tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        steps = [normalizers.Lowercase(), *([] if normalizer is None else [normalizer])]
        copied._tokenizer.normalizer = normalizers.Sequence(steps)
        copied._tokenizer.encode_special_tokens = self._tokenizer.encode_special_tokens
        return copied

    def template(self, pair: bool) -> Template:
        """What is put around a text, or a pair."""
        return Template.of(self._tokenizer, self._probe, pair, self.segments_pairs)

    @property
    def segments_pairs(self) -> bool:
        """Whether the second text of a pair has segment 1: not where `model_input_names` leaves segments out."""
        return "token_type_ids" in self.model_input_names


class BertTokenizer(Tokenizer):
    """WordPiece with BERT's normaliser.

    Args:
        vocab: a vocab.txt, a list of tokens in the order of their ids, or a mapping of tokens to ids.
        do_lower_case, strip_accents, tokenize_chinese_chars: the normaliser, as in transformers; accents are stripped when
            lower-casing unless `strip_accents` says otherwise.
        model_max_length: tokens that the model takes; the default limit of truncation.
        max_input_chars_per_word: longer words are [UNK] (100 as in transformers; google's code has 200).
        padding_side, truncation_side: "right" or "left".
        vocab_file: the older name of `vocab`.
        settings: other names for `pad_token`, `unk_token`, `cls_token`, `sep_token`, `mask_token`, added to the vocabulary
            where it lacks them; `bos_token`, `eos_token`, `extra_special_tokens`; what else tokenizer_config.json may hold.

    Raises:
        InputError: a vocabulary without the special tokens. CheckpointError: an unreadable file.
    """

    kinds = ("WordPiece",)
    model = WordPiece  # transformers' word

    def __init__(
        self,
        vocab: str | Path | Sequence[str] | Mapping[str, int] | None = None,
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int | None = None,
        max_input_chars_per_word: int = 100,
        padding_side: str = "right",
        truncation_side: str = "right",
        vocab_file: str | Path | None = None,
        **settings: Any,
    ) -> None:
        vocab = vocab_file if vocab is None else vocab
        if vocab is None:
            raise InputError("BertTokenizer needs vocab: a vocab.txt, tokens in the order of their ids, or tokens with ids")
        if isinstance(vocab, str | Path):
            vocab = read_vocab(Path(vocab))
        check_side(padding_side), check_side(truncation_side, "truncation_side")
        check_counts(model_max_length=model_max_length)
        given = settings_of(
            {
                "do_lower_case": do_lower_case,
                "strip_accents": strip_accents,
                "tokenize_chinese_chars": tokenize_chinese_chars,
                "max_input_chars_per_word": max_input_chars_per_word,
                "padding_side": padding_side,
                "truncation_side": truncation_side,
                **settings,
            }
        )
        given.limit = model_max_length
        self._adopt(from_vocab(vocab, given), given)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 30_000,
        *,
        min_frequency: int = 2,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int | None = 512,
        show_progress: bool = False,
    ) -> Self:
        """Learns a WordPiece vocabulary: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, the whole alphabet, and pieces.

        Every character of the texts gets an entry for the start of a word and one for its inside, so that unseen words of the
        same alphabet decompose. The same texts give the same vocabulary, byte by byte: see `vocabulary`.

        Args:
            texts: any texts; read twice, never held (what can be read only once goes through a temporary file).
            vocab_size: entries, special tokens included.
            min_frequency: how often a pair of pieces must occur to be joined.

        Raises:
            InputError: no text, or a `vocab_size` that the alphabet alone exceeds.
        """
        accents, chinese = strip_accents, tokenize_chinese_chars
        made: Any = cls
        return made(
            train_vocabulary(texts, vocab_size, min_frequency, do_lower_case, accents, chinese, show_progress),
            do_lower_case=do_lower_case,
            strip_accents=accents,
            tokenize_chinese_chars=chinese,
            model_max_length=model_max_length,
        )
