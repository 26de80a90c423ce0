"""What all nine model classes share: initialisation, loading and saving; see tying.py and recomputing.py for the rest."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fastbert import files, interop, ops
from fastbert.errors import BackendError, ConfigError, InputError
from fastbert.files.pushing import Pushes, push_if_asked
from fastbert.model import adapters, checkpoint
from fastbert.model.config import BertConfig
from fastbert.model.loading import cast, known_fields, log_report, one_device, resolve_dtype
from fastbert.model.outputs import ModelOutput
from fastbert.model.recomputing import Recomputes
from fastbert.model.tying import TiedEmbeddings
from fastbert.ops import fp8

logger = logging.getLogger("fastbert")
_DRAWN = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)  # modules whose weights are drawn
# Keywords of transformers' from_pretrained that ask for what happens anyway, or that choose among ways to the same numbers.
_HARMLESS = (
    "use_safetensors",
    "low_cpu_mem_usage",
    "trust_remote_code",
    "weights_only",
    "use_fast",
    "attn_implementation",
    "proxies",
    "resume_download",
)


@interop.joins("transformers", "PreTrainedModel")
class BertPreTrainedModel(TiedEmbeddings, Recomputes, Pushes, nn.Module):
    """Base of the model classes. Construct from a `BertConfig` for random weights, or use `from_pretrained`.

    Where transformers is loaded its `PreTrainedModel` is a base of this class: see `interop`.
    """

    config_class: type[BertConfig] = BertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # transformers' word: `attn_implementation="sdpa"` is taken, and changes nothing
    accepts_loss_kwargs = False  # transformers' Trainer adds no num_items_in_batch
    scores_tokens = False  # whether labels and logits are one a token
    load_report: checkpoint.LoadReport | None = None
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None  # transformers' Trainer looks at it after loading

    def __init__(self, config: BertConfig) -> None:
        interop.join(BertPreTrainedModel, ModelOutput)
        nn.Module.__init__(self)  # not the constructor of transformers' base, which expects its own classes
        self._untied: tuple[str, ...] = ()  # second names whose tensors are no copies of the first
        self.register_state_dict_post_hook(_own_memory)
        if not isinstance(config, self.config_class) or config.model_type != self.config_class.model_type:
            to_dict = getattr(config, "to_dict", None)
            if to_dict is None:
                raise ConfigError(f"config is a {type(config).__name__}; expected a {self.config_class.__name__}")
            config = self.config_class.from_dict(to_dict())
        config.validate()
        self.config = config
        self.name_or_path = config.name_or_path
        self.warnings_issued: dict[str, bool] = {}  # where trainers note what they said once

    def post_init(self) -> None:
        """Draws the initial weights and ties what is tied; the last line of each class's constructor.

        What has weights already, such as the encoder inside a head, keeps them: from one seed, the weights of a BERT are those
        that transformers draws, and a further call draws only what was put in since.
        """
        for module in self.modules():
            if not getattr(module, "_is_hf_initialized", False):  # the name under which transformers notes the same
                self._init_weights(module)
        self.tie_weights()

    def init_weights(self, module: nn.Module | None = None) -> None:
        """Draws the initial value of every parameter in `module`, or in the model, anew: see `_init_parameter`."""
        drawn: set[int] = set()
        for child in (self if module is None else module).modules():
            own = {id(parameter) for parameter in child.parameters(recurse=False)}
            if not own & drawn:  # a tied decoder has the embeddings' values
                self._init_weights(child)
            drawn |= own
        if module is None:
            self.tie_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draws the initial value of the parameters that a module has itself."""
        for name, parameter in module.named_parameters(recurse=False):
            self._init_parameter(module, name, parameter)
        module._is_hf_initialized = True  # type: ignore[assignment]

    def _init_parameter(self, module: nn.Module, name: str, value: Tensor) -> None:
        """Normal(0, initializer_range) for weights, 0 for biases and the padding row, 1 for the weight of a norm.

        Modules that are neither linears, embeddings, convolutions nor norms keep what their constructor gave them, as in
        transformers: recurrent ones, for example.
        """
        norm = "Norm" in type(module).__name__
        if not (norm or isinstance(module, _DRAWN) or type(module).__module__.startswith("fastbert.")):
            return
        if name == "bias":
            value.zero_()
        elif norm and name == "weight":
            value.fill_(1.0)
        elif name == "weight":
            value.normal_(0.0, self.config.initializer_range)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                value[module.padding_idx].zero_()

    # -- loading and saving ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *,
        config: BertConfig | str | Path | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> Any:
        """Loads a checkpoint from a directory or a hub id, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a directory with config.json and weights, or an id on the hub; None with `config`
                and `state_dict`. An adapter that stands there, or alone with the name of its base, is put in by peft.
            config: in place of the checkpoint's own; also a directory or an id that has one.
            dtype: of the parameters; None or "auto" keeps the checkpoint's.
            device: where to put the model; None means the CPU.
            ignore_mismatched_sizes: start tensors of another shape anew instead of refusing them.
            output_loading_info: return (model, names), with what was missing, unexpected or of another shape by transformers'
                keys; otherwise what is missing or foreign is logged as a warning. Either way the model has a `load_report`.
            state_dict: tensors in place of the checkpoint's own.
            options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, `subfolder` for the hub;
                `add_pooling_layer` for `BertModel`; `device_map` with one device; what transformers takes and makes no
                difference here, such as `low_cpu_mem_usage`; any other keyword overrides a field of the configuration
                (`num_labels=3`).

        Raises:
            CheckpointNotFoundError: nothing there. CheckpointError: damaged files. SizeMismatchError: shapes that differ, by
            name. BackendError: inside `torch.device("meta")`, where the weights would have no values.
        """
        if torch.get_default_device().type == "meta":
            raise BackendError('from_pretrained inside torch.device("meta") would give weights without values')
        hub, overrides = files.split_hub_options(options)
        overrides = {name: value for name, value in overrides.items() if name not in _HARMLESS}
        dtype = overrides.pop("torch_dtype", dtype)  # its older name
        if overrides.get("device_map") is not None:
            device = one_device(overrides["device_map"])
        overrides.pop("device_map", None)
        arguments = {name: overrides.pop(name) for name in ("add_pooling_layer",) if name in overrides}
        chosen = tuple(overrides)
        source = pretrained_model_name_or_path
        if source is None and (config is None or state_dict is None):
            raise InputError("pretrained_model_name_or_path = None needs both config and state_dict")
        found = None if source is None else files.locate(source, [*checkpoint.PATTERNS, *adapters.PATTERNS], **hub)
        folder = Path() if found is None else adapters.base_folder(found, checkpoint.PATTERNS, hub)
        if config is None:
            values = {**files.read_json(folder / "config.json"), "_name_or_path": str(source)}
            config = cls.config_class.from_dict(values, **known_fields(overrides))
        elif overrides:
            raise ConfigError(f"config was given, so these keywords have no place: {', '.join(overrides)}")
        elif isinstance(config, str | Path):
            chosen, config = ("num_hidden_layers",), cls.config_class.from_pretrained(config, **hub)
        else:
            chosen, config = ("num_hidden_layers",), copy.deepcopy(config)
        state = checkpoint.read_state_dict(folder) if state_dict is None else dict(state_dict)
        checkpoint.check_sizes(state, config, folder, chosen)
        ours = cls.__module__.startswith("fastbert.")  # a class of the caller's own may compute values in its constructor
        with torch.device("meta") if ours else nullcontext():
            model = cls(config, **arguments)
        own = model.state_dict()
        expected = {name: tensor.shape for name, tensor in own.items()}
        integers = {name for name, tensor in own.items() if not tensor.is_floating_point()}
        matched, report = checkpoint.match_names(state, expected, ignore_mismatched_sizes, integers, cls.base_model_prefix)
        new = [*report.missing, *(name for name, *_ in report.mismatched)]
        checkpoint.check_new({name: expected[name] for name in new}, state)
        report.not_finite = checkpoint.not_finite(matched)
        target = resolve_dtype(dtype, config, matched)
        matched = {name: cast(tensor, target) for name, tensor in matched.items()}
        model.load_state_dict(matched, strict=False, assign=True)
        model._start_missing(target)
        if not ours:
            model.to(target)
        model._untie(report.untied)
        model.tie_weights()
        config.dtype = target
        model.eval()
        if device is not None:
            model.to(device)
        model.load_report = report
        if found is not None:
            adapters.load(model, found)
        if output_loading_info:
            return model, report.by_transformers_keys()
        log_report(report, source, cls.__name__)
        return model

    @classmethod
    def _from_config(cls, config: BertConfig, dtype: torch.dtype | None = None, **ignored: Any) -> Self:
        """A model with random weights: how transformers' libraries make one."""
        return cls(config).to(resolve_dtype(ignored.get("torch_dtype", dtype), config, {}))

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str | None = None,
        **ignored: Any,
    ) -> None:
        """Writes config.json and model.safetensors, readable by transformers as well. They appear whole or not at all.

        A model with adapters (`add_adapter`) writes the active one's weights and adapter_config.json in their place.

        Args:
            save_directory: made if absent.
            is_main_process: False writes nothing: another process does.
            state_dict: in place of the model's own.
            push_to_hub: then also call `push_to_hub`.
            max_shard_size: bytes of a file of weights, or "500MB"; more is split into shards with an index. None: one file.
            ignored: keywords of `push_to_hub`, with `repo_id` by default the folder's name; others of transformers' method have
                no meaning here.

        Raises:
            HubError: see `push_to_hub`. CheckpointError: the folder cannot be written, or a tensor has no values.
        """
        if not is_main_process:
            return
        if adapters.are_on(self):
            adapters.save(self, save_directory, state_dict)
        else:
            self.config.architectures = [type(self).__name__]
            self.config.dtype = self.dtype
            state = self.state_dict() if state_dict is None else state_dict
            checkpoint.save(state, self.config, save_directory, max_shard_size)
        push_if_asked(self, save_directory, push_to_hub, ignored)

    @torch.no_grad()
    def _start_missing(self, dtype: torch.dtype) -> None:
        """Gives initial values to the parameters that loading left on the meta device."""
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.is_meta:
                    value = torch.empty(parameter.shape, dtype=dtype)
                    self._init_parameter(module, name, value)
                    setattr(module, name, nn.Parameter(value, requires_grad=parameter.requires_grad))

    # -- what users ask of a model --------------------------------------------------------------------------------------

    @property
    def base_model(self) -> Any:
        """The encoder: the model itself, or what a head has under `base_model_prefix`."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(p.dtype for p in self._tensors() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self._tensors()).device

    def _tensors(self) -> Iterator[Tensor]:
        """The parameters; in a replica, as `DataParallel` makes them, they are attributes."""
        yield from self.parameters()
        for module in self.modules():
            yield from (value for value in vars(module).values() if isinstance(value, Tensor))

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, shared ones counted once, with or without frozen ones and the three embedding tables."""
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        counted = (p for p in self.parameters() if id(p) not in tables)
        return sum(p.numel() for p in counted if p.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, shared ones counted once, and of the buffers where they are asked for."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)

    @classmethod
    def can_generate(cls) -> bool:
        """False: there is no text generation."""
        return False

    def train(self, mode: bool = True) -> Self:
        """Training mode, which drops prepacked weights: what a compiled or captured step changes leaves no trace."""
        interop.join(BertPreTrainedModel, ModelOutput)
        if mode:
            ops.forget_copies(*self.parameters())
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """What `.to` and its like go through; copies of weights that were moved take no memory any longer."""
        super()._apply(fn, recurse)
        fp8.forget_moved()
        return self


def _own_memory(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Gives second names of tied parameters memory of their own: no writer of safetensors takes shared memory."""
    for second, first in checkpoint.TIED.items():
        a, b = state.get(prefix + second), state.get(prefix + first)
        if a is not None and b is not None and not isinstance(a, nn.Parameter) and _share_memory(a, b):
            state[prefix + second] = a.clone()


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
