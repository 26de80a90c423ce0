"""Fine-tuning and features, from examples to predictions and scores.

finetuning.py   all seeds, the results folder   feature_cache.py  a frozen encoder's hidden states, computed once
seed_run.py     one training, resumable         labels.py         which labels, in which order
options.py      the recipe                      metrics.py        scikit-learn, scipy, seqeval, SQuAD's rules
problems.py     what tasks have in common       overview.py       the data before the training
registry.py     the problem of each kind:       results.py        predictions, confusion, span errors
sentences.py, choosing.py, tagging.py, answering.py
models.py       building, saving, loading       comparison.py     both modes; studies.py: poolings, directions, layers
reading.py      files to examples
"""

from fastbert.finetuning.finetuning import FineTuneResult, finetune
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Split

__all__ = ["FineTuneOptions", "FineTuneResult", "Split", "finetune"]
