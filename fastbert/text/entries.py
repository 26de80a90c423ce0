"""The entries of a tokenizer: ids and their tokens, special tokens by name, tokens that are added, and ids back to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from fastbert import interop
from fastbert.errors import InputError
from fastbert.text.tokenizer_files import FolderSettings
from fastbert.text.vocabulary import SPECIAL_TOKENS
from fastbert.text.wordpiece import as_added, cleaned_up, listed, with_added


def _special(name: str, what: str) -> tuple[property, property]:
    """The properties of a named special token: its text and its id."""

    def text(self: Entries) -> str | None:
        return self._names.get(name)

    def number(self: Entries) -> int | None:
        token = self._names.get(name)
        return None if token is None else self._tokenizer.token_to_id(token)

    def set_text(self: Entries, token: str | AddedToken | None) -> None:
        self._name_special(name, token)

    def set_number(self: Entries, token_id: int | None) -> None:
        token = None if token_id is None else self._tokenizer.id_to_token(_ids([token_id], f"{name}_id")[0])
        if token_id is not None and token is None:
            raise InputError(f"{name}_id = {token_id} is no id of the vocabulary")
        self._name_special(name, token)

    return property(text, set_text, doc=f"Text of the token {what}."), property(
        number, set_number, doc=f"Id of the token {what}."
    )


class _Joining:
    """In the place of the base that `interop` gives."""


@interop.joins("transformers", "PreTrainedTokenizerFast")
class Entries(_Joining):
    """The vocabulary side of `Tokenizer`, with transformers' names.

    Attributes:
        clean_up_tokenization_spaces: whether `decode` takes out spaces before punctuation.
    """

    _tokenizer: Tokenizer
    _literal: Tokenizer | None  # a copy that reads special tokens in a text as characters
    _forms: dict[tuple[bool, bool], Tokenizer]  # those that read words, and without a post-processor: see `_reading`
    _names: dict[str, str]  # text of each named special token
    _extra: list[str]  # texts of the other special tokens
    clean_up_tokenization_spaces: bool

    __setattr__ = object.__setattr__  # not that of transformers' base

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # -- ids to text -----------------------------------------------------------------------------------------------------

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Text of ids, of one id, or of each row of a batch; the spaces of the original are not known any more.

        Args:
            token_ids: whole numbers: one, a list or tensor of them, or rows.
            skip_special_tokens: leave out [CLS], [SEP], padding and other special tokens.
            clean_up_tokenization_spaces: take out spaces before punctuation; None means the tokenizer's own setting.
        """
        ids = listed(token_ids)
        if isinstance(ids, list) and ids and (isinstance(ids[0], list | tuple) or hasattr(ids[0], "tolist")):
            return self.batch_decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
        ids = _ids([ids] if isinstance(ids, int) else ids, "token_ids")
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        clean = self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        return cleaned_up(text) if clean else text

    def batch_decode(
        self, sequences: Iterable[Any], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """Texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in listed(sequences)]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or of each; None where there is none."""
        ids = listed(ids)
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(_ids([ids], "ids")[0])
        special = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(i) for i in _ids(ids, "ids") if i not in special]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of each token, [UNK]'s where it is not in the vocabulary."""
        if isinstance(tokens, str):
            found = self._tokenizer.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Text of tokens: pieces are joined to words."""
        decoder = self._tokenizer.decoder
        return decoder.decode(list(tokens)) if decoder is not None else " ".join(tokens)

    # -- the vocabulary --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Rows that a model needs for every id, added tokens included: what `resize_token_embeddings` takes."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def vocab_size(self) -> int:
        """Entries of the trained vocabulary, without added tokens."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    vocab = property(get_vocab, doc="Every token with its id.")

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are matched before the text is cut into words, by id."""
        return dict(sorted(self._tokenizer.get_added_tokens_decoder().items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens that are matched before the text is cut into words."""
        return {token.content: token_id for token_id, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """As `added_tokens_encoder`, by transformers' older name."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Adds tokens that are matched whole; returns how many. Resize the model's embeddings afterwards.

        Args:
            new_tokens: texts, or `tokenizers.AddedToken`s, which say how they are matched.
            special_tokens: they are special: not normalised, and left out by `decode(skip_special_tokens=True)`.
        """
        given = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        new = []
        for i, token in enumerate(given):
            if not isinstance(token, str | AddedToken):
                raise InputError(f"new_tokens[{i}] is a {type(token).__name__}; expected text or an AddedToken")
            new.append(as_added(token, special_tokens))
        before = self.added_tokens_encoder
        self._add([(None, token) for token in new])
        return len(self.added_tokens_encoder.keys() - before.keys())

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True) -> int:
        """Names special tokens, and adds those that are new to the vocabulary; returns how many.

        Args:
            special_tokens_dict: texts by name ("cls_token", ...), and a list at "extra_special_tokens" or
                "additional_special_tokens".
            replace_extra_special_tokens: whether that list takes the place of the present one, or comes behind it.
        """
        names = {}
        extra: list[Any] = [] if replace_extra_special_tokens else list(self._extra)
        given = False
        for key, value in special_tokens_dict.items():
            if key in ("extra_special_tokens", "additional_special_tokens"):
                given = True
                extra += [str(getattr(token, "content", token)) for token in value]
            elif key in SPECIAL_TOKENS or key in ("bos_token", "eos_token"):
                names[key] = str(getattr(value, "content", value))
            else:
                known = ", ".join([*SPECIAL_TOKENS, "extra_special_tokens"])
                raise InputError(f"special_tokens_dict has the key {key!r}; it may hold {known}")
        in_order = sorted(special_tokens_dict.items(), key=lambda item: item[0] == "additional_special_tokens")  # as there
        tokens = [token for _, value in in_order for token in (value if isinstance(value, list | tuple) else [value])]
        added = self.add_tokens(tokens, special_tokens=True)
        self._names.update(names)
        if given:
            self._extra = list(dict.fromkeys(extra))
        return added

    # Texts and ids of the special tokens; None where there is none. What is set must be an entry of the vocabulary.
    bos_token, bos_token_id = _special("bos_token", "that opens a text")
    eos_token, eos_token_id = _special("eos_token", "that ends a text")
    unk_token, unk_token_id = _special("unk_token", "for unknown words")
    sep_token, sep_token_id = _special("sep_token", "that ends each text")
    pad_token, pad_token_id = _special("pad_token", "of padding")
    cls_token, cls_token_id = _special("cls_token", "that opens a sequence")
    mask_token, mask_token_id = _special("mask_token", "that hides a word")
    pad_token_type_id = 0

    def _name_special(self, name: str, token: Any) -> None:
        """Sets a special token, or takes it away with None."""
        if token is None:
            self._names.pop(name, None)
            return
        text = str(getattr(token, "content", token))
        if self._tokenizer.token_to_id(text) is None:
            raise InputError(f'{name} = {text!r} is not in the vocabulary: add_special_tokens({{"{name}": {text!r}}}) adds it')
        if text not in self.added_tokens_encoder:
            self._add([(None, as_added(text, True))])
        self._names[name] = text

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Texts of the named special tokens, in transformers' order."""
        order = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
        return {name: self._names[name] for name in order if name in self._names}

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of the special tokens, named ones first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens, named ones first."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    @property
    def extra_special_tokens(self) -> list[str]:
        """Texts of the special tokens without a name; setting them adds those that are new."""
        return list(self._extra)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken]) -> None:
        self.add_special_tokens({"extra_special_tokens": list(tokens)})

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """Ids of the special tokens without a name."""
        return [self.convert_tokens_to_ids(token) for token in self._extra]

    @extra_special_tokens_ids.setter
    def extra_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self.extra_special_tokens = self.convert_ids_to_tokens(list(ids))

    additional_special_tokens, additional_special_tokens_ids = extra_special_tokens, extra_special_tokens_ids

    def _add(self, tokens: list[tuple[int | None, AddedToken]]) -> None:
        """Adds tokens at the end of the vocabulary."""
        settings = FolderSettings({}, added=tokens)
        literal = self._tokenizer.encode_special_tokens
        self._tokenizer = with_added(self._tokenizer, settings)
        self._tokenizer.encode_special_tokens = literal
        self._literal, self._forms = None, {}


def _ids(values: Any, name: str) -> list[int]:
    """Ids from any sequence of whole numbers."""
    try:
        ids = [int(value) for value in values]
    except (TypeError, ValueError):
        raise InputError(f"{name} is no sequence of ids") from None
    for i in ids:
        if not 0 <= i < 1 << 32:
            raise InputError(f"{name} holds {i}, which is no id")
    return ids
