"""Pre-training from raw text to a model that fills masks, in minutes on two cores.

python examples/pretrain_in_minutes.py minute-bert/
"""

import sys
from pathlib import Path

from fastbert.tasks import FillMask
from fastbert.training import Recipe, pretrain

TEXTS = ["the [MASK] statement is used to define a function.", "a list is a [MASK] sequence of objects."]


def main(output: Path, steps: int) -> None:
    """Trains by the recipe "minute": the language reference of Python, MLM + NSP; run it again to resume."""
    recipe = Recipe.load("minute").override(f"phases.0.steps={steps}", f"schedule.warmup_steps={min(100, steps // 2)}")
    result = pretrain(recipe, output)
    print({name: round(value, 3) for name, value in result.metrics.items()})
    filler = FillMask.from_pretrained(result.folder / "model")
    for text, answers in zip(TEXTS, filler.predict(TEXTS, top_k=3), strict=True):
        print(f"{text}  " + ", ".join(f"{answer['token_str']} {answer['score']:.2f}" for answer in answers))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "minute-bert"), int(sys.argv[2]) if len(sys.argv) > 2 else 6000)
