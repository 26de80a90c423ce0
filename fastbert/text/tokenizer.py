"""BertTokenizer: text to WordPiece ids and back, over the `tokenizers` library, with transformers' words and files.

The underlying tokenizer never pads and never cuts by itself: whatever a tokenizer.json carries of both is cleared on load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, normalizers, processors
from tokenizers.models import WordPiece

from fastbert import files, interop
from fastbert.errors import CheckpointNotFoundError, InputError, refuse_push
from fastbert.text.encoding import (
    PADDED,
    BatchEncoding,
    as_array,
    check_counts,
    check_side,
    check_texts,
    cutting_strategy,
    pad,
    padded_width,
    pads,
    pair_lengths,
)
from fastbert.text.entries import Entries
from fastbert.text.tokenizer_files import (
    MAY_LACK,
    PATTERNS,
    FolderSettings,
    load_tokenizer_json,
    read_settings,
    read_vocab,
    settings_of,
    vocab_lines,
)
from fastbert.text.vocabulary import SPECIAL_TOKENS, train_vocabulary
from fastbert.text.wordpiece import as_added, check_encodes, from_vocab, listed, lower_cases, token_fields, with_added

# Texts of more characters a token of the limit than this are cut before they are read.
_CHARACTERS_A_TOKEN = 64
_RUN = re.compile(r"[0-9A-Za-z]{2048,}")
_BLANKS = re.compile(r"[ \t\n\r]{2048,}")


class BertTokenizer(Entries):
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

    Attributes:
        model_input_names: what a call returns; without "token_type_ids" pairs have no segments.
        clean_up_tokenization_spaces: whether `decode` takes out spaces before punctuation.

    Raises:
        InputError: a vocabulary without the special tokens. CheckpointError: an unreadable file.
    """

    is_fast = True  # transformers' words for tokenizers over the library
    model = WordPiece
    backend = "tokenizers"
    name_or_path = ""
    chat_template = None
    init_inputs: tuple[Any, ...] = ()

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r}, vocab_size={self.vocab_size}, entries={len(self)})"

    def __getstate__(self) -> dict[str, Any]:
        literal = self._tokenizer.encode_special_tokens  # the library's own state is without it
        return {**self.__dict__, "_literal": None, "_reads_literally": literal}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = self.__dict__.pop("_reads_literally")

    # -- making one ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> BertTokenizer:
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
    ) -> BertTokenizer:
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
        return cls(
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
            ignored: keywords of transformers' method that have no meaning here.

        Returns:
            The files.

        Raises:
            InputError: a vocabulary that no vocab.txt can hold. ArgumentError: `push_to_hub`.
        """
        refuse_push(ignored)
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

    @property
    def do_lower_case(self) -> bool:
        """Whether texts are lower-cased."""
        return lower_cases(self._tokenizer.normalizer)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers` library's tokenizer underneath."""
        return self._tokenizer

    def to_json(self) -> str:
        """All that decides how texts become ids, as tokenizer.json holds it."""
        return self._tokenizer.to_str()

    def lower_casing(self) -> BertTokenizer:
        """This tokenizer where it lower-cases already, else a copy that lower-cases texts before anything else."""
        normalizer = self._tokenizer.normalizer
        if lower_cases(normalizer):
            return self
        copied = type(self).__new__(type(self))
        copied.__dict__.update({**self.__dict__, "_literal": None})
        copied._tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        steps = [normalizers.Lowercase(), *([] if normalizer is None else [normalizer])]
        copied._tokenizer.normalizer = normalizers.Sequence(steps)
        copied._tokenizer.encode_special_tokens = self._tokenizer.encode_special_tokens
        return copied

    # -- text to ids -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encodes a text, or a list of them, alone or in pairs: [CLS] A [SEP] or [CLS] A [SEP] B [SEP], segments 0 and 1.

        Args:
            text, text_pair: one text or a list, also a list of pairs; with `is_split_into_words` one list of words, a list of
                those, or a list of tuples of two.
            padding: False (ragged lists: `fastbert.pack` takes them as they are), True or "longest", or "max_length".
            truncation: False (nothing is ever cut: the model refuses what is too long), True or "longest_first",
                "only_first" or "only_second", at `truncation_side`. None, as in transformers, is True where `max_length` is
                given and `padding` is not, and False otherwise. What was cut is counted in `num_truncated`.
            max_length: limit of truncation and of padding to "max_length"; None means `model_max_length`.
            stride: tokens that neighbouring overflow windows share.
            return_overflowing_tokens: with truncation, one row for each window instead of cutting; which text each row comes
                from stands in `overflow_to_sample_mapping`.
            padding_side, pad_to_multiple_of: where and how far to pad.
            return_tensors: "pt", "np", or None for lists.
            return_token_type_ids, return_attention_mask: None means if `model_input_names` has them.
            return_offsets_mapping: (start, end) characters of each token in its text.
            return_special_tokens_mask: 1 at [CLS], [SEP] and padding.
            return_length: the length of each row, padding included.
            verbose: taken for transformers' sake.

        Returns:
            `BatchEncoding` with input_ids, token_type_ids, attention_mask and what was asked for.

        Raises:
            InputError: something that is not text, with its place; a limit too small for the special tokens.
        """
        single, inputs = check_texts(text, text_pair, is_split_into_words)
        strategy = cutting_strategy(max_length is not None and not padding if truncation is None else truncation)
        limit = self.model_max_length if max_length is None else max_length
        check_counts(max_length=limit, stride=stride, pad_to_multiple_of=pad_to_multiple_of)
        if strategy and pads(padding) and max_length is not None and pad_to_multiple_of and max_length % pad_to_multiple_of:
            raise InputError(f"max_length = {max_length} is no multiple of pad_to_multiple_of = {pad_to_multiple_of}")
        if limit is None and strategy:
            raise InputError("this tokenizer has no model_max_length: pass max_length")
        cuts = strategy is not None and limit is not None
        if cuts and not return_overflowing_tokens and self.truncation_side == "right" and not is_split_into_words:
            assert limit is not None
            inputs = [self._shortened(one, limit, strategy) for one in inputs]
        rows = [
            [encoding]
            for encoding in self._tokenizer.encode_batch(
                inputs, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
            )
        ]
        cut = [0] * len(inputs)
        if cuts and limit is not None and strategy is not None:
            pair = bool(inputs) and isinstance(inputs[0], tuple)
            room = limit - (self.num_special_tokens(pair) if add_special_tokens else 0)
            if room < 1 or not 0 <= stride < room:
                text_of = f"max_length = {limit} with stride = {stride}"
                raise InputError(f"{text_of} leaves no room for text beside the special tokens")
            for i, (full,) in enumerate(rows):
                if len(full.ids) > limit:
                    rows[i] = self._windows(inputs[i], i, is_split_into_words, add_special_tokens, room, strategy, stride)
                    if not return_overflowing_tokens:
                        cut[i] = len(full.ids) - len(rows[i][0].ids)
                        del rows[i][1:]
        flat = [encoding for windows in rows for encoding in windows]
        width = padded_width([e.ids for e in flat], padding, limit, pad_to_multiple_of)
        if width is not None:
            side, token_id, token = check_side(padding_side or self.padding_side), self._padding_id(), self.pad_token
            for encoding in flat:
                encoding.pad(width, direction=side, pad_id=token_id, pad_type_id=0, pad_token=token)
        values: dict[str, Any] = {"input_ids": [e.ids for e in flat]}
        if self._returns("token_type_ids", return_token_type_ids):
            values["token_type_ids"] = [e.type_ids for e in flat]
        if self._returns("attention_mask", return_attention_mask):
            values["attention_mask"] = [e.attention_mask for e in flat]
        if return_special_tokens_mask:
            values["special_tokens_mask"] = [e.special_tokens_mask for e in flat]
        if return_offsets_mapping:
            values["offset_mapping"] = [e.offsets for e in flat]
        if return_length:
            values["length"] = [len(e.ids) for e in flat]
        if return_overflowing_tokens:
            values["overflow_to_sample_mapping"] = [i for i, windows in enumerate(rows) for _ in windows]
        if return_tensors is not None:
            values = {name: as_array(v, name, return_tensors) for name, v in values.items()}
        elif single and not return_overflowing_tokens:
            values = {name: v if name == "length" else v[0] for name, v in values.items()}
        return BatchEncoding(values, flat, cut)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads what calls returned, one by one or together: what transformers' data collators ask of a tokenizer.

        Args:
            encoded_inputs: one example, a mapping of lists, or a list of mappings. Ids, segments and masks are padded; other
                keys keep their values, and their type where tensors are asked for.
            padding, max_length, pad_to_multiple_of, padding_side, return_tensors: as in a call.
            return_attention_mask: None adds a mask where `model_input_names` has one.
            verbose: taken for transformers' sake.

        Raises:
            InputError: no input_ids, examples with different keys, or a value that no tensor can hold, by its key.
        """
        if isinstance(encoded_inputs, Mapping):
            rows: dict[str, Any] = dict(encoded_inputs)
        else:
            examples = list(encoded_inputs)
            names = list(examples[0]) if examples else []
            for i, example in enumerate(examples):
                if set(example) != set(names):
                    odd = sorted(set(example) ^ set(names))
                    raise InputError(f"encoded_inputs[{i}] and encoded_inputs[0] differ in their keys: {', '.join(odd)}")
            rows = {name: [example[name] for example in examples] for name in names}
        if "input_ids" not in rows:
            raise InputError(f"pad needs input_ids; it got {', '.join(map(str, rows)) or 'nothing'}")
        check_counts(max_length=max_length, pad_to_multiple_of=pad_to_multiple_of)
        ids = listed(rows["input_ids"])
        single = bool(ids) and not isinstance(listed(ids[0]), list | tuple)
        lists: dict[str, list[Any]] = {}
        for name in PADDED:
            if name in rows:
                lists[name] = [listed(rows[name])] if single else [listed(row) for row in listed(rows[name])]
        lengths = [len(row) for row in lists["input_ids"]]
        for name, column in lists.items():
            if [len(row) for row in column] != lengths:
                raise InputError(f"{name} and input_ids have rows of different lengths")
        if self._returns("attention_mask", return_attention_mask):
            lists.setdefault("attention_mask", [[1] * length for length in lengths])
        width = padded_width(lists["input_ids"], padding, max_length or self.model_max_length, pad_to_multiple_of)
        side = check_side(padding_side or self.padding_side)
        if width is not None:
            fills = {"input_ids": self._padding_id(), "special_tokens_mask": 1}
            lists = {n: [pad(row, width, fills.get(n, 0), side) for row in column] for n, column in lists.items()}
        values: dict[str, Any] = {**rows, **{name: column[0] if single else column for name, column in lists.items()}}
        if return_tensors is not None:
            values = {
                name: as_array([value] if single and not hasattr(value, "shape") else value, name, return_tensors)
                for name, value in values.items()
            }
        return BatchEncoding(values)

    def encode_ids(
        self,
        texts: Sequence[str],
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """Ids of each text, ragged and not cut; faster than a call, as nothing else is tracked.

        Args:
            texts: to encode.
            add_special_tokens: frame each text by [CLS] and [SEP].
            split_special_tokens: read "[MASK]" and the like in a text as the characters they are.
            max_tokens: how many tokens of a text matter: of one that is many times longer the rest is not read, and its row is
                longer than that all the same.
        """
        _, inputs = check_texts(list(texts), None, False)
        if max_tokens is not None:
            inputs = [self._beginning(text, max_tokens, squeeze=True) for text in inputs]
        tokenizer = self._reading_literally() if split_special_tokens else self._tokenizer
        return [e.ids for e in tokenizer.encode_batch_fast(inputs, add_special_tokens=add_special_tokens)]

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """Ids of one text or pair; `options` as of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """As a call, by transformers' older name."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """As a call with several texts or pairs, by transformers' older name."""
        return self(list(batch_text_or_text_pairs), **options)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The word pieces of a text; `options` as of a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens, 0 elsewhere: what transformers' masking collator asks.

        Args:
            token_ids_0, token_ids_1: ids of a text, or of a pair.
            already_has_special_tokens: they are framed by [CLS] and [SEP], in `token_ids_0` alone; otherwise the mask is of
                the framed form.
        """
        if not already_has_special_tokens:
            second = [] if token_ids_1 is None else [*[0] * len(token_ids_1), 1]
            return [1, *[0] * len(token_ids_0), 1, *second]
        if token_ids_1 is not None:
            raise InputError("token_ids_1 has no place where token_ids_0 has its special tokens already")
        special = set(self.all_special_ids)
        return [int(i in special) for i in listed(token_ids_0)]

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Ids of a text, or of a pair, with [CLS] and [SEP] around them."""
        second = [] if token_ids_1 is None else [*token_ids_1, self.sep_token_id]
        return [self.cls_token_id, *token_ids_0, self.sep_token_id, *second]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Segments of what `build_inputs_with_special_tokens` gives."""
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens frame a text or a pair."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """As `num_special_tokens`, by transformers' name."""
        return self.num_special_tokens(pair)

    def unknown_rate(self, texts: Iterable[str]) -> float:
        """Share of [UNK] among the tokens of some texts."""
        unknown = total = 0
        for text in texts:
            ids = self.encode(text, add_special_tokens=False)
            unknown += ids.count(self.unk_token_id)
            total += len(ids)
        return unknown / total if total else 0.0

    # -- inside ----------------------------------------------------------------------------------------------------------

    @property
    def segments_pairs(self) -> bool:
        """Whether the second text of a pair has segment 1: not where `model_input_names` leaves segments out."""
        return "token_type_ids" in self.model_input_names

    def _padding_id(self) -> int:
        if self.pad_token_id is None:
            raise InputError("padding needs a padding token, and this tokenizer has none: set pad_token")
        return self.pad_token_id

    def _returns(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _reading_literally(self) -> Tokenizer:
        """The tokenizer that reads special tokens in a text as the characters they are."""
        if self._literal is None:
            literal = Tokenizer.from_str(self._tokenizer.to_str())
            literal.encode_special_tokens = True
            self._literal = literal
        return self._literal

    def _beginning(self, text: str, tokens: int, squeeze: bool = False) -> str:
        """A beginning of a text that has its first `tokens` tokens and more, or the whole text.

        The last word of what is read, and what an added token could reach across, may be cut differently: they do not count.

        Args:
            squeeze: shorten endless words and blanks, which keeps the ids but moves the characters.
        """
        size = _CHARACTERS_A_TOKEN * (tokens + 16)
        if len(text) <= size:
            return text
        margin = 1 + max((len(token.content) for token in self.added_tokens_decoder.values()), default=0)
        if squeeze and len(text) > 1 << 16:
            longest = getattr(self._tokenizer.model, "max_input_chars_per_word", 1 << 20)
            if longest < 1024 and margin < 1024:  # both stay [UNK], and nothing that is matched reaches across
                text = _BLANKS.sub(" ", _RUN.sub(lambda run: run[0][:1024], text))
        while size < len(text):
            read = self._tokenizer.encode(text[:size], add_special_tokens=False)
            words = read.word_ids
            sure = sum(word != words[-1] and end <= size - margin for word, (_, end) in zip(words, read.offsets, strict=True))
            if sure > tokens:
                return text[:size]
            size *= 4
        return text

    def _shortened(self, given: Any, limit: int, strategy: str | None) -> Any:
        """An input without what cutting it takes away in any case; see `_beginning`."""
        if not isinstance(given, tuple):
            return self._beginning(given, limit)
        first, second = given
        if strategy == "longest_first" and min(len(first), len(second)) > _CHARACTERS_A_TOKEN * limit:
            return given  # which of two long texts is the longer one decides about a token
        return (
            first if strategy == "only_second" else self._beginning(first, limit),
            second if strategy == "only_first" else self._beginning(second, limit),
        )

    def _windows(
        self, given: Any, place: int, split: bool, special: bool, room: int, strategy: str, stride: int
    ) -> list[Encoding]:
        """The framed windows of an input that is too long, `room` tokens of text in each; cutting keeps the first one."""
        parts = given if isinstance(given, tuple) else (given,)
        if strategy == "only_second" and len(parts) == 1:
            raise InputError(f"truncation = 'only_second' cannot shorten text[{place}]: it is a single text")
        encode = partial(self._tokenizer.encode, is_pretokenized=split, add_special_tokens=False)
        first = encode(parts[0])
        # The second one beside an empty first one: then its windows have its segment.
        second = [encode([] if split else "", part) for part in parts[1:]]
        lengths = (
            (min(room, len(first.ids)), 0) if not second else (pair_lengths(len(first.ids), len(second[0].ids), room, strategy))
        )
        for name, encoding, length in zip(("first", "second"), (first, *second), lengths, strict=False):
            if length == len(encoding.ids):
                continue
            if length < 1 or stride >= length:
                raise InputError(
                    f"text[{place}]: truncation = {strategy!r} to {room} tokens of text leaves {max(length, 0)} of the "
                    f"{len(encoding.ids)} tokens of its {name} text" + (f", not more than stride = {stride}" if stride else "")
                )
            encoding.truncate(length, stride=stride, direction=self.truncation_side)
        if second and not second[0].overflowing:
            second = [encode(parts[1])]
        framed = self._tokenizer.post_process(first, second[0] if second else None, add_special_tokens=special)
        return [framed, *framed.overflowing]
