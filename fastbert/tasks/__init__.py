"""What people do with a BERT: embeddings, masks, next sentences. Each class has `from_pretrained` and takes lists."""

from fastbert.tasks.embedder import Embedder
from fastbert.tasks.fill_mask import FillMask
from fastbert.tasks.next_sentence import NextSentence

__all__ = ["Embedder", "FillMask", "NextSentence"]
