"""Results to tables: the console's, the Markdown report's and the README's, all from the same rows.

python benchmarks/report.py          writes the README's table from the newest committed results
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
Row = dict[str, Any]


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Header and cells of one case, in the order of the rows. The last column compares fastbert with each row."""
    ours = next((row for row in rows if row["ours"] and row["parity"]), None)
    cells = [("candidate", "batch", "texts/s", "tokens/s", "p20-p80, s", "TFLOP/s", "of the limit", "max error", "fastbert is")]
    for row in rows:
        if not row["parity"]:
            cells.append((row["candidate"], "", "parity failed", "", "", "", "", f"{row['max_error']:.1e}", ""))
            continue
        gain = "" if ours is None or row["ours"] else f"{row['median_s'] / ours['median_s']:.2f}x as fast"
        cells.append(
            (
                row["candidate"],
                f"{row['batch']:,} {'tokens' if row['ours'] else 'texts'}",
                f"{row['texts_per_s']:,.0f}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['p20_s']:.2f}-{row['p80_s']:.2f}",
                f"{row['tflops']:.3f}" if row["tflops"] < 1 else f"{row['tflops']:.0f}",
                f"{row['share_of_ceiling']:.0%}",
                f"{row['max_error']:.1e}",
                gain,
            )
        )
    return cells


def console_table(rows: list[Row]) -> str:
    """All cases as aligned text."""
    blocks = []
    for title, part in _by_case(rows):
        cells = table(part)
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        blocks.append("\n".join([title, *lines]))
    return "\n\n".join([*blocks, _environment(rows[0])])


def markdown(rows: list[Row]) -> str:
    """All cases as Markdown."""
    blocks = []
    for title, part in _by_case(rows):
        header, *cells = table(part)
        lines = [f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *cells)]
        blocks.append("\n".join([f"**{title}**", "", *lines]))
    return "\n\n".join([*blocks, _environment(rows[0])]) + "\n"


def newest(folder: Path = RESULTS) -> list[list[Row]]:
    """The newest results of each device, GPUs first."""
    devices = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [max(device.glob("*.jsonl"), default=None) for device in devices]
    results = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in found if path]
    return sorted(results, key=lambda rows: "cuda" not in rows[0])


def readme_block(folder: Path = RESULTS) -> str:
    """What stands between the README's markers."""
    return "\n".join([BEGIN, "", *(markdown(rows) for rows in newest(folder)), END])


def update_readme(path: Path = ROOT / "README.md") -> None:
    """Replaces what stands between the README's markers."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    path.write_text(before + readme_block() + rest.split(END)[1], encoding="utf-8")


def _by_case(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    titles: dict[str, list[Row]] = {}
    for row in rows:
        mean = row["tokens"] / row["texts"]
        title = f"{row['model']}, {row['dtype']}, {row['case']} lengths: {row['texts']} texts, {mean:.0f} tokens on average, "
        titles.setdefault(f"{title}at most {row['longest']} ({row['source']})", []).append(row)
    return list(titles.items())


def _environment(row: Row) -> str:
    machine = f"{row['device']} (CUDA {row['cuda']})" if "cuda" in row else f"{row['cpu']}, {row['cores']} cores"
    packages = ", ".join(f"{name} {row[name]}" for name in ("torch", "triton", "transformers"))
    limit = f"{row['ceiling_tflops']:.3g} TFLOP/s, the best matrix product of the same run"
    stamp = f"commit {row['commit']}; {row['date']}"
    return f"{machine}; {packages}; {stamp}. Medians of {len(row.get('seconds', []))}; limit: {limit}."


if __name__ == "__main__":
    update_readme()
    sys.exit(0)
