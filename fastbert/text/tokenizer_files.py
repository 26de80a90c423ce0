"""The files of a tokenizer: what a folder says of vocabulary, special tokens and settings, read as transformers reads it.

vocab.txt                 a token a line, in the order of the ids; of a repeated line the last one counts
tokenizer.json            the whole tokenizer of the `tokenizers` library; it wins over vocab.txt
tokenizer_config.json     settings, names of special tokens, `added_tokens_decoder`
special_tokens_map.json   names of special tokens } older files, which count where tokenizer_config.json
added_tokens.json         tokens with their ids   } has no `added_tokens_decoder`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from fastbert import files, schema
from fastbert.errors import CheckpointError, InputError

PATTERNS = [
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
]
_COUNTING = ("roberta", "xlm-roberta", "camembert")  # models whose positions start behind the padding token's id
_UNLIMITED = 10**6  # transformers writes 1e30 where it knows no limit
_MAX_ID = (1 << 31) - 1

# Classes whose text handling is BERT's, so that a vocab.txt says all that the others would.
_KNOWN_CLASSES = {"Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "Lxmert", "LayoutLM", "Funnel"}
_KNOWN_CLASSES |= {"PreTrained", "DPRQuestionEncoder", "DPRContextEncoder", "DPRReader", "Splinter", "Retribert"}
_NEEDS = {
    "BertJapanese": "words cut by MeCab or Sudachi (packages fugashi, sudachipy) before WordPiece",
    "BertGeneration": "a SentencePiece model",
    "Bertweet": "its normalisation of tweets and byte-pair merges",
}
# Settings that change ids, with the only values that WordPiece has here.
_ONLY = {
    "do_basic_tokenize": (True,),
    "do_word_tokenize": (True,),
    "do_subword_tokenize": (True,),
    "word_tokenizer_type": ("basic",),
    "subword_tokenizer_type": ("wordpiece",),
    "wordpieces_prefix": ("##",),
    "never_split": ([],),
    "clean_text": (True,),
}

_TOKEN_FIELDS = {
    "content": schema.text(null=False),
    **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), schema.flag(null=False)),
}


def _is_token(value: Any) -> bool:
    if not isinstance(value, dict):
        return schema.is_text(value)
    known = {**_TOKEN_FIELDS, "__type": schema.choice("AddedToken"), "id": schema.integer(0, _MAX_ID)}
    return "content" in value and all(name in known and known[name](entry) for name, entry in value.items())


_TOKEN = schema.Field(_is_token, "a token: a text, or an object with content, lstrip, rstrip, normalized, single_word, special")
_LISTED = replace(_TOKEN, null=False)
_TOKENS = schema.either(schema.list_of(_LISTED), schema.object_of(_LISTED))
_ALL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)  # in transformers' order
MAY_LACK = ("pad_token", "mask_token")  # tokens that a file may set to null
_SPECIAL_FIELDS = {
    **dict.fromkeys(_ALL_NAMES, _TOKEN),
    "additional_special_tokens": _TOKENS,
    "extra_special_tokens": _TOKENS,
}
SETTINGS = {
    **_SPECIAL_FIELDS,
    "do_lower_case": schema.flag(),
    "strip_accents": schema.flag(),
    "tokenize_chinese_chars": schema.flag(),
    "model_max_length": schema.number(1),
    "max_len": schema.number(1),
    "max_input_chars_per_word": schema.integer(1),
    "padding_side": schema.choice("right", "left"),
    "truncation_side": schema.choice("right", "left"),
    "split_special_tokens": schema.flag(),
    "add_prefix_space": schema.flag(),
    "clean_up_tokenization_spaces": schema.flag(),
    "model_input_names": schema.list_of(schema.text(null=False)),
    "added_tokens_decoder": schema.object_of(_LISTED),
    "tokenizer_class": schema.text(),
    "never_split": schema.list_of(schema.text(null=False)),
}
# Keywords of transformers' tokenizers that make no difference to a BERT's.
_HARMLESS: tuple[str, ...] = (
    "use_fast",
    "trust_remote_code",
    "config",
    "legacy",
    "from_slow",
    "add_bos_token",
    "add_eos_token",
)
_HARMLESS += ("tokenizer_type", "merges", "proxies", "resume_download", "name_or_path")


@dataclass
class FolderSettings:
    """What the files beside a vocabulary say.

    Attributes:
        names: text of each named special token that is given, such as "cls_token".
        absent: those that the files set to null.
        special: named and further special tokens as the library takes them.
        added: (id, token) of tokens beyond the vocabulary; the id is None where none is given.
        extra: texts of the further special tokens.
        text: of `do_lower_case`, `strip_accents`, `tokenize_chinese_chars`, `max_input_chars_per_word` those that are given.
        limit: tokens that the model takes, None where nobody says.
        tokenizer_class: transformers' name of its class, "" where none is given.
        settings: what else tokenizer_config.json holds, as it stands.
    """

    names: dict[str, str]
    absent: frozenset[str] = frozenset()
    special: list[AddedToken] = field(default_factory=list)
    added: list[tuple[int | None, AddedToken]] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    text: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    tokenizer_class: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def read_settings(folder: Path, keywords: Mapping[str, Any] | None = None) -> FolderSettings:
    """Reads the files beside a vocabulary.

    Args:
        folder: that holds them.
        keywords: settings by the names of tokenizer_config.json, which win over the files.

    Raises:
        CheckpointError: an entry of a wrong kind, or a setting that would need a tokenizer that is not implemented, by name.
        InputError: the same among the keywords.
    """
    given = _of_keywords(keywords or {})
    path = folder / "tokenizer_config.json"
    settings = {**schema.check(files.read_json_if_present(path), SETTINGS, path), **given}
    config = files.read_json_if_present(folder / "config.json")
    _refuse_others(settings, config, path, (folder / "tokenizer.json").is_file())
    mapped: dict[str, Any] = {}
    listed: list[tuple[int | None, Any]] = []
    declared = settings.pop("added_tokens_decoder", None)
    if declared is None:
        mapped_path, added_path = folder / "special_tokens_map.json", folder / "added_tokens.json"
        mapped = schema.check(files.read_json_if_present(mapped_path), _SPECIAL_FIELDS, mapped_path)
        added = files.read_json_if_present(added_path)
        schema.check(added, dict.fromkeys(added, schema.integer(0, _MAX_ID, null=False)), added_path)
        odd = [token for token in added if not schema.is_text(token)]
        if odd:
            raise CheckpointError(f"{added_path} has a token that is no text: {schema.shown(odd[0])}")
        listed = [(token_id, token) for token, token_id in added.items()]
    else:
        listed = [(_token_id(key, path), token) for key, token in declared.items()]
    mapped = {name: value for name, value in mapped.items() if value is not None and name not in given}
    result = _assembled(settings, mapped, listed)
    result.tokenizer_class = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or "")
    result.limit = _limit(given) if given.get("model_max_length") is not None else _limit(settings, config)
    return result


def settings_of(keywords: Mapping[str, Any]) -> FolderSettings:
    """The same from keywords alone.

    Raises:
        InputError: a keyword that no tokenizer has, or a value of a wrong kind.
    """
    given = _of_keywords(keywords)
    declared = given.pop("added_tokens_decoder", None) or {}
    listed: list[tuple[int | None, Any]] = [
        (_token_id(key, Path("added_tokens_decoder")), token) for key, token in declared.items()
    ]
    result = _assembled(given, {}, listed)
    result.limit = _limit(given)
    return result


def _of_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a caller names, in the form of the files."""

    def plain(value: Any) -> Any:
        if isinstance(value, AddedToken):
            return {name: getattr(value, name) for name in _TOKEN_FIELDS}
        if isinstance(value, Mapping):
            return {str(key): plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value

    given = {name: plain(value) for name, value in keywords.items() if name not in _HARMLESS}
    for name, value in given.items():
        own = name.endswith("_token") and _is_token(value)
        if name not in SETTINGS and not own:
            raise InputError(f"the tokenizer got an unknown keyword {name!r}")
        if name in SETTINGS and not SETTINGS[name](value):
            raise InputError(f"{name} = {schema.shown(keywords[name])} must be {SETTINGS[name].expected}")
    return given


def _assembled(settings: dict[str, Any], mapped: dict[str, Any], listed: list[tuple[int | None, Any]]) -> FolderSettings:
    """What tokenizer_config.json (`settings`), special_tokens_map.json and lists of added tokens say together."""
    found = {**settings, **mapped}
    names = {name: _content(found.get(name)) for name in _ALL_NAMES if found.get(name)}
    named = {name: found[name] for name in _ALL_NAMES if found.get(name)}
    further: list[Any] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = found.get(key) or []
        further += value.values() if isinstance(value, dict) else value
    # Names of one's own, such as "entity_token".
    further += [v for k, v in settings.items() if k.endswith("_token") and k not in SETTINGS and v is not None and _is_token(v)]
    special = [_as_token(value, True) for value in (*named.values(), *further)]
    texts = {token.content for token in special}
    absent = frozenset(name for name in MAY_LACK if name in found and not found[name])
    result = FolderSettings(names, absent, special)
    result.extra = list(dict.fromkeys(_content(value) for value in further))
    for token_id, token in sorted(listed, key=lambda one: -1 if one[0] is None else one[0]):
        is_special = _content(token) in texts
        result.added.append((token_id, _as_token(token, is_special, normalized=not is_special)))
    handling = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "max_input_chars_per_word")
    result.text = {name: settings[name] for name in handling if settings.get(name) is not None}
    taken = {*_SPECIAL_FIELDS, *handling, "model_max_length", "max_len", "tokenizer_class"}
    result.settings = {name: value for name, value in settings.items() if name not in taken}
    return result


def _refuse_others(settings: Mapping[str, Any], config: Mapping[str, Any], path: Path, whole: bool) -> None:
    """Refuses what would need another tokenizer. With a tokenizer.json (`whole`) its class decides nothing."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(name, str):
        kind = name.removesuffix("Fast").removesuffix("Tokenizer")
        if kind in _NEEDS or not (whole or kind in _KNOWN_CLASSES or name == "TokenizersBackend"):
            why = f"it needs {_NEEDS[kind]}" if kind in _NEEDS else "without a tokenizer.json only BERT's WordPiece is read"
            way = "encode texts with transformers' tokenizer and pass the ids to the model"
            if kind not in _NEEDS:
                way = "transformers' AutoTokenizer reads such a folder, and its save_pretrained writes a tokenizer.json"
            raise CheckpointError(f"{path}: tokenizer_class = {schema.shown(name)} is not implemented: {why}; {way}")
    for name, allowed in _ONLY.items():
        value = settings.get(name)
        if value is not None and value not in allowed:
            raise CheckpointError(
                f"{path}: {name} = {schema.shown(value)} is not implemented and would change the ids; here it is {allowed[0]!r}"
            )


def _limit(settings: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> int | None:
    said = settings.get("model_max_length")
    known = [said if said is not None else settings.get("max_len"), _positions(config or {})]
    usable = [int(n) for n in known if n is not None and schema.is_number(n) and 0 < n < _UNLIMITED]
    return min(usable) if usable else None


def _positions(config: Mapping[str, Any]) -> Any:
    """The most tokens that a model's position table has room for, by its config.json."""
    table, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if config.get("model_type") in _COUNTING and isinstance(table, int) and isinstance(padding, int):
        return table - padding - 1
    return table


def _token_id(key: str, path: Path) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > 10 or int(key) > _MAX_ID:
        raise CheckpointError(f"{path}: added_tokens_decoder has the key {schema.shown(key)}; expected an id from 0")
    return int(key)


def _content(value: Any) -> str:
    return str(value["content"]) if isinstance(value, Mapping) else str(value or "")


def _as_token(value: Any, special: bool, normalized: bool = False) -> AddedToken:
    """A token as the library takes it, from a text or the object that files hold."""
    if not isinstance(value, Mapping):
        return AddedToken(str(value), special=special, normalized=normalized)
    options = {name: bool(value[name]) for name in ("single_word", "lstrip", "rstrip") if name in value}
    is_special = bool(value.get("special", special)) or special
    return AddedToken(
        str(value["content"]), special=is_special, normalized=bool(value.get("normalized", not is_special)), **options
    )


def load_tokenizer_json(path: Path, kinds: Sequence[str] | None = None) -> Tokenizer:
    """The library's tokenizer from a tokenizer.json.

    Args:
        path: the file.
        kinds: of the library's models those that are taken; None takes any.

    Raises:
        CheckpointError: damaged, too large, or of another kind.
    """
    content = files.read_json(path)
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kinds is not None and kind is not None and kind not in kinds:
        raise CheckpointError(_other_kind(path, kind, kinds))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises a bare Exception, and panics are none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} is damaged: {error}") from None
    kind = type(tokenizer.model).__name__
    if kinds is not None and kind not in kinds:
        raise CheckpointError(_other_kind(path, kind, kinds))
    return tokenizer


def _other_kind(path: Path, kind: Any, kinds: Sequence[str]) -> str:
    return (
        f"{path} holds a {schema.shown(kind)} tokenizer; BertTokenizer is {', '.join(kinds)}, fastbert.Tokenizer reads any kind"
    )
