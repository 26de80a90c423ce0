"""Pre-training: recipes, optimisers, schedules, the loop, checkpoints."""

from fastbert.training.pretraining import PreTrainingResult, pretrain
from fastbert.training.recipe import Recipe

__all__ = ["PreTrainingResult", "Recipe", "pretrain"]
