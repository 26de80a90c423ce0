"""From texts to rows of ids.

tokenizer.py  texts to ids and back            wordpiece.py        the `tokenizers` library's tokenizer, made
encoding.py   what goes in and comes out       tokenizer_files.py  the files that it is kept in
entries.py    vocabulary and special tokens    vocabulary.py       learning a WordPiece vocabulary
framing.py    texts to the rows that a model reads: the one cutter
"""
