"""The paper's ablations at a small size: trains the rows of table 5 (objectives) and table 8 (masking).

The results are printed beside the paper's. The figures themselves are not comparable, because sizes, text and tasks differ;
only their order is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastbert import files
from fastbert.errors import InputError, StoppedError
from fastbert.studies.probe import ProbeOptions, probe_right_neighbour
from fastbert.terminal import Table
from fastbert.training.preparation import prepare_corpus
from fastbert.training.pretraining import PreTrainingResult, pretrain
from fastbert.training.recipe import Recipe

SUITES = ("objectives", "masking")

# Table 5, BERT-base: MNLI-m, QNLI, MRPC, SST-2 (accuracy), SQuAD (F1), all on dev.
TABLE_5 = {
    "BERT (MLM + NSP)": ("mlm+nsp", False, (84.4, 88.4, 86.7, 92.7, 88.5)),
    "no NSP": ("mlm", False, (83.9, 84.9, 86.5, 92.6, 87.9)),
    "left to right, no NSP": ("ltr", False, (82.1, 84.3, 77.5, 92.1, 77.8)),
    "  + BiLSTM": ("ltr", True, (82.1, 84.1, 75.7, 91.6, 84.9)),
}
# Table 8, BERT-base: shares of [MASK], same, random; MNLI fine-tuned, NER (F1) fine-tuned, NER feature-based, all on dev.
TABLE_8 = {
    (0.8, 0.1, 0.1): (84.2, 95.4, 94.9),
    (1.0, 0.0, 0.0): (84.3, 94.9, 94.0),
    (0.8, 0.0, 0.2): (84.1, 95.2, 94.6),
    (0.8, 0.2, 0.0): (84.4, 95.2, 94.7),
    (0.0, 0.2, 0.8): (83.7, 94.8, 94.6),
    (0.0, 0.0, 1.0): (83.6, 94.9, 94.6),
}
NOTE = (
    "Ours: held-out text with each row's own masks (losses of different objectives or masks do not compare), and a token\n"
    "task that the right neighbour decides, where chance is 50 %. The paper's: BERT-base, in per cent, on tasks of its own."
)


def run_suite(suite: str, recipe: Recipe, output: str | Path, device: str | None = None) -> Table:
    """Trains every row of a suite, resuming an earlier call; returns the table, which is also written to table.md.

    Args:
        suite: "objectives" or "masking".
        recipe: model, text and number of steps of every row.
        output: folder for one subfolder per trained model, the corpus that they share, and table.md.
        device: see `pretrain`.

    Raises:
        StoppedError: stopped by a signal; finished training is kept.
    """
    if suite not in SUITES:
        raise InputError(f"suite = {suite!r} is not one of {', '.join(SUITES)}")
    output = Path(output)
    recipe = replace(recipe, target=type(recipe.target)())
    if recipe.data.sources:  # one corpus for all rows
        output.mkdir(parents=True, exist_ok=True)
        prepare_corpus(recipe, output, lambda text: None)
        recipe = replace(recipe, data=replace(recipe.data, sources=(), corpus=str(output / "corpus")))
    rows = _objectives(recipe, output, device) if suite == "objectives" else _masking(recipe, output, device)
    table = Table(rows, NOTE)
    files.write_text(output / "table.md", table.markdown() + "\n")
    return table


def _objectives(recipe: Recipe, output: Path, device: str | None) -> list[tuple[str, ...]]:
    head = ("", "held-out loss", "NSP accuracy", "right neighbour", "paper: MNLI", "QNLI", "MRPC", "SST-2", "SQuAD F1")
    rows: list[tuple[str, ...]] = [head]
    trained: dict[str, PreTrainingResult] = {}
    for name, (objective, bilstm, paper) in TABLE_5.items():
        if objective not in trained:
            data = replace(recipe.data, objective=objective)
            trained[objective] = _train(replace(recipe, data=data), output / objective.replace("+", "-"), device)
        result = trained[objective]
        probe = probe_right_neighbour(result.folder / "model", ProbeOptions(bilstm=bilstm), device or "cpu")
        rows.append((name, *_measured(result), f"{probe:.1%}", *_figures(paper)))
    return rows


def _masking(recipe: Recipe, output: Path, device: str | None) -> list[tuple[str, ...]]:
    head = ("[MASK]", "same", "random", "held-out loss", "NSP accuracy", "right neighbour", "on frozen features")
    rows: list[tuple[str, ...]] = [(*head, "paper: MNLI", "NER", "NER, features")]
    for shares, paper in TABLE_8.items():
        mask, keep, random = shares
        masking = replace(recipe.masking, mask=mask, keep=keep, random=random)
        folder = output / "-".join(f"{share:.0%}".removesuffix("%") for share in shares)
        result = _train(replace(recipe, masking=masking), folder, device)
        probes = [
            probe_right_neighbour(
                result.folder / "model", ProbeOptions(frozen=frozen, lr=1e-2 if frozen else 1e-3), device or "cpu"
            )
            for frozen in (False, True)
        ]
        rows.append((*(f"{s:.0%}" for s in shares), *_measured(result), *(f"{p:.1%}" for p in probes), *_figures(paper)))
    return rows


def _train(recipe: Recipe, folder: Path, device: str | None) -> PreTrainingResult:
    result = pretrain(recipe, folder, device)
    if result.stopped_by:
        raise StoppedError(result.stopped_by)
    return result


def _measured(result: PreTrainingResult) -> tuple[str, str]:
    loss, pairs = (result.metrics.get(name) for name in ("masked_lm_loss", "next_sentence_accuracy"))
    return "" if loss is None else f"{loss:.3f}", "" if pairs is None else f"{pairs:.1%}"


def _figures(paper: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{figure:.1f}" for figure in paper)
