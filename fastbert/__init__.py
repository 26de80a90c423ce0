"""fastbert: BERT on packed tokens, a drop-in for transformers' models.

The map of the program:

    text/          texts to ids, and to rows of ids      model.py       the encoder, as the paper has it
    config.py      the fields of a BERT                  heads.py       the heads of sentence and token tasks
    schema.py      what JSON files of a model may hold   lm_heads.py    MLM, left to right, pre-training
    packing/       batches without padding, checked      labels.py      labels and losses
    forking.py     threads in forked processes
    masks.py       masks of 3 and 4 dimensions           calling.py     how a model's parts are run, and hooks see them
    keywords.py    what a forward takes and refuses      interop.py     what libraries ask by isinstance
    prefixes.py    keys and values before the tokens     adapters.py    adapters that peft put into a model
    ops/           every op: what, and which path        outputs.py     what a forward returns
    reference.py   the plain ops, by their public name   pretrained.py  loading, saving, tying, resizing
    kernels/       the Triton kernels, one file an op    checkpoint.py  names and files of weights
    files.py       finding files, writing them whole     prepacking.py  weights laid out for a CPU's product
    diagnostics.py parameter counts, FLOPs, which path ran
    verification.py  every path against float64, on your weights
    graphs.py      CUDA graphs of inference and steps    verification.py  every path against float64, on your weights
    composed.py    an encoder with another head          pooling.py     from tokens to one vector
    tasks/         from texts to labels, tags, answers, vectors, words at a mask
    finetuning/    from examples to models of tasks      commands/      what the commands do
    training/      pre-training: recipes, steps, resume
    data/          readers, corpora, batches             errors.py      what is raised
    recipes/       pre-training runs as TOML files       cli.py         the `fastbert` command
                                                         terminal.py    its streams and signals
"""

from fastbert import ops
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
from fastbert.ops import backend, reference, set_backend
from fastbert.packing import PackedBatch, pack
from fastbert.packing.deferred import check
from fastbert.prepacking import prepack
from fastbert.text.tokenizer import BertTokenizer
from fastbert.verification import verify

__version__ = "0.7.0"

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
    "check",
    "count_parameters",
    "explain",
    "ops",
    "pack",
    "prepack",
    "reference",
    "set_backend",
    "verify",
]
