"""fastbert: BERT on packed tokens, a drop-in for transformers' models.

The map of the program:

    config.py      the fields of a BERT                  model.py       the encoder, as the paper has it
    tokenizer.py   text to ids and back                  heads.py       the heads of sentence and token tasks
    encoding.py    what goes into it and comes out       lm_heads.py    MLM, left to right, pre-training
    packing.py     padded batches to packed and back     labels.py      labels and losses
    ops.py         every op: which path runs it          outputs.py     what a forward returns
    reference.py   every op, the obvious way             pretrained.py  loading, saving, tying, resizing
    cpu.py         the ops that want more on a CPU       checkpoint.py  names and files of weights
    kernels/       the Triton kernels (none yet)         files.py       finding files, writing them whole
    tasks/         embeddings, masks, next sentences     diagnostics.py parameter counts, FLOPs, which path ran
    data/          reading texts from files              errors.py      what is raised
    cli.py         the `fastbert` command
"""

from fastbert import ops, reference
from fastbert.config import BertConfig
from fastbert.diagnostics import count_parameters, explain
from fastbert.errors import FastbertError
from fastbert.heads import (
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from fastbert.lm_heads import BertForMaskedLM, BertForPreTraining, BertLMHeadModel
from fastbert.model import BertModel
from fastbert.ops import backend, set_backend
from fastbert.packing import PackedBatch, pack
from fastbert.tokenizer import BertTokenizer

__version__ = "0.1.0"

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertLMHeadModel",
    "BertModel",
    "BertTokenizer",
    "FastbertError",
    "PackedBatch",
    "backend",
    "count_parameters",
    "explain",
    "ops",
    "pack",
    "reference",
    "set_backend",
]
