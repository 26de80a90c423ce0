"""Word embeddings and the MLM decoder that is tied to them: access, tying, resizing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastbert import schema
from fastbert.errors import InputError
from fastbert.model.config import BertConfig


class TiedEmbeddings:
    """Access, tying and resizing of the word embeddings; a base of `BertPreTrainedModel`."""

    config: BertConfig
    base_model: Any
    cls: Any
    has_mlm_head: ClassVar[bool] = False
    _untied: tuple[str, ...]
    _require_grads_hook: Any = None

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.base_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings; call `tie_weights` after it if a head is tied to them."""
        self.base_model.embeddings.word_embeddings = value

    @property
    def mlm_head(self) -> Any:
        """What scores the vocabulary, of a model with such a head."""
        return self.cls.predictions

    def get_output_embeddings(self) -> nn.Linear | None:
        """The decoder of the MLM head, or None."""
        return self.mlm_head.decoder if self.has_mlm_head else None

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replaces the decoder of the MLM head, and the head's bias with the decoder's."""
        self.mlm_head.decoder = value
        self.mlm_head.bias = value.bias

    def enable_input_require_grads(self) -> None:
        """Makes the word embeddings' output require a gradient, as adapters with activation checkpointing need it."""
        self.disable_input_require_grads()
        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(_require_grad)

    def disable_input_require_grads(self) -> None:
        """Takes `enable_input_require_grads` back."""
        if self._require_grads_hook is not None:
            self._require_grads_hook.remove()
        self._require_grads_hook = None

    def tie_weights(self, **ignored: Any) -> None:
        """Makes the MLM decoder share its weight with the word embeddings and its bias with the head's.

        After other embeddings were put in, the decoder gets as many entries as they have: new biases are 0. What a checkpoint
        held with values of its own stays untied.

        Raises:
            InputError: the word embeddings have no weight (V, N) that a decoder could use.
        """
        decoder = self.get_output_embeddings()
        if decoder is None or not self.config.tie_word_embeddings:
            return
        head = self.mlm_head
        weight = getattr(self.get_input_embeddings(), "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or weight.shape[1] != decoder.in_features:
            got = type(self.get_input_embeddings()).__name__
            raise InputError(
                f"the word embeddings are a {got} without a weight of width {decoder.in_features}, to which the MLM decoder is "
                "tied: set config.tie_word_embeddings = False, or give the decoder a weight with set_output_embeddings"
            )
        decoder.weight = weight
        if head.bias.shape[0] != weight.shape[0]:
            zero = torch.zeros((), device=head.bias.device)
            head.bias = _resized(head.bias, weight.shape[0], zero)
            if self._is_untied("bias"):
                decoder.bias = _resized(decoder.bias, weight.shape[0], zero)
        decoder.out_features = self.config.vocab_size = weight.shape[0]
        if not self._is_untied("bias"):
            decoder.bias = head.bias

    def _untie(self, names: Sequence[str]) -> None:
        """Leaves tied names with different values untied, and says so in the configuration if it is the decoder."""
        self._untied = tuple(names)
        if self._is_untied("weight"):
            self.config.tie_word_embeddings = False

    def _is_untied(self, part: str) -> bool:
        """Whether the decoder's "weight" or "bias" has values of its own."""
        return any(name.endswith(f"decoder.{part}") for name in self._untied)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return self.config.vocab_size

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Grows or shrinks the vocabulary, keeping what is there, with the MLM decoder and its bias.

        Args:
            new_num_tokens: the new size; None keeps the present one.
            pad_to_multiple_of: round the size up to a multiple of this.
            mean_resizing: whether new rows start as the mean of the old ones, or else at random. New biases start at 0.
        """
        words, decoder = self.get_input_embeddings(), self.get_output_embeddings()
        num_tokens = _count(words.num_embeddings if new_num_tokens is None else new_num_tokens, "new_num_tokens")
        pad_to_multiple_of = None if pad_to_multiple_of is None else _count(pad_to_multiple_of, "pad_to_multiple_of")
        if pad_to_multiple_of:
            num_tokens = -(-num_tokens // pad_to_multiple_of) * pad_to_multiple_of
        old_size = words.num_embeddings
        if words.padding_idx is not None and words.padding_idx >= num_tokens:
            raise InputError(f"new_num_tokens = {num_tokens} would cut off the padding token {words.padding_idx}")
        mean = words.weight.detach().mean(0, dtype=torch.float32)
        words.weight = _resized(words.weight, num_tokens, mean)
        words.num_embeddings = num_tokens
        if not mean_resizing and num_tokens > old_size:
            with torch.no_grad():
                words.weight[old_size:].normal_(0.0, self.config.initializer_range)
        if decoder is not None:
            head = self.mlm_head
            zero = torch.zeros((), device=mean.device)
            if not self.config.tie_word_embeddings:
                decoder.weight = _resized(decoder.weight, num_tokens, decoder.weight.detach().mean(0, dtype=torch.float32))
                decoder.bias = _resized(decoder.bias, num_tokens, zero)
            elif self._is_untied("bias"):
                decoder.bias = _resized(decoder.bias, num_tokens, zero)
            head.bias = _resized(head.bias, num_tokens, zero)
            decoder.out_features = num_tokens
        self.config.vocab_size = num_tokens
        self.tie_weights()
        return words


def _count(value: Any, name: str) -> int:
    """A positive whole number of any integer type."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(f"{name} = {schema.shown(value)} must be a positive integer")
    return count


def _resized(old: Tensor, count: int, start: Tensor) -> nn.Parameter:
    new = start.to(old.dtype).expand(count, *old.shape[1:]).clone()
    keep = min(count, old.shape[0])
    with torch.no_grad():
        new[:keep] = old[:keep]
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)
