"""The job behind `fastbert features`: the hidden states of every token of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbert.bulk.jobs import Advance, Job, Opened, Results
from fastbert.errors import InputError
from fastbert.tasks.features import check_layers, features_of
from fastbert.tasks.loading import PATTERNS, load_encoder, load_tokenizer, longest_row
from fastbert.tasks.sequences import frame_texts
from fastbert.text.framing import Framed, Place

_OVERLONG = ("error", "truncate")  # a row of the output is one text: windows would be several


@dataclass(frozen=True)
class Features(Job):
    """Hidden states of tokens, as `extract_features` gives them: float32, a list of vectors a layer.

    Attributes:
        layers: 0 is the output of the embeddings, -1 that of the last layer.
        overlong: texts beyond the limit: "error" or "truncate".
    """

    name = "features"
    part_rows = 256  # of texts of 512 tokens 384 MiB a layer in a model of the base size
    patterns = PATTERNS

    layers: tuple[int, ...] = (-1,)
    overlong: str = "error"

    def __post_init__(self) -> None:
        """Checks what can be checked without the model."""
        if self.overlong not in _OVERLONG:
            raise InputError(f"overlong = {self.overlong!r} cannot be written to a folder; these can: {', '.join(_OVERLONG)}")

    @property
    def settings(self) -> dict[str, Any]:
        """See `Job.settings`."""
        return {"layers": list(self.layers), "overlong": self.overlong, "dtype": self.dtype}

    @property
    def own_columns(self) -> tuple[str, ...]:
        """See `Job.own_columns`."""
        return ("tokens", *(f"layer_{layer}" for layer in self.layers))

    def open(self, settled: Mapping[str, Any]) -> _Features:
        """See `Job.open`."""
        return _Features(self, *self.task)

    def load(self) -> tuple[Any, Any]:
        """See `Job.load`: the encoder and its tokenizer."""
        model = load_encoder(self.folder, self.device, self.dtype, pooler=False)
        check_layers(model.config.num_hidden_layers, self.layers)
        return model.eval(), load_tokenizer(self.folder, model)


class _Features(Opened):
    def __init__(self, job: Features, model: Any, tokenizer: Any) -> None:
        self.job, self.model, self.tokenizer = job, model, tokenizer

    def prepare(self, texts: Sequence[Any], place: Place) -> Framed:
        longest = longest_row(self.model.config, self.tokenizer)
        return frame_texts(self.tokenizer, texts, max_length=longest, overlong=self.job.overlong, place=place)

    def compute(self, prepared: Framed, advance: Advance) -> Results:
        layers, tokens = self.job.layers, self.job.batch_tokens
        found = features_of(self.model, self.tokenizer, prepared, layers, batch_tokens=tokens, advance=advance)
        columns: dict[str, Any] = {"tokens": [one.tokens for one in found]}
        columns |= {f"layer_{layer}": [one.layers[at] for one in found] for at, layer in enumerate(layers)}
        return Results(columns, int(np.count_nonzero(prepared.cut)))

    def arrow(self, name: str, values: Any) -> Any:
        """Lists of tokens, and for each a list of a fixed size."""
        import pyarrow as pa

        if name == "tokens":
            return pa.array(values, pa.list_(pa.string()))
        flat = super().arrow(name, np.concatenate(values))
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, values)]), pa.int32()), flat)
