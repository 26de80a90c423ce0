"""Data: from text files to pre-training batches and examples for fine-tuning.

lines.py      lines of files, their encoding            tables.py    rows and columns of files
texts.py      texts: lines, or a column                 rows.py      rows in memory: a `datasets.Dataset`
documents.py  sentences of documents                    examples.py  one example, masked and labelled
corpus.py     token ids in shards on disk               batches.py   examples packed to a fixed number of tokens
plan.py       which text goes into which example        static.py    examples precomputed on disk
masking.py    which tokens are predicted
"""

from fastbert.data.texts import read_texts

__all__ = ["read_texts"]
