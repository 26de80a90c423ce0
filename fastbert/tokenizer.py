"""BertTokenizer: text to WordPiece ids and back, over the `tokenizers` library, with transformers' words and files.

The underlying tokenizer never pads and never cuts by itself: whatever a tokenizer.json carries of both is cleared on load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, normalizers, processors
from tokenizers.models import WordPiece

from fastbert import files
from fastbert.encoding import BatchEncoding, as_array, check_side, check_texts, cutting_strategy, pad, padded_width
from fastbert.errors import CheckpointError, CheckpointNotFoundError, InputError
from fastbert.vocabulary import SPECIAL_TOKENS, set_text_handling, train_vocabulary

PATTERNS = [
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
]
_UNLIMITED = 10**6  # transformers writes 1e30 where it knows no limit


class BertTokenizer:
    """WordPiece with BERT's normaliser.

    Args:
        vocab: a vocab.txt, a list of tokens in the order of their ids, or a mapping of tokens to ids.
        do_lower_case, strip_accents, tokenize_chinese_chars: the normaliser, as in transformers; accents are stripped when
            lower-casing unless `strip_accents` says otherwise.
        model_max_length: tokens that the model takes; the default limit of truncation.
        max_input_chars_per_word: longer words are [UNK] (100 as in transformers; google's code has 200).
        padding_side: "right" or "left".
        special_tokens: other names for `pad_token`, `unk_token`, `cls_token`, `sep_token`, `mask_token`.

    Raises:
        InputError: a vocabulary without the special tokens. CheckpointError: an unreadable file.
    """

    def __init__(
        self,
        vocab: str | Path | Sequence[str] | Mapping[str, int],
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int | None = None,
        max_input_chars_per_word: int = 100,
        padding_side: str = "right",
        **special_tokens: str,
    ) -> None:
        if isinstance(vocab, str | Path):
            vocab = _read_vocab(Path(vocab))
        ids = dict(vocab) if isinstance(vocab, Mapping) else {token: i for i, token in enumerate(vocab)}
        names = {**SPECIAL_TOKENS, **special_tokens}
        unk = names["unk_token"]
        tokenizer = Tokenizer(WordPiece(ids, unk_token=unk, max_input_chars_per_word=max_input_chars_per_word))
        set_text_handling(tokenizer, do_lower_case, strip_accents, tokenize_chinese_chars)
        self._adopt(tokenizer, names, model_max_length, padding_side)

    def _adopt(self, tokenizer: Tokenizer, names: dict[str, str], limit: int | None, padding_side: str) -> None:
        unknown = set(names) - set(SPECIAL_TOKENS)
        if unknown:
            raise InputError(f"BertTokenizer got an unknown keyword {sorted(unknown)[0]!r}")
        check_side(padding_side)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        missing = [token for token in names.values() if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"the vocabulary of {tokenizer.get_vocab_size()} entries has no {', '.join(missing)}")
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in names.values()])
        self._tokenizer = tokenizer
        self._cutting: dict[tuple[Any, ...], Tokenizer] = {}
        self._names = names
        self.model_max_length = limit
        self.padding_side = padding_side
        if tokenizer.post_processor is None:
            cls, sep = names["cls_token"], names["sep_token"]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{cls}:0 $A:0 {sep}:0",
                pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
                special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
            )

    # -- making one ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, *, model_max_length: int | None = None, **hub: Any) -> BertTokenizer:
        """Reads tokenizer.json, or vocab.txt, with their settings, from a directory or a hub id.

        Args:
            path_or_hub_id: a directory, or an id on the hub.
            model_max_length: in place of the smaller of what tokenizer_config.json and config.json say.
            hub: `revision`, `cache_dir`, `token`, `local_files_only`.
        """
        options, unknown = files.split_hub_options(hub)
        if unknown:
            raise InputError(f"BertTokenizer.from_pretrained got an unknown keyword {next(iter(unknown))!r}")
        folder = files.locate(path_or_hub_id, PATTERNS, **options)
        settings = files.read_json_if_present(folder / "tokenizer_config.json")
        mapped = files.read_json_if_present(folder / "special_tokens_map.json")
        names = {
            name: _token_text(settings.get(name) or mapped.get(name)) or default for name, default in SPECIAL_TOKENS.items()
        }
        limit = model_max_length if model_max_length is not None else _limit(folder, settings)
        side = settings.get("padding_side", "right")
        handling = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        text: dict[str, Any] = {name: settings[name] for name in handling if name in settings}
        path = folder / "tokenizer.json"
        if not path.is_file():
            if not (folder / "vocab.txt").is_file():
                raise CheckpointNotFoundError(f"{folder} has neither tokenizer.json nor vocab.txt")
            made = cls(folder / "vocab.txt", **{**text, **names, "model_max_length": limit, "padding_side": side})
            added = files.read_json_if_present(folder / "added_tokens.json")
            made.add_tokens([token for token, _ in sorted(added.items(), key=lambda item: item[1])])
            return made
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise CheckpointError(f"{path} is damaged: {error}") from None
        if not isinstance(tokenizer.model, WordPiece):
            raise CheckpointError(f"{path} holds a {type(tokenizer.model).__name__} tokenizer; BERT's is WordPiece")
        if text and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):  # as transformers: the settings win
            current = tokenizer.normalizer
            tokenizer.normalizer = normalizers.BertNormalizer(
                clean_text=current.clean_text,
                lowercase=text.get("do_lower_case", current.lowercase),
                strip_accents=text.get("strip_accents", current.strip_accents),
                handle_chinese_chars=text.get("tokenize_chinese_chars", current.handle_chinese_chars),
            )
        made = cls.__new__(cls)
        made._adopt(tokenizer, names, limit, side)
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

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes vocab.txt, tokenizer.json and tokenizer_config.json, readable by transformers as well."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocab = self._tokenizer.get_vocab(with_added_tokens=False)
        files.write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)))
        files.write_text(folder / "tokenizer.json", self._tokenizer.to_str(pretty=True))
        normalizer = self._tokenizer.normalizer
        settings: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "padding_side": self.padding_side, **self._names}
        if isinstance(normalizer, normalizers.BertNormalizer):
            settings["do_lower_case"] = normalizer.lowercase
            settings["strip_accents"] = normalizer.strip_accents
            settings["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        if self.model_max_length is not None:
            settings["model_max_length"] = self.model_max_length
        files.write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")

    def to_json(self) -> str:
        """All that decides how texts become ids, as tokenizer.json holds it."""
        return self._tokenizer.to_str()

    # -- text to ids -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
    ) -> BatchEncoding:
        """Encodes a text, or a list of them, alone or in pairs: [CLS] A [SEP] or [CLS] A [SEP] B [SEP], segments 0 and 1.

        Args:
            text, text_pair: one text or a list, also a list of pairs; with `is_split_into_words` one list of words or a list of
                those.
            padding: False (ragged lists: `fastbert.pack` takes them as they are), True or "longest", or "max_length".
            truncation: False (nothing is ever cut: the model refuses what is too long), True or "longest_first",
                "only_first" or "only_second". What was cut is counted in `num_truncated`.
            max_length: limit of truncation and of padding to "max_length"; None means `model_max_length`.
            stride: tokens that neighbouring overflow windows share.
            return_overflowing_tokens: with truncation, one row for each window instead of cutting; which text each row comes
                from stands in `overflow_to_sample_mapping`.
            padding_side, pad_to_multiple_of: where and how far to pad.
            return_tensors: "pt", "np", or None for lists.
            return_offsets_mapping: (start, end) characters of each token in its text.
            return_special_tokens_mask: 1 at [CLS], [SEP] and padding.

        Returns:
            `BatchEncoding` with input_ids, token_type_ids, attention_mask and what was asked for.

        Raises:
            InputError: something that is not text, with its place; a limit too small for the special tokens.
        """
        single, inputs = check_texts(text, text_pair, is_split_into_words)
        strategy = cutting_strategy(truncation)
        limit = self.model_max_length if max_length is None else max_length
        if limit is None and (strategy or padding == "max_length"):
            raise InputError("this tokenizer has no model_max_length: pass max_length")
        encodings = self._encode(inputs, is_split_into_words, add_special_tokens)
        cut = [0] * len(inputs)
        rows = [[encoding] for encoding in encodings]
        if strategy and limit is not None:
            rows, cut = self._cut(inputs, encodings, is_split_into_words, add_special_tokens, limit, strategy, stride)
            if return_overflowing_tokens:
                cut = [0] * len(inputs)
            else:
                rows = [windows[:1] for windows in rows]
        flat = [encoding for windows in rows for encoding in windows]
        values: dict[str, Any] = {
            "input_ids": [e.ids for e in flat],
            "token_type_ids": [e.type_ids for e in flat],
            "attention_mask": [e.attention_mask for e in flat],
        }
        if return_special_tokens_mask:
            values["special_tokens_mask"] = [e.special_tokens_mask for e in flat]
        if return_offsets_mapping:
            values["offset_mapping"] = [e.offsets for e in flat]
        width = padded_width(values["input_ids"], padding, limit, pad_to_multiple_of)
        if width is not None:
            side = check_side(padding_side or self.padding_side)
            fills = {"input_ids": self.pad_token_id, "special_tokens_mask": 1, "offset_mapping": (0, 0)}
            values = {name: [pad(row, width, fills.get(name, 0), side) for row in v] for name, v in values.items()}
        if return_overflowing_tokens:
            values["overflow_to_sample_mapping"] = [i for i, windows in enumerate(rows) for _ in windows]
        if return_tensors is not None:
            values = {name: as_array(v, name, return_tensors) for name, v in values.items()}
        elif single and not return_overflowing_tokens:
            values = {name: v[0] for name, v in values.items()}
        return BatchEncoding(values, flat, cut)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **ignored: Any,
    ) -> BatchEncoding:
        """Pads what calls returned, one by one or together: what transformers' data collators ask of a tokenizer.

        Args:
            encoded_inputs: a mapping of lists, or a list of mappings; keys other than the model's inputs stay as they are.
            padding, max_length, pad_to_multiple_of, padding_side, return_tensors: as in a call.
            ignored: keywords of transformers' method that have no meaning here.
        """
        if isinstance(encoded_inputs, Mapping):
            rows = dict(encoded_inputs)
        else:
            rows = {name: [row[name] for row in encoded_inputs] for name in (encoded_inputs[0] if encoded_inputs else ())}
        if "input_ids" not in rows:
            raise InputError(f"pad needs input_ids; it got {', '.join(rows) or 'nothing'}")
        values = {name: [getattr(row, "tolist", lambda row=row: row)() for row in column] for name, column in rows.items()}
        values.setdefault("attention_mask", [[1] * len(row) for row in values["input_ids"]])
        width = padded_width(values["input_ids"], padding, max_length or self.model_max_length, pad_to_multiple_of)
        side = check_side(padding_side or self.padding_side)
        fills = {"input_ids": self.pad_token_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
        if width is not None:
            values = {n: [pad(row, width, fills[n], side) for row in v] if n in fills else v for n, v in values.items()}
        if return_tensors is not None:
            values = {name: as_array(column, name, return_tensors) for name, column in values.items()}
        return BatchEncoding(values, [], [])

    def encode_ids(
        self, texts: Sequence[str], add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[list[int]]:
        """Ids of each text, ragged and never cut; faster than a call, as nothing else is tracked.

        Args:
            texts: to encode.
            add_special_tokens: frame each text by [CLS] and [SEP].
            split_special_tokens: read "[MASK]" and the like in a text as the characters they are.
        """
        _, inputs = check_texts(list(texts), None, False)
        tokenizer = self._tokenizer
        if split_special_tokens:
            if ("split",) not in self._cutting:
                self._cutting["split",] = Tokenizer.from_str(tokenizer.to_str())
                self._cutting["split",].encode_special_tokens = True
            tokenizer = self._cutting["split",]
        return [e.ids for e in tokenizer.encode_batch_fast(inputs, add_special_tokens=add_special_tokens)]

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True) -> list[int]:
        """Ids of one text or pair."""
        return self(text, text_pair, add_special_tokens=add_special_tokens)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        """The word pieces of a text, without special tokens."""
        return self(text, add_special_tokens=False).tokens()

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens frame a text or a pair."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    # -- ids to text -----------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int] | Any, skip_special_tokens: bool = False) -> str:
        """Text of ids; pieces are joined, the spaces of the original are not known any more."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """Texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """The token of each id, None where there is none."""
        return [self._tokenizer.id_to_token(int(i)) for i in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of each token, [UNK]'s where it is not in the vocabulary."""
        if isinstance(tokens, str):
            found = self._tokenizer.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # -- the vocabulary --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Entries, added ones included: what `resize_token_embeddings` needs."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Entries of the trained vocabulary, without added tokens."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def add_tokens(self, tokens: Sequence[str], special: bool = False) -> int:
        """Adds whole words to the end of the vocabulary; returns how many were new. Resize the model's embeddings after it."""
        self._cutting.clear()
        new = [token for token in dict.fromkeys(tokens) if self._tokenizer.token_to_id(token) is None]
        if special:
            return self._tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new])
        return self._tokenizer.add_tokens(new)

    def unknown_rate(self, texts: Iterable[str]) -> float:
        """Share of [UNK] among the tokens of some texts."""
        unknown = total = 0
        for text in texts:
            ids = self.encode(text, add_special_tokens=False)
            unknown += ids.count(self.unk_token_id)
            total += len(ids)
        return unknown / total if total else 0.0

    def _id(self, name: str) -> int:
        found = self._tokenizer.token_to_id(self._names[name])
        assert found is not None  # the constructor refuses a vocabulary without it
        return found

    pad_token = property(lambda self: self._names["pad_token"], doc="Text of the padding token.")
    unk_token = property(lambda self: self._names["unk_token"], doc="Text of the token for unknown words.")
    cls_token = property(lambda self: self._names["cls_token"], doc="Text of the token that opens a sequence.")
    sep_token = property(lambda self: self._names["sep_token"], doc="Text of the token that ends each text.")
    mask_token = property(lambda self: self._names["mask_token"], doc="Text of the token that hides a word.")
    pad_token_id = property(lambda self: self._id("pad_token"), doc="Id of the padding token.")
    unk_token_id = property(lambda self: self._id("unk_token"), doc="Id of the token for unknown words.")
    cls_token_id = property(lambda self: self._id("cls_token"), doc="Id of the token that opens a sequence.")
    sep_token_id = property(lambda self: self._id("sep_token"), doc="Id of the token that ends each text.")
    mask_token_id = property(lambda self: self._id("mask_token"), doc="Id of the token that hides a word.")

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the five special tokens."""
        return [self._id(name) for name in SPECIAL_TOKENS]

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _encode(self, inputs: list[Any], split: bool, special: bool, tokenizer: Tokenizer | None = None) -> list[Encoding]:
        return (tokenizer or self._tokenizer).encode_batch(inputs, is_pretokenized=split, add_special_tokens=special)

    def _cut(
        self, inputs: list[Any], encodings: list[Encoding], split: bool, special: bool, limit: int, strategy: str, stride: int
    ) -> tuple[list[list[Encoding]], list[int]]:
        """The windows of each input at most `limit` long, and how many tokens its first window lacks."""
        pair = bool(inputs) and isinstance(inputs[0], tuple)
        room = limit - (self.num_special_tokens(pair) if special else 0)
        if room < 1 or not 0 <= stride < room:
            raise InputError(f"max_length = {limit} with stride = {stride} leaves no room for text beside the special tokens")
        over = [i for i, encoding in enumerate(encodings) if len(encoding.ids) > limit]
        rows, lost = [[encoding] for encoding in encodings], [0] * len(inputs)
        if over:
            key = (limit, strategy, stride)
            if key not in self._cutting:
                cutting = Tokenizer.from_str(self._tokenizer.to_str())
                cutting.enable_truncation(limit, stride=stride, strategy=strategy)
                self._cutting[key] = cutting
            try:
                cut = self._encode([inputs[i] for i in over], split, special, self._cutting[key])
            except Exception as error:  # the library raises a bare Exception where the chosen text is too short to cut
                raise InputError(f"truncation = {strategy!r} cannot bring an input to {limit} tokens: {error}") from None
            for i, encoding in zip(over, cut, strict=True):
                rows[i] = [encoding, *encoding.overflowing]
                lost[i] = len(encodings[i].ids) - len(encoding.ids)
        return rows, lost


def _read_vocab(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise CheckpointNotFoundError(f"there is no file {path}")
    try:
        lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise CheckpointError(f"{path}, line {line}: not UTF-8 text") from None
    if lines[-1] == "":
        lines.pop()
    return {token: i for i, token in enumerate(lines)}


def _limit(folder: Path, settings: Mapping[str, Any]) -> int | None:
    config = files.read_json_if_present(folder / "config.json")
    known = [settings.get("model_max_length"), config.get("max_position_embeddings")]
    usable = [int(n) for n in known if isinstance(n, int | float) and 0 < n < _UNLIMITED]
    return min(usable) if usable else None


def _token_text(value: Any) -> str | None:
    return value.get("content") if isinstance(value, Mapping) else value
