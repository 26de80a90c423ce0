"""Checks and packs the inputs of a forward; behind it there is no padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastbert import forking, interop, ops, packing
from fastbert.errors import BackendError, InputError
from fastbert.model import masks
from fastbert.model.calling import is_plain
from fastbert.model.config import BertConfig
from fastbert.model.outputs import ModelOutput
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.packing import PackedBatch, deferred
from fastbert.packing.inputs import Limits, check_tensor
from fastbert.packing.positions import counted_from, padded_positions


def pack_inputs(
    model: Any,
    input_ids: Tensor | PackedBatch | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | str | None,
    inputs_embeds: Tensor | None,
) -> PackedBatch:
    """The inputs of a forward of a `BertModel` as a packed batch, checked against its tables."""
    if torch.jit.is_tracing():
        raise BackendError(
            "torch.jit.trace would keep the lengths and masks of its example: use torch.export, and torch.onnx.export with "
            "dynamo=True"
        )
    config, limits, device = model.config, model.limits, model.device
    padding = config.padding_position
    source = inputs_embeds if input_ids is None else input_ids
    if isinstance(source, PackedBatch):
        check_tensor(source.position_ids, "position_ids")
    if isinstance(source, Tensor | PackedBatch) and source.device != device and device.type != "meta":
        raise InputError(f"the inputs are on {source.device}, the model is on {device}")
    if not torch.compiler.is_compiling():
        interop.join(BertPreTrainedModel, ModelOutput)
        if device.type == "cpu":
            forking.before_forward()
        deferred.poll()
    if isinstance(input_ids, PackedBatch):
        beside = (attention_mask, token_type_ids, position_ids, inputs_embeds)
        if any(value is not None for value in beside):
            raise InputError("a PackedBatch carries its own mask, token_type_ids and position_ids: pass it alone")
        batch = input_ids if padding is None else counted_from(input_ids, padding)
        if not batch.is_checked(limits):
            batch = packing.check_packed(batch, limits, _waits_for_checks(model.embeddings, device))
    else:
        dense = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() > 2 else None
        if padding is not None and position_ids is None and isinstance(source, Tensor) and source.dim() > 1:
            position_ids = padded_positions(input_ids, inputs_embeds, padding)
        batch = packing.pack(
            input_ids,
            None if dense is not None else attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds=inputs_embeds,
            limits=limits,
            wait=_waits_for_checks(model.embeddings, device),
        )
        if padding is not None and batch.counted:  # by the word "from_mask"
            batch = packing.check_packed(counted_from(batch, padding), limits)
        batch.padded = True
        if not torch.compiler.is_compiling():
            batch.mark_checked(limits)
        if dense is not None:
            batch.attention_bias = masks.bias_of_mask(dense, batch, config.num_attention_heads)
    bias, heads = batch.attention_bias, config.num_attention_heads
    if bias is not None and bias.shape[1] not in (1, heads):
        raise InputError(f"attention_bias has shape {tuple(bias.shape)}; the model has {heads} heads")
    if batch.inputs_embeds is not None and batch.inputs_embeds.shape[-1] != config.hidden_size:
        width = batch.inputs_embeds.shape[-1]
        raise InputError(f"inputs_embeds has width {width}; the model's hidden_size is {config.hidden_size}")
    if batch.inputs_embeds is not None and batch.inputs_embeds.dtype != model.dtype:
        batch = replace(batch, inputs_embeds=batch.inputs_embeds.to(model.dtype))
    return batch


def positions_behind(length: int, input_ids: Any, inputs_embeds: Tensor | None, config: BertConfig) -> Tensor:
    """(S,) or (B, S) positions of tokens behind `length` others."""
    if config.padding_position is not None:
        return padded_positions(input_ids, inputs_embeds, config.padding_position, length)
    source: Any = inputs_embeds if input_ids is None else input_ids
    return torch.arange(length, length + source.shape[1], device=source.device)


def check_rows(rows: Tensor, batch: PackedBatch) -> None:
    """Checks that `last_layer_rows` are rows of the batch; on a GPU, to avoid a synchronisation, the heads ensure it."""
    check_tensor(rows, "last_layer_rows")
    if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"last_layer_rows has shape {tuple(rows.shape)} and type {rows.dtype}; expected (M,) integers")
    on_host = rows.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_host and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < batch.num_tokens:
        raise InputError(f"last_layer_rows go from {int(rows.min())} to {int(rows.max())}; there are {batch.num_tokens} rows")


def limits_of(embeddings: nn.Module, config: BertConfig) -> Limits:
    """Sizes of the three embedding tables; the configuration's where a table does not state its size."""
    tables = (embeddings.word_embeddings, embeddings.token_type_embeddings, embeddings.position_embeddings)
    sizes = (config.vocab_size, config.type_vocab_size, config.max_position_embeddings)
    return Limits(*(getattr(table, "num_embeddings", size) for table, size in zip(tables, sizes, strict=True)))


def _waits_for_checks(embeddings: Any, device: torch.device) -> bool:
    """Whether ids are checked before use: not if the embedding kernel runs, which clamps out-of-range ids."""
    if torch.compiler.is_compiling() or device.type == "cpu":
        return True
    tables = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
    plain = is_plain(*tables, embeddings.LayerNorm, embeddings.dropout)
    return not (plain and ops.clamps_ids(embeddings.word_embeddings.weight))
