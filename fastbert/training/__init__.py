"""Pre-training.

recipe.py       everything a run depends on, as TOML    stepper.py      forward, backward, clipping, the optimiser
preparation.py  folder, corpus, examples, model         stream.py       which process trains on which batch when
pretraining.py  the run: steps, records, resuming       world.py        ranks and world size, DDP and FSDP2
optimizers.py, lamb.py, schedules.py, seeds.py          state.py        full state of model and optimiser
checkpoints.py  atomic, checked checkpoints             evaluation.py   MLM and next-sentence loss and accuracy
records.py, window.py, speed.py, report.py              signals.py      stopping at SIGTERM, SIGHUP and Ctrl-C
allocator.py    freed memory is kept for the next step
"""

from fastbert.training.pretraining import PreTrainingResult, pretrain
from fastbert.training.recipe import Recipe

__all__ = ["PreTrainingResult", "Recipe", "pretrain"]
