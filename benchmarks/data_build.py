"""Measures the speed and peak memory of `fastbert data build` on a large generated corpus, against the bare tokenizer.

    python benchmarks/data_build.py --megabytes 1000

Words are drawn by Zipf's law from the language reference that ships with Python, in sentences and documents of random lengths.
The bare rate is that of `tokenizers` on the same lines, in batches, with the result discarded. Each runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout without installation

import fastbert  # noqa: E402
from fastbert import files  # noqa: E402
from fastbert.data.documents import Sentences  # noqa: E402

BARE = """
import sys, time
from itertools import islice
from tokenizers import Tokenizer
tokenizer, started = Tokenizer.from_file(sys.argv[1]), time.perf_counter()
with open(sys.argv[2], encoding="utf-8") as lines:
    while batch := list(islice(lines, 2000)):
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
print(time.perf_counter() - started)
"""


def generate(path: Path, megabytes: int) -> None:
    """Writes about `megabytes` MB of text, one document per paragraph."""
    words = np.array(sorted({w for text in Sentences(["python:pydoc_data.topics"]) for w in text.split() if w.isalpha()}))
    draws = np.random.default_rng(0)
    weights = 1 / np.arange(1, len(words) + 1)
    draws.shuffle(weights)
    weights /= weights.sum()
    with path.open("w", encoding="utf-8") as stream:
        while stream.tell() < megabytes * 1_000_000:
            drawn = iter(draws.choice(words, size=200_000, p=weights).tolist())
            while sentence := list(islice(drawn, int(draws.integers(5, 30)))):
                stream.write(" ".join(sentence).capitalize() + ".\n" + ("\n" if draws.random() < 0.05 else ""))


def main() -> int:
    """Runs both, prints and writes the result; exit code 1 if the peak memory is 1000 MiB or more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "pretraining" / "data_build.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, tokenizer, corpus = (Path(folder) / name for name in ("text.txt", "tokenizer", "corpus"))
        generate(text, args.megabytes)
        made = fastbert.BertTokenizer.train(Sentences(["python:pydoc_data.topics"]), 8000)
        made.save_pretrained(tokenizer)
        size = text.stat().st_size / 1e6
        command = [sys.executable, "-c", BARE, str(tokenizer / "tokenizer.json"), str(text)]
        bare = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        command = [
            sys.executable,
            "-m",
            "fastbert.cli",
            "data",
            "build",
            str(text),
            "-o",
            str(corpus),
            "--tokenizer",
            str(tokenizer),
        ]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest child: an upper bound
    result = {
        "megabytes": round(size, 1),
        "build_mb_per_s": round(size / seconds, 2),
        "bare_tokenizer_mb_per_s": round(size / bare, 2),
        "peak_mib": round(peak / 1024),
    }
    files.write_text(args.output, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if peak / 1024 < 1000 else 1


if __name__ == "__main__":
    sys.exit(main())
