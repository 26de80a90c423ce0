"""What each field of a configuration must be, and what libraries read of one beside its fields."""

from __future__ import annotations

from typing import Any

import torch

from fastbert import schema

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# What each field must be. Sizes end far above every BERT, so that a damaged file is refused before anything is built from it.
_PROBABILITY = schema.Field(lambda value: schema.is_number(value, 0) and value < 1, "a probability in [0, 1)", null=False)
_POSITIVE = schema.Field(lambda value: schema.is_integer(value, 1), "a positive integer", null=False)
FIELDS: dict[str, schema.Field] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"), _POSITIVE),
    **dict.fromkeys(("num_attention_heads", "type_vocab_size"), _POSITIVE),
    "num_hidden_layers": schema.Field(
        lambda value: schema.is_integer(value, 0, 10_000), "an integer of 0 or more, at most 10000", null=False
    ),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), _PROBABILITY),
    "classifier_dropout": schema.Field(_PROBABILITY.accepts, "a probability in [0, 1)"),
    "initializer_range": schema.Field(lambda value: schema.is_number(value, 0), "at least 0", null=False),
    "layer_norm_eps": schema.Field(lambda value: schema.is_number(value) and value > 0, "above 0", null=False),
    "hidden_act": schema.choice(*ACTIVATIONS, null=False),
    "problem_type": schema.choice(*PROBLEM_TYPES),
    **dict.fromkeys(
        ("is_decoder", "tie_word_embeddings", "output_hidden_states", "output_attentions", "return_dict"),
        schema.flag(null=False),
    ),
    "architectures": schema.list_of(schema.text(null=False)),
    "dtype": schema.Field(lambda value: isinstance(value, torch.dtype), "a torch.dtype or its name"),
}
NEVER_NULL = {name for name, field_ in FIELDS.items() if not field_.null}  # null in a file means the default
MAX_LABELS = 1 << 20
FAMILIES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}  # `model_type`, and how its classes begin

# Fields that change what the model computes in ways that BERT-the-encoder does not have, with the only values accepted.
REFUSED_UNLESS = {
    "position_embedding_type": ("absolute", "relative positions are not part of BERT"),
    "add_cross_attention": (False, "cross-attention belongs to encoder-decoder models"),
    "is_encoder_decoder": (False, "BERT has no separate decoder"),
    "pruned_heads": ({}, "head pruning is not supported"),
}

# What libraries read of every configuration and a BERT does without; saved only where somebody sets it.
ABSENT: dict[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "gradient_checkpointing": False,
    "use_cache": True,
    "chunk_size_feed_forward": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "transformers_version": None,
}
