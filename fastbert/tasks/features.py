"""Hidden states of each token from selected layers, which the paper calls features (section 5.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbert import files
from fastbert.errors import InputError
from fastbert.model.encoder import BertModel
from fastbert.packing import PackedBatch
from fastbert.packing.batching import BATCH_TOKENS, run
from fastbert.progress import Show
from fastbert.tasks.loading import longest_row
from fastbert.tasks.sequences import frame_texts, warn_of_cuts
from fastbert.text.framing import Framed
from fastbert.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenFeatures:
    """The features of a text, or of one window of it.

    Attributes:
        index: index of the text; consecutive windows of the same text share it.
        tokens: the tokens, special tokens included.
        layers: float32 (tokens, N) for each requested layer.
    """

    index: int
    tokens: list[str]
    layers: list[np.ndarray]


@torch.inference_mode()
def extract_features(
    model: BertModel,
    tokenizer: Tokenizer,
    inputs: Sequence[Any],
    layers: Sequence[int] = (-1,),
    *,
    overlong: str = "error",
    batch_tokens: int = BATCH_TOKENS,
    show_progress: Show = None,
) -> list[TokenFeatures]:
    """Extracts the hidden states of every token.

    Args:
        model, tokenizer: an encoder and its tokenizer.
        inputs: texts, or pairs.
        layers: 0 is the output of the embeddings, L or -1 that of the last layer, -2 that of the second to last.
        overlong: "error", "truncate" (with a warning) or "window".
        batch_tokens: tokens processed at once.
        show_progress: whether to show a progress bar on stderr; None shows it only on a terminal.

    Returns:
        The features in the order of the inputs.
    """
    check_layers(model.config.num_hidden_layers, layers)
    longest = longest_row(model.config, tokenizer)
    framed = frame_texts(tokenizer, inputs, max_length=longest, overlong=overlong)
    warn_of_cuts(framed, longest)
    return features_of(model, tokenizer, framed, layers, batch_tokens=batch_tokens, show=show_progress)


def check_layers(count: int, layers: Sequence[int]) -> None:
    """Raises InputError unless a model of so many layers has these hidden states."""
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise InputError(f"layer = {layer} is not one of the {count + 1} hidden states: {-count - 1}..{count}")


@torch.inference_mode()
def features_of(
    model: BertModel, tokenizer: Tokenizer, framed: Framed, layers: Sequence[int], **options: Any
) -> list[TokenFeatures]:
    """As `extract_features`, of rows of tokens; `options` are those of `batching.run`."""
    found: list[TokenFeatures | None] = [None] * len(framed)
    model.eval()

    def states(batch: PackedBatch) -> list[Tensor]:
        hidden = model(batch, output_hidden_states=True, return_dict=True).hidden_states
        return [hidden[layer].float() for layer in layers]

    for rows, results in run(framed, states, model.device, name="features", **options):
        sizes = framed.lengths[rows].tolist()
        for i, *of_layers in zip(rows, *(layer.split(sizes) for layer in results), strict=True):
            tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(framed.row(i).tolist())]
            found[i] = TokenFeatures(int(framed.owners[i]), tokens, [part.numpy() for part in of_layers])
    return [one for one in found if one is not None]


def write_features(path: str | Path, features: Sequence[TokenFeatures], layers: Sequence[int]) -> None:
    """Writes features as .npz, or as JSON lines in the format of the released code's extract_features.

    The .npz holds `tokens` (T,), `starts` (sequences + 1,), `index` (sequences,) and `layer_<n>` (T, N) float32.
    """
    if Path(path).suffix.lower() == ".npz":
        starts = np.cumsum([0, *(len(one.tokens) for one in features)])
        arrays: dict[str, Any] = {
            f"layer_{layer}": np.concatenate([one.layers[at] for one in features]) for at, layer in enumerate(layers)
        }
        with files.replacing(path) as part, part.open("wb") as stream:
            np.savez(
                stream,
                tokens=np.array([token for one in features for token in one.tokens]),
                starts=starts,
                index=np.array([one.index for one in features]),
                **arrays,
            )
        return
    with files.replacing(path) as part, part.open("w", encoding="utf-8") as stream:
        for line in _json_lines(features, layers):
            stream.write(line + "\n")


def _json_lines(features: Sequence[TokenFeatures], layers: Sequence[int]) -> Iterator[str]:
    for one in features:
        rows = [
            {
                "token": token,
                "layers": [
                    {"index": layer, "values": [round(float(value), 6) for value in one.layers[at][place]]}
                    for at, layer in enumerate(layers)
                ],
            }
            for place, token in enumerate(one.tokens)
        ]
        yield json.dumps({"linex_index": one.index, "features": rows}, ensure_ascii=False)
