"""fastbert: BERT on packed tokens, a drop-in for transformers' models.

The map of the program:

    text/            texts to ids, and to rows of ids: tokenizer, its files, framing
    packing/         batches without padding, checked, by a budget of tokens
    ops/             every op: what is computed, which path runs it, its gradient
    kernels/         the Triton kernels, one file an op
    model/           the encoder and its heads as the paper has them; fields, weights, outputs
    data/            readers, corpora, examples, batches
    tasks/           from texts to labels, tags, answers, vectors, words at a mask
    bulk/            tasks over files of any number and size: bounded memory, parts, manifests, several processes
    training/        pre-training: recipes, steps, resume        recipes/      runs as TOML files
    finetuning/      from examples to models of tasks            studies/      claims of the paper, measured
    serving/         a model behind HTTP: one loop for all requests, routes of known APIs
    integrations/    inside other libraries: transformers' own models run by fastbert
    commands/        what the commands do                        cli.py, __main__.py  the `fastbert` command

    diagnostics.py   parameter counts, FLOPs, which path ran     verification.py  every path against float64, on your weights
    graphs.py        CUDA graphs of inference and of steps       errors.py     what is raised
    files/           finding files, writing them whole           schema.py     what JSON files of a model may hold
    terminal.py      tables and streams                          progress.py   bars, and lines where there is no terminal
    choices.py       what options may be                         stopping.py   SIGTERM, SIGHUP and Ctrl-C
    threads.py       how many threads, and how they wait         forking.py     threads in forked processes
    interop.py       what libraries ask by isinstance
    reference.py, composed.py, pooling.py    public names of ops/reference.py, model/composed.py, model/pooling.py

Names and modules are imported when they are first used: `import fastbert` alone does not import PyTorch.
"""

import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbert import ops
    from fastbert.diagnostics import count_parameters, explain
    from fastbert.errors import FastbertError
    from fastbert.integrations.attention import register
    from fastbert.integrations.collator import FlatteningCollator
    from fastbert.integrations.transformers import patch, unpatch
    from fastbert.model.config import BertConfig
    from fastbert.model.encoder import BertModel
    from fastbert.model.heads import (
        BertForMultipleChoice,
        BertForNextSentencePrediction,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
    )
    from fastbert.model.lm_heads import BertForMaskedLM, BertForPreTraining, BertLMHeadModel
    from fastbert.model.prepacking import prepack
    from fastbert.model.roberta import (
        RobertaConfig,
        RobertaForCausalLM,
        RobertaForMaskedLM,
        RobertaForMultipleChoice,
        RobertaForQuestionAnswering,
        RobertaForSequenceClassification,
        RobertaForTokenClassification,
        RobertaModel,
        XLMRobertaConfig,
        XLMRobertaForCausalLM,
        XLMRobertaForMaskedLM,
        XLMRobertaForMultipleChoice,
        XLMRobertaForQuestionAnswering,
        XLMRobertaForSequenceClassification,
        XLMRobertaForTokenClassification,
        XLMRobertaModel,
    )
    from fastbert.ops import backend, reference, set_backend
    from fastbert.packing import PackedBatch, pack
    from fastbert.packing.deferred import check
    from fastbert.text.tokenizer import BertTokenizer, Tokenizer
    from fastbert.verification import verify

__version__ = "0.7.0"

_LOCK = threading.RLock()

# Where each public name is; modules of the package need no entry.
_PLACES = {
    "BertConfig": "fastbert.model.config",
    "BertForMaskedLM": "fastbert.model.lm_heads",
    "BertForMultipleChoice": "fastbert.model.heads",
    "BertForNextSentencePrediction": "fastbert.model.heads",
    "BertForPreTraining": "fastbert.model.lm_heads",
    "BertForQuestionAnswering": "fastbert.model.heads",
    "BertForSequenceClassification": "fastbert.model.heads",
    "BertForTokenClassification": "fastbert.model.heads",
    "BertLMHeadModel": "fastbert.model.lm_heads",
    "BertModel": "fastbert.model.encoder",
    "BertTokenizer": "fastbert.text.tokenizer",
    "FastbertError": "fastbert.errors",
    "FlatteningCollator": "fastbert.integrations.collator",
    "PackedBatch": "fastbert.packing",
    "RobertaConfig": "fastbert.model.roberta",
    "RobertaForCausalLM": "fastbert.model.roberta",
    "RobertaForMaskedLM": "fastbert.model.roberta",
    "RobertaForMultipleChoice": "fastbert.model.roberta",
    "RobertaForQuestionAnswering": "fastbert.model.roberta",
    "RobertaForSequenceClassification": "fastbert.model.roberta",
    "RobertaForTokenClassification": "fastbert.model.roberta",
    "RobertaModel": "fastbert.model.roberta",
    "XLMRobertaConfig": "fastbert.model.roberta",
    "XLMRobertaForCausalLM": "fastbert.model.roberta",
    "XLMRobertaForMaskedLM": "fastbert.model.roberta",
    "XLMRobertaForMultipleChoice": "fastbert.model.roberta",
    "XLMRobertaForQuestionAnswering": "fastbert.model.roberta",
    "XLMRobertaForSequenceClassification": "fastbert.model.roberta",
    "XLMRobertaForTokenClassification": "fastbert.model.roberta",
    "XLMRobertaModel": "fastbert.model.roberta",
    "Tokenizer": "fastbert.text.tokenizer",
    "backend": "fastbert.ops",
    "check": "fastbert.packing.deferred",
    "count_parameters": "fastbert.diagnostics",
    "explain": "fastbert.diagnostics",
    "pack": "fastbert.packing",
    "patch": "fastbert.integrations.transformers",
    "prepack": "fastbert.model.prepacking",
    "reference": "fastbert.ops",
    "register": "fastbert.integrations.attention",
    "set_backend": "fastbert.ops",
    "unpatch": "fastbert.integrations.transformers",
    "verify": "fastbert.verification",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported now."""
    if name in _PLACES:
        with _LOCK:  # threads that import parts of one package at once would see them half made
            value = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
    "FlatteningCollator",
    "PackedBatch",
    "RobertaConfig",
    "RobertaForCausalLM",
    "RobertaForMaskedLM",
    "RobertaForMultipleChoice",
    "RobertaForQuestionAnswering",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaModel",
    "Tokenizer",
    "XLMRobertaConfig",
    "XLMRobertaForCausalLM",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForMultipleChoice",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaModel",
    "backend",
    "check",
    "count_parameters",
    "explain",
    "ops",
    "pack",
    "patch",
    "prepack",
    "reference",
    "register",
    "set_backend",
    "unpatch",
    "verify",
]
