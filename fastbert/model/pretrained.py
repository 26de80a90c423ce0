"""What all nine model classes share: initialisation, tied weights, resizing, activation checkpointing, loading and saving."""

from __future__ import annotations

import copy
import logging
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fastbert import files, interop, schema
from fastbert.errors import BackendError, ConfigError, InputError, refuse_push
from fastbert.model import adapters, checkpoint
from fastbert.model.config import BertConfig
from fastbert.model.outputs import ModelOutput
from fastbert.ops import onednn

logger = logging.getLogger("fastbert")
_DRAWN = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)  # modules whose weights are drawn
_PIECE = 1 << 14  # values that torch copies on one thread
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
_OTHER_PARTS = re.compile(r"(^|\.)(pooler|cls|classifier|qa_outputs)\.")  # leaving out another head's parts is no news


@interop.joins("transformers", "PreTrainedModel")
class BertPreTrainedModel(nn.Module):
    """Base of the model classes. Construct from a `BertConfig` for random weights, or use `from_pretrained`.

    Where transformers is loaded its `PreTrainedModel` is a base of this class: see `interop`.
    """

    config_class = BertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # transformers' word: `attn_implementation="sdpa"` is taken, and changes nothing
    accepts_loss_kwargs = False  # transformers' Trainer adds no num_items_in_batch
    has_mlm_head: ClassVar[bool] = False

    load_report: checkpoint.LoadReport | None = None
    _require_grads_hook: Any = None
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None  # transformers' Trainer looks at it after loading

    def __init__(self, config: BertConfig) -> None:
        interop.join(BertPreTrainedModel, ModelOutput)
        nn.Module.__init__(self)  # not the constructor of transformers' base, which expects its own classes
        self._untied: tuple[str, ...] = ()  # second names whose tensors are no copies of the first
        self.register_state_dict_post_hook(_own_memory)
        if not isinstance(config, BertConfig):
            to_dict = getattr(config, "to_dict", None)
            if to_dict is None:
                raise ConfigError(f"config is a {type(config).__name__}; expected a BertConfig")
            config = BertConfig.from_dict(to_dict())
        config.validate()
        self.config = config
        self.name_or_path = config.name_or_path
        self.warnings_issued: dict[str, bool] = {}  # where trainers note what they said once

    def post_init(self) -> None:
        """Draws the initial weights and ties what is tied; the last line of each class's constructor.

        What has weights already, such as the encoder inside a head, keeps them: from one seed, the weights are those that
        transformers draws, and a further call draws only what was put in since.
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
            device = _one_device(overrides["device_map"])
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
            config = BertConfig.from_dict(values, **_known_fields(overrides))
        elif overrides:
            raise ConfigError(f"config was given, so these keywords have no place: {', '.join(overrides)}")
        elif isinstance(config, str | Path):
            chosen, config = ("num_hidden_layers",), BertConfig.from_pretrained(config, **hub)
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
        matched, report = checkpoint.match_names(state, expected, ignore_mismatched_sizes, integers)
        new = [*report.missing, *(name for name, *_ in report.mismatched)]
        checkpoint.check_new({name: expected[name] for name in new}, state)
        report.not_finite = checkpoint.not_finite(matched)
        target = _resolve_dtype(dtype, config, matched)
        matched = {name: _cast(tensor, target) for name, tensor in matched.items()}
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
        _log(report, source, cls.__name__)
        return model

    @classmethod
    def _from_config(cls, config: BertConfig, dtype: torch.dtype | None = None, **ignored: Any) -> Self:
        """A model with random weights: how transformers' libraries make one."""
        return cls(config).to(_resolve_dtype(ignored.get("torch_dtype", dtype), config, {}))

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
            push_to_hub: only False.
            max_shard_size: bytes of a file of weights, or "500MB"; more is split into shards with an index. None: one file.
            ignored: keywords of transformers' method that have no meaning here.

        Raises:
            ArgumentError: `push_to_hub`. CheckpointError: the folder cannot be written, or a tensor has no values.
        """
        refuse_push({"push_to_hub": push_to_hub})
        if not is_main_process:
            return
        if adapters.are_on(self):
            adapters.save(self, save_directory, state_dict)
            return
        self.config.architectures = [type(self).__name__]
        self.config.dtype = self.dtype
        checkpoint.save(self.state_dict() if state_dict is None else state_dict, self.config, save_directory, max_shard_size)

    @torch.no_grad()
    def _start_missing(self, dtype: torch.dtype) -> None:
        """Gives initial values to the parameters that loading left on the meta device."""
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.is_meta:
                    value = torch.empty(parameter.shape, dtype=dtype)
                    self._init_parameter(module, name, value)
                    setattr(module, name, nn.Parameter(value, requires_grad=parameter.requires_grad))

    # -- embeddings and tying -------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.base_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings; call `tie_weights` after it if a head is tied to them."""
        self.base_model.embeddings.word_embeddings = value

    def get_output_embeddings(self) -> nn.Linear | None:
        """The decoder of the MLM head, or None."""
        return self.cls.predictions.decoder if self.has_mlm_head else None  # type: ignore[union-attr, return-value]

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replaces the decoder of the MLM head, and the head's bias with the decoder's."""
        self.cls.predictions.decoder = value  # type: ignore[union-attr]
        self.cls.predictions.bias = value.bias  # type: ignore[union-attr]

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
        head = self.cls.predictions  # type: ignore[union-attr]
        weight = getattr(self.get_input_embeddings(), "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or weight.shape[1] != decoder.in_features:
            got = type(self.get_input_embeddings()).__name__
            raise InputError(
                f"the word embeddings are a {got} without a weight of width {decoder.in_features}, to which the MLM decoder is "
                "tied: set config.tie_word_embeddings = False, or give the decoder a weight with set_output_embeddings"
            )
        decoder.weight = weight
        if head.bias.shape[0] != weight.shape[0]:  # type: ignore[union-attr, index]
            zero = torch.zeros((), device=head.bias.device)  # type: ignore[union-attr, arg-type]
            head.bias = _resized(head.bias, weight.shape[0], zero)  # type: ignore[union-attr, arg-type]
            if "cls.predictions.decoder.bias" in self._untied:
                decoder.bias = _resized(decoder.bias, weight.shape[0], zero)
        decoder.out_features = self.config.vocab_size = weight.shape[0]
        if "cls.predictions.decoder.bias" not in self._untied:
            decoder.bias = head.bias  # type: ignore[union-attr, assignment]

    def _untie(self, names: Sequence[str]) -> None:
        """Leaves second names that differ from the first untied, in the configuration as well where it is the decoder."""
        self._untied = tuple(names)
        if "cls.predictions.decoder.weight" in names:
            self.config.tie_word_embeddings = False

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
            head = self.cls.predictions  # type: ignore[union-attr]
            zero = torch.zeros((), device=mean.device)
            if not self.config.tie_word_embeddings:
                decoder.weight = _resized(decoder.weight, num_tokens, decoder.weight.detach().mean(0, dtype=torch.float32))
                decoder.bias = _resized(decoder.bias, num_tokens, zero)
            elif "cls.predictions.decoder.bias" in self._untied:
                decoder.bias = _resized(decoder.bias, num_tokens, zero)
            head.bias = _resized(head.bias, num_tokens, zero)  # type: ignore[union-attr, arg-type]
            decoder.out_features = num_tokens
        self.config.vocab_size = num_tokens
        self.tie_weights()
        return words

    # -- what users ask of a model --------------------------------------------------------------------------------------

    @property
    def base_model(self) -> Any:
        """The encoder: the model itself, or a head's `bert`."""
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

    def train(self, mode: bool = True) -> Self:
        """Training mode, which drops prepacked weights: what a compiled or captured step changes leaves no trace."""
        interop.join(BertPreTrainedModel, ModelOutput)
        if mode:
            onednn.forget(*self.parameters())
        return super().train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Evaluation mode inside a with block."""
        training = self.training
        self.eval()
        try:
            yield self
        finally:
            self.train(training)


def _own_memory(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Gives second names of tied parameters memory of their own: no writer of safetensors takes shared memory."""
    for second, first in checkpoint.TIED.items():
        a, b = state.get(prefix + second), state.get(prefix + first)
        if a is not None and b is not None and not isinstance(a, nn.Parameter) and _share_memory(a, b):
            state[prefix + second] = a.clone()


def _count(value: Any, name: str) -> int:
    """A positive whole number of any integer type."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(f"{name} = {schema.shown(value)} must be a positive integer")
    return count


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _resized(old: Tensor, count: int, start: Tensor) -> nn.Parameter:
    new = start.to(old.dtype).expand(count, *old.shape[1:]).clone()
    keep = min(count, old.shape[0])
    with torch.no_grad():
        new[:keep] = old[:keep]
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _one_device(device_map: Any) -> torch.device:
    """The device of a `device_map` that has one: a device, its name or number, "auto", or a mapping of "" to it."""
    place: Any = device_map.get("") if isinstance(device_map, Mapping) and len(device_map) == 1 else device_map
    if place in ("auto", "balanced", "balanced_low_0", "sequential"):
        place = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(place)
    except (TypeError, RuntimeError):
        raise InputError(f"device_map = {schema.shown(device_map)} names no single device") from None


def _known_fields(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that are fields of a configuration; None and False for anything else mean nothing, other values do."""
    known = {f.name for f in fields(BertConfig)} | {"num_labels"}
    for name, value in overrides.items():
        if name not in known and value is not None and value is not False:
            raise ConfigError(f"from_pretrained got {name} = {value!r}: neither an option nor a field of BertConfig")
    return {name: value for name, value in overrides.items() if name in known}


def _resolve_dtype(dtype: torch.dtype | str | None, config: BertConfig, state: dict[str, Tensor]) -> torch.dtype:
    name = dtype if dtype not in (None, "auto") else config.dtype
    if name is not None:
        found = getattr(torch, str(name).removeprefix("torch."), None)
        if found is None or found not in checkpoint.TYPES:
            raise ConfigError(f"dtype = {schema.shown(name)} is not one of {', '.join(map(str, checkpoint.TYPES))}")
        return found
    return next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another floating type, in pieces too small for torch to start its threads: see forking.py."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    cast = torch.empty(tensor.shape, dtype=dtype)
    for target, source in zip(cast.view(-1).split(_PIECE), tensor.reshape(-1).split(_PIECE), strict=True):
        target.copy_(source)
    return cast


def _log(report: checkpoint.LoadReport, source: str | Path | None, name: str) -> None:
    if report.missing:
        logger.warning("%s from %s: not in the checkpoint, newly initialised: %s", name, source, ", ".join(report.missing))
    if report.mismatched:
        listed = ", ".join(f"{key} {a} -> {b}" for key, a, b in report.mismatched)
        logger.warning("%s from %s: other shapes, newly initialised: %s", name, source, listed)
    foreign = [key for key in report.unexpected if not _OTHER_PARTS.search(key)]
    if foreign:
        logger.warning("%s from %s: in the checkpoint but not in a BERT: %s", name, source, ", ".join(foreign))
    if len(foreign) < len(report.unexpected):
        logger.info("%s from %s: parts of other heads left out: %s", name, source, ", ".join(report.unexpected))
    if report.untied:
        listed = ", ".join(report.untied)
        logger.warning("%s from %s: not tied, as the checkpoint has other values: %s", name, source, listed)
    if report.not_finite:
        logger.warning("%s from %s: NaN or infinity in %s", name, source, ", ".join(report.not_finite))
    if report.renamed:
        logger.info("%s from %s: %d old names read", name, source, len(report.renamed))
