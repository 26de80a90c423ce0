"""Which classes run a checkpoint: its `model_type` is "bert", "roberta" or "xlm-roberta"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastbert import files, schema
from fastbert.errors import CheckpointError, InputError
from fastbert.model import encoder, heads, lm_heads, roberta
from fastbert.model.config import BertConfig
from fastbert.model.config_fields import FAMILIES
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.model.roberta import RobertaConfig, XLMRobertaConfig

_CONFIGS: dict[str, type[BertConfig]] = {kind.model_type: kind for kind in (BertConfig, RobertaConfig, XLMRobertaConfig)}


def config_of(folder: Path, **overrides: Any) -> BertConfig:
    """The configuration in a folder, BERT's where it names no type; keywords override its fields.

    Raises:
        CheckpointError: a type that fastbert does not run, by its name.
    """
    path = folder / "config.json"
    values = files.read_json(path)
    name = values.get("model_type", "bert")
    if not isinstance(name, str) or name not in _CONFIGS:
        raise CheckpointError(f"{path} has model_type = {schema.shown(name)}: fastbert runs {', '.join(_CONFIGS)}")
    return _CONFIGS[name].from_dict({**values, "_name_or_path": str(folder)}, **overrides)


def class_for(kind: type[BertPreTrainedModel], folder: Path) -> type[BertPreTrainedModel]:
    """The class of the folder's family that does what a class of BERT, `kind`, does.

    Raises:
        InputError: the family has no such class, as RoBERTa has none for pairs of sentences that follow each other.
    """
    prefix = FAMILIES[config_of(folder).model_type]
    if prefix == "Bert":
        return kind
    name = prefix + kind.__name__.removeprefix("Bert")
    found = getattr(roberta, name, None)
    if found is None:
        raise InputError(f"{folder} is no BERT, and there is no {name}: only BERT was trained for {kind.__name__}")
    return found


def class_named(name: str | None, folder: Path) -> type[BertPreTrainedModel]:
    """The model class of a name; without one, what the folder's config.json names, else its encoder.

    Raises:
        InputError: a name that no class of the folder's family has.
    """
    config = config_of(folder)
    prefix = FAMILIES[config.model_type]
    defined = [value for module in (encoder, heads, lm_heads, roberta) for value in vars(module).values()]
    classes = [kind for kind in defined if isinstance(kind, type) and issubclass(kind, BertPreTrainedModel)]
    known = {
        kind.__name__: kind for kind in classes if kind.__name__.startswith((f"{prefix}For", f"{prefix}LM", f"{prefix}Model"))
    }
    if name is None:
        return known.get((config.architectures or [""])[0], known[f"{prefix}Model"])
    found = known.get(name) or known.get(prefix + name.removeprefix("Bert"))  # BERT's name of the same head will do
    if found is None:
        raise InputError(f"head = {name!r} is not one of {', '.join(sorted(known))}, the classes for {folder}")
    return found


def bert_name(name: str) -> str:
    """The name of BERT's class for that of any family: "RobertaForTokenClassification" -> "BertForTokenClassification"."""
    for prefix in FAMILIES.values():
        if name.startswith(f"{prefix}For") or name == f"{prefix}Model":
            same = "Bert" + name.removeprefix(prefix)
            return "BertLMHeadModel" if same == "BertForCausalLM" else same
    return name
