"""Transformers' own models, run by fastbert: `patch` and `unpatch`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastbert.choices import BACKENDS
from fastbert.errors import BackendError, InputError
from fastbert.integrations.families import FAMILIES, Family, encoders_in, obstacle
from fastbert.integrations.patched import PatchedForward
from fastbert.model.calling import evaluating

M = TypeVar("M")
_KEPT_BY_WRAPPERS = ("_old_forward", "_original_forward")  # where accelerate keeps the forward that it has wrapped

# Largest difference of hidden states that `patch` accepts, as a share of their largest value.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def patch(model: M, *, backend: str = "auto", validate: bool = True) -> M:
    """Makes fastbert run the encoders of a model of transformers: without padding, by its kernels, in training as well.

    Only the forward of each encoder is replaced. Parameters, state dict, hooks, adapters, gradient checkpointing,
    `save_pretrained` and heads stay as they are. Hidden states of padding become zeros.

    Some calls are run by transformers as before, with one warning for each reason: attention probabilities, a key-value cache,
    masks of more than two dimensions or that start with padding, padding before a question-answering head, whose loss depends
    on it in transformers, and hooks on a whole layer. So is whatever is being compiled or traced.

    Args:
        model: a model of transformers with a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA or DistilBERT, or what holds one: a
            SentenceTransformer, CrossEncoder, SparseEncoder, or a pipeline.
        backend: what runs the ops, see `fastbert.backend`; "auto" takes the one in force when the model is called.
        validate: run a small batch both ways, in evaluation mode, and raise on a difference. Hooks see that batch.

    Returns:
        The same object. A model that is patched already gets the backend.

    Raises:
        InputError: the model holds no encoder that is known, or something has replaced an encoder's forward before.
        BackendError: the results differ; the model is as it was before.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend = {backend!r} is not one of {', '.join(BACKENDS)}")
    found = list(encoders_in(_module_of(model)))
    if not found:
        names = ", ".join(FAMILIES)
        raise InputError(f"{type(model).__name__} holds no encoder that fastbert can run; it knows transformers' {names}")
    known = {id(forward.module): forward for forward in patched_forwards(_module_of(model))}
    made = []
    for name, encoder, family in found:
        reads = _what_is_read(_module_of(model), encoder)
        if id(encoder) in known:
            known[id(encoder)].backend, known[id(encoder)].reads = backend, reads
            continue
        if "forward" in encoder.__dict__:
            place = name or type(encoder).__name__
            raise InputError(f"{place} has a forward of its own, as accelerate and autocast put in: patch before them")
        forward = PatchedForward(encoder, family, backend, reads)
        encoder.forward = forward
        made.append((name, forward))
    try:
        for name, forward in made if validate else ():
            _validate(name, forward)
    except BaseException:
        for _, forward in made:
            _take_out(forward)
        raise
    return model


def unpatch(model: M) -> M:
    """Undoes `patch`: the model, which is returned, behaves bit by bit as before. Harmless on a model that is not patched."""
    for forward in list(patched_forwards(_module_of(model))):
        _take_out(forward)
    return model


def patched_forwards(model: nn.Module) -> Iterator[PatchedForward]:
    """The forwards that `patch` put into a model, also where another library has wrapped them."""
    for module in model.modules():
        found = (module.__dict__.get(name) for name in ("forward", *_KEPT_BY_WRAPPERS))
        chain = next((one for one in found if isinstance(one, PatchedForward)), None) or module.__dict__.get("forward")
        while chain is not None and not isinstance(chain, PatchedForward):
            chain = getattr(chain, "__wrapped__", None)
        if chain is not None:
            yield chain


def _what_is_read(model: nn.Module, encoder: nn.Module) -> str:
    """What the head of an encoder reads: see `PatchedForward`. A question-answering loss of transformers covers padding."""
    owners = [type(owner).__name__ for owner in model.modules() if any(part is encoder for part in owner.children())]
    expands = any(getattr(part, name, None) for part in model.modules() for name in ("query_expansion", "do_query_expansion"))
    if expands or any(name.endswith("ForQuestionAnswering") for name in owners):  # ColBERT scores masked tokens of queries
        return "all"
    return "first" if any(name.endswith("ForSequenceClassification") for name in owners) else "tokens"


def _take_out(forward: PatchedForward) -> None:
    module = forward.module
    if module.__dict__.get("forward") is forward:
        del module.forward
        return
    forward.active = False
    for name in _KEPT_BY_WRAPPERS:
        if module.__dict__.get(name) is forward:
            setattr(module, name, types.MethodType(type(module).forward, module))


def _module_of(model: Any) -> nn.Module:
    """The module of a model, or the model of a pipeline."""
    inner = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        raise InputError(f"{type(model).__name__} is neither a torch module nor holds one as `.model`")
    return inner


def _validate(name: str, forward: PatchedForward) -> None:
    """Raises if both forwards disagree on three short sequences."""
    encoder: Any = forward.module
    if any(parameter.is_meta for parameter in encoder.parameters()) or obstacle(encoder, forward.family.names):
        return
    inputs, asked = _small_batch(encoder, forward.family), {}
    if getattr(encoder.config, "is_decoder", False):
        asked["use_cache"] = False
    with evaluating(encoder), torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
        ours, theirs = forward.run(inputs)[0], forward.run_original(**inputs, **asked)[0]
    real = inputs["attention_mask"].bool()
    ours, theirs = ours[real].double(), theirs[real].double()
    same = torch.equal(ours.isfinite(), theirs.isfinite())
    ours, theirs = (states[theirs.isfinite()] for states in (ours, theirs))
    worst = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)) if len(theirs) else 0.0
    limit = _TOLERANCE.get(encoder.dtype, 5e-2)
    if not same or not worst <= limit:
        found = (
            f"differ by {worst:.2g} of their largest value, more than {limit:.2g}"
            if same
            else "are not finite at the same places"
        )
        raise BackendError(f"{name or type(encoder).__name__}: hidden states by fastbert and by transformers {found}")


def _small_batch(encoder: Any, family: Family) -> dict[str, Tensor]:
    """Three sequences of different lengths, ids from the whole vocabulary but the padding."""
    table = encoder.get_input_embeddings()
    size = encoder.config.vocab_size
    padding = encoder.config.pad_token_id
    width = min(9, encoder.config.max_position_embeddings - (2 + (padding or 0) if family.counts_from_padding else 0))
    ids = torch.arange(3 * width).view(3, width) * (size // 7 + 1) % size
    ids[ids == padding] = (padding + 1) % size if padding is not None else 0
    mask = (torch.arange(width) < torch.tensor([[width], [max(1, width // 2)], [1]])).long()
    if padding is not None:
        ids = ids.where(mask.bool(), padding)
    device = next(table.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
