"""Ready-to-use tasks for a trained BERT; each class has `from_pretrained` and takes lists of inputs.

embedder.py       texts to vectors           token_tagger.py       tags of words, entities
fill_mask.py      words at a [MASK]          question_answerer.py  answer spans in a text; answers.py has the rules
next_sentence.py  does B follow A?           multiple_choice.py    the best of several candidates
classifier.py     labels, numbers            nli.py                relations of pairs; zero-shot classification
sequences.py      texts and pairs to scores  features.py           hidden states, token by token
reranker.py       documents for a query          sentence_folder.py   folders of sentence-transformers
vectors.py        what is done with vectors      tokens.py            vectors of tokens and of chunks
prompted.py       what embedders share           sparse_embedder.py   texts to weights of words (SPLADE)
loading.py        finding, loading, checking a model for a task
"""

from fastbert.tasks.classifier import Classifier
from fastbert.tasks.embedder import Embedder
from fastbert.tasks.fill_mask import FillMask
from fastbert.tasks.multiple_choice import MultipleChoice
from fastbert.tasks.next_sentence import NextSentence
from fastbert.tasks.nli import NLI
from fastbert.tasks.question_answerer import QuestionAnswerer
from fastbert.tasks.reranker import Reranker
from fastbert.tasks.sparse_embedder import SparseEmbedder
from fastbert.tasks.token_tagger import TokenTagger

__all__ = [
    "NLI",
    "Classifier",
    "Embedder",
    "FillMask",
    "MultipleChoice",
    "NextSentence",
    "QuestionAnswerer",
    "Reranker",
    "SparseEmbedder",
    "TokenTagger",
]
