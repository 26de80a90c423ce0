"""Fine-tuning by fastbert and by transformers, with the same recipes on the same data; quality.py starts it."""
