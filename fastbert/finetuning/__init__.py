"""Fine-tuning and features, from examples to predictions and scores.

finetuning.py   all seeds, the results folder   feature_cache.py  hidden states of a frozen encoder, computed once
seed_run.py     one resumable training run      labels.py         the label names and their order
options.py      the hyperparameters             metrics.py        scikit-learn, scipy, seqeval, SQuAD's rules
problems.py     the interface of a task         overview.py       summary of the data before training
registry.py     the problem of each kind:       results.py        predictions, confusion matrix, span errors
sentences.py, choosing.py, tagging.py, answering.py
models.py       building, saving, loading       evaluation.py     scores of a saved model
reading.py      files, or rows in memory, to examples
"""

from fastbert.finetuning.finetuning import FineTuneResult, finetune
from fastbert.finetuning.options import FineTuneOptions
from fastbert.finetuning.problems import Split
from fastbert.finetuning.reading import ReadOptions, read_split

__all__ = ["FineTuneOptions", "FineTuneResult", "ReadOptions", "Split", "finetune", "read_split"]
