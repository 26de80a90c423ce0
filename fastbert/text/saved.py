"""Tokenizers as files: a directory or a hub id to a tokenizer, a tokenizer to a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import Tokenizer, normalizers, processors
from tokenizers.models import WordPiece

from fastbert import files, interop
from fastbert.errors import CheckpointNotFoundError, InputError
from fastbert.files.pushing import Pushes, push_if_asked
from fastbert.text.byte_level import prefixes_spaces, with_prefix_space
from fastbert.text.encoding import check_counts, check_side
from fastbert.text.entries import Entries
from fastbert.text.tokenizer_files import (
    MAY_LACK,
    PATTERNS,
    FolderSettings,
    load_tokenizer_json,
    read_settings,
)
from fastbert.text.vocab_files import read_vocab, vocab_lines
from fastbert.text.vocabulary import SPECIAL_TOKENS
from fastbert.text.wordpiece import as_added, check_encodes, from_vocab, token_fields, usual_names, with_added


class SavedTokenizer(Pushes, Entries):
    """Reading and writing; a base of `Tokenizer`."""

    name_or_path: str
    kinds: ClassVar[tuple[str, ...] | None] = None  # of the library's models those that a class reads; None for any

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
        whole = (folder / "tokenizer.json").is_file()
        if whole:
            tokenizer = load_tokenizer_json(folder / "tokenizer.json", cls.kinds)
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
        kind = cls._class_for(tokenizer)
        made = kind.__new__(kind)
        made._adopt(tokenizer, settings, whole)
        made.name_or_path = str(pretrained_model_name_or_path)
        return made

    @classmethod
    def _class_for(cls, tokenizer: Tokenizer) -> type[Self]:
        """The class of the library's tokenizer: this one, unless there is one for its kind."""
        return cls

    def save_pretrained(self, save_directory: str | Path, **ignored: Any) -> tuple[str, ...]:
        """Writes tokenizer.json and tokenizer_config.json, readable by transformers as well; of WordPiece also vocab.txt.

        They appear all at once.

        Args:
            save_directory: made if absent; other files in it stay.
            ignored: `push_to_hub` and its keywords, as of a model's `save_pretrained`; others of transformers' method have no
                meaning here.

        Returns:
            The files.

        Raises:
            InputError: a vocabulary that no vocab.txt can hold. HubError: see `push_to_hub`.
        """
        names = ["tokenizer_config.json", "tokenizer.json"]
        settings: dict[str, Any] = {**self._settings, "tokenizer_class": self._written_class, **self.init_kwargs}
        if settings.get("max_input_chars_per_word") == 100:
            del settings["max_input_chars_per_word"]
        if self.model_max_length is None:
            del settings["model_max_length"]
        settings["added_tokens_decoder"] = {str(i): token_fields(token) for i, token in self.added_tokens_decoder.items()}
        with files.updating_folder(save_directory) as part:
            if isinstance(self._tokenizer.model, WordPiece):
                names.insert(1, "vocab.txt")
                lines = vocab_lines(self._tokenizer.get_vocab(with_added_tokens=False))
                files.write_text(part / "vocab.txt", "".join(f"{line}\n" for line in lines))
            files.write_text(part / "tokenizer.json", self._tokenizer.to_str(pretty=True))
            files.write_text(part / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
        push_if_asked(self, save_directory, bool(ignored.get("push_to_hub")), ignored)
        return tuple(str(Path(save_directory) / name) for name in names)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings as the constructor takes them."""
        normalizer, model = self._tokenizer.normalizer, self._tokenizer.model
        settings: dict[str, Any] = {**dict.fromkeys(MAY_LACK), **self._names}
        if isinstance(model, WordPiece):
            settings["max_input_chars_per_word"] = model.max_input_chars_per_word
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
        return settings

    @property
    def _probe(self) -> str:
        """A text of one token, where the tokenizer has special ones."""
        return str(self.sep_token or self.cls_token or self.unk_token or "a")

    def to_json(self) -> str:
        """All that decides how texts become ids, as tokenizer.json holds it."""
        return self._tokenizer.to_str()

    def _adopt(self, tokenizer: Tokenizer, settings: FolderSettings, whole: bool = False) -> None:
        """Takes the library's tokenizer; a `whole` one, of a tokenizer.json, may lack special tokens that nobody names."""
        interop.join(Entries)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer = with_added(tokenizer, settings)
        prefix_space = settings.settings.get("add_prefix_space")
        if prefix_space is not None and prefix_space != prefixes_spaces(tokenizer):
            tokenizer = with_prefix_space(tokenizer, prefix_space)
        usual = usual_names(tokenizer, whole)
        all_names = {**{name: usual[name] for name in usual if name not in settings.absent}, **settings.names}
        names = {name: all_names[name] for name in SPECIAL_TOKENS if name in all_names}
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
        self._forms: dict[tuple[bool, bool], Tokenizer] = {}
        self._names = all_names
        self._written_class = settings.tokenizer_class if self.kinds is None else "BertTokenizer"
        self._written_class = self._written_class or "PreTrainedTokenizerFast"
        self._extra = list(settings.extra)
        kept = dict(settings.settings)
        check_counts(model_max_length=settings.limit)
        self.model_max_length = settings.limit
        self.padding_side = check_side(kept.pop("padding_side", None) or "right")
        self.truncation_side = check_side(kept.pop("truncation_side", None) or "right", "truncation_side")
        names_of_inputs = kept.pop("model_input_names", None)
        self.clean_up_tokenization_spaces = bool(kept.pop("clean_up_tokenization_spaces", False))
        tokenizer.encode_special_tokens = bool(kept.pop("split_special_tokens", False))
        self._settings = kept
        framed = "cls_token" in names and "sep_token" in names
        if tokenizer.post_processor is None and isinstance(tokenizer.model, WordPiece) and framed:
            cls, sep = names["cls_token"], names["sep_token"]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{cls}:0 $A:0 {sep}:0",
                pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
                special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
            )
        check_encodes(tokenizer)
        segments = tokenizer.post_processor is not None and any(tokenizer.encode(self._probe, self._probe).type_ids)
        beside = ["token_type_ids"] if segments else []
        self.model_input_names = names_of_inputs or ["input_ids", *beside, "attention_mask"]
