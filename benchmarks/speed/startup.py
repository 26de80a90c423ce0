"""Start-up times: seconds of importing, loading and the first call, each in a fresh Python process.

Compiler caches are left as they are on the machine, except Triton's, which is empty. Each figure is the median of several
processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.checkpoints import Checkpoints
from benchmarks.speed.records import QUESTION
from benchmarks.speed.suites import Request
from benchmarks.speed.worker import one_line

ROOT = Path(__file__).resolve().parents[2]
CASE = "32 tokens"
_FRAME = """
import json, sys, time
t = [time.perf_counter()]
def lap(): t.append(time.perf_counter())
folder, device, dtype = sys.argv[1:4]
{imports}
lap()
{load}
lap()
ids = [[101] + [2000 + i for i in range(30)] + [102]]
for _ in range(2):
    {call}
    if device != "cpu": torch.cuda.synchronize()
    lap()
print(json.dumps([b - a for a, b in zip(t, t[1:])]))
"""
_TRANSFORMERS = """
model = BertModel.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").to(device).eval()
"""
SCRIPTS = {
    "fastbert": (
        "import torch, fastbert",
        "model = fastbert.BertModel.from_pretrained(folder, dtype=getattr(torch, dtype), device=device).eval()",
        "with torch.inference_mode(): model(fastbert.pack(ids).to(device))",
    ),
    "transformers sdpa": (
        "import torch\nfrom transformers import BertModel",
        _TRANSFORMERS,
        "with torch.inference_mode(): model(torch.tensor(ids, device=device))",
    ),
    "torch.compile": (
        "import torch\nfrom transformers import BertModel",
        _TRANSFORMERS + "model = torch.compile(model, dynamic=True)",
        "with torch.inference_mode(): model(torch.tensor(ids, device=device))",
    ),
}


def startup_rows(
    request: Request, checkpoints: Checkpoints, step: Callable[[str], None], known: Collection[tuple[Any, ...]] = ()
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each size, except sizes whose row keys are all in `known`."""
    repeats = request.repeats or (2 if request.quick else 5)
    for size in request.sizes:
        folder = checkpoints.folder(size, "encoder")
        names = [name for name in SCRIPTS if not (request.quick and name == "torch.compile")]
        asked = ("startup", checkpoints.label(size), "encoder", request.dtype, CASE)
        if all((*asked, name) in known for name in names):
            continue
        found: dict[str, list[list[float]]] = {name: [] for name in names}
        broken: dict[str, str] = {}
        for _ in range(repeats):
            for name in names:
                step(f"startup: {checkpoints.label(size)}, {name}")
                if name not in broken:
                    try:
                        found[name].append(_run(name, folder, request))
                    except (OSError, subprocess.SubprocessError, ValueError) as error:
                        said = getattr(error, "stderr", "") or str(error)
                        broken[name] = said.strip().splitlines()[-1][:240] if said.strip() else one_line(error)
        rows = []
        for name in names:
            row: dict[str, Any] = {
                **dict(zip(QUESTION, asked, strict=True)),
                "candidate": name,
                "ours": name == "fastbert",
                "rival": True,
                "from_text": False,
                "precision": request.dtype,
            }
            if name in broken:
                rows.append(row | {"status": "error", "reason": broken[name]})
                continue
            parts = [statistics.median(part) for part in zip(*found[name], strict=True)]
            laps = dict(zip(("import_s", "load_s", "first_call_s", "second_call_s"), parts, strict=True))
            totals = [sum(one[:3]) for one in found[name]]
            rows.append(row | {"status": "ok", **laps, "seconds": totals, "median_s": statistics.median(totals)})
        yield rows


def _run(name: str, folder: Path, request: Request) -> list[float]:
    imports, load, call = SCRIPTS[name]
    code = _FRAME.format(imports=imports, load=load, call=call)
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": cache}
        command = [sys.executable, "-c", code, str(folder), request.device, request.dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=600, cwd=cache)
    return [float(part) for part in json.loads(done.stdout.splitlines()[-1])]
