"""Shared by all tasks: choosing a device, loading a checkpoint with a task head, its tokenizer and its settings."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from fastbert import files, schema
from fastbert.errors import CheckpointError, InputError
from fastbert.model import checkpoint
from fastbert.model.composed import HEAD_FILE, HEAD_WEIGHTS, ComposedModel, is_composed
from fastbert.model.config import BertConfig
from fastbert.model.encoder import BertModel
from fastbert.model.families import bert_name, class_for, config_of
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.text import tokenizer_files
from fastbert.text.framing import OVERLONG
from fastbert.text.tokenizer import Tokenizer

logger = logging.getLogger("fastbert")


def default_device(device: torch.device | str | None) -> torch.device:
    """The requested device; None means a CUDA device if there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    # torch reports an unknown name, a missing GPU and a build without CUDA with three different types of exception.
    except Exception as error:
        raise InputError(f"device = {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None


def load_encoder(
    path_or_hub_id: str | Path, device: torch.device | str | None, dtype: Any = None, pooler: bool = True, **hub: Any
) -> BertModel:
    """The encoder of a checkpoint of any family, complete.

    Raises:
        CheckpointError: it lacks parameters.
    """
    folder = files.locate(path_or_hub_id, PATTERNS, **hub)
    options = {"device": default_device(device), "dtype": dtype, "add_pooling_layer": pooler}
    model, _ = class_for(BertModel, folder).from_pretrained(folder, output_loading_info=True, **options)
    check_complete(model, path_or_hub_id, new=("pooler.",))
    return model


def load_tokenizer(path_or_hub_id: str | Path, model: BertPreTrainedModel | ComposedModel, **hub: Any) -> Tokenizer:
    """Loads the tokenizer saved with a model; raises InputError if its ids exceed the model's word embeddings."""
    tokenizer = Tokenizer.from_pretrained(path_or_hub_id, **hub)
    check_vocabulary(tokenizer, model)
    return tokenizer


def check_complete(model: BertPreTrainedModel | ComposedModel, source: str | Path, new: tuple[str, ...] = ()) -> None:
    """Checks that every parameter of a loaded model came from its checkpoint; warns of NaN and infinity.

    Args:
        model: the model as loaded by `from_pretrained`.
        source: the path or hub id of the checkpoint, for messages.
        new: prefixes of parameter names that may be newly initialised, as they are to be trained.

    Raises:
        CheckpointError: the checkpoint lacks parameters, which would be random; the message names them.
    """
    loaded = model.encoder if isinstance(model, ComposedModel) else model
    report = loaded.load_report
    if report is None:
        return
    absent = [name for name in report.missing if not name.startswith(new)] if new else report.missing
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise CheckpointError(
            f"{source} is incomplete: it lacks {', '.join(absent[:3])}{more}; with random weights in their place all results "
            "would be meaningless"
        )
    if report.not_finite:
        warnings.warn(f"{source} holds NaN or infinity in {', '.join(report.not_finite[:3])}", stacklevel=3)


def check_vocabulary(tokenizer: Tokenizer, model: BertPreTrainedModel | ComposedModel) -> None:
    """Checks that a tokenizer belongs to a model; where both name another padding token, the tokenizer's counts from now on.

    Raises:
        InputError: ids beyond the model's word embeddings; or another padding token where positions are counted from it.
    """
    table = model.get_input_embeddings()
    highest, rows = len(tokenizer) - 1, getattr(table, "num_embeddings", model.config.vocab_size)
    if highest >= rows:
        raise InputError(
            f"the tokenizer has ids up to {highest}, the model has word embeddings for 0..{rows - 1}: they do not belong "
            "together (after adding tokens, call resize_token_embeddings(len(tokenizer)))"
        )
    padding, config = tokenizer.pad_token_id, model.config
    if padding is None or padding == config.pad_token_id:
        return
    told = f"config.json says pad_token_id = {config.pad_token_id}, the tokenizer's {tokenizer.pad_token} has the id {padding}"
    if config.padding_position is not None:
        raise InputError(f"{told}: they do not belong together, as {config.model_type} counts its positions from that id")
    logger.warning("%s: the tokenizer's is used", told)
    config.pad_token_id = padding
    if isinstance(table, torch.nn.Embedding):
        table.padding_idx = padding


WINDOW_SCORES = ("mean", "max")  # how the scores of a text's windows are combined
SETTINGS = "fastbert_task.json"  # saved with a fine-tuned model: the task, and the lengths it was trained with
SETTING_FIELDS = {
    "task": schema.text(),
    "max_length": schema.integer(5, 1 << 20),
    "max_question": schema.integer(1, 1 << 20),
    "doc_stride": schema.integer(1, 1 << 20),
    "overlap": schema.integer(0, 1 << 20),
    "null_threshold": schema.number(),
    "overlong": schema.choice(*OVERLONG),
    "on_long": schema.choice(*OVERLONG),  # name of `overlong` until 0.7
    "window_scores": schema.choice(*WINDOW_SCORES),
}
# Heads whose parameters have the same names, so that only the configuration says which task a checkpoint was trained for.
# In any family, under BERT's names.
CLASSIFIERS = ("BertForSequenceClassification", "BertForTokenClassification", "BertForMultipleChoice")
PATTERNS = [*checkpoint.PATTERNS, *tokenizer_files.PATTERNS, SETTINGS, HEAD_FILE, HEAD_WEIGHTS]  # files of a task's model


def task_settings(folder: Path) -> dict[str, Any]:
    """The settings that fine-tuning saved with a model, without those that are None; empty for other models."""
    path = folder / SETTINGS
    settings = schema.check(files.read_json_if_present(path), SETTING_FIELDS, path)
    known = {name: value for name, value in settings.items() if value is not None}
    older = known.pop("on_long", None)
    return known if older is None else {"overlong": older, **known}


def head_of(folder: Path) -> str | None:
    """The class in `CLASSIFIERS` that a checkpoint was trained as, by BERT's name; None for any other class."""
    if is_composed(folder):
        kinds = dict(zip(("sequence", "token", "choice"), CLASSIFIERS, strict=True))
        return kinds.get(str(files.read_json(folder / HEAD_FILE).get("kind")))
    name = bert_name((config_of(folder).architectures or [""])[0])
    return name if name in CLASSIFIERS else None


def longest_row(config: BertConfig, tokenizer: Tokenizer) -> int:
    """The most tokens in a row that a model and its tokenizer accept."""
    return min(config.longest_sequence, tokenizer.model_max_length or config.longest_sequence)


def checked_length(max_length: int | None, longest: int) -> int:
    """The maximum row length of a task; raises InputError if it is invalid, or above `longest`."""
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 5):
        raise InputError(f"max_length = {max_length!r} must be a whole number from 5: the special tokens need room beside text")
    if max_length is not None and max_length > longest:
        raise InputError(f"max_length = {max_length} is above the {longest} tokens that model and tokenizer take")
    return longest if max_length is None else max_length


def check_overlap(overlap: int) -> None:
    """Raises InputError unless `overlap` is a whole number from 0."""
    if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
        raise InputError(f"overlap = {overlap!r} must be a whole number from 0")


def check_top_k(top_k: int | None) -> None:
    """Raises InputError unless `top_k` is None, or a whole number from 1."""
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k = {top_k!r} must be a whole number of at least 1, or None for all")


class HeadTask:
    """A task that needs a trained head.

    Args:
        model: an instance of `model_class`.
        tokenizer: its tokenizer.
    """

    model_class: ClassVar[type[BertPreTrainedModel]]
    head_name: ClassVar[str]
    head_parts: ClassVar[tuple[str, ...]]  # prefixes of parameter names, behind the encoder's, that a checkpoint must have
    setting_names: ClassVar[tuple[str, ...]] = ()  # attributes that fine-tuning saves with the model
    patterns: ClassVar[list[str]] = PATTERNS  # files that it reads

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        check_vocabulary(tokenizer, model)
        self.model = model.eval()
        self.tokenizer = tokenizer

    @property
    def longest(self) -> int:
        """The most tokens in a row that the model and the tokenizer accept."""
        return longest_row(self.model.config, self.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        **hub: Any,
    ) -> Self:
        """Loads a checkpoint that has the head.

        Args:
            path_or_hub_id: a directory or an id on the hub.
            device: None means a CUDA device if there is one, else the CPU.
            dtype: dtype of the parameters; None keeps the checkpoint's.
            hub: `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: the checkpoint lacks the head, or a part of it.
        """
        target = default_device(device)
        folder = files.locate(path_or_hub_id, cls.patterns, **hub)
        trained, wanted = head_of(folder), cls.model_class.__name__
        if trained not in (None, wanted) and wanted in CLASSIFIERS:
            raise CheckpointError(f"{path_or_hub_id} was trained as {trained}; {cls.__name__} needs a {wanted}")
        if is_composed(folder):
            model: Any = ComposedModel.from_pretrained(folder, dtype, target)
        else:
            kind = class_for(cls.model_class, folder)
            model, _ = kind.from_pretrained(folder, dtype=dtype, device=target, output_loading_info=True)
            encoder = f"{kind.base_model_prefix}."
            absent = [name for name in model.load_report.missing if name.removeprefix(encoder).startswith(cls.head_parts)]
            if absent:
                raise CheckpointError(f"{path_or_hub_id} has no {cls.head_name} head: it lacks {', '.join(absent)}")
        check_complete(model, path_or_hub_id)
        settings = cls._read_settings(folder)
        try:
            return cls(model, load_tokenizer(folder, model), **settings)
        except InputError as error:
            if (folder / SETTINGS).is_file():
                raise CheckpointError(f"{folder / SETTINGS}: {error}") from None
            raise

    @classmethod
    def _read_settings(cls, folder: Path) -> dict[str, Any]:
        """What a folder says of the arguments of the task."""
        saved = task_settings(folder)
        return {name: saved[name] for name in cls.setting_names if name in saved}
