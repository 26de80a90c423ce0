"""Reading text from files."""

from fastbert.data.texts import read_texts

__all__ = ["read_texts"]
