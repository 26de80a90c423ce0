"""What people do with a BERT: embeddings and filling in masks. Each class has `from_pretrained` and takes lists of texts."""

from fastbert.tasks.embedder import Embedder
from fastbert.tasks.fill_mask import FillMask

__all__ = ["Embedder", "FillMask"]
