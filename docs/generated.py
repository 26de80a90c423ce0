"""Writes what is generated in README and docs: pictures, and the tables between marks.

    python docs/generated.py

The figures of the benchmark come from committed results by `benchmarks/report.py`; those of bulk work and the server by
`benchmarks/bulk.py` and `benchmarks/serving.py` when they measure; those of fine-tuning by `benchmarks/quality.py table`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

from benchmarks import pages, report
from benchmarks.speed import records
from benchmarks.speed.records import Row
from fastbert import BertConfig, cli, count_parameters, files
from fastbert.diagnostics import PAPER
from fastbert.terminal import markdown_table
from fastbert.training.records import read_metrics
from fastbert.training.report import draw_run

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
OURS, OTHERS = "#d9480f", ["#495057", "#868e96", "#adb5bd", "#ced4da"]
COMMANDS = ("<!-- commands: begin -->", "<!-- commands: end -->")
FIRST_VECTOR = ("<!-- first vector: begin -->", "<!-- first vector: end -->")
PARAMETERS = ("<!-- parameters: begin -->", "<!-- parameters: end -->")


# -- tables --------------------------------------------------------------------------------------------------------------------


def commands(parser: argparse.ArgumentParser | None = None, name: str = "") -> list[tuple[str, str]]:
    """Every command with the first sentence of its help."""
    rows = []
    for group in (action for action in (parser or cli._parser())._actions if isinstance(action, argparse._SubParsersAction)):
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for word, sub in group.choices.items():
            inner = commands(sub, f"{name} {word}".strip())
            rows += inner or [(f"`{name} {word}`".replace("` ", "`"), first_paragraph(sub.description or helps[word]))]
    return rows


def first_paragraph(text: str) -> str:
    """The text up to its first empty line, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def commands_block() -> str:
    """The table of commands."""
    return pages.marked(COMMANDS, "\n".join(markdown_table([("Command", "What it does"), *commands()])))


def parameters_block() -> str:
    """The terms of both released sizes, with the short formula's and the paper's totals."""
    sizes = {size: count_parameters(BertConfig.of_size(size), "BertForPreTraining") for size in ("base", "large")}
    base, large = sizes.values()
    rows = [("Term", "Formula", "BERT-base", "BERT-large")]
    rows += [(a[0], a[1], f"{a[2]:,}", f"{b[2]:,}") for a, b in zip(base.terms, large.terms, strict=True)]
    rows.append(("**total**", "", *(f"**{found.total:,}**" for found in sizes.values())))
    rows.append(("short formula", "30000 N + 12 N^2 L", *(f"{found.notes_estimate:,}" for found in sizes.values())))
    rows.append(("the paper", "", *(f"{PAPER[size]:,}" for size in sizes)))
    return pages.marked(PARAMETERS, "\n".join(markdown_table(rows)))


def first_vector_block() -> str:
    """How long the first vector took, from `benchmarks/first_vector.py`."""
    found = files.read_json(records.RESULTS / "first_vector.json")
    place = f"{found['cpu']}, {found['cores']} cores, Python {found['python']}, torch {found['torch']}"
    text = (
        f"From `git clone` to the first vector it took {found['total_s']:.0f} seconds, {found['seconds']['install']:.0f} of "
        f"them for `pip install`: {found['distributions']} packages, {found['megabytes_installed']:,} MB when installed "
        f"({place}; commit {found['commit']}). `python benchmarks/first_vector.py` measures it."
    )
    return pages.marked(FIRST_VECTOR, text)


# -- the page on which one chooses device and case -----------------------------------------------------------------------------

EXPLORER = DOCS / "explorer-data.js"


def explorer_data() -> str:
    """What docs/explorer.html shows: all committed rows that have a speed, or a reason for having none."""
    found = [row for suite in WORK for _, rows in records.newest() for row in rows if row["suite"] == suite]
    facts = list(dict.fromkeys(report.machine([row]) for row in found))
    shown = [{**shown_row(row), "facts": facts.index(report.machine([row]))} for row in found]
    return f"const measured = {json.dumps({'facts': facts, 'rows': shown}, ensure_ascii=False)};\n"


WORK = {"inference": "forward", "training": "training step", "latency": "one text", "ops": "op"}


def shown_row(row: Row) -> dict[str, Any]:
    """A row as the page shows it."""
    what = "" if row["task"] == "encoder" else f", {row['task']}"
    place = {
        "device": row["device"],
        "work": f"{WORK[row['suite']]}{what}, {row['dtype']}",
        "model": row["model"],
        "case": row["case"],
        "system": f"{row['candidate']}{', from text' if row['from_text'] and 'from text' not in row['candidate'] else ''}",
        "ours": row["ours"],
        "rival": row["rival"] and not row["from_text"],
    }
    if row["status"] != "ok":
        return {**place, "reason": f"{row['status']}: {row['reason'][:160]}"}
    if row["suite"] in ("inference", "training"):
        texts = row["texts"]
        ends = (texts / row[name] for name in ("p80_s", "p20_s"))
        speed, spread = f"{report.digits(row['texts_per_s'])} texts/s", " to ".join(map(report.digits, ends))
    else:
        speed, spread = (
            f"{report.digits(row['median_s'] * 1e3)} ms",
            " to ".join(report.digits(row[n] * 1e3) for n in ("p20_s", "p80_s")),
        )
    return {**place, "rate": 1 / row["median_s"], "speed": speed, "spread": spread, "share": row.get("share_of_limit")}


# -- pictures ------------------------------------------------------------------------------------------------------------------


def gains() -> list[tuple[str, list[tuple[str, dict[str, float]]]]]:
    """What the picture of the gain shows: for each device its cases, and for each case the texts a second of every system."""
    panels = []
    for _, rows in records.newest():
        found: dict[tuple[str, str], list[tuple[str, dict[str, float]]]] = {}
        for group in report.questions([row for row in rows if row["suite"] == "inference" and row["task"] == "encoder"]):
            rates = {name_of(row): row["texts_per_s"] for row in group if is_shown(row)}
            if "fastbert" in rates and len(rates) > 1 and group[0]["case"].split()[0] in ("natural", "full"):
                found.setdefault((group[0]["model"], group[0]["dtype"]), []).append((group[0]["case"], rates))
        complete = {shown: cases for shown, cases in found.items() if cases[0][0] == "natural" and len(cases) > 1}
        for dtype in dict.fromkeys(dtype for _, dtype in complete):
            model, cases = next((model, cases) for (model, of), cases in complete.items() if of == dtype)
            panels.append((f"{title_of(rows[0])}\n{model}, {dtype}", cases))
    return panels


def is_shown(row: Row) -> bool:
    """Whether a row is in the picture: fastbert as users run it, and every rival that starts from ids, but eager attention."""
    if row["status"] != "ok" or row["from_text"] or not row["rival"] or row["candidate"] == "transformers eager":
        return False
    return not row["ours"] or row["candidate"] == "fastbert"


def name_of(row: Row) -> str:
    """A system's name in the picture."""
    return {"transformers sdpa": "transformers", "ONNX Runtime, optimised": "ONNX Runtime"}.get(
        row["candidate"], row["candidate"]
    )


def title_of(row: Row) -> str:
    """A device's name in the picture."""
    if row["cuda"] is not None:
        return str(row["device"]).removesuffix("-80gb-hbm3").replace("-", " ").upper()
    return f"{row['cpu']}, {row['cores']} cores\n{row.get('instructions') or 'instruction set not recorded'}"


def draw_gain(target: Path) -> None:
    """Draws throughput beside the other systems, a panel for each device, a group of bars for each case."""
    panels, across = gains(), 3
    down = -(-len(panels) // across)
    figure = new_figure(10, 3.8 * down)
    axes = [*figure.subplots(down, min(across, len(panels)), squeeze=False).flat]
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for axis, (title, cases) in zip(axes, panels, strict=False):
        place, ticks = 0.0, []
        for case, rates in cases:
            ranked = sorted(rates.items(), key=lambda one: (one[0] != "fastbert", -one[1]))
            base = rates["transformers"]
            ticks.append((place + (len(ranked) - 1) / 2, case))
            for index, (name, rate) in enumerate(ranked):
                colour = OURS if name == "fastbert" else OTHERS[(index - 1) % len(OTHERS)]
                axis.barh(place, rate / base, height=0.9, color=colour)
                label = f"{name}  {report.digits(rate)}"
                weight = "bold" if name == "fastbert" else "normal"
                axis.text(rate / base + 0.04, place, label, va="center", fontsize=8, weight=weight)
                place += 1
            place += 0.8
        axis.set_yticks([at for at, _ in ticks], [case for _, case in ticks], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.55 * max(rate / rates["transformers"] for _, rates in cases for rate in rates.values()))
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("times transformers; labels: texts per second", fontsize=7.5)
        axis.tick_params(labelsize=7.5)
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, target)


def draw_packing(target: Path) -> None:
    """Draws a padded batch, and the same tokens end to end."""
    from matplotlib.patches import Rectangle

    texts = [["[CLS]", "short", ".", "[SEP]"], ["[CLS]", "a", "text", "of", "middle", "length", ".", "[SEP]"]]
    texts += [["[CLS]", "yes", "[SEP]"], ["[CLS]", "and", "one", "more", ".", "[SEP]"]]
    colours, width = ["#ffd8a8", "#b2f2bb", "#a5d8ff", "#eebefa"], max(map(len, texts))
    total = sum(map(len, texts))
    figure = new_figure(10, 3.2)
    axis = figure.subplots()

    def cell(x: float, y: float, text: str, colour: str) -> None:
        axis.add_patch(Rectangle((x, y), 1, 0.8, facecolor=colour, edgecolor="white", linewidth=1.5))
        axis.text(x + 0.5, y + 0.4, text, ha="center", va="center", fontsize=7, color="#868e96" if text == "[PAD]" else "black")

    for row, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        for column in range(width):
            inside = column < len(text)
            cell(column, -row, text[column] if inside else "[PAD]", colour if inside else "#f1f3f5")
    axis.text(0, 1.15, f"padded: (B, S) = (4, {width}), {4 * width} positions for {total} tokens", fontsize=9)
    start, bounds = 0, [0]
    for text, colour in zip(texts, colours, strict=True):
        for column, word in enumerate(text):
            cell(start + column, -5.6, word, colour)
        start += len(text)
        bounds.append(start)
    axis.text(0, -4.4, f"packed: T = {total} tokens", fontsize=9)
    for bound in bounds:
        axis.plot([bound, bound], [-6.0, -5.7], color="black", linewidth=0.8)
        axis.text(bound, -6.5, str(bound), ha="center", fontsize=8)
    axis.text(total + 0.6, -6.5, "cu_seqlens", fontsize=8)
    axis.set_xlim(-0.3, total + 3.2)
    axis.set_ylim(-6.9, 1.7)
    axis.axis("off")
    save(figure, target)


def draw_road(target: Path) -> None:
    """Draws the ops between ids and hidden states, and the shape of what each gives."""
    from matplotlib.patches import FancyBboxPatch

    steps = [("pack", "ids (T,)", "#f1f3f5"), ("embedding sum,\nLayerNorm", "(T, N)", "#a5d8ff")]
    layer = [("query, key, value", "(T, 3, H, D)", "#e9ecef"), ("attention\nin each text", "(T, H, D)", "#ffd8a8")]
    layer += [("output, then\nLayerNorm join", "(T, N)", "#a5d8ff"), ("linear + GELU", "(T, F)", "#b2f2bb")]
    layer += [("linear, then\nLayerNorm join", "(T, N)", "#a5d8ff")]
    last = [("unpack", "(B, S, N)", "#f1f3f5")]
    figure = new_figure(11, 1.9)
    axis = figure.subplots()
    for index, (name, shape, colour) in enumerate([*steps, *layer, *last]):
        x = index * 2.1
        box = FancyBboxPatch((x, 0), 1.7, 1, boxstyle="round,pad=0.05", facecolor=colour, edgecolor="#868e96", linewidth=0.8)
        axis.add_patch(box)
        axis.text(x + 0.85, 0.5, name, ha="center", va="center", fontsize=8)
        axis.text(x + 0.85, -0.38, shape, ha="center", va="center", fontsize=8, family="monospace")
        if index:
            axis.annotate("", (x - 0.06, 0.5), (x - 0.34, 0.5), arrowprops={"arrowstyle": "->", "color": "#495057"})
    first, end = 2 * 2.1 - 0.2, 7 * 2.1 - 0.2
    axis.plot([first, first, end, end], [1.2, 1.35, 1.35, 1.2], color="#495057", linewidth=0.8)
    axis.text((first + end) / 2, 1.5, "L layers; only attention looks at where a text begins", ha="center", fontsize=8)
    axis.set_xlim(-0.2, 8 * 2.1)
    axis.set_ylim(-0.7, 1.8)
    axis.axis("off")
    save(figure, target)


def draw_run_of_minute(target: Path) -> None:
    """Draws losses and rates of the committed run of the recipe "minute"."""
    found = read_metrics(records.RESULTS / "pretraining" / "minute" / "metrics.jsonl")
    new_figure(1, 1)  # for its settings
    draw_run(target, *([record for record in found if record["kind"] == kind] for kind in ("train", "eval")))


def new_figure(width: float, height: float) -> Any:
    """A figure whose SVG holds text as text, and no date."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastbert", "font.family": "sans-serif"})
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Any, target: Path) -> None:
    """Writes a picture."""
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None, "Creator": None})


PICTURES = {"gain.svg": draw_gain, "packing.svg": draw_packing, "road.svg": draw_road, "minute.svg": draw_run_of_minute}
TABLES = {
    "commands.md": (COMMANDS, commands_block),
    "pretraining.md": (PARAMETERS, parameters_block),
    "index.md": (FIRST_VECTOR, first_vector_block),
}


def main() -> None:
    """Writes everything."""
    for name, draw in PICTURES.items():
        draw(IMAGES / name)
    for name, (marks, block) in TABLES.items():
        page = DOCS / name
        files.write_text(page, pages.put(page.read_text(encoding="utf-8"), marks, block()))
    files.write_text(EXPLORER, explorer_data())
    report.update_page()


if __name__ == "__main__":
    main()
