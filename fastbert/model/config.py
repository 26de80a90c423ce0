"""BertConfig: the fields of a BERT, with transformers' names and defaults. Performance never appears here."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from fastbert import files, schema
from fastbert.choices import SIZES
from fastbert.errors import ConfigError
from fastbert.files.pushing import Pushes, push_if_asked
from fastbert.model.config_fields import ABSENT, FAMILIES, FIELDS, MAX_LABELS, NEVER_NULL, REFUSED_UNLESS


@dataclass
class BertConfig(Pushes):
    """The shape and behaviour of a BERT model, field by field as in `transformers.BertConfig`.

    Fields that fastbert does not know are kept in `extra`, also those that are set later, and written back by
    `save_pretrained`. What begins with an underscore stays on the object.

    Raises:
        ConfigError: a value of the wrong kind or out of range; the message names the field, the value and the limit. A value
            that is set later is checked when a model is built.
        AttributeError: a field that does not exist.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    is_decoder: bool = False
    tie_word_embeddings: bool = True
    problem_type: str | None = None
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    label2id: dict[str, int] = field(default_factory=dict)
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None
    dtype: torch.dtype | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    model_type: ClassVar[str] = "bert"
    attribute_map: ClassVar[dict[str, str]] = {}  # transformers' words for a configuration of parts, which this one is not
    sub_configs: ClassVar[dict[str, Any]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = []

    _name_or_path = ""
    _attn_implementation = None  # fastbert has one attention: what libraries set here changes nothing

    def __init__(self, num_labels: int | None = None, **values: Any) -> None:
        values = _with_dtype(values)
        self._name_or_path = str(values.pop("name_or_path", values.pop("_name_or_path", "")))
        known = {f.name: f for f in fields(self)}
        for name, spec in known.items():
            default = spec.default_factory() if callable(spec.default_factory) else spec.default
            setattr(self, name, values.pop(name, default))
        if not isinstance(self.extra, dict):
            raise ConfigError(f"extra = {schema.shown(self.extra)} must be an object")
        self.extra = {**self.extra, **values}
        self._take_labels(num_labels)
        self._check_fields()

    @classmethod
    def of_size(cls, size: str, **fields: Any) -> BertConfig:
        """One of the released sizes: "tiny", "mini", "small", "medium", "base" or "large"."""
        if size not in SIZES:
            raise ConfigError(f"size = {size!r} is not one of {', '.join(SIZES)}")
        layers, width = SIZES[size]
        sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64}
        return cls(**{**sizes, "intermediate_size": 4 * width, **fields})

    @property
    def num_labels(self) -> int:
        """How many labels the task heads have."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != len(self.id2label):
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {name: i for i, name in self.id2label.items()}

    def __getattr__(self, name: str) -> Any:
        """Unknown fields, from `extra`."""
        if not name.startswith("_"):
            extra = self.__dict__.get("extra", {})
            if name in extra:
                return extra[name]
            if name in ABSENT:
                return ABSENT[name]
        near = difflib.get_close_matches(name, [f.name for f in fields(self)], n=1)
        raise AttributeError(f"BertConfig has no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field; unknown ones go into `extra`, so that they are saved."""
        if name.startswith("_") or name in _NAMES or hasattr(type(self), name):
            object.__setattr__(self, name, schema.as_dtype(value) if name == "dtype" else value)
        else:
            self.__dict__.setdefault("extra", {})[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("extra", {}):
            del self.extra[name]
        else:
            object.__delattr__(self, name)

    def __copy__(self) -> BertConfig:
        made = type(self).__new__(type(self))
        made.__dict__.update({**self.__dict__, "extra": dict(self.extra)})
        return made

    def __iter__(self) -> Iterator[str]:
        """Names of the fields, unknown ones included."""
        return iter([*(f.name for f in fields(self) if f.name != "extra"), *self.extra])

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    @property
    def name_or_path(self) -> str:
        """Where the configuration was loaded from; "" for one that was made."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | Path) -> None:
        self._name_or_path = str(value)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """As `dtype`, by its older name."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: torch.dtype | str | None) -> None:
        self.dtype = value  # type: ignore[assignment]

    @property
    def use_return_dict(self) -> bool:
        """As `return_dict`, by its older name."""
        return self.return_dict

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> BertConfig:
        """The configuration itself: what transformers asks of models that may be made of parts."""
        return self

    @property
    def padding_position(self) -> int | None:
        """The position of padding where positions are counted from it, as RoBERTa does; None where they start at 0."""
        return None

    @property
    def longest_sequence(self) -> int:
        """The most tokens that the position table has room for."""
        return (
            self.max_position_embeddings
            if self.padding_position is None
            else self.max_position_embeddings - self.padding_position - 1
        )

    @property
    def head_dropout(self) -> float:
        """The probability of the dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def head_dim(self) -> int:
        """Width of one attention head, D = hidden_size / num_attention_heads."""
        return self.hidden_size // self.num_attention_heads

    @property
    def label_names(self) -> list[str]:
        """The name of each score, in order; LABEL_i where `id2label` has none for it."""
        return [self.id2label.get(i, f"LABEL_{i}") for i in range(self.num_labels)]

    def _take_labels(self, num_labels: int | None) -> None:
        if self.id2label is None:
            self.id2label = {0: "LABEL_0", 1: "LABEL_1"}
        try:
            self.id2label = {int(i): str(name) for i, name in self.id2label.items()}
            label2id = {str(name): int(i) for name, i in (self.label2id or {}).items()}
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"id2label = {schema.shown(self.id2label)} and label2id = {schema.shown(self.label2id)} must map numbers to "
                "names and names to numbers"
            ) from None
        if min(self.id2label, default=0) < 0 or not self.id2label:
            raise ConfigError(f"id2label = {schema.shown(self.id2label)} must name one label or more, by numbers from 0")
        if num_labels is not None:
            if not schema.is_integer(num_labels, 1, MAX_LABELS):
                raise ConfigError(f"num_labels = {schema.shown(num_labels)} must be a positive integer, at most {MAX_LABELS}")
            self.num_labels = num_labels
        fits = set(label2id.values()) == set(self.id2label)
        self.label2id = label2id if fits else {name: i for i, name in self.id2label.items()}

    def validate(self) -> None:
        """Raises ConfigError where no model can be built from the fields as they stand."""
        self._check_fields()
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size = {self.hidden_size} is not a multiple of num_attention_heads = {self.num_attention_heads}"
            )

    def _check_fields(self) -> None:
        for name, wanted in FIELDS.items():
            if not wanted(getattr(self, name)):
                raise ConfigError(f"{name} = {schema.shown(getattr(self, name))} must be {wanted.expected}")
        if self.pad_token_id is not None and not schema.is_integer(self.pad_token_id, 0, self.vocab_size - 1):
            pad = schema.shown(self.pad_token_id)
            raise ConfigError(f"pad_token_id = {pad} must be inside the vocabulary (0..{self.vocab_size - 1})")
        for name, (value, reason) in REFUSED_UNLESS.items():
            if self.extra.get(name) and self.extra[name] != value:
                raise ConfigError(f"{name} = {schema.shown(self.extra[name])} is not supported: {reason}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> BertConfig:
        """A configuration from the content of a config.json; `overrides` win over it.

        With `return_unused_kwargs` the result is (configuration, {}): every keyword is a field.
        """
        if overrides.pop("return_unused_kwargs", False):
            return cls.from_dict(values, **overrides), {}  # type: ignore[return-value]
        given = {name: v for name, v in _with_dtype(values).items() if v is not None or name not in NEVER_NULL}
        merged = {**given, **_with_dtype(overrides)}
        model_type = merged.pop("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ConfigError(f"model_type = {schema.shown(model_type)} is not {cls.model_type!r}: {_runs(model_type)}")
        if (
            "num_labels" in overrides
            and "id2label" not in overrides
            and (not isinstance(merged.get("id2label"), dict) or len(merged["id2label"]) != merged["num_labels"])
        ):
            merged.pop("id2label", None)
            merged.pop("label2id", None)
        if "self" in merged:
            raise ConfigError("a configuration has no field 'self'")
        return cls(**merged)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> BertConfig:
        """Reads config.json from a directory or a hub id.

        Args:
            pretrained_model_name_or_path: a directory, or an id such as ``google-bert/bert-base-uncased``.
            options: those of `files.HUB_OPTIONS`, as of `BertModel.from_pretrained`; any other keyword overrides a field.
        """
        hub, overrides = files.split_hub_options(options)
        folder = files.locate(pretrained_model_name_or_path, ["config.json"], **hub)
        values = {**files.read_json(folder / "config.json"), "_name_or_path": str(pretrained_model_name_or_path)}
        return cls.from_dict(values, **overrides)

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> BertConfig:
        """A configuration from a JSON file."""
        return cls.from_dict(files.read_json(Path(json_file)))

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Sets fields by name."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: every field, unknown ones included."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        values = {name: value for name, value in values.items() if value is not None or name == "pad_token_id"}
        values["id2label"] = {str(i): name for i, name in self.id2label.items()}
        if self.dtype is not None:
            values["dtype"] = schema.dtype_name(self.dtype)
        return copy.deepcopy({**self.extra, "model_type": self.model_type, **values})

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, and the type of the model."""
        usual = type(self)().to_dict()
        differing = {name: value for name, value in self.to_dict().items() if name not in usual or usual[name] != value}
        return {**differing, "model_type": self.model_type}

    def save_pretrained(self, save_directory: str | Path, **ignored: Any) -> None:
        """Writes config.json to `save_directory`, which is made if absent; with `push_to_hub=True` then pushes it."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(save_directory) / "config.json")
        push_if_asked(self, save_directory, bool(ignored.get("push_to_hub")), ignored)

    def to_json_string(self, use_diff: bool = False) -> str:
        """config.json as text; with `use_diff` only what `to_diff_dict` has."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = False) -> None:
        """Writes what `to_json_string` gives."""
        files.write_text(Path(json_file_path), self.to_json_string(use_diff))


_NAMES = frozenset(f.name for f in fields(BertConfig))


def _runs(model_type: Any) -> str:
    """Which classes run a type of model."""
    prefix = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    return f"the classes that begin with {prefix} run it" if prefix else f"fastbert runs {', '.join(FAMILIES)}"


def _with_dtype(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `torch_dtype`, the older name, as `dtype`, and a type's name as the type."""
    named = {("dtype" if name == "torch_dtype" else name): value for name, value in values.items()}
    if "dtype" in named:
        named["dtype"] = schema.as_dtype(named["dtype"])
    return named
