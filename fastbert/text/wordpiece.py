"""The `tokenizers` library's tokenizer as BERT needs it: made from a vocabulary, added tokens at the ids that files declare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers.models import WordPiece

from fastbert.errors import CheckpointError, InputError
from fastbert.text.tokenizer_files import FolderSettings
from fastbert.text.vocabulary import SPECIAL_TOKENS, set_text_handling


def from_vocab(vocab: Any, settings: FolderSettings) -> Tokenizer:
    """The library's tokenizer for a vocabulary, with BERT's text handling."""
    ids = dict(vocab) if isinstance(vocab, Mapping) else {token: i for i, token in enumerate(vocab)}
    for token, token_id in ids.items():
        if (
            not isinstance(token, str)
            or isinstance(token_id, bool)
            or not isinstance(token_id, int)
            or not 0 <= token_id < 1 << 31
        ):
            raise InputError(f"vocab has {token!r}: {token_id!r}; expected texts with ids from 0")
    if len(set(ids.values())) != len(ids):
        raise InputError("vocab gives two tokens the same id")
    text = settings.text
    unk = settings.names.get("unk_token", SPECIAL_TOKENS["unk_token"])
    longest = text.get("max_input_chars_per_word", 100)
    tokenizer = Tokenizer(WordPiece(ids, unk_token=unk, max_input_chars_per_word=longest))
    lower, chinese = text.get("do_lower_case", True), text.get("tokenize_chinese_chars", True)
    set_text_handling(tokenizer, lower, text.get("strip_accents"), chinese)
    return tokenizer


def with_added(tokenizer: Tokenizer, settings: FolderSettings) -> Tokenizer:
    """The tokenizer with the tokens that a folder declares, each at its id where one is given and free.

    The library numbers added tokens by the size of the vocabulary, which collides where its ids have gaps. Where that number is
    not the right one, the token becomes an entry of the vocabulary as well.
    """
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    used = set(vocab.values())
    matched = {token.content for token in tokenizer.get_added_tokens_decoder().values()}  # as tokenizer.json says
    wanted = [*settings.added, *((None, token) for token in settings.special if token.content not in matched)]
    follows = True  # whether the library would number all new ones as wanted
    added = []
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    inside = set(tokenizer.get_vocab(with_added_tokens=False))
    numbers = [vocab[token.content] for token in tokenizer.get_added_tokens_decoder().values() if token.content not in inside]
    following = max([size, *(number + 1 for number in numbers)])  # what the library would give the next one
    for token_id, token in wanted:
        if not token.content:
            continue
        if token.content not in vocab:
            number = token_id if token_id is not None and token_id not in used else max(used, default=-1) + 1
            follows = follows and number == following
            following += 1
            vocab[token.content] = number
            used.add(number)
        added.append(token)
    if not follows:  # all of them become entries: each one moves the number that the library would give
        tokenizer = _with_entries(tokenizer, [(number, text) for text, number in vocab.items() if text not in inside])
        tokenizer.no_padding()
        tokenizer.no_truncation()
    known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in added if repr(token) not in known])
    return tokenizer


# Names of special tokens where no file gives any: RoBERTa's, which other kinds than WordPiece have taken over.
_OTHERS = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}


def usual_names(tokenizer: Tokenizer, whole: bool) -> dict[str, str]:
    """The usual special tokens: BERT's, of which a vocab.txt may lack none; of a `whole` tokenizer those that it has."""
    if isinstance(tokenizer.model, WordPiece) and not (whole and tokenizer.post_processor is not None):
        return dict(SPECIAL_TOKENS)
    found = [
        {name: text for name, text in names.items() if tokenizer.token_to_id(text) is not None}
        for names in (_OTHERS, SPECIAL_TOKENS)
    ]
    return max(found, key=len)


def check_encodes(tokenizer: Tokenizer) -> None:
    """Checks that a tokenizer can encode at all: a tokenizer.json may name tokens that it does not have.

    Raises:
        CheckpointError: the library's reason.
    """
    try:
        tokenizer.encode("a", "\u2603")
    except BaseException as error:  # the library raises a bare Exception, and panics are none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the tokenizer cannot encode a text: {error}") from None


def as_added(token: str | AddedToken, special: bool) -> AddedToken:
    """A token that is matched before the text is cut into words; a special one as it stands, others after normalisation.

    An AddedToken is matched as it says; where `special` makes it a special one, it is matched as it stands.
    """
    if not isinstance(token, AddedToken):
        return AddedToken(token, special=special, normalized=not special)
    if token.special or not special:
        return token
    return AddedToken(**{**token_fields(token), "special": True, "normalized": False})


def token_fields(token: AddedToken) -> dict[str, Any]:
    """A token as tokenizer_config.json holds it."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def listed(values: Any) -> Any:
    """Tensors and arrays as lists and numbers; everything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def lower_cases(normalizer: Any) -> bool:
    """Whether a normaliser of the library lower-cases."""
    if isinstance(normalizer, normalizers.BertNormalizer):
        return bool(normalizer.lowercase)
    if isinstance(normalizer, normalizers.Sequence):
        return any(lower_cases(normalizer[i]) for i in range(len(normalizer)))
    return isinstance(normalizer, normalizers.Lowercase)


# What transformers takes out after decoding: a space before these, and around the apostrophe of English contractions.
_CLEANED: tuple[tuple[str, str], ...] = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"))
_CLEANED += ((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


def cleaned_up(text: str) -> str:
    """Decoded text without the spaces that `_CLEANED` lists."""
    for before, after in _CLEANED:
        text = text.replace(before, after)
    return text


def _with_entries(tokenizer: Tokenizer, entries: Iterable[tuple[int, str]]) -> Tokenizer:
    """The tokenizer with further entries of its vocabulary, at their ids.

    The library gives an added token the next free number; only an entry of the vocabulary has the id that a file declares.
    """
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"].update({token: token_id for token_id, token in entries})
    return Tokenizer.from_str(json.dumps(content))
