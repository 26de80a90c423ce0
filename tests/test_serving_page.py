"""The page at /, in headless Chromium: each kind of model tried, by mouse and by keyboard; the picture in the docs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browsing import needs_browser, one, wait
from serving_cases import listening
from task_cases import save_encoder, save_head

pytestmark = needs_browser
PICTURE = Path(__file__).parents[1] / "docs/images/server-page.png"
THREE = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "num_labels": 3}
TAGS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "num_labels": 3}


@contextmanager
def served(browser: Any, folder: Path, kind: str | None = None, **settings: Any) -> Iterator[str]:
    """The address of a server; the page is left before it ends, and asks for its load no more."""
    with listening(folder, kind, **settings) as url:
        try:
            yield url
        finally:
            browser.get("about:blank")


def opened(browser: Any, url: str) -> None:
    browser.get(url)
    wait(browser, lambda: one(browser, "#run").is_enabled())
    wait(browser, lambda: browser.find_elements("css selector", "#pieces li"))
    wait(browser, lambda: one(browser, "#health").text == "ready")


def run(browser: Any) -> str:
    one(browser, "#run").click()
    wait(browser, lambda: one(browser, "#result").text or one(browser, "#problem").is_displayed())
    return str(one(browser, "#result").text)


def assert_quiet(browser: Any) -> None:
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_every_kind_of_model_is_tried(browser: Any, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str | None, str]] = [
        ("BertForSequenceClassification", {"num_labels": 1}, None, "The weather is fine today."),
        ("BertForSequenceClassification", THREE, None, "contradiction"),
        ("BertForSequenceClassification", THREE, "nli", "contradiction"),
        ("BertForNextSentencePrediction", {}, None, "next"),
        ("BertForTokenClassification", TAGS, None, "Entity"),
        ("BertForQuestionAnswering", {}, None, "(score "),
        ("BertForMaskedLM", {}, None, "Word"),
    ]
    for number, (name, fields, kind, expected) in enumerate(cases):
        save_head(tmp_path / str(number), name, **fields)
        with served(browser, tmp_path / str(number), kind) as url:
            opened(browser, url)
            found = run(browser)
            if kind is None and name.endswith("NextSentencePrediction"):
                assert "next" in found or "random" in found
            else:
                assert expected in found, (name, found)
            assert not one(browser, "#problem").is_displayed()
    assert_quiet(browser)


def test_typed_by_keyboard_alone_and_errors_are_said(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    with served(browser, save_encoder(tmp_path)) as url:
        opened(browser, url)
        active = browser.switch_to.active_element
        for _ in range(5):
            active.send_keys(Keys.TAB)
            active = browser.switch_to.active_element
            if active.get_attribute("id") == "query":
                break
        active.send_keys(Keys.CONTROL, "a")
        active.send_keys("the red cat")
        wait(browser, lambda: "Text 1: 5 tokens of at most 64" in one(browser, "#pieces").text)
        active.send_keys(Keys.TAB)
        texts = browser.switch_to.active_element
        assert texts.get_attribute("id") == "texts"
        texts.send_keys(Keys.CONTROL, "a")
        texts.send_keys("a <b>red</b> cat")
        texts.send_keys(Keys.TAB)
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        wait(browser, lambda: "a <b>red</b> cat" in one(browser, "#result").text)
        for field in browser.find_elements("css selector", "textarea, input"):
            assert browser.find_elements("css selector", f"label[for={field.get_attribute('id')}]")
        texts.clear()
        texts.send_keys("\n".join(["cat"] * 40))
        one(browser, "#run").click()
        wait(browser, lambda: one(browser, "#problem").is_displayed())
        assert "at most 32 are allowed" in one(browser, "#problem").text


def test_a_key_is_asked_for(browser: Any, tmp_path: Path) -> None:
    with served(browser, save_encoder(tmp_path), api_key="s3cret") as url:
        browser.get(url)
        wait(browser, lambda: one(browser, "#key").is_displayed())
        one(browser, "#key").send_keys("s3cret")
        one(browser, "#key-form button").click()
        wait(browser, lambda: one(browser, "#run").is_enabled())
        assert not one(browser, "#key").is_displayed()
        assert "0." in run(browser)


def test_the_picture_in_the_docs(browser: Any, minilm: Path, tmp_path: Path) -> None:
    """Written anew where FASTBERT_WRITE_PICTURES is 1."""
    with served(browser, minilm, served_model_name="all-MiniLM-L6-v2") as url:
        opened(browser, url)
        assert run(browser).splitlines()[2].endswith("Forgotten passwords can be renewed by mail.")
        where = PICTURE if os.environ.get("FASTBERT_WRITE_PICTURES") == "1" else tmp_path / PICTURE.name
        assert browser.save_screenshot(str(where))
    assert abs(where.stat().st_size - PICTURE.stat().st_size) < 0.3 * PICTURE.stat().st_size
