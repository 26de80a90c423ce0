"""Fine-tuning with fastbert and with transformers, by the same recipes on the same data; run by quality.py."""
