"""Runs the recipes of `quality.py` with fastbert."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality.tasks import Recipe, Splits
from fastbert.finetuning import FineTuneOptions, finetune


def train_and_predict(
    recipe: Recipe, splits: Splits, model: Path, seed: int, *, grouped: bool = False, evaluate: bool = True
) -> tuple[list[Any], float]:
    """Like `transformers_side.train_and_predict`; `grouped` has no effect, since there is no padding."""
    options = FineTuneOptions(
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        max_length=recipe.max_length,
        metrics=recipe.metrics,
        seed=seed,
        doc_stride=recipe.max_length // 3,
    )
    with tempfile.TemporaryDirectory() as folder:
        test = splits.test if evaluate else None
        dev = splits.dev if evaluate else None
        result = finetune(
            recipe.kind, model, splits.train, dev, test, output=Path(folder) / "run", options=options, show_progress=False
        )
        seconds = result.seeds[0].seconds
        if not evaluate:
            return [], seconds
        lines = (Path(folder) / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    key = {"classify": "label", "nli": "label", "regress": "score", "ner": "tags", "qa": "answer"}[recipe.kind]
    return [row[key] for row in rows], seconds
