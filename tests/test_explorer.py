"""The page of the benchmark on which one chooses a device and a case: its rows are the committed ones, and choosing works."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from browsing import needs_browser, one, wait

from benchmarks.speed import records

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explorer.html"
sys.path.insert(0, str(ROOT / "docs"))


def test_the_page_has_every_committed_row() -> None:
    import generated

    text = generated.EXPLORER.read_text(encoding="utf-8")
    assert text == generated.explorer_data()
    rows = json.loads(text.removeprefix("const measured = ").removesuffix(";\n"))["rows"]
    suites = ("inference", "training", "latency", "ops")
    found = [row for _, measured in records.newest() for row in measured if row["suite"] in suites]
    assert len(rows) == len(found)
    assert sum("speed" in row for row in rows) == sum(row["status"] == "ok" for row in found)
    assert "http" not in PAGE.read_text(encoding="utf-8")  # nothing from elsewhere


@needs_browser
def test_choosing_changes_what_is_shown(browser: Any) -> None:
    from selenium.webdriver.support.ui import Select

    browser.get(PAGE.as_uri())
    devices = [option.text for option in Select(one(browser, "#device")).options]
    assert len(devices) == len(records.newest())
    seen = set()
    for device in devices:
        Select(one(browser, "#device")).select_by_visible_text(device)
        wait(browser, lambda device=device: device in one(browser, "#facts").text or "cores" in one(browser, "#facts").text)
        seen.add(one(browser, "#rows").text)
    assert len(seen) == len(devices)
    Select(one(browser, "#device")).select_by_visible_text("nvidia-h200")
    Select(one(browser, "#case")).select_by_visible_text("full 128")
    shown = one(browser, "#rows").text
    (row,) = (
        row
        for _, rows in records.newest()
        for row in rows
        if (row["device"], row["suite"], row["model"], row["case"]) == ("nvidia-h200", "inference", "BERT-base", "full 128")
        and row["candidate"] == "transformers sdpa"
    )
    assert f"transformers sdpa {row['texts_per_s']:,.0f} texts/s" in shown
    Select(one(browser, "#work")).select_by_visible_text("one text, bfloat16")
    assert " ms" in one(browser, "#rows").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
