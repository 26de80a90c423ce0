"""An encoder with a configurable head: which layers it reads, pooled how, a linear or a BiLSTM on top, frozen or trained.

    hidden states of the chosen layers -> [pooled, for a whole text] -> joined -> [BiLSTM] -> dropout -> linear

The nine model classes are what fine-tuning wants. This one is for what stands beside it in the paper: frozen features (section
5.3, table 7), other poolings, and one direction instead of two.
Sizes: B sequences, T packed tokens, N hidden, K layers, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fastbert import files, schema
from fastbert.choices import LAYERS
from fastbert.errors import CheckpointError, InputError
from fastbert.model import checkpoint
from fastbert.model.config_fields import MAX_LABELS, PROBLEM_TYPES
from fastbert.model.encoder import BertModel
from fastbert.model.families import class_for
from fastbert.model.losses import answer_labels, sequence_labels, sequence_loss, token_labels
from fastbert.model.outputs import ClassifierOutput, QuestionAnsweringOutput
from fastbert.model.pooling import MODES, check_modes, pool
from fastbert.ops.reference import cross_entropy_of_logits
from fastbert.packing import PackedBatch

KINDS = ("sequence", "token", "span", "choice")
HEAD_FILE, HEAD_WEIGHTS = "head.json", "head.safetensors"


def layer_numbers(layers: str, num_hidden_layers: int) -> list[int]:
    """The hidden states that a choice of `LAYERS` reads, as numbers from 0 (the embeddings) to L."""
    if layers not in LAYERS:
        raise InputError(f"layers = {layers!r} is not one of {', '.join(LAYERS)}")
    chosen = LAYERS[layers][0] or tuple(range(1, num_hidden_layers + 1))
    lowest = min(chosen)
    if lowest < 0 and num_hidden_layers + 1 + lowest < 0:
        raise InputError(f"layers = {layers!r} wants {-lowest} hidden states; the model has {num_hidden_layers + 1}")
    return [number % (num_hidden_layers + 1) for number in chosen]


@dataclass(frozen=True)
class HeadOptions:
    """What stands on the encoder.

    Attributes:
        kind: "sequence" (a label a text), "token" (a label a token), "span" (start and end), "choice" (one of several texts).
        num_labels: C; 2 for spans, 1 for choices.
        layers: a key of `LAYERS`.
        pooling: of texts and choices: one of `fastbert.pooling.MODES`.
        bilstm: layers of a bidirectional LSTM, N wide, between features and classifier; 0 for none.
        frozen: the encoder is not trained and stays in evaluation mode.
        dropout: before the classifier.
        problem_type: of a "sequence" head, as in `BertConfig`.
    """

    kind: str
    num_labels: int
    layers: str = "last"
    pooling: str = "cls"
    bilstm: int = 0
    frozen: bool = True
    dropout: float = 0.1
    problem_type: str | None = None


_HEAD_FIELDS = {
    "kind": schema.choice(*KINDS, null=False),
    "num_labels": schema.integer(1, MAX_LABELS, null=False),
    "layers": schema.choice(*LAYERS, null=False),
    "pooling": schema.choice(*MODES, null=False),
    "bilstm": schema.integer(0, 100, null=False),
    "frozen": schema.flag(null=False),
    "dropout": schema.Field(lambda value: schema.is_number(value, 0) and value < 1, "a probability in [0, 1)", null=False),
    "problem_type": schema.choice(*PROBLEM_TYPES),
}


class ComposedModel(nn.Module):
    """An encoder and a head on it. It is called as the model classes are, with packed batches."""

    def __init__(self, encoder: BertModel, options: HeadOptions) -> None:
        super().__init__()
        if options.kind not in KINDS:
            raise InputError(f"kind = {options.kind!r} is not one of {', '.join(KINDS)}")
        check_modes(options.pooling)
        self.encoder, self.options = encoder, options
        self.cache: Any = None  # of a frozen encoder: features by sequence, see `finetuning.feature_cache`
        width = encoder.config.hidden_size
        self.layers = layer_numbers(options.layers, encoder.config.num_hidden_layers)
        summed = LAYERS[options.layers][1]
        self.mix = nn.Parameter(torch.zeros(len(self.layers))) if summed else None
        size = width if summed else width * len(self.layers)
        self.lstm = None
        if options.bilstm:
            self.lstm = nn.LSTM(size, width // 2, options.bilstm, bidirectional=True, batch_first=True)
            size = width // 2 * 2
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(size, options.num_labels)
        with torch.no_grad():
            self.classifier.weight.normal_(0.0, encoder.config.initializer_range)
            self.classifier.bias.zero_()
        if options.frozen:
            encoder.requires_grad_(False)

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder.device

    @property
    def pools_first(self) -> bool:
        """Whether features are one row a text, pooled in each layer, as no LSTM wants to see the tokens."""
        return self.options.kind in ("sequence", "choice") and self.lstm is None

    def get_input_embeddings(self) -> nn.Embedding:
        """The encoder's word embeddings."""
        return self.encoder.get_input_embeddings()

    def train(self, mode: bool = True) -> ComposedModel:
        """Training mode; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.options.frozen:
            self.encoder.eval()
        return self

    def features(self, batch: PackedBatch, layers: Sequence[int] | None = None) -> list[Tensor]:
        """The chosen layers' hidden states: K times (T, N), or (B, N) where they are pooled first."""
        chosen = self.layers if layers is None else layers
        if self.cache is not None and layers is None:
            found: list[Tensor] | None = self.cache.lookup(batch, chosen)
            if found is not None:
                return found
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.frozen):
            last = len(self.encoder.encoder.layer)
            if list(chosen) == [last]:
                states: Sequence[Tensor] = [self.encoder(batch, return_dict=True).last_hidden_state]
            else:
                hidden = self.encoder(batch, output_hidden_states=True, return_dict=True).hidden_states
                states = [hidden[number] for number in chosen]
            if self.pools_first:
                return [pool(state, batch.cu_seqlens, self.options.pooling) for state in states]
            return list(states)

    def logits(self, features: Sequence[Tensor], batch: PackedBatch) -> Tensor:
        """Scores from features: (B, C) of texts, (T, C) of tokens."""
        if self.mix is not None:
            weights = self.mix.softmax(0)
            x = torch.stack([weight * state for weight, state in zip(weights, features, strict=True)]).sum(0)
        else:
            x = torch.cat(list(features), dim=-1)
        if self.lstm is not None:
            lengths = batch.lengths.cpu()
            rows = pack_padded_sequence(batch.unpack(x), lengths, batch_first=True, enforce_sorted=False)
            padded = pad_packed_sequence(self.lstm(rows)[0], batch_first=True, total_length=batch.padded_length)[0]
            x = batch.pack(padded)
            if self.options.kind in ("sequence", "choice"):
                x = pool(x, batch.cu_seqlens, self.options.pooling)
        scores: Tensor = self.classifier(self.dropout(x))
        return scores

    def forward(
        self,
        batch: PackedBatch,
        *,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_choices: int | None = None,
        return_dict: bool | None = None,
    ) -> ClassifierOutput | QuestionAnsweringOutput:
        """Scores, and the loss where labels are given, as the model class of the same kind.

        Args:
            batch: packed.
            labels: (B,) or (B, C) of texts, (T,) of tokens, (B / num_choices,) of choices.
            start_positions, end_positions: (B,) columns.
            num_choices: candidates of each example.
            return_dict: taken as the model classes take it; an output with names is returned in any case.
        """
        scores = self.logits(self.features(batch), batch)
        kind = self.options.kind
        if kind == "span":
            return _spans(scores, batch, start_positions, end_positions)
        loss = None
        if kind == "choice":
            scores = scores.view(-1, num_choices or 1)
            if labels is not None:
                loss = cross_entropy_of_logits(scores, sequence_labels(labels, "labels", *scores.shape))
        elif labels is not None and kind == "token":
            loss = cross_entropy_of_logits(scores, token_labels(labels, batch, False, self.options.num_labels))
        elif labels is not None:
            loss = sequence_loss(scores, labels, self.options.problem_type)
        return ClassifierOutput(loss=loss, logits=scores)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the encoder, which opens anywhere as a BERT, and beside it the head: head.json and head.safetensors."""
        folder = Path(folder)
        with files.updating_folder(folder) as place:
            self.encoder.save_pretrained(place)
            files.write_text(place / HEAD_FILE, json.dumps(asdict(self.options), indent=1) + "\n")
            with files.replacing(place / HEAD_WEIGHTS) as part:
                save_file(self.head_state(), str(part))

    def head_state(self) -> dict[str, Tensor]:
        """The parameters that are not the encoder's."""
        return {name: value.contiguous() for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: Any = None, device: Any = None) -> ComposedModel:
        """Loads what `save_pretrained` wrote.

        Raises:
            CheckpointError: a file is damaged or does not fit.
        """
        folder = Path(folder)
        options = schema.check(files.read_json(folder / HEAD_FILE), _HEAD_FIELDS, folder / HEAD_FILE, only=True)
        if "kind" not in options or "num_labels" not in options:
            raise CheckpointError(f"{folder / HEAD_FILE} lacks kind or num_labels")
        state = checkpoint.read_tensors(folder / HEAD_WEIGHTS)
        _check_head(state, options, folder / HEAD_FILE)
        encoder, _ = class_for(BertModel, folder).from_pretrained(
            folder, dtype=dtype, device=device, add_pooling_layer=False, output_loading_info=True
        )
        model = cls(encoder, HeadOptions(**options))
        expected = {name: t.shape for name, t in model.state_dict().items() if not name.startswith("encoder.")}
        for name in expected.keys() | state.keys():
            has, wants = (tuple(shapes[name]) if name in shapes else "nothing" for shapes in (_shapes(state), expected))
            if has != wants:
                raise CheckpointError(f"{folder / HEAD_WEIGHTS} has {has} at {schema.shown(name)}, the head wants {wants}")
        model.load_state_dict(state, strict=False)
        return model.to(encoder.device).eval()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_head(state: Mapping[str, Tensor], options: Mapping[str, Any], path: Path) -> None:
    """Checks that the weights of a head have the described sizes, before it is built."""
    layers = sum(name.startswith("lstm.weight_ih_l") and not name.endswith("_reverse") for name in state)
    labels = (_shapes(state).get("classifier.weight") or (0,))[0]
    for name, said, there in (("bilstm", options.get("bilstm") or 0, layers), ("num_labels", options["num_labels"], labels)):
        if said != there:
            raise CheckpointError(f"{path} says {name} = {said}, the weights beside it have {there}")


def is_composed(folder: str | Path) -> bool:
    """Whether a folder holds a `ComposedModel`."""
    return (Path(folder) / HEAD_FILE).is_file()


def _spans(scores: Tensor, batch: PackedBatch, starts: Tensor | None, ends: Tensor | None) -> QuestionAnsweringOutput:
    output = QuestionAnsweringOutput()
    output.start_logits, output.end_logits = (part.contiguous() for part in scores.unbind(-1))
    if starts is not None and ends is not None:
        start, end = batch.unpack(scores, fill=torch.finfo(scores.dtype).min).unbind(-1)
        losses = [
            cross_entropy_of_logits(start, answer_labels(starts, "start_positions", batch)),
            cross_entropy_of_logits(end, answer_labels(ends, "end_positions", batch)),
        ]
        output.loss = (losses[0] + losses[1]) / 2
    return output
