"""From texts to rows of ids.

tokenizer.py  a tokenizer of any kind; WordPiece    calls.py             texts to ids, padding
entries.py    vocabulary and special tokens         wordpiece.py         the `tokenizers` library's tokenizer, made
saved.py      reading and writing one               tokenizer_files.py   the files that it is kept in
cutting.py    how much of a text is read            vocab_files.py       vocab.txt
encoding.py   what goes in and comes out            other_names.py       transformers' other methods
template.py   what stands around texts              vocabulary.py        learning a WordPiece vocabulary
framing.py    texts to the rows that a model reads: the one cutter       windows.py  of rows that are too long
"""
