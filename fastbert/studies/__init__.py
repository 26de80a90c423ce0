"""Claims of the paper, measured at small sizes: each trains several rows and prints them beside the paper's.

ablations.py   pre-training objectives and masking      probe.py        what an encoder knows of a token's right neighbour
finetuning.py  poolings, directions, layers             comparison.py   fine-tuning beside a task model on frozen features
"""
