"""Turns result rows into console tables, the Markdown report, the HTML page and the tables of the docs.

python benchmarks/report.py                          docs/benchmarks.md and the reports of the newest results of each device
python benchmarks/report.py NEW.jsonl                the report of one file, next to it
python benchmarks/report.py NEW.jsonl --compare OLD.jsonl --fail-below 0.95
                                                     what got slower; exit code 1 if any of our rows did
"""

from __future__ import annotations

import argparse
import base64
import html
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

from benchmarks import pages
from benchmarks.speed import processors, records, targets
from benchmarks.speed.comparison import compare
from benchmarks.speed.records import QUESTION, RESULTS, Row
from fastbert import FastbertError, files
from fastbert.errors import InputError
from fastbert.terminal import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = ("<!-- benchmark: begin -->", "<!-- benchmark: end -->")
TARGET_MARKS = ("<!-- targets: begin -->", "<!-- targets: end -->")
Cells = list[tuple[str, ...]]


def questions(rows: Iterable[Row]) -> list[list[Row]]:
    """Groups rows that answer the same question."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in QUESTION), []).append(row)
    return list(found.values())


def ours(rows: Sequence[Row], from_text: bool = False) -> Row | None:
    """fastbert's row among the answers to a question."""
    whole = (row for row in rows if row["ours"] and row["rival"])  # not int8
    fine = (row for row in whole if row["status"] == "ok" and row["from_text"] == from_text)
    return next(fine, None)


def best_other(rows: Sequence[Row]) -> Row | None:
    """The row of the fastest rival of the same precision that is not fastbert."""
    fine = [row for row in rows if not row["ours"] and row["rival"] and row["status"] == "ok" and "median_s" in row]
    return records.fastest(fine)


def gain(rows: Sequence[Row]) -> float | None:
    """How many times as fast as the best other candidate fastbert is; None if either row is missing."""
    mine, other = ours(rows), best_other(rows)
    return None if mine is None or other is None or "median_s" not in mine else other["median_s"] / mine["median_s"]


def title(row: Row) -> str:
    """The description of a row's question, for headings."""
    if row["suite"] == "ops":
        return f"{row['task']}: {row['dtype']}, {row['case']}"
    text = f"{row['suite']}: {row['model']}, {row['task']}, {row['dtype']}, {row['case']}"
    if "texts" not in row:
        return text
    if row["texts"] == 1:
        return f"{text}: one text"
    mean = row["tokens"] / row["texts"]
    return f"{text} lengths: {row['texts']:,} texts, {mean:.0f} tokens on average, at most {row['longest']} ({row['source']})"


def table(rows: Sequence[Row]) -> Cells:
    """The table of one question: a header, and the cells of each row in order."""
    if rows[0]["suite"] == "startup":
        return _startup_table(rows)
    if rows[0]["suite"] == "memory":
        return _memory_table(rows)
    cells = [
        ("candidate", "batch", "median", "p20 to p80", "tokens/s", "TFLOP/s", "of the limit", "peak", "error", "fastbert is")
    ]
    for row in rows:
        if row["status"] != "ok":
            cells.append((_name(row), "", f"{row['status']}: {row['reason']}", *("",) * 7))
            continue
        mine = ours(rows, row["from_text"]) or ours(rows)
        faster = "" if mine is None or row["ours"] else f"{row['median_s'] / mine['median_s']:.2f}x as fast"
        cells.append(
            (
                _name(row),
                _setting(row),
                _time(row["median_s"]),
                f"{_time(row['p20_s'])} to {_time(row['p80_s'])}",
                f"{row['tokens_per_s']:,.0f}" if "tokens_per_s" in row else "",
                f"{row['tflops']:.3g}" if row["flops"] else f"{row['gb_per_s']:.3g} GB/s",
                f"{row['share_of_limit']:.0%}",
                _bytes(row["peak_bytes"]),
                f"{row['max_error']:.0e}",
                faster,
            )
        )
    return cells


def _startup_table(rows: Sequence[Row]) -> Cells:
    cells = [("candidate", "import", "load", "first call", "second call", "until the first result")]
    for row in rows:
        if row["status"] != "ok":
            cells.append((_name(row), f"{row['status']}: {row['reason']}", "", "", "", ""))
            continue
        laps = (_time(row[name]) for name in ("import_s", "load_s", "first_call_s", "second_call_s", "median_s"))
        cells.append((_name(row), *laps))
    return cells


def _memory_table(rows: Sequence[Row]) -> Cells:
    cells = [("candidate", "peak beyond the loaded model", "batch")]
    for row in rows:
        fine = row["status"] == "ok"
        cells.append((_name(row), _bytes(row["peak_bytes"]) if fine else f"{row['status']}: {row['reason']}", _setting(row)))
    return cells


def console(rows: Sequence[Row]) -> str:
    """All questions as aligned text."""
    blocks = []
    for group in questions(rows):
        cells = table(group)
        widths = [max(len(line[i]) for line in cells if "" not in line[3:4] or line is cells[0]) for i in range(len(cells[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        blocks.append("\n".join([title(group[0]), *lines]))
    return "\n\n".join([*blocks, machine(rows)])


def markdown(rows: Sequence[Row], plots: Sequence[Path] = ()) -> str:
    """All questions as a Markdown report."""
    blocks = [f"# Measured on {rows[0]['device']}, {max(row['date'] for row in rows)}", machine(rows), *_METHOD]
    blocks += [f"![{path.stem}]({path.name})" for path in plots]
    for group in questions(rows):
        blocks.append(f"**{title(group[0])}**\n\n{_lines(table(group))}")
        if group[0].get("histogram") and group[0]["texts"] > 1 and group[0]["suite"] == "inference":
            bins = ", ".join(f"{count} up to {length}" for length, count in group[0]["histogram"])
            blocks.append(f"Lengths in tokens: {bins}.")
    return "\n\n".join(blocks) + "\n"


def page(rows: Sequence[Row], plots: Sequence[Path] = ()) -> str:
    """All questions as one self-contained HTML file."""
    body = [
        f"<h1>fastbert on {html.escape(rows[0]['device'])}, {max(row['date'] for row in rows)}</h1>",
        f"<p>{html.escape(machine(rows))}</p>",
    ]
    body += [f"<p>{html.escape(text)}</p>" for text in _METHOD]
    for path in plots:
        image = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{image}">')
    for group in questions(rows):
        header, *cells = table(group)
        body.append(f"<h2>{html.escape(title(group[0]))}</h2><table>{_html_row(header, 'th')}")
        body += [_html_row(line, "td") for line in cells]
        body.append("</table>")
    return _PAGE.format(body="\n".join(body))


def machine(rows: Sequence[Row]) -> str:
    """The machine, the package versions, and every commit and date of the measurements."""
    row = rows[-1]
    where = f"{row['cpu']}, {row['cores']} cores"
    if row["cuda"] is not None:
        where = f"{row['device']} (driver {row['driver']}, CUDA {row['cuda']}), {where}"
    packages = ", ".join(
        f"{name} {row[name]}" for name in ("torch", "triton", "transformers", "onnxruntime", "openvino") if row[name]
    )
    at = dict.fromkeys(f"commit {row['commit']}, {row['date']}" for row in rows)
    return f"{where}; {packages}; {'; '.join(at)}."


def overview(groups: Sequence[Sequence[Row]]) -> str:
    """One table of several questions: a row per candidate, a column per question, and a last row with the gains."""
    names = list(dict.fromkeys(_name(row) for group in groups for row in group if row["status"] == "ok"))
    cells = [("", *(_column(group[0]) for group in groups))]
    for name in names:
        cells.append((name, *(_cell(next((row for row in group if _name(row) == name), None)) for group in groups)))
    gains = [gain(group) for group in groups]
    cells.append(("**fastbert / best other**", *("" if each is None else f"**{each:.2f}x**" for each in gains)))
    return _lines(cells)


def benchmark_block(folder: Path = RESULTS) -> str:
    """The text between the benchmark marks of the docs."""
    blocks = [MARKS[0]]
    results = records.newest(folder)
    for path, rows in (one for one in results if one[1][0]["cuda"] is not None):
        measured = [group for group in questions(rows) if any("median_s" in row for row in group)]
        for suite, caption in _CAPTIONS.items():
            of_suite = [group for group in measured if group[0]["suite"] == suite]
            for model in dict.fromkeys(group[0]["model"] for group in of_suite):
                asked = [group for group in of_suite if group[0]["model"] == model]
                blocks.append(f"**{model}, {asked[0][0]['dtype']}: {caption}**\n\n{overview(asked)}")
        name = f"benchmarks/results/{rows[0]['device']}/{path.stem}"
        blocks.append(f"{machine(rows)} Every table, with spreads, memory, checks and what is missing: `{name}.md`.")
    on_cpus = [one for one in results if one[1][0]["cuda"] is None]
    if on_cpus:
        caption = "**CPUs, float32 unless said otherwise: the lowest and the highest figure of the processors**"
        blocks.append(f"{caption}\n\n{processors.block(on_cpus, questions)}")
    return "\n\n".join([*blocks, MARKS[1]])


def update_page(path: Path = PAGE) -> None:
    """Replaces the text between the marks of docs/benchmarks.md: the tables and the targets."""
    text = path.read_text(encoding="utf-8")
    for marks, block in ((MARKS, benchmark_block()), (TARGET_MARKS, targets_block())):
        text = pages.put(text, marks, block)
    files.write_text(path, text)


def update_predictions() -> None:
    """Writes the predictions, with the newest measured figures beside them, to benchmarks/README.md."""
    from benchmarks.kernels import predict

    predict.refresh()


def targets_block(folder: Path = RESULTS) -> str:
    """The text between the target marks of the docs."""
    return pages.marked(TARGET_MARKS, targets.block([rows for _, rows in records.newest(folder)], questions))


def write_reports(path: Path, rows: Sequence[Row]) -> list[Path]:
    """Writes the Markdown report, the plots and the HTML page next to a results file; returns the written paths."""
    from benchmarks.speed.plots import draw

    plots = draw(path, rows)
    files.write_text(path.with_suffix(".md"), markdown(rows, plots))
    files.write_text(path.with_suffix(".html"), page(rows, plots))
    return [path.with_suffix(".md"), path.with_suffix(".html"), *plots]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 on success, 1 if any of our rows got slower, 2 for bad arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="?", help="a results file (default: the newest of each device, and the docs)"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD.jsonl", help="results to compare with")
    parser.add_argument("--fail-below", type=float, default=0.95, help="minimum new/old speed of our rows (default: 0.95)")
    args = parser.parse_args(arguments)
    try:
        if args.results is None:
            if args.compare is not None:
                raise InputError("--compare needs the new results too: report.py NEW.jsonl --compare OLD.jsonl")
            for path, rows in records.newest():
                write_reports(path, rows)
            update_page()
            update_predictions()
            return 0
        rows = records.read(args.results)
        if args.compare is not None:
            text, slower = compare(records.read(args.compare), rows, args.fail_below)
            print(text)
            return 1 if slower else 0
        for path in write_reports(args.results, rows):
            print(path)
        return 0
    except FastbertError as error:
        print(f"benchmarks/report.py: {error}", file=sys.stderr)
        return 2


_METHOD = (
    "The limit of a case is the longer of two times: its FLOPs at the rate of the best matrix product, its bytes at the copy "
    "bandwidth, both measured in turns with the candidates. Times are medians of the rounds. The error is the largest "
    "difference from transformers in float32 (ops: from float64) as a share of the largest value; a candidate beyond its bound "
    "gets no figure. All sort texts by length and run at the best batch size of a small search, except those called 'as it "
    "comes'. 'From text' includes tokenising. Peak is memory beyond the loaded model.",
)
_CAPTIONS = {
    "inference": "forward, texts/s (share of the machine's limit)",
    "training": "training steps, texts/s (share of the machine's limit)",
    "latency": "one text, milliseconds",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fastbert benchmark</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin-bottom: 1.5em; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
h2 {{ font-size: 1em; }}
img {{ max-width: 100%; }}
</style></head><body>
{body}
</body></html>
"""


def _name(row: Row) -> str:
    return str(row["candidate"])


def _column(row: Row) -> str:
    case = row["case"].replace("full", "length") if row["suite"] == "latency" else row["case"]
    return str(case) if row["task"] == "encoder" else f"{row['task']}, {case}"


def _cell(row: Row | None) -> str:
    if row is None or row["status"] == "missing":
        return ""
    if row["status"] != "ok":
        return str(row["status"])
    if row["suite"] == "latency":
        return digits(row["median_s"] * 1e3)
    return f"{digits(row['texts_per_s'])} ({row['share_of_limit']:.0%})"


def _setting(row: Row) -> str:
    if row.get("setting") is None:
        return ""
    unit = "tokens" if row["candidate"].startswith("fastbert") else "texts"  # a patched model of others has their batches
    return f"{row['setting']:,} {unit if row['setting'] > 1 else 'text'}"


def _time(seconds: float) -> str:
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{digits(seconds * scale)} {unit}"
    return f"{digits(seconds)} s"


def digits(value: float) -> str:
    """A number with three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f} MiB"


def _lines(cells: Cells) -> str:
    return "\n".join(markdown_table(cells))


def _html_row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


if __name__ == "__main__":
    sys.exit(main())
