"""Pre-training.

recipe.py       what a run depends on, as TOML          stepper.py      forward, backward, clipping, the optimiser
preparation.py  folder, corpus, examples, model         stream.py       which process trains on which batch when
pretraining.py  the run: steps, records, resuming       world.py        one process or several
optimizers.py, schedules.py                             state.py        the optimiser's state, whole
checkpoints.py  whole or not there                      evaluation.py   the four classic numbers
metrics.py, window.py, speed.py, report.py              ablations.py, probe.py
signals.py      SIGTERM and Ctrl-C                      allocator.py    memory that a training keeps
"""

from fastbert.training.pretraining import PreTrainingResult, pretrain
from fastbert.training.recipe import Recipe

__all__ = ["PreTrainingResult", "Recipe", "pretrain"]
