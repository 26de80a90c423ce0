"""From texts to rows of ids.

tokenizer.py  texts to ids and back            wordpiece.py        the `tokenizers` library's tokenizer, made
entries.py    vocabulary and special tokens    tokenizer_files.py  the files that it is kept in
saved.py      reading, writing, training one   vocabulary.py       learning a WordPiece vocabulary
cutting.py    how much of a text is read       other_names.py      transformers' other methods
encoding.py   what goes in and comes out       framing.py          texts to the rows that a model reads: the one cutter
                                               windows.py          of rows that are too long
"""
