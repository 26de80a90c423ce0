"""Tokenizers as files: a directory or a hub id to a tokenizer, a tokenizer to a directory, and a vocabulary from texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer, normalizers, processors
from tokenizers.models import WordPiece

from fastbert import files, interop
from fastbert.errors import CheckpointNotFoundError, InputError
from fastbert.files.pushing import Pushes, push_if_asked
from fastbert.text.encoding import check_counts, check_side
from fastbert.text.entries import Entries
from fastbert.text.tokenizer_files import (
    MAY_LACK,
    PATTERNS,
    FolderSettings,
    load_tokenizer_json,
    read_settings,
    read_vocab,
    vocab_lines,
)
from fastbert.text.vocabulary import SPECIAL_TOKENS, train_vocabulary
from fastbert.text.wordpiece import as_added, check_encodes, from_vocab, token_fields, with_added


class SavedTokenizer(Pushes, Entries):
    """Reading, writing and training; a base of `BertTokenizer`, whose constructor `train` calls."""

    name_or_path: str

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Reads tokenizer.json, or vocab.txt, with all that the files beside them say, from a directory or a hub id.

        Args:
            pretrained_model_name_or_path: a directory, or an id on the hub.
            options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, `subfolder` for the hub; settings
                of the constructor, which win over the files; without `model_max_length` it is the smaller of what
                tokenizer_config.json and config.json say.

        Raises:
            CheckpointNotFoundError: neither file. CheckpointError: a damaged file, or settings that need another tokenizer.
            InputError: a keyword that no tokenizer has, or a value of a wrong kind.
        """
        hub, keywords = files.split_hub_options(options)
        folder = files.locate(pretrained_model_name_or_path, PATTERNS, **hub)
        settings = read_settings(folder, keywords)
        if (folder / "tokenizer.json").is_file():
            tokenizer = load_tokenizer_json(folder / "tokenizer.json")
            current = tokenizer.normalizer
            if settings.text and isinstance(current, normalizers.BertNormalizer):  # as transformers: the settings win
                tokenizer.normalizer = normalizers.BertNormalizer(
                    clean_text=current.clean_text,
                    lowercase=settings.text.get("do_lower_case", current.lowercase),
                    strip_accents=settings.text.get("strip_accents", current.strip_accents),
                    handle_chinese_chars=settings.text.get("tokenize_chinese_chars", current.handle_chinese_chars),
                )
        elif (folder / "vocab.txt").is_file():
            tokenizer = from_vocab(read_vocab(folder / "vocab.txt"), settings)
        else:
            raise CheckpointNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
        made = cls.__new__(cls)
        made._adopt(tokenizer, settings)
        made.name_or_path = str(pretrained_model_name_or_path)
        return made

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

    def save_pretrained(self, save_directory: str | Path, **ignored: Any) -> tuple[str, ...]:
        """Writes vocab.txt, tokenizer.json and tokenizer_config.json, readable by transformers as well, all at once.

        Args:
            save_directory: made if absent; other files in it stay.
            ignored: `push_to_hub` and its keywords, as of a model's `save_pretrained`; others of transformers' method have no
                meaning here.

        Returns:
            The files.

        Raises:
            InputError: a vocabulary that no vocab.txt can hold. HubError: see `push_to_hub`.
        """
        lines = vocab_lines(self._tokenizer.get_vocab(with_added_tokens=False))
        settings: dict[str, Any] = {**self._settings, "tokenizer_class": "BertTokenizer", **self.init_kwargs}
        if settings["max_input_chars_per_word"] == 100:
            del settings["max_input_chars_per_word"]
        if self.model_max_length is None:
            del settings["model_max_length"]
        settings["added_tokens_decoder"] = {str(i): token_fields(token) for i, token in self.added_tokens_decoder.items()}
        with files.updating_folder(save_directory) as part:
            files.write_text(part / "vocab.txt", "".join(f"{line}\n" for line in lines))
            files.write_text(part / "tokenizer.json", self._tokenizer.to_str(pretty=True))
            files.write_text(part / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
        push_if_asked(self, save_directory, bool(ignored.get("push_to_hub")), ignored)
        return tuple(str(Path(save_directory) / name) for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json"))

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings as the constructor takes them."""
        normalizer, model = self._tokenizer.normalizer, self._tokenizer.model
        settings: dict[str, Any] = {**dict.fromkeys(MAY_LACK), **self._names}
        settings |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        settings |= {"model_input_names": self.model_input_names, "model_max_length": self.model_max_length}
        settings["clean_up_tokenization_spaces"] = self.clean_up_tokenization_spaces
        if self._tokenizer.encode_special_tokens:
            settings["split_special_tokens"] = True
        if self._extra:
            settings["extra_special_tokens"] = self._extra
        if isinstance(normalizer, normalizers.BertNormalizer):
            settings["do_lower_case"] = normalizer.lowercase
            settings["strip_accents"] = normalizer.strip_accents
            settings["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        longest = model.max_input_chars_per_word if isinstance(model, WordPiece) else 100
        return {**settings, "max_input_chars_per_word": longest}

    def to_json(self) -> str:
        """All that decides how texts become ids, as tokenizer.json holds it."""
        return self._tokenizer.to_str()

    def _adopt(self, tokenizer: Tokenizer, settings: FolderSettings) -> None:
        interop.join(Entries)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        names = {name: settings.names[name] for name in SPECIAL_TOKENS if name in settings.names}
        tokenizer = with_added(tokenizer, settings)
        blank = [name for name, token in names.items() if not token.strip()]
        if blank:
            raise InputError(f"{blank[0]} = {names[blank[0]]!r} is blank: it would be found nowhere in a text")
        missing = [token for token in names.values() if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"the vocabulary of {tokenizer.get_vocab_size()} entries has no {', '.join(missing)}")
        matched = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        tokenizer.add_special_tokens([as_added(token, True) for token in names.values() if token not in matched])
        self._tokenizer = tokenizer
        self._literal: Tokenizer | None = None  # see `encode_ids`
        self._names = dict(settings.names)
        self._extra = list(settings.extra)
        kept = dict(settings.settings)
        check_counts(model_max_length=settings.limit)
        self.model_max_length = settings.limit
        self.padding_side = check_side(kept.pop("padding_side", None) or "right")
        self.truncation_side = check_side(kept.pop("truncation_side", None) or "right", "truncation_side")
        names_of_inputs = kept.pop("model_input_names", None)
        self.model_input_names = names_of_inputs or ["input_ids", "token_type_ids", "attention_mask"]
        self.clean_up_tokenization_spaces = bool(kept.pop("clean_up_tokenization_spaces", False))
        tokenizer.encode_special_tokens = bool(kept.pop("split_special_tokens", False))
        self._settings = kept
        if tokenizer.post_processor is None:
            cls, sep = names["cls_token"], names["sep_token"]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{cls}:0 $A:0 {sep}:0",
                pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
                special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
            )
        check_encodes(tokenizer)
