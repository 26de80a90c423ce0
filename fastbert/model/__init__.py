"""BERT: its fields, its encoder and heads as the paper has them, its weights, and what it returns.

config.py      the fields of a BERT                       layers.py      the parts of a layer
encoder.py     the stack of layers, the pooler, BertModel arguments.py   what a forward is given, as a packed batch
heads.py       sentence and token tasks                   lm_heads.py    MLM, left to right, pre-training
losses.py      labels and losses                          outputs.py     what a forward returns
composed.py    an encoder with another head               pooling.py     from tokens to one vector
pretrained.py  loading, saving, tying, resizing           checkpoint.py  names and files of weights
masks.py       masks of three and four dimensions         prefixes.py    keys and values before the tokens
calling.py     how parts are run, and hooks see them      keywords.py    what a forward takes and refuses
adapters.py    adapters that peft put into a model        prepacking.py  weights as the device's product wants them
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
