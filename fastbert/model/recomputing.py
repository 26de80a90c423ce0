"""Activation checkpointing: the switches of a model, and the settings passed to its encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastbert.errors import InputError


@dataclass
class Recomputation:
    """Which layers are computed again in backward: one of `every`, their inputs in the host's memory with `offload`."""

    every: int = 1
    offload: bool = False


class Recomputes:
    """The switches, with transformers' names; a base of `BertPreTrainedModel`."""

    base_model: Any

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Keeps only each layer's input in training and computes the rest again in backward, with equal gradients.

        Args:
            activation_checkpointing_kwargs: taken for transformers' sake; the non-reentrant form runs, whatever they say.
            every_n_layers: of how many layers one is computed again.
            offload: keep these inputs in the host's memory.
        """
        if not isinstance(every_n_layers, int) or isinstance(every_n_layers, bool) or every_n_layers < 1:
            raise InputError(f"every_n_layers = {every_n_layers!r} must be a positive integer")
        encoder = self.base_model
        encoder.gradient_checkpointing = True
        encoder.checkpointing_interval, encoder.checkpointing_offload = every_n_layers, bool(offload)

    def activation_checkpointing_disable(self) -> None:
        """Keeps all activations again."""
        self.base_model.gradient_checkpointing = False

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether layers are computed again in backward."""
        return self.base_model.gradient_checkpointing

    # The same by transformers' older names.

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """As `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """As `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """As `is_activation_checkpointing`."""
        return self.is_activation_checkpointing
