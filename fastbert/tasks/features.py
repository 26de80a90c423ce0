"""Hidden states of texts, token by token, from the layers of one's choice: what the paper calls features (section 5.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastbert import files
from fastbert.data.framing import Framer
from fastbert.errors import InputError
from fastbert.model import BertModel
from fastbert.tasks.sequences import batches, checked_length, split_pairs, warn_of_cuts
from fastbert.tokenizer import BertTokenizer


@dataclass(frozen=True)
class TokenFeatures:
    """The features of a text.

    Attributes:
        index: number of the text; with windows several follow one another with the same number.
        tokens: with the special ones.
        layers: float32 (tokens, N) for each layer asked for.
    """

    index: int
    tokens: list[str]
    layers: list[np.ndarray]


@torch.inference_mode()
def extract_features(
    model: BertModel,
    tokenizer: BertTokenizer,
    inputs: Sequence[Any],
    layers: Sequence[int] = (-1,),
    *,
    on_long: str = "error",
    batch_tokens: int = 16384,
    show_progress: bool | None = None,
) -> list[TokenFeatures]:
    """The hidden states of every token.

    Args:
        model, tokenizer: an encoder and its tokenizer.
        inputs: texts, or pairs.
        layers: 0 is the embeddings' output, L or -1 the last layer's, -2 the one before.
        on_long: "error", "truncate" (with a warning) or "window".
        batch_tokens: tokens run at once.
        show_progress: a bar on stderr; None means if stderr is a terminal.

    Returns:
        In the order of the inputs.
    """
    count = model.config.num_hidden_layers
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise InputError(f"layer = {layer} is not one of the {count + 1} hidden states: {-count - 1}..{count}")
    first, second = split_pairs(inputs)
    longest = checked_length(None, min(model.config.max_position_embeddings, tokenizer.model_max_length or 10**9))
    ids = tokenizer.encode_ids(first, add_special_tokens=False)
    pairs = None if second is None else tokenizer.encode_ids(second, add_special_tokens=False)
    framed = Framer(tokenizer, longest).frame(ids, pairs, on_long, name="inputs")
    warn_of_cuts(framed, longest)
    found: list[TokenFeatures | None] = [None] * len(framed.ids)
    model.eval()
    for indices, batch in batches(framed, model.device, batch_tokens, show_progress, "features"):
        states = model(batch, output_hidden_states=True, return_dict=True).hidden_states
        sizes = [len(framed.ids[i]) for i in indices]
        chosen = [states[layer].float().cpu().split(sizes) for layer in layers]
        for at, i in enumerate(indices):
            tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(framed.ids[i])]
            found[i] = TokenFeatures(framed.owners[i], tokens, [layer[at].numpy() for layer in chosen])
    return [one for one in found if one is not None]


def write_features(path: str | Path, features: Sequence[TokenFeatures], layers: Sequence[int]) -> None:
    """Writes features: .npz, or JSON lines in the form of the released code's extract_features.

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
