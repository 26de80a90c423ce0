"""BERT: its fields, its encoder and heads as the paper has them, its weights, and what it returns.

config.py      the fields of a BERT                         config_fields.py  what each of them must be
encoder.py     the stack of layers, the pooler, BertModel   layers.py         the parts of a layer
heads.py       sentence and token tasks                     lm_heads.py       MLM, left to right, pre-training
roberta.py     RoBERTa and XLM-R: what differs              families.py       which classes run a checkpoint
arguments.py   what a forward is given, as a packed batch   outputs.py        what a forward returns
losses.py      labels and losses                            pooling.py        from tokens to one vector
composed.py    an encoder with another head                 prepacking.py     weights as the device's product wants them
pretrained.py  loading, saving, tying, resizing             checkpoint.py     names and files of weights
masks.py       masks of three and four dimensions           prefixes.py       keys and values before the tokens
calling.py     how parts are run, and hooks see them        keywords.py       what a forward takes and refuses
products.py    which linears are one product                quantizing.py     products in 8 bits, where they pass
adapters.py    adapters that peft put into a model
"""

from fastbert.model.encoder import BertEncoder, BertModel, BertPooler
from fastbert.model.layers import (
    BertAttention,
    BertEmbeddings,
    BertIntermediate,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)
from fastbert.model.pretrained import BertPreTrainedModel

__all__ = [
    "BertAttention",
    "BertEmbeddings",
    "BertEncoder",
    "BertIntermediate",
    "BertLayer",
    "BertModel",
    "BertOutput",
    "BertPooler",
    "BertPreTrainedModel",
    "BertSelfAttention",
    "BertSelfOutput",
]
