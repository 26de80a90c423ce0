"""Batches without padding.

batch.py     PackedBatch: tokens of all sequences end to end      packer.py    padded batches and lists to packed ones
batching.py  framed rows to batches: the loop over many texts     checks.py    of batches that a caller packed
inputs.py    what callers may pass                                deferred.py  checks on a GPU that nobody waits for
flattened.py batches that other libraries flattened               positions.py as RoBERTa counts them
"""

from fastbert.packing.batch import Origin, PackedBatch, fixed_budget
from fastbert.packing.batching import token_budget_batches
from fastbert.packing.checks import check_packed
from fastbert.packing.packer import mask_to_bias, pack

__all__ = ["Origin", "PackedBatch", "check_packed", "fixed_budget", "mask_to_bias", "pack", "token_budget_batches"]
