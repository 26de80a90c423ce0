"""Measures servers of vectors on a CPU under load from wrk: `fastbert serve`, and one of sentence-transformers and FastAPI.

    python benchmarks/serving.py                                    # writes benchmarks/results/serving.jsonl
    python benchmarks/serving.py --rounds 5 --seconds 10 --output serving.jsonl

A request holds one paragraph of the Python language reference, of natural length; 1, 8 and 64 clients each send the next one as
soon as they have an answer. The model is all-MiniLM-L6-v2. Both servers run all the time and are measured in turns, on the
cores that wrk uses too; their vectors are compared first. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

import numpy as np
import torch

from benchmarks import pages
from benchmarks.speed import records
from benchmarks.speed.cases import paragraphs_of_python_docs
from benchmarks.speed.checkpoints import default_model
from benchmarks.speed.environment import environment
from fastbert import files
from fastbert.errors import FastbertError
from fastbert.terminal import align, markdown_table

TEXTS, CLIENTS = 800, (1, 8, 64)
CLOSE = 1e-4
RESULTS = records.RESULTS / "serving.jsonl"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "server.md"
MARKS = ("<!-- serving -->", "<!-- /serving -->")
OURS, PLAIN = "fastbert serve", "sentence-transformers + FastAPI"
Row = dict[str, Any]

_SCRIPT = """
local bodies, at = {}, 0
for line in io.lines("BODIES") do table.insert(bodies, line) end
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/embed", {["content-type"] = "application/json"}, bodies[at])
end
"""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def plain_server(port: int) -> None:
    """The server that tutorials show: a model, a route, `encode`."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(default_model()), device="cpu")
    app = FastAPI()
    body: Any = create_model("Body", inputs=(str, ...))

    def embed(given: Any) -> Any:
        return model.encode([given.inputs], normalize_embeddings=True, show_progress_bar=False).tolist()

    embed.__annotations__["given"] = body
    app.post("/embed")(embed)
    app.get("/health")(dict)
    uvicorn.run(app, port=port, log_level="critical")


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[str]:
    """A server's address, once it answers."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise FastbertError(f"{command[-1]} did not start") from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def vector_of(url: str, body: str) -> np.ndarray:
    """A server's answer."""
    asked = urllib.request.Request(f"{url}/embed", body.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return np.array(json.loads(answer.read())[0], dtype=np.float32)


def load(url: str, script: Path, clients: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and the 99th percentile of seconds to the answer.

    Raises:
        FastbertError: an answer that is none.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "60s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, slowest = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s|m)", said)
    if rate is None or slowest is None or "Non-2xx" in said or "Socket errors" in said:
        raise FastbertError(f"wrk: {' '.join(said.split())[-300:]}")
    return float(rate[1]), float(slowest[1]) * _UNITS[slowest[2]]


def measure(count: int, rounds: int, seconds: float) -> list[Row]:
    """A row for each server and number of clients."""
    if shutil.which("wrk") is None:
        raise FastbertError("needs wrk (Debian: apt install wrk)")
    found = [" ".join(text.split()) for text in paragraphs_of_python_docs()]
    bodies = [json.dumps({"inputs": text[:1000]}) for text in found[:: max(1, len(found) // count)][:count]]
    ports = {OURS: free_port(), PLAIN: free_port()}
    ours = [sys.executable, "-m", "fastbert", "serve", str(default_model()), "--port", str(ports[OURS]), "--device", "cpu"]
    plain = [sys.executable, __file__, "--plain", str(ports[PLAIN])]
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        script, texts = Path(place) / "load.lua", Path(place) / "bodies.txt"
        script.write_text(_SCRIPT.replace("BODIES", str(texts)))
        texts.write_text("\n".join(bodies) + "\n")
        with running([*ours, "--auto-truncate"], ports[OURS]) as one, running(plain, ports[PLAIN]) as other:
            urls = {OURS: one, PLAIN: other}
            for body in bodies[:20]:
                worst = float(np.abs(vector_of(one, body) - vector_of(other, body)).max())
                if worst > CLOSE:
                    raise FastbertError(f"the servers' vectors differ by {worst:.1e} (at most {CLOSE})")
            for _ in range(rounds):
                for clients in CLIENTS:
                    for name, url in urls.items():
                        taken.setdefault((name, clients), []).append(load(url, script, clients, seconds))
    facts = {**environment(torch.device("cpu")), "figure": "serving", "texts": len(bodies), "seconds": seconds}
    return [
        {
            **facts,
            "server": name,
            "clients": clients,
            "requests_per_s": [rate for rate, _ in each],
            "p99_s": [slowest for _, slowest in each],
            "median_requests_per_s": median(rate for rate, _ in each),
            "median_p99_s": median(slowest for _, slowest in each),
        }
        for (name, clients), each in taken.items()
    ]


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A header, and a line for each server and number of clients."""
    base = {row["clients"]: row["median_requests_per_s"] for row in rows if row["server"] == PLAIN}
    shown = [
        (
            str(row["clients"]),
            row["server"],
            f"{row['median_requests_per_s']:.0f}",
            f"{row['median_p99_s'] * 1000:.0f} ms",
            f"{row['median_requests_per_s'] / base[row['clients']]:.2f}x",
        )
        for row in sorted(rows, key=lambda row: row["clients"])
    ]
    return [("clients", "server", "requests/s", "99% within", "of the plain one"), *shown]


def block(rows: Sequence[Row]) -> str:
    """The text between the page's markers."""
    one = rows[0]
    place = f"{one['cpu']}, {one['instructions']}, {one['cores']} cores, torch {one['torch']}"
    what = (
        f"One paragraph of the Python language reference a request, all-MiniLM-L6-v2, load by wrk on the same cores; medians "
        f"of {len(one['p99_s'])} turns of {one['seconds']:g} s on {place}:"
    )
    return pages.marked(MARKS, "\n\n".join([what, "\n".join(markdown_table(table(rows)))]))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 on success, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server and number of clients (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load in a turn (default: 10)")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"different requests (default: {TEXTS})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the rows")
    parser.add_argument("--plain", type=int, metavar="PORT", help="be the plain server, at a port")
    args = parser.parse_args(arguments)
    if args.plain is not None:
        plain_server(args.plain)
        return 0
    try:
        rows = measure(max(args.texts, 2), max(args.rounds, 1), args.seconds)
        records.write(args.output, rows)
        if args.output == RESULTS:
            files.write_text(PAGE, pages.put(PAGE.read_text(encoding="utf-8"), MARKS, block(rows)))
    except FastbertError as error:
        print(f"benchmarks/serving.py: {error}", file=sys.stderr)
        return 2
    print("\n".join(align(table(rows))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
