"""fastbert: BERT on packed tokens, a drop-in for transformers' models.

The map of the program:

    config.py     the fields of a BERT                   model.py      the encoder, as the paper has it
    tokenizer.py  text to ids and back                   heads.py      the eight task heads
    packing.py    padded batches to packed and back      outputs.py    what a forward returns
    ops.py        every op: which path runs it           pretrained.py what all models share: loading, tying, resizing
    reference.py  every op, the obvious way              checkpoint.py names and files of weights; files.py finds them
    cpu.py        the ops that want more on a CPU        diagnostics.py parameter counts, FLOPs, which path ran
    tasks/        embeddings, masks, next sentences      data/         reading texts from files
    kernels/      the Triton kernels                     cli.py        the `fastbert` command
                                                         errors.py     what is raised
"""

from fastbert import ops, reference
from fastbert.config import BertConfig
from fastbert.diagnostics import count_parameters, explain
from fastbert.errors import FastbertError
from fastbert.heads import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
)
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
