"""fastbert inside other libraries.

transformers.py   `patch` and `unpatch`: transformers' own models, run by fastbert
patched.py        the forward that a patched encoder gets
families.py       where each family of transformers' encoders keeps its parts
layers.py         one layer of transformers, run on packed tokens
collator.py       `FlatteningCollator`: batches without padding for Trainer
onnx.py           models as ONNX files
ray.py            an actor for Ray Data, and bulk jobs on a cluster
attention.py      `register`: fastbert's attention by a name in transformers 5
"""
