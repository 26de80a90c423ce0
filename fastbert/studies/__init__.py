"""Claims of the paper, tested at small sizes: each study trains several models and prints them beside the paper's figures.

ablations.py   pre-training objectives and masking      probe.py        does an encoder see a token's right neighbour?
finetuning.py  poolings, directions, layers             comparison.py   fine-tuning against a task model on frozen features
"""
