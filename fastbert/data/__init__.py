"""Data: from text files to pre-training batches and examples for fine-tuning.

lines.py      lines of files, their encoding            tables.py    rows and columns of files
texts.py      texts: lines, or a column                 examples.py  one example, masked and labelled
documents.py  sentences of documents                    batches.py   examples packed to a fixed number of tokens
corpus.py     token ids in shards on disk               static.py    examples precomputed on disk
plan.py       which text goes into which example        masking.py   which tokens are predicted
"""

from fastbert.data.texts import read_texts

__all__ = ["read_texts"]
